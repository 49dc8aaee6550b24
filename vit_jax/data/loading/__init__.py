"""Batches: which examples they have, and how threads and processes load them."""
