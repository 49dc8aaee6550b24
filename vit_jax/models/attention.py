"""Multi-head attention: Attention Is All You Need (arXiv:1706.03762), section 3.2.2."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from vit_jax.devices.placement import divides_clips, flat_rows, in_parts
from vit_jax.models.kernels import KERNELS as KERNELS
from vit_jax.models.kernels import attention_weights, dot_product_attention, weigh
from vit_jax.models.kernels.chunked import ATTENDED
from vit_jax.models.kernels.products import matrix_product
from vit_jax.models.kernels.reference import causal_mask
from vit_jax.models.layers import Dense, DenseParameters, TypedModule


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


def one_product_is_faster(hidden_dim: int) -> bool:
    """Return whether queries, keys and values are computed by one product rather than three.

    Measured: it is for the words of TNT, which are 24 wide (11 % of an attention layer's train step on a CPU with JAX
    0.10, 3 % with 0.12; 2 % of a train step of TnT-S on an H100). It makes no difference on a CPU at width 384, and
    costs 17 to 22 % there at width 768, where the parts have to be copied together for the backward pass; on an H100
    these copies cost 2.6 % of a train step of ViT-B/16.
    """
    return hidden_dim <= 64


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
        sparse: Callable[..., Array] | None = None,
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
          sparse: A function `(query, key, value, kernel=...)` that computes what `mask` means without the masked pairs.
            It is used if neither weights nor their dropout are needed.

        Raises:
          ValueError: `num_heads` does not divide the width.
        """
        hidden_dim = queries.shape[-1]
        if hidden_dim % self.num_heads and not (self.qk_head_dim and self.v_head_dim):
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={hidden_dim}")
        qk_head_dim = self.qk_head_dim or hidden_dim // self.num_heads
        v_head_dim = self.v_head_dim or hidden_dim // self.num_heads
        joint = None
        if keys is None and one_product_is_faster(hidden_dim):
            joint, (query, key, value) = self._project_once(queries, qk_head_dim, v_head_dim)
            joint = None if divides_clips() else joint  # `in_parts` divides the others
        elif isinstance(keys, KeyValues):
            query, (key, value) = self._dense("query", (self.num_heads, qk_head_dim))(queries), keys
        else:
            query = self._dense("query", (self.num_heads, qk_head_dim))(queries)
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
                mask = causal_mask(query.shape[-3], key.shape[-3], mask)
            weights = attention_weights(query, key, mask, bias)
            if return_weights:  # an analysis can add zeros here, to differentiate with respect to the weights
                weights = self.perturb("weights", weights)
            kept = nn.Dropout(self.dropout_rate)(weights, deterministic=not drop)
            out = weigh(kept, value)
        elif sparse is not None:
            out = sparse(query, key, value, kernel=self.kernel)
        else:
            attend = functools.partial(
                dot_product_attention, mask=mask, bias=bias, is_causal=is_causal, kernel=self.kernel, joint=joint
            )
            out = in_parts(attend, query, key, value)
        out = self._dense("out", hidden_dim, num_axes=2)(checkpoint_name(out, ATTENDED))
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

    def _project_once(self, x, qk_head_dim, v_head_dim):
        """Return queries, keys and values of the same tokens, side by side as one product makes them, and apart."""
        widths = {"query": qk_head_dim, "key": qk_head_dim, "value": v_head_dim}
        layers = [self._dense(name, (self.num_heads, width), DenseParameters) for name, width in widths.items()]
        kernels, biases = zip(*(layer((x.shape[-1],)) for layer in layers), strict=True)
        bias = jnp.concatenate(biases) if self.qkv_bias else None
        x, kernel, bias = promote_dtype(x, jnp.concatenate(kernels, axis=1), bias, dtype=self.dtype)
        out = matrix_product(flat_rows(x), kernel)
        joint = (out if bias is None else out + bias).reshape(*x.shape[:-1], -1)
        ends = [self.num_heads * qk_head_dim, 2 * self.num_heads * qk_head_dim]
        return joint, [y.reshape(*x.shape[:-1], self.num_heads, -1) for y in jnp.split(joint, ends, axis=-1)]

    @nn.nowrap
    def _dense(self, name, features, layer: Any = Dense, **fields) -> Any:
        return layer(
            features,
            use_bias=self.out_bias if name == "out" else self.qkv_bias,
            kernel_init=self.kernel_init,
            name=name,
            **self.types,
            **fields,
        )
