"""Attention: its weights, maps over images and clips, distance, and how it translates."""
