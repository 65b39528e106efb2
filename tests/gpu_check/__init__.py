"""What the trainer's side does on one real GPU; `make gpu-check`."""
