"""What views look like, and what a model does with them, for people to look at.

`areal-cppo views` and `areal-cppo inspect`; the triangle task's samples in a run's
report are judged by the same code (`views`, `tokens`).
"""
