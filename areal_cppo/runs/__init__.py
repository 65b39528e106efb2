"""A run's folder: what is written into it, by whom, and how it is read back."""
