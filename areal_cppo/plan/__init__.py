"""How many GPUs should generate and how many train: a simulation of AReaL's loop.

Imports neither torch nor areal. Times in seconds, lengths in tokens, throughout.
"""
