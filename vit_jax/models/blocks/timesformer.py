"""Attention in space and time: which patches of a video attend to each other.

TimeSformer (arXiv:2102.05095), section 3 and figures 1 and 2.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vit_jax.devices.placement import divided
from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.blocks.stack import ResidualBlock
from vit_jax.models.blocks.windows import window_attention, window_starts
from vit_jax.models.layers import MLP, Dense, DropPath

# Figure 1: the attentions of a block, in order. The last takes the place and the parameter names of an image ViT's
# attention. Each attention before it has its own norm and an additional output projection.
ATTENTIONS = {
    "space_only": ("spatial",),
    "joint_space_time": ("joint",),
    "divided_space_time": ("temporal", "spatial"),
    "sparse_local_global": ("local", "global"),
    "axial": ("temporal", "width", "height"),
}
# The axes of the patches that one sequence of an attention spans: 0 frames, 1 rows, 2 columns.
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
    """Initializers of a TimeSformer.

    Attributes:
      kernel: Kernels of the attentions and the MLPs.
      out: Additional output projections of the attentions before the last.
      time: Positions in time.
    """

    kernel: Callable
    out: Callable
    time: Callable


_scaled = nn.initializers.variance_scaling
# With `authors`, the zeros make a model that starts from an image model compute the same function at first. Training
# from random values, however, starts at a saddle point and takes long to leave it: the order of the frames only enters
# through products of positions in time with each other and with the output projections, all of which are zero or nearly
# so. `scratch` therefore starts both at larger values. Its factor 2.5**2 gives the temporal branch the size of the
# tokens.
INITS = {
    "authors": Init(INIT, nn.initializers.zeros, nn.initializers.zeros),
    "scratch": Init(
        nn.initializers.xavier_uniform(), _scaled(2.5**2, "fan_avg", "uniform"), nn.initializers.normal(0.2)
    ),
}


def split_sequences(
    patches: Float[Array, "batch frames grid_height grid_width hidden_dim"], attention: str
) -> tuple[Float[Array, "batch sequences tokens hidden_dim"], Callable[[Array], Array]]:
    """Split patches into the sequences within which they attend to each other.

    `global` takes every second patch along each axis, which gives up to eight sequences. If a size is odd, they differ
    in length, and the shorter ones are padded with zeros.

    Returns:
      The sequences, and a function that joins such sequences to patches again.
    """
    batch, *grid, hidden_dim = patches.shape
    strides = [min(2, size) if attention == "global" else 1 for size in grid]
    steps = [math.ceil(size / stride) for size, stride in zip(grid, strides, strict=True)]
    padding = [(0, step * stride - size) for size, step, stride in zip(grid, steps, strides, strict=True)]

    # Axes of `split`: 0 batch, 1 and 2 steps and stride of the frames, 3 and 4 of the rows, 5 and 6 of the columns, 7
    # width.
    over = [1 + 2 * axis for axis in SPANS[attention]]
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
    """Return the mask of an attention, True where a query may attend; None without a mask.

    `local`: a patch attends to a window of H/2 rows and W/2 columns around it, in all frames. Halves are rounded up. If
    the window cannot be centred, it extends one further up or to the left; at the borders it is shifted inwards.
    `window_attention` computes the same without the masked pairs.
    `global`: everything except the padding of the sequences.
    A class token attends to everything and everything attends to it.

    Args:
      grid: Number of frames, rows and columns of patches.
      attention: Key of `SPANS`.
      has_cls: Whether every sequence starts with a class token.

    Returns:
      An array that broadcasts to `(batch, sequences, heads, queries, keys)`, or None.
    """
    if attention == "local":
        frames, *sides = grid
        near = []
        for side in sides:
            window, starts = window_starts(side)
            first = jnp.asarray(starts)[:, None]
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


class TimeSformerBlock(ResidualBlock):
    """The attentions of a scheme, then an MLP, all residual (figure 1, equations 5 to 9).

        x = x + A(x)                      for each attention in turn, except the last
            A(x) = drop_path(dropout(Attention(LayerNorm(x)))) W_out + b_out
        x = x + B(x)                      for the last attention
            B(x) = drop_path(dropout(Attention(LayerNorm(x))))
        x = x + drop_path(MLP(LayerNorm(x)))

    Each attention runs within its own sequences of patches, see `split_sequences`. A class token that takes part is
    repeated for every sequence, and its new values are averaged over them; one that does not is left unchanged. Drop
    path drops single sequences, as in the authors' code, rather than whole examples.

    Attributes:
      grid: Number of frames, rows and columns of patches.
      attention_type, divided_order, cls_in_temporal_attention, weight_init: See `TimeSformer`.
      Others: See `EncoderBlock`.
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

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens hidden_dim"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        *,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "batch tokens hidden_dim"], dict[str, Array] | None]:
        """Return the new tokens, and a dict of attention weights if asked for, else None.

        Its keys are the names in `ATTENTIONS`, its values `(batch, sequences, heads, tokens, tokens)`.
        """
        names = ATTENTIONS[self.attention_type]
        given, weights = x, {}
        for name in reversed(names) if self.divided_order == "space_first" else names:
            options = name, drop_path_rate, return_weights, train
            y, weights[name] = self._branch(TimeSformerBlock._attention, given, *options)
            x = x + y
            given = given if self.divided_order == "parallel" else x

        x = x + self._branch(TimeSformerBlock._mlp, x, drop_path_rate, train)
        return x, weights if return_weights else None

    def _mlp(self, x, drop_path_rate, train):
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **self.types)(x)
        inits = {"kernel_init": INITS[self.weight_init].kernel, "bias_init": nn.initializers.zeros}
        mlp = MLP(self.mlp_dim, self.gelu, self.dropout_rate, **inits, name="mlp", **self.types)
        return DropPath()(mlp(y, train=train), drop_path_rate, train=train)

    def _attention(self, x, attention, drop_path_rate, return_weights, train):
        """Return the residual branch of one attention, and its weights.

        The branch is zero for a class token that is left out."""
        batch, _, hidden_dim = x.shape
        is_last = attention == ATTENTIONS[self.attention_type][-1]
        has_cls = is_last or self.cls_in_temporal_attention
        prefix = "" if is_last else f"{attention}_"

        y, join = split_sequences(x[:, 1:].reshape(batch, *self.grid, hidden_dim), attention)
        has_all = has_cls and y.shape[1] == 1  # the only sequence is `x` itself
        # Divided by frames until the patches are in sequences and again before they are joined, so that the devices
        # only exchange parts of one array. XLA copies divided rows and columns whole where they become one axis, and
        # sums padding into gradients.
        of_frames, of_attention = 2 if 0 in SPANS[attention] else 1, 2 if y.shape[1] == 1 else 1
        if has_all:
            y = x[:, None]
        else:
            y = divided(y, of_frames)
            if has_cls:
                cls = jnp.broadcast_to(x[:, None, :1], (batch, y.shape[1], 1, hidden_dim))
                y = jnp.concatenate([cls, y], axis=2)
        y = divided(y, of_attention)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name=f"{prefix or 'attention_'}norm", **self.types)(y)
        mask = attention_mask(self.grid, attention, has_cls)
        sparse = functools.partial(window_attention, grid=self.grid) if attention == "local" else None
        y, weights = MultiHeadAttention(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            kernel_init=INITS[self.weight_init].kernel,
            name=f"{prefix}attention",
            **self.types,
        )(y, mask=mask, sparse=sparse, return_weights=return_weights, train=train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        y = DropPath(num_axes=2)(y, drop_path_rate, train=train)
        if not is_last:
            y = Dense(hidden_dim, kernel_init=INITS[self.weight_init].out, name=f"{prefix}out", **self.types)(y)

        y = divided(y, of_attention)
        if has_all:
            return divided(y[:, 0]), weights
        patches = join(divided(y[:, :, 1:] if has_cls else y, of_frames)).reshape(batch, -1, hidden_dim)
        cls = y[:, :, :1].mean(axis=1) if has_cls else jnp.zeros((batch, 1, hidden_dim), y.dtype)
        return divided(jnp.concatenate([cls, patches], axis=1)), weights
