"""Parallel text: reading files, sub-word vocabularies, and batches of tokens."""
