"""Settings: all dataclasses, and what is checked of them before anything starts."""
