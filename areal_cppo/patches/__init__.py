"""What is mended in the packages below: each patch named after its target."""
