"""Submission scripts for Slurm."""
