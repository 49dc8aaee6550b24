"""The layer of the Transformer's encoder and decoder (Attention Is All You Need, arXiv:1706.03762, section 3.1)."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.attention import KeyValues, MultiHeadAttention
from vit_jax.models.dense import Dense


class FeedForward(nn.Module):
    """Position-wise feed-forward network, max(0, x W1 + b1) W2 + b2 (equation 2); biases start at zero."""

    mlp_dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"]) -> Float[Array, "*batch hidden_dim"]:
        dense = functools.partial(
            Dense,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        return dense(x.shape[-1], name="out")(nn.relu(dense(self.mlp_dim, name="in")(x)))


class Stream(NamedTuple):
    """What runs through a stack of blocks, each of which replaces the tokens.

    Attributes:
      tokens: `(batch, tokens, hidden_dim)`.
      mask: True where self-attention may attend; broadcasts to `(batch, heads, tokens, tokens)`.
      memory: What cross attention attends to, `(batch, source, hidden_dim)` or projected; None for none.
      memory_mask: Likewise; broadcasts to `(batch, heads, tokens, source)`.
    """

    tokens: Float[Array, "batch tokens hidden_dim"]
    mask: Bool[Array, "*mask"] | None = None
    memory: Float[Array, "batch source hidden_dim"] | KeyValues | None = None
    memory_mask: Bool[Array, "*mask"] | None = None


class Block(nn.Module):
    """A layer of the encoder or the decoder: self-attention, attention to a memory if there is one, MLP (section 3.1).

    Each sub-layer is residual: LayerNorm(x + Dropout(Sublayer(x))), or x + Dropout(Sublayer(LayerNorm(x))).

    Attributes:
      norm: `post` (as published), the first of these, or `pre`, the second.
      is_causal: Whether a token attends to itself and those before it only.
      dropout_rate: Of the output of each sub-layer.
      norm_epsilon: Of the layer norms; they and the softmax compute in float32.
    """

    num_heads: int
    mlp_dim: int
    qk_head_dim: int | None = None
    v_head_dim: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    norm: str = "post"
    is_causal: bool = False
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_epsilon: float = 1e-6
    attention_kernel: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_epsilon, **types)
        attention = functools.partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            qk_head_dim=self.qk_head_dim,
            v_head_dim=self.v_head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            **types,
        )
        self.attention, self.attention_norm = attention(), norm()
        self.cross_attention, self.cross_attention_norm = attention(), norm()
        self.mlp, self.mlp_norm = FeedForward(self.mlp_dim, **types), norm()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self, x: Stream, drop_path_rate: Any = 0.0, *, return_weights: bool = False, train: bool
    ) -> tuple[Stream, dict[str, Array | None] | None]:
        """Returns the stream, and the weights of `attention` and `cross_attention` if asked for.

        Args:
          drop_path_rate: Not used: what `BlockStack` hands to every block, but no model here drops paths.
        """
        y = self._enter(self.attention_norm, x.tokens)
        y, weights = self.attention(
            y, mask=x.mask, is_causal=self.is_causal, return_weights=return_weights, train=train
        )
        x = x._replace(tokens=self._leave(self.attention_norm, x.tokens, y, train))
        x, cross_weights = self._attend_to_memory_then_mlp(x, return_weights=return_weights, train=train)
        return x, {"attention": weights, "cross_attention": cross_weights} if return_weights else None

    def start(
        self, memory: Float[Array, "batch source hidden_dim"] | None, shape: tuple[int, ...]
    ) -> tuple[KeyValues, KeyValues | None]:
        """Returns what `step` needs: room for sequences of that shape, and the projected memory."""
        projected = None if memory is None else self.cross_attention.key_values(memory)
        return self.attention.empty_key_values(*shape), projected

    def step(self, x: Stream, past: KeyValues, position: int | Int[Array, ""]) -> tuple[Stream, KeyValues]:
        """One more token of every beam, whose predecessors are known by `past` only.

        The beams `(batch, beams, hidden_dim)` are to cross attention as many tokens that share one memory, so that
        it is never copied; to self-attention each is a sequence of its own.
        """
        y = self._enter(self.attention_norm, x.tokens)[..., None, :]
        past = past.insert(self.attention.key_values(y), position)
        known = jnp.arange(past.key.shape[-3]) <= position
        y, _ = self.attention(y, past, mask=known, train=False)
        x = x._replace(tokens=self._leave(self.attention_norm, x.tokens, y[..., 0, :], train=False))
        return self._attend_to_memory_then_mlp(x, train=False)[0], past

    def _attend_to_memory_then_mlp(self, x, *, return_weights=False, train):
        tokens, weights = x.tokens, None
        if x.memory is not None:
            y = self._enter(self.cross_attention_norm, tokens)
            y, weights = self.cross_attention(
                y, x.memory, mask=x.memory_mask, return_weights=return_weights, train=train
            )
            tokens = self._leave(self.cross_attention_norm, tokens, y, train)
        y = self.mlp(self._enter(self.mlp_norm, tokens))
        return x._replace(tokens=self._leave(self.mlp_norm, tokens, y, train)), weights

    def _enter(self, norm, x):
        return norm(x) if self.norm == "pre" else x

    def _leave(self, norm, x, y, train):
        x = x + self.dropout(y, deterministic=not train)
        return norm(x) if self.norm == "post" else x
