"""Responses: the workflow, the generation servers seen from a run, and its prompts."""
