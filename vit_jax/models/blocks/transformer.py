"""The block of the Transformer's encoder and decoder (arXiv:1706.03762, section 3.1)."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.attention import KeyValues, MultiHeadAttention
from vit_jax.models.blocks.stack import ResidualBlock
from vit_jax.models.layers import Dense, TypedModule


class FeedForward(TypedModule):
    """Position-wise feed-forward network: y = max(0, x W_in + b_in) W_out + b_out (equation 2).

    Kernels start Xavier-uniform and biases at zero.
    """

    mlp_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"]) -> Float[Array, "*batch hidden_dim"]:
        dense = functools.partial(Dense, kernel_init=nn.initializers.xavier_uniform(), **self.types)
        return dense(x.shape[-1], name="out")(nn.relu(dense(self.mlp_dim, name="in")(x)))


class Stream(NamedTuple):
    """Input and output of a block: the tokens, and what they may attend to.

    Attributes:
      tokens: `(batch, tokens, hidden_dim)`.
      mask: True where self-attention may attend; broadcasts to `(batch, heads, tokens, tokens)`.
      memory: The tokens that cross-attention attends to, `(batch, source, hidden_dim)`, or their keys and values. None
        skips cross-attention.
      memory_mask: True where cross-attention may attend; broadcasts to `(batch, heads, tokens, source)`.
    """

    tokens: Float[Array, "batch tokens hidden_dim"]
    mask: Bool[Array, "*mask"] | None = None
    memory: Float[Array, "batch source hidden_dim"] | KeyValues | None = None
    memory_mask: Bool[Array, "*mask"] | None = None


class Block(ResidualBlock):
    """Block of the encoder or the decoder (section 3.1).

    Its sub-layers are self-attention, cross-attention if there is a memory, and `FeedForward`. Each is residual:

        post-norm:  x = LayerNorm(x + dropout(sublayer(x)))       as published
        pre-norm:   x = x + dropout(sublayer(LayerNorm(x)))

    Attributes:
      num_heads: Attention heads.
      mlp_dim: Width of the hidden layer of `FeedForward`.
      qk_head_dim, v_head_dim, qkv_bias, out_bias: See `MultiHeadAttention`.
      norm: `post` or `pre`.
      is_causal: Whether a token only attends to itself and to those before it.
      dropout_rate: Dropout of the output of each sub-layer.
      attention_dropout_rate: Dropout of the attention weights.
      norm_epsilon: Epsilon of the layer norms. They and the softmax compute in float32 or wider.
      attention_kernel: See `dot_product_attention`.
      remat_branches: See `ResidualBlock`; the branches are the sub-layers.
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

    def setup(self):
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_epsilon, **self.types)
        attention = functools.partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            qk_head_dim=self.qk_head_dim,
            v_head_dim=self.v_head_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            **self.types,
        )
        self.attention, self.attention_norm = attention(), norm()
        self.cross_attention, self.cross_attention_norm = attention(), norm()
        self.mlp, self.mlp_norm = FeedForward(self.mlp_dim, **self.types), norm()
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self, x: Stream, drop_path_rate: Any = 0.0, *, return_weights: bool = False, train: bool
    ) -> tuple[Stream, dict[str, Array | None] | None]:
        """Return the stream with new tokens; also a dict of attention weights, or None.

        Its keys are `attention` and `cross_attention`.

        Args:
          drop_path_rate: Unused. `BlockStack` passes it to every block, but the Transformer has no drop path.
        """
        tokens, weights = self._branch(Block._attend, x.tokens, x.mask, return_weights, train)
        x = x._replace(tokens=tokens)
        x, cross_weights = self._attend_to_memory_then_mlp(x, return_weights=return_weights, train=train)
        return x, {"attention": weights, "cross_attention": cross_weights} if return_weights else None

    def start(
        self, memory: Float[Array, "batch source hidden_dim"] | None, shape: tuple[int, ...]
    ) -> tuple[KeyValues, KeyValues | None]:
        """Return what `step` needs: an empty cache, and keys and values of the memory.

        Args:
          shape: `(batch, beams, length)` of the tokens to cache."""
        projected = None if memory is None else self.cross_attention.key_values(memory)
        return self.attention.empty_key_values(*shape), projected

    def step(self, x: Stream, past: KeyValues, position: int | Int[Array, ""]) -> tuple[Stream, KeyValues]:
        """Compute one more token of every beam from the keys and values before it.

        The tokens are `(batch, beams, hidden_dim)`. Self-attention treats each beam as a sequence of its own.
        Cross-attention treats the beams as tokens of one sequence, which share a memory, so that the memory need not be
        copied for each.

        Returns:
          The stream with the new tokens, and `past` with their keys and values written at `position`.
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
            options = x.memory, x.memory_mask, return_weights, train
            tokens, weights = self._branch(Block._attend_to_memory, tokens, *options)
        return x._replace(tokens=self._branch(Block._feed_forward, tokens, train)), weights

    def _attend(self, x, mask, return_weights, train):
        options = {"is_causal": self.is_causal, "return_weights": return_weights, "train": train}
        y, weights = self.attention(self._enter(self.attention_norm, x), mask=mask, **options)
        return self._leave(self.attention_norm, x, y, train), weights

    def _attend_to_memory(self, x, memory, mask, return_weights, train):
        y = self._enter(self.cross_attention_norm, x)
        y, weights = self.cross_attention(y, memory, mask=mask, return_weights=return_weights, train=train)
        return self._leave(self.cross_attention_norm, x, y, train), weights

    def _feed_forward(self, x, train):
        return self._leave(self.mlp_norm, x, self.mlp(self._enter(self.mlp_norm, x)), train)

    def _enter(self, norm, x):
        return norm(x) if self.norm == "pre" else x

    def _leave(self, norm, x, y, train):
        x = x + self.dropout(y, deterministic=not train)
        return norm(x) if self.norm == "post" else x
