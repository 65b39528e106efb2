"""AReaL glue: the CPPO actor, trainer, rollout workflow and configuration.

Importing this package imports nothing; importing one of its modules imports `areal`.
"""
