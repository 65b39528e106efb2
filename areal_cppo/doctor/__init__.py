"""What of the environment is ready: checks that neither start nor change anything."""
