"""Accuracy of a model on a validation set, asked of a generation server."""
