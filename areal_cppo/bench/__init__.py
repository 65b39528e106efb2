"""Measurements of the trainer: `areal-cppo bench`.

`train_step` compares train steps of AReaL's stock actor, of a plain reading of the
published CPPO and of ours, in one process, on the same weights and the same batch.
"""
