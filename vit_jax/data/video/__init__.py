"""Clips: files and folders of frames, sampling, decoding, preprocessing."""
