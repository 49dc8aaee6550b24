"""Tests run on the CPU, and check the shape words in the signatures of the models against the arrays passed."""

import os

import jaxtyping
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is imported, which only some tests do
jaxtyping.install_import_hook("vit_jax.models", "beartype.beartype")


@pytest.fixture(scope="session")
def randomised():
    """Fills a tree of arrays, or of `jax.ShapeDtypeStruct`, with fixed normal values: no zero hides an error."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def fill(tree, scale=0.3, seed=0):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), tree)

    return fill
