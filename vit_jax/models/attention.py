"""Scaled dot-product attention, its kernels, and the multi-head layer every family shares.

Attention Is All You Need (arXiv:1706.03762), equation 1 and section 3.2.2.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.dense import Dense

# name here -> name in tokamax, whose import costs seconds and is an extra
_TOKAMAX = {"chunked": "xla_chunked", "mosaic": "mosaic", "triton": "triton"}
KERNELS = ("auto", "reference", "xla", "cudnn", *_TOKAMAX)


def attention_weights(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    mask: Bool[Array, "*mask"] | None = None,
    bias: Float[Array, "*bias"] | None = None,
) -> Float[Array, "*batch heads queries keys"]:
    """Softmax of the scaled products, in float32 or wider whatever the inputs are.

    A query whose keys are all masked attends uniformly rather than giving NaN.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts likewise.
    """
    scale = query.shape[-1] ** -0.5
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query, key = query.swapaxes(-3, -2), key.swapaxes(-3, -2)  # heads before tokens: twice as fast on a CPU
    logits = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=wide) * scale
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits)


def dot_product_attention(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    value: Float[Array, "*batch keys heads v_head_dim"],
    *,
    mask: Bool[Array, "*mask"] | None = None,
    bias: Float[Array, "*bias"] | None = None,
    is_causal: bool = False,
    kernel: str = "auto",
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Attention (equation 1) over any leading dimensions, by the kernel of that name.

    All kernels give the same values and gradients within the accuracy of the dtype:
    `reference` (plain einsum), `xla` and `cudnn` (`jax.nn`), `chunked`, `mosaic` and `triton` (`tokamax`:
    memory linear in the tokens; the extra `kernels`). `auto` is `xla`; in float64, and on a CPU where there are
    more than 16 keys, `reference`: the fastest for the few hundred tokens of images (`benchmarks/models.py`). A query
    whose keys are all masked attends uniformly.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts likewise.
      is_causal: Query i sees keys 0 to i only.

    Raises:
      ValueError: The kernel is unknown, or does not run on this device, with this dtype or these sizes.
      ImportError: The kernel is one of `tokamax`'s, which is not installed.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown attention kernel {kernel!r}; known: {', '.join(KERNELS)}")
    if kernel == "auto":  # the libraries' softmax is float32, which would spoil float64
        many_on_cpu = jax.default_backend() == "cpu" and key.shape[-3] > 16
        kernel = "reference" if many_on_cpu or query.dtype == jnp.float64 else "xla"
    if kernel == "reference":
        if is_causal:
            causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
            mask = causal if mask is None else mask & causal
        return _weigh(attention_weights(query, key, mask, bias), value)

    batch, (queries, heads, qk_head_dim) = query.shape[:-3], query.shape[-3:]
    v_head_dim = value.shape[-1]

    def fold(x):  # the kernels take one batch dimension, and one size of head: zeros change no product
        x = x.reshape(-1, *x.shape[-3:])
        return jnp.pad(x, ((0, 0),) * 3 + ((0, max(qk_head_dim, v_head_dim) - x.shape[-1]),))

    def spread(x):  # masks and biases may omit or broadcast any dimension
        if x is None or (len(batch) == 1 and x.ndim == 4):
            return x
        x = x.reshape((1,) * (len(batch) + 3 - x.ndim) + x.shape)
        return jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    try:
        out = _kernel(kernel)(
            fold(query),
            fold(key),
            fold(value),
            spread(bias),
            spread(mask),
            is_causal=is_causal,
            scale=qk_head_dim**-0.5,
        )
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"attention kernel {kernel!r} does not run on this {jax.default_backend()} with these inputs: {error}"
        ) from error
    return out.reshape(*batch, queries, heads, -1)[..., :v_head_dim]


def _weigh(
    weights: Float[Array, "*batch heads queries keys"], value: Float[Array, "*batch keys heads v_head_dim"]
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Returns the sums of the values, weighted."""
    return jnp.einsum("...qk,...kd->...qd", weights.astype(value.dtype), value.swapaxes(-3, -2)).swapaxes(-3, -2)


def _kernel(name: str) -> Callable[..., Array]:
    if name not in _TOKAMAX:
        return functools.partial(jax.nn.dot_product_attention, implementation="cudnn" if name == "cudnn" else "xla")
    try:
        import tokamax  # pyright: ignore[reportMissingImports]
        from absl import flags
    except ImportError as error:
        raise ImportError(
            f"attention kernel {name!r} needs tokamax: pip install 'vit_jax[kernels]', or choose 'xla'"
        ) from error

    if not flags.FLAGS.is_parsed():  # tokamax would parse sys.argv, and stop at the options of Jupyter or pytest
        flags.FLAGS.mark_as_parsed()

    def attention(query, key, value, bias, mask, *, is_causal, scale):
        return tokamax.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            mask=mask,
            is_causal=is_causal,
            scale=scale,
            implementation=_TOKAMAX[name],
        )

    return attention


