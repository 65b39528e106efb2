"""Studies: grids of small runs on tasks whose token roles are known.

Generation is in-process; the trainer is the one of `areal-cppo train`.
"""
