"""Attention in space and time: which patches of a video attend to each other, and the block that has them do so.

TimeSformer (arXiv:2102.05095), section 3 and figures 1 and 2.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.dense import Dense
from vit_jax.models.layers import MLP, DropPath

# Figure 1: the attentions of a block in their order. The last has the parameter names, and is the place, of an
# image ViT's; those before it have a norm, an attention and an output projection of their own.
ATTENTIONS = {
    "space_only": ("spatial",),
    "joint_space_time": ("joint",),
    "divided_space_time": ("temporal", "spatial"),
    "sparse_local_global": ("local", "global"),
    "axial": ("temporal", "width", "height"),
}
# of frames (0), rows (1) and columns (2) of patches: those which one sequence of the attention spans
SPANS = {
    "spatial": (1, 2),
    "joint": (0, 1, 2),
    "temporal": (0,),
    "local": (0, 1, 2),
    "global": (0, 1, 2),
    "width": (2,),
    "height": (1,),
}
INIT = nn.initializers.normal(0.02)


class Init(NamedTuple):
    """Initial values: of kernels, of the output projections of attentions before the last, of positions in time."""

    kernel: Callable
    out: Callable
    time: Callable


_scaled = nn.initializers.variance_scaling
# Zeros keep an image model's function. Without one they are a saddle that takes long to leave: the order of frames is
# in products of positions in time, and of these with projections that are all zero or next to it. The factor 2.5**2
# has the branch of time weigh as much as the tokens.
INITS = {
    "authors": Init(INIT, nn.initializers.zeros, nn.initializers.zeros),
    "scratch": Init(
        nn.initializers.xavier_uniform(), _scaled(2.5**2, "fan_avg", "uniform"), nn.initializers.normal(0.2)
    ),
}


def split_sequences(
    patches: Float[Array, "batch frames grid_height grid_width hidden_dim"], attention: str
) -> tuple[Float[Array, "batch sequences tokens hidden_dim"], Callable[[Array], Array]]:
    """Splits patches into the sequences within which they attend to each other; also returns the inverse.

    `global` takes every second patch along all three axes: the patches fall into at most eight sequences. Those of
    odd grids differ in length, and are filled up with zeros.
    """
    batch, *grid, hidden_dim = patches.shape
    strides = [min(2, size) if attention == "global" else 1 for size in grid]
    steps = [math.ceil(size / stride) for size, stride in zip(grid, strides, strict=True)]
    padding = [(0, step * stride - size) for size, step, stride in zip(grid, steps, strides, strict=True)]

    over = [1 + 2 * axis for axis in SPANS[attention]]  # of batch, frame steps, frame stride, row steps, ...
    order = [0, *(axis for axis in range(1, 7) if axis not in over), *over, 7]
    split = (batch, *(size for pair in zip(steps, strides, strict=True) for size in pair), hidden_dim)
    x = jnp.pad(patches, ((0, 0), *padding, (0, 0))).reshape(split).transpose(order)
    tokens = math.prod(split[axis] for axis in over)

    def join(sequences):
        y = sequences.reshape(x.shape).transpose(np.argsort(order))
        y = y.reshape(batch, *(step * stride for step, stride in zip(steps, strides, strict=True)), hidden_dim)
        return y[:, : grid[0], : grid[1], : grid[2]]

    return x.reshape(batch, -1, tokens, hidden_dim), join


def attention_mask(grid: tuple[int, int, int], attention: str, has_cls: bool) -> Bool[Array, "*mask"] | None:
    """True where a token may attend, for `(batch, sequences, heads, queries, keys)`; None where it always may.

    `local`: in all frames the H/2 x W/2 patches nearest to the query (halves are rounded up; of two rows as near, the
    upper). All pairs are computed, and those farther apart masked: the cost is that of joint attention. `global`: all
    but the zeros that fill up its sequences. A class token sees all, and is seen by all.
    """
    if attention == "local":
        frames, *sides = grid
        near = []
        for side in sides:
            window = math.ceil(side / 2)
            first = jnp.clip(jnp.arange(side) - window // 2, 0, side - window)[:, None]
            near.append((jnp.arange(side) >= first) & (jnp.arange(side) < first + window))
        rows, columns = near
        mask = rows[None, :, None, None, :, None] & columns[None, None, :, None, None, :]
        mask = jnp.broadcast_to(mask, (frames, *sides, frames, *sides)).reshape(math.prod(grid), -1)
        return jnp.pad(mask, (int(has_cls), 0), constant_values=True)
    if attention == "global" and any(side % 2 and side > 1 for side in grid):
        real, _ = split_sequences(jnp.ones((1, *grid, 1)), attention)
        mask = real[:, :, None, None, :, 0] > 0
        return jnp.pad(mask, ((0, 0),) * 4 + ((int(has_cls), 0),), constant_values=True)
    return None


class TimeSformerBlock(nn.Module):
    """The attentions of a scheme, each with its residual, then an MLP (figure 1; equations 5 to 9).

    Attributes:
      grid: Patches in time, down and across.
      attention_type, divided_order, cls_in_temporal_attention, weight_init: See `TimeSformer`.
    """

    grid: tuple[int, int, int]
    num_heads: int
    mlp_dim: int
    attention_type: str = "divided_space_time"
    divided_order: str = "time_first"
    cls_in_temporal_attention: bool = False
    gelu: str = "exact"
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    norm_epsilon: float = 1e-6
    weight_init: str = "authors"
    attention_kernel: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens hidden_dim"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        *,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "batch tokens hidden_dim"], dict[str, Array] | None]:
        """Returns the new tokens, and if asked for the weights `(batch, sequences, heads, tokens, tokens)` by name."""
        names = ATTENTIONS[self.attention_type]
        given, weights = x, {}
        for name in reversed(names) if self.divided_order == "space_first" else names:
            y, weights[name] = self._attend(name, given, drop_path_rate, return_weights, train)
            x = x + y
            given = given if self.divided_order == "parallel" else x

        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **types)(x)
        zeros = nn.initializers.zeros
        mlp = MLP(
            self.mlp_dim, self.gelu, self.dropout_rate, INITS[self.weight_init].kernel, zeros, name="mlp", **types
        )
        x = x + DropPath()(mlp(y, train=train), drop_path_rate, train=train)
        return x, weights if return_weights else None

    def _attend(self, attention, x, drop_path_rate, return_weights, train):
        """The branch of one attention, zero for a class token that is left out; and its weights.

        A class token is repeated for every sequence, and its new values averaged over them.
        """
        batch, _, hidden_dim = x.shape
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        is_last = attention == ATTENTIONS[self.attention_type][-1]
        has_cls = is_last or self.cls_in_temporal_attention
        prefix = "" if is_last else f"{attention}_"

        y, join = split_sequences(x[:, 1:].reshape(batch, *self.grid, hidden_dim), attention)
        if has_cls:
            cls = jnp.broadcast_to(x[:, None, :1], (batch, y.shape[1], 1, hidden_dim))
            y = jnp.concatenate([cls, y], axis=2)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name=f"{prefix or 'attention_'}norm", **types)(y)
        y, weights = MultiHeadAttention(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            kernel_init=INITS[self.weight_init].kernel,
            name=f"{prefix}attention",
            **types,
        )(y, mask=attention_mask(self.grid, attention, has_cls), return_weights=return_weights, train=train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        y = DropPath()(y.reshape(-1, *y.shape[2:]), drop_path_rate, train=train).reshape(y.shape)
        if not is_last:
            y = Dense(hidden_dim, kernel_init=INITS[self.weight_init].out, name=f"{prefix}out", **types)(y)

        patches = join(y[:, :, 1:] if has_cls else y).reshape(batch, -1, hidden_dim)
        cls = y[:, :, :1].mean(axis=1) if has_cls else jnp.zeros((batch, 1, hidden_dim), y.dtype)
        return jnp.concatenate([cls, patches], axis=1), weights
