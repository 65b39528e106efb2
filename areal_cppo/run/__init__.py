"""One run: controller, trainer, what is recorded and kept of it, its supervisor."""
