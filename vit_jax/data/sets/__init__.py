"""Particular data sets: digits, Fashion-MNIST, motion, messages."""
