"""Measurements: `areal-cppo bench`.

`train-step` (`train_step`, of `arms` run by `actors` on what `models` makes) compares
train steps of AReaL's stock actor, of a plain reading of the published CPPO and of
ours, in one process, on the same weights and the same batch. `rollout` asks generation
servers. `async` reads a run's folder (`async_run`), says where its time went
(`async_figures`), writes it as a trace (`async_trace`) and as rates for `plan`
(`async_rates`), and compares runs at several bounds of staleness (`async_compare`).
`predict` puts runs beside their simulation.
"""
