"""Foreign weights in and out: Google's `.npz`, timm, Hugging Face, and the authors' torch files.

This package imports nothing else of the project but the models. Use it through `vit_jax.weights`, which adds the
preprocessing, and workdirs as another kind of source. Read `names` first.
"""
