"""A package of its own name: a checkout of AReaL on the path has a `tests`, too."""
