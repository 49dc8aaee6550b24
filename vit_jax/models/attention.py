"""Scaled dot-product attention, its kernels, and multi-head attention.

Attention Is All You Need (arXiv:1706.03762), equation 1 and section 3.2.2.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.layers import Dense, TypedModule, at_least_float32

# Name of a kernel here -> its name in tokamax. tokamax is an optional dependency and takes seconds to import.
_TOKAMAX = {"chunked": "xla_chunked", "mosaic": "mosaic", "triton": "triton"}
KERNELS = ("auto", "reference", "xla", "cudnn", *_TOKAMAX)


def attention_weights(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    mask: Bool[Array, "*mask"] | None = None,
    bias: Float[Array, "*bias"] | None = None,
) -> Float[Array, "*batch heads queries keys"]:
    """Return softmax(Q K^T / sqrt(d) + bias) over the keys, for queries and keys of width d.

    Computed in float32, or in float64 if the inputs are. A query whose keys are all masked attends to all of them
    equally, where the formula gives NaN.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts to the same shape.
    """
    scale = query.shape[-1] ** -0.5
    wide = at_least_float32(query.dtype)
    query, key = query.swapaxes(-3, -2), key.swapaxes(-3, -2)  # twice as fast on a CPU with heads before tokens
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
    """Return softmax(Q K^T / sqrt(d) + bias) V (equation 1) for any leading dimensions.

    All kernels give the same values and gradients within the accuracy of the dtype:

    - `reference`: plain einsums. The weights of all pairs are held in memory.
    - `xla`, `cudnn`: the implementations of `jax.nn.dot_product_attention`.
    - `chunked`, `mosaic`, `triton`: the implementations of `tokamax` (extra `kernels`). Their memory is linear in the
      number of tokens.
    - `auto`: `reference` in float64, because the libraries' softmax is float32, and on a CPU with more than 16 keys,
      where it is fastest for the few hundred tokens of an image (`benchmarks/models.py`); otherwise `xla`.

    A query whose keys are all masked attends to all of them equally.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts to the same shape.
      is_causal: Query i attends to keys 0 to i only.
      kernel: One of `KERNELS`.

    Raises:
      ValueError: The kernel is unknown, or it does not support this device, this dtype or these sizes.
      ImportError: The kernel belongs to `tokamax`, which is not installed.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown attention kernel {kernel!r}; known: {', '.join(KERNELS)}")
    if kernel == "auto":
        many_on_cpu = jax.default_backend() == "cpu" and key.shape[-3] > 16
        kernel = "reference" if many_on_cpu or query.dtype == jnp.float64 else "xla"
    if kernel == "reference":
        if is_causal:
            causal = jnp.tril(jnp.ones((query.shape[-3], key.shape[-3]), bool))
            mask = causal if mask is None else mask & causal
        return _weigh(attention_weights(query, key, mask, bias), value)

    batch, (queries, heads, qk_head_dim) = query.shape[:-3], query.shape[-3:]
    v_head_dim = value.shape[-1]

    def fold(x):  # The kernels take one batch dimension and one head size. Padding with zeros changes no product.
        x = x.reshape(-1, *x.shape[-3:])
        return jnp.pad(x, ((0, 0),) * 3 + ((0, max(qk_head_dim, v_head_dim) - x.shape[-1]),))

    def spread(x):  # Masks and biases may omit or broadcast any dimension; the kernels want all of them.
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
    """Return the weighted sums of the values, one for each query."""
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

    # tokamax parses sys.argv if nobody has, and exits at options it does not know, such as those of Jupyter and pytest.
    if not flags.FLAGS.is_parsed():
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
    """Keys and values of tokens, as a decoder caches them.

    It need not project earlier tokens again at every step.

    Attributes:
      key: `(*batch, keys, heads, qk_head_dim)`.
      value: `(*batch, keys, heads, v_head_dim)`.
    """

    key: Float[Array, "*batch keys heads qk_head_dim"]
    value: Float[Array, "*batch keys heads v_head_dim"]

    def insert(self, new: "KeyValues", position: int | Int[Array, ""]) -> "KeyValues":
        """Return a copy with `new` written from `position` on.

        The caller must mask positions that are not yet written."""

        def put(old, new):
            return jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=old.ndim - 3)

        return jax.tree.map(put, self, new)


class MultiHeadAttention(TypedModule):
    """Multi-head attention (section 3.2.2) of `queries` to `keys`, or to themselves.

        head_h = softmax(Q_h K_h^T / sqrt(qk_head_dim)) V_h,   y = concat(head_1, ..., head_n) W_out + b_out
        Q_h = queries W_query,h + b_query,h,   K_h = keys W_key,h + b_key,h,   V_h = keys W_value,h + b_value,h

    Kernels start Xavier-uniform and biases at zero, as in google-research/vision_transformer. Attention dropout draws
    a mask for every example and head, as that code does with `broadcast_dropout=False`; Flax's default shares one mask
    among all of them.

    Attributes:
      num_heads: Number of heads. It must divide the width, unless both head dimensions are given.
      qk_head_dim: Width of the queries and keys of one head; None for hidden_dim / num_heads.
      v_head_dim: Width of the values of one head; None for hidden_dim / num_heads.
      qkv_bias: Whether the projections to queries, keys and values have a bias.
      out_bias: Whether the output projection has a bias.
      dropout_rate: Dropout of the attention weights. If positive, training uses the `reference` kernel.
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
        """Return the new tokens, and the attention weights if `return_weights` is set, else None.

        The weights are float32, or float64 if `dtype` is.

        Args:
          keys: Tokens, or their `key_values`.
          mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
          relative: An embedding r_ij of the offset of every query i from every key j. q_i . r_ij / sqrt(qk_head_dim) is
            added to the logits (ViT, appendix D.4, "Relative positional embeddings").
          is_causal: Query i attends to keys 0 to i only.

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
            if return_weights:  # an analysis can add zeros here, to differentiate with respect to the weights
                weights = self.perturb("weights", weights)
            kept = nn.Dropout(self.dropout_rate)(weights, deterministic=not drop)
            out = _weigh(kept, value)
        else:
            out = dot_product_attention(
                query, key, value, mask=mask, bias=bias, is_causal=is_causal, kernel=self.kernel
            )
        out = self._dense("out", hidden_dim, num_axes=2)(out)
        return out, weights if return_weights else None

    def key_values(self, keys: Float[Array, "*batch keys kv_dim"]) -> KeyValues:
        """Project tokens as `__call__` does, which accepts the result in their place.

        The module must be bound to its parameters."""
        params = self.variables["params"]

        def project(name):
            dense = self._dense(name, params[name]["kernel"].shape[1:], parent=None)
            return dense.bind({"params": params[name]})(keys)

        return KeyValues(project("key"), project("value"))

    def empty_key_values(self, *shape: int) -> KeyValues:
        """Return zeros that `KeyValues.insert` fills; the module must be bound.

        Args:
          shape: `(*batch, tokens)`.
        """
        params = self.variables["params"]
        return KeyValues(*(jnp.zeros((*shape, *params[x]["kernel"].shape[1:]), self.dtype) for x in ("key", "value")))

    @nn.nowrap
    def _dense(self, name, features, **fields):
        return Dense(
            features,
            use_bias=self.out_bias if name == "out" else self.qkv_bias,
            kernel_init=self.kernel_init,
            name=name,
            **self.types,
            **fields,
        )
