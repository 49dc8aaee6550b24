"""Launching many runs: a sweep over a config, on this machine or on Slurm."""
