"""Rank collapse: what a network without some of its parts does to the differences between tokens."""
