"""The three forms of the GELU (arXiv:1606.08415), with derivatives that are cheap to recompute."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


@jax.custom_jvp
def _exact(x: jax.Array) -> jax.Array:
    """Return x Phi(x), with the normal distribution function Phi."""
    return nn.gelu(x, approximate=False)


@_exact.defjvp
def _exact_derivative(primals, tangents):
    """Phi(x) + x phi(x), with the density phi of the normal distribution.

    Differentiating `erfc`, which JAX's GELU calls, takes up to twice as long on a CPU.
    """
    (x,), (tangent,) = primals, tangents
    distribution = 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return _exact(x), tangent * (distribution + x * density)


def _efficient(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Compute in float32 or wider, round once, and keep only the input for the backward pass.

    Rounding every intermediate result to bfloat16 takes three to five times as long on a CPU. Without `jax.checkpoint`,
    XLA stores three to five arrays of the size of the input, and reading them back takes longer than computing the GELU
    again.
    """

    @jax.checkpoint
    def apply(x):
        return function(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    return apply


GELU = {
    "tanh": _efficient(functools.partial(nn.gelu, approximate=True)),  # google-research, Flax's default
    "exact": _efficient(_exact),  # timm, Hugging Face, TNT, TimeSformer
    "quick": _efficient(lambda x: x * nn.sigmoid(1.702 * x)),  # CLIP
}
