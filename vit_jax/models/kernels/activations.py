"""The three forms of the GELU (arXiv:1606.08415), with derivatives that are cheap to recompute."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


@jax.custom_jvp
def _exact(x: jax.Array) -> jax.Array:
    """Return x Phi(x), with the normal distribution function Phi = (1 + erf(x / sqrt(2))) / 2, as torch computes it.

    Flax's GELU calls `erfc`, which takes longer and is more accurate only where the result is nearly zero.
    """
    return x * _distribution(x)


@_exact.defjvp
def _exact_derivative(primals, tangents):
    """Phi(x) + x phi(x), with the density phi of the normal distribution."""
    (x,), (tangent,) = primals, tangents
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return _exact(x), tangent * (_distribution(x) + x * density)


def _distribution(x):
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _efficient(function: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Return f(x, bias=None) = function(x + bias), which keeps only its inputs for the backward pass.

    It computes in float32 or wider and rounds once; rounding every intermediate result to bfloat16 takes three to five
    times as long on a CPU. Without `jax.checkpoint`, XLA stores three to five arrays of the size of the input, and
    reading them back takes longer than computing the GELU again. The bias is added here so that x, which a product has
    written, need not be written once more with the bias added.
    """

    @jax.checkpoint
    def apply(x, bias=None):
        total = x if bias is None else x + bias
        return function(total.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)

    return apply


GELU = {
    "tanh": _efficient(functools.partial(nn.gelu, approximate=True)),  # google-research, Flax's default
    "exact": _efficient(_exact),  # timm, Hugging Face, TNT, TimeSformer
    "quick": _efficient(lambda x: x * nn.sigmoid(1.702 * x)),  # CLIP
}
