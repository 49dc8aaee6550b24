"""Parallel text: files, vocabulary, batches of tokens."""
