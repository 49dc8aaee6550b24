"""Clips: folders and lists of videos, decoding, sampling, and the encoder of clips."""
