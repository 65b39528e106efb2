"""Stopping, going on and giving up: ledger, checkpoints, stop requests, watchdogs."""
