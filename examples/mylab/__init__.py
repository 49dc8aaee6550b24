"""A research package outside vit_jax: its own model, task, data, transform and optimizer, each by import path."""
