"""Stands in for swanlab, which reading a configuration imports; see ray beside it."""
