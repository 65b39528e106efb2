"""Stands in for trackio, which reading a configuration imports; see ray beside it."""
