"""Measurements of speed and memory; see benchmarks/README.md."""
