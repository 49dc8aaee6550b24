"""Embeddings: features of any layer, stored, drawn, compared and classified."""