class KeyValues(NamedTuple):
    """Projected tokens, which a decoder keeps instead of the tokens: its own so far, or those of a memory.

    Attributes:
      key, value: `(*batch, keys, heads, qk_head_dim)` and `(*batch, keys, heads, v_head_dim)`.
    """

    key: Float[Array, "*batch keys heads qk_head_dim"]
    value: Float[Array, "*batch keys heads v_head_dim"]

    def insert(self, new: "KeyValues", position: int | Int[Array, ""]) -> "KeyValues":
        """Returns these with `new` in the places from `position` on; what is not yet filled must be masked."""

        def put(old, new):
            return jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=old.ndim - 3)

        return jax.tree.map(put, self, new)


class MultiHeadAttention(nn.Module):
    """Multi-head attention of `queries` over `keys` (itself when `keys` is None).

    Section 3.2.2. Initialised as in google-research/vision_transformer: Xavier-uniform kernels, zero biases.
    Deviation: attention dropout draws one mask per example and head, as the authors' `broadcast_dropout=False`.

    Attributes:
      num_heads: Heads; must divide the width unless the head dimensions are given.
      qk_head_dim, v_head_dim: Width of a head's queries and keys, and of its values.
      qkv_bias, out_bias: Whether the input projections have a bias, and the output projection.
      dropout_rate: Of the attention weights; uses the `reference` kernel while training.
      kernel: See `dot_product_attention`.
    """

    num_heads: int
    qk_head_dim: int | None = None
    v_head_dim: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    dropout_rate: float = 0.0
    kernel: str = "auto"
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "*batch queries hidden_dim"],
        keys: Float[Array, "*batch keys kv_dim"] | KeyValues | None = None,
        *,
        mask: Bool[Array, "*mask"] | None = None,
        relative: Float[Array, "queries keys qk_head_dim"] | None = None,
        is_causal: bool = False,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "*batch queries hidden_dim"], Float[Array, "*batch heads queries keys"] | None]:
        """Returns the new tokens, and the attention weights (float32) if asked for, else None.

        Args:
          keys: Tokens, or what `key_values` made of them.
          mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
          relative: An embedding of every pair's offset, which serves as a second key: its scaled product with the
            query is added to the logits (ViT, appendix D.4, "Relative positional embeddings").

        Raises:
          ValueError: `num_heads` does not divide the width.
        """
        hidden_dim = queries.shape[-1]
        if hidden_dim % self.num_heads and not (self.qk_head_dim and self.v_head_dim):
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={hidden_dim}")
        qk_head_dim = self.qk_head_dim or hidden_dim // self.num_heads
        v_head_dim = self.v_head_dim or hidden_dim // self.num_heads
        query = self._dense("query", (self.num_heads, qk_head_dim))(queries)
        if isinstance(keys, KeyValues):
            key, value = keys
        else:
            keys = queries if keys is None else keys
            key = self._dense("key", (self.num_heads, qk_head_dim))(keys)
            value = self._dense("value", (self.num_heads, v_head_dim))(keys)

        bias = None
        if relative is not None:
            bias = jnp.einsum("...qhd,qkd->...hqk", query, relative.astype(query.dtype)) * qk_head_dim**-0.5

        drop = train and self.dropout_rate > 0
        weights = None
        if drop or return_weights:
            if is_causal:
                causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
                mask = causal if mask is None else mask & causal
            weights = attention_weights(query, key, mask, bias)
            kept = nn.Dropout(self.dropout_rate)(weights, deterministic=not drop)
            out = _weigh(kept, value)
        else:
            out = dot_product_attention(
                query, key, value, mask=mask, bias=bias, is_causal=is_causal, kernel=self.kernel
            )
        out = self._dense("out", hidden_dim, num_axes=2)(out)
        return out, weights if return_weights else None

    def key_values(self, keys: Float[Array, "*batch keys kv_dim"]) -> KeyValues:
        """Projects tokens as `__call__` does, which takes the result in their place; needs parameters."""
        params = self.variables["params"]

        def project(name):
            dense = self._dense(name, params[name]["kernel"].shape[1:], parent=None)
            return dense.bind({"params": params[name]})(keys)

        return KeyValues(project("key"), project("value"))

    def empty_key_values(self, *shape: int) -> KeyValues:
        """Room for `shape[-1]` tokens of sequences `shape[:-1]`, for `KeyValues.insert`; needs parameters."""
        params = self.variables["params"]
        return KeyValues(*(jnp.zeros((*shape, *params[x]["kernel"].shape[1:]), self.dtype) for x in ("key", "value")))

    @nn.nowrap
    def _dense(self, name, features, **fields):
        return Dense(
            features,
            use_bias=self.out_bias if name == "out" else self.qkv_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
            **fields,
        )
