"""Stands in for wandb, which reading a configuration imports; see ray beside it."""
