"""What each objective adds to AReaL's policy loss, one optimiser step at a time.

`areal_cppo.config.objectives` names them.
"""
