"""Generation servers that die, hang or answer nonsense, and come back.

Each rollout worker owns one server (`owned.OwnedServer`): starts it, watches it, ends
it and starts it again with the newest weights (`process`, `weights`, `state`). Requests
(`generation.Generator`, `client`) go to the worker's own server while that is up, else
to the others (`fleet.Fleet`). The controller (`fleet.FleetWatch`) collects what the
workers see, tells each about the others, and ends the run when too few are left.
"""
