"""Contrastive Perception Policy Optimization (arXiv 2601.00501) for AReaL."""

__version__ = "0.1.0"
