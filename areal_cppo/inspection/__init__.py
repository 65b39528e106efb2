"""What views look like, and what a model does with them, for people to look at.

`areal-cppo views` and `areal-cppo inspect`; the samples that a run of a synthetic task
writes at its end are judged by the same code.
"""
