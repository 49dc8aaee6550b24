"""Particular data sets: TFDS sets, and our own (digits, Fashion-MNIST, motion, messages)."""
