"""Names for the axes of tokens, which a strategy may map to the axes of its devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

EXAMPLES, TOKENS = "examples", "tokens"


def placed(x: PyTree[Array]) -> PyTree[Array]:
    """Return tokens `(examples, tokens, ..., width)`, placed on the devices as the strategy that compiles them says.

    Without rules of a strategy (`flax.linen.logical_axis_rules`), nothing happens. Masks and arrays of fewer than three
    axes are left as they are.
    """

    def place(leaf):
        if leaf.ndim < 3 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return nn.with_logical_constraint(leaf, (EXAMPLES, TOKENS, *(None,) * (leaf.ndim - 2)))

    return jax.tree.map(place, x)
