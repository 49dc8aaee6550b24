"""Robustness: corruptions, calibration, and mistakes."""
