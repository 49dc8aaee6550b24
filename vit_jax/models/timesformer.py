"""TimeSformer: Is Space-Time Attention All You Need for Video Understanding?

arXiv:2102.05095.
"""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.devices.placement import divided
from vit_jax.models.blocks import with_captured
from vit_jax.models.blocks.timesformer import ATTENTIONS, INIT, INITS, TimeSformerBlock
from vit_jax.models.layers import PatchEmbed, torch_uniform
from vit_jax.models.positions import CLASS_POSITION, token_positions
from vit_jax.models.vision import Outputs, VisionModel
from vit_jax.models.vit import VARIANTS

# Sections 4.1 and 4.3: name -> (number of frames, height and width in pixels)
PRESETS = {"": (8, 224), "HR": (16, 448), "L": (96, 224)}
ORDERS = ("time_first", "space_first", "parallel")
POSITIONS = ("space_time", "space", "none")


class TimeSformer(VisionModel):
    """TimeSformer for videos of any number of frames and any size, square or not.

        x = dropout(dropout(patches E + b + positions in space) + positions in time)
        x = [dropout(cls_token + cls_pos); x]
        x = block_L(... block_1(x))                                         see `TimeSformerBlock`
        pooled = LayerNorm(x)[0],   logits = pooled W + b

    `space_only` runs the blocks on each frame by itself, with a class token of its own; the class tokens are averaged
    over the frames before the last layer norm.

    `space_only`, `joint_space_time` and `divided_space_time` compute the same function as the authors' code and Hugging
    Face's. The code differs from the paper in that the class token takes no part in temporal attention
    (`cls_in_temporal_attention`). In spatial attention it is repeated for every frame and averaged afterwards. It has
    no position in time. The authors published no code for the other two schemes; we read the paper's text (section 3,
    figures 1 and 2) as follows:

    - `sparse_local_global`: first `local`, over a window of half the rows and half the columns in all frames. The
      window moves with the query and stops at the borders, so that every patch sees equally many. Then `global`, over
      the patches that are an even number of frames, rows and columns away from the query.
    - `axial`: `temporal`, `width` and `height`, in the order of the paper's abbreviation T+W+H.
    - Each attention before the last has an additional output projection, as divided attention's temporal one has. This
      gives the published parameter counts. The class token takes part in the last attention only.

    Initial values are those of the authors' code, for training that starts from an image model: kernels, tokens and
    positions N(0, 0.02); zero for positions in time and for the output projections of attentions before the last;
    torch's default for the patches (`torch_uniform`). `weight_init="scratch"` is for training from random values, which
    the authors do not do.
    Deviations: tokens are ordered by frame, row, column (authors: row, column, frame). The class token's position is a
    parameter of its own (`cls_pos`).

    Fields that are not listed here are those of `VisionModel`.

    Attributes:
      attention_type: `space_only`, `joint_space_time`, `divided_space_time`, `sparse_local_global` or `axial`.
      divided_order: Order of the attentions of `divided_space_time`: `time_first` (published), `space_first`, or
        `parallel`, where both see the block's input and both are added to it (section 4.1).
      pos_embed: `space_time`, `space` or `none` (Table 4). `space_only` has no positions in time.
      cls_in_temporal_attention: Whether the class token takes part in the attentions before the last, repeated and
        averaged there too. In divided attention, this is the paper's equation 11.
      drop_path_rate: See `BlockStack` and `TimeSformerBlock`.
      weight_init: `authors`, or `scratch`: block kernels Glorot uniform, output projections of attentions before the
        last 2.5 times as wide, positions in time N(0, 0.2).
    """

    num_classes: int | None = 400
    num_frames: int = 8
    attention_type: str = "divided_space_time"
    divided_order: str = "time_first"
    pos_embed: str = "space_time"
    cls_in_temporal_attention: bool = False
    drop_path_rate: float = 0.1
    weight_init: str = "authors"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of one input, (frames, height, width, channels)."""
        return (self.num_frames, *self.image_size, self.in_channels)

    @nn.compact
    def __call__(
        self,
        videos: Float[Array, "batch frames height width channels"],
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Outputs:
        """Return the logits `(batch, num_classes)`, in float32 or wider.

        With `capture`, return the logits and a dict of the values it names. Tokens are the class token, then the
        patches by frame, row and column, the column changing fastest.

        - `attention/i`: attention weights of layer i, a dict from the names in `ATTENTIONS` to
          `(batch, sequences, num_heads, tokens, tokens)`. There is a sequence for each frame in `spatial`, each patch
          of a frame in `temporal`, each frame and row in `width`, each frame and column in `height`, and each offset (0
          or 1 in frame, row and column) in `global`. `joint` and `local` have a single one.
        - `tokens/i`: output of layer i, `(batch, 1 + frames * grid_height * grid_width, hidden_dim)`. With `space_only`
          every frame has its class token: `(batch, frames, 1 + grid_height * grid_width, hidden_dim)`.
        - `tokens/final`: output of the last layer norm, of the same shape.
        - `pooled`: `(batch, hidden_dim)`.
        - `frame_logits`: predictions for every frame, `(batch, frames, num_classes)`: layer norm and head applied to
          the mean of the frame's patches in the last layer, or with `space_only` to the frame's class token.

        Raises:
          ValueError: The videos do not have `input_shape`, or `capture` names an unknown value.
        """
        self._check_inputs(videos)
        batch, by_frame = videos.shape[0], self.attention_type == "space_only"
        x, captured = self._run_blocks(self._block(), self._embed(videos, train=train), train=train, capture=capture)
        x = self._separate_frames(x, batch)
        norm, head = self._final_norm(), self._head(INIT)
        pooled = norm(x[:, :, 0].mean(axis=1) if by_frame else x[:, 0])
        logits = head(pooled)
        if not capture:
            return logits

        captured = jax.tree.map(lambda value: self._separate_frames(value, batch), captured)
        per_frame = x[:, :, 0] if by_frame else self.split_tokens(x)[1].mean(axis=(2, 3))
        captured |= {"tokens/final": norm(x), "pooled": pooled, "frame_logits": head(norm(per_frame))}
        return with_captured(logits, captured, capture, self.num_layers)

    def split_tokens(
        self, tokens: Float[Array, "batch *tokens hidden_dim"]
    ) -> tuple[Float[Array, "batch hidden_dim"], Float[Array, "batch frames grid_height grid_width hidden_dim"]]:
        """Split captured tokens of any layer into the class token and the patches on their grid.

        The class tokens of `space_only` are averaged over the frames.
        """
        if self.attention_type == "space_only":
            cls, patches = tokens[:, :, 0].mean(axis=1), tokens[:, :, 1:]
        else:
            cls, patches = tokens[:, 0], tokens[:, 1:]
        return cls, patches.reshape(tokens.shape[0], self.num_frames, *self.grid, tokens.shape[-1])

    @property
    def divides_clips(self) -> bool:
        """Whether devices can share the activations of a clip, see `config.devices_per_clip`."""
        return self.attention_type in ("divided_space_time", "joint_space_time", "axial")

    def check(self, **choices: Collection[str]) -> None:
        """Check the fields, see `VisionModel.check`."""
        super().check(**choices)
        if self.divided_order != "time_first" and self.attention_type != "divided_space_time":
            raise ValueError(f"divided_order={self.divided_order!r} needs attention_type='divided_space_time'")
        if self.cls_in_temporal_attention and len(ATTENTIONS[self.attention_type]) == 1:
            raise ValueError(
                f"cls_in_temporal_attention needs a temporal attention: attention_type={self.attention_type!r} has no "
                "such attention"
            )

    def _embed(self, videos: Array, *, train: bool) -> Float[Array, "sequences tokens hidden_dim"]:
        default = torch_uniform(math.prod(self.patch_size) * self.in_channels)
        x = PatchEmbed(self.patch_size, self.hidden_dim, default, default, name="patch_embed", **self.types)(videos)
        cls = self.param("cls_token", INIT, (self.hidden_dim,), self.param_dtype)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        if self.pos_embed != "none":
            sizes = (self.grid, self.hidden_dim, [CLASS_POSITION])
            positions = token_positions(self.param, "learned", *sizes, self.param_dtype)
            cls += positions[0]
            x += positions[1:].reshape(*self.grid, self.hidden_dim).astype(x.dtype)
        x = drop(x)
        if self.pos_embed == "space_time" and self.attention_type != "space_only":
            shape = (self.num_frames, self.hidden_dim)
            times = self.param("time_embed", INITS[self.weight_init].time, shape, self.param_dtype)
            x = drop(x + times[:, None, None].astype(x.dtype))
        sequences = x.shape[0] * (self.num_frames if self.attention_type == "space_only" else 1)
        x = x.reshape(sequences, -1, self.hidden_dim)
        cls = jnp.broadcast_to(cls.astype(x.dtype), (sequences, 1, self.hidden_dim))
        return divided(jnp.concatenate([drop(cls), x], axis=1))

    def _block(self) -> Callable[..., nn.Module]:
        """Return the factory of a block."""
        names = ("num_heads", "mlp_dim", "attention_type", "divided_order", "cls_in_temporal_attention", "weight_init")
        fields = {name: getattr(self, name) for name in names}
        frames = 1 if self.attention_type == "space_only" else self.num_frames
        return functools.partial(TimeSformerBlock, (frames, *self.grid), **fields, **self._block_fields())

    def _separate_frames(self, x: Array, batch: int) -> Array:
        """Restore the axis of the frames, which are examples to the blocks of `space_only`."""
        if self.attention_type != "space_only":
            return x
        return x.reshape(batch, self.num_frames, *x.shape[1 if x.ndim == 3 else 2 :])


def build(variant: str, **overrides: Any) -> TimeSformer:
    """Build a TimeSformer from a variant and fields that override it.

    A variant, such as `B/16`, `B/16-HR` or `S/32`, is a size of ViT, a patch size in pixels, and optionally one of
    `PRESETS`.

    Raises:
      ValueError: The variant is unknown, or the fields do not fit together.
    """
    size, _, rest = variant.partition("/")
    patch, dash, preset = rest.partition("-")
    if size not in VARIANTS or not patch.isdigit() or preset not in PRESETS or bool(dash) != bool(preset):
        raise ValueError(
            f"unknown TimeSformer variant {variant!r}. Use one of {', '.join(VARIANTS)}, then / and a patch size, then "
            f"nothing or one of {', '.join(f'-{name}' for name in PRESETS if name)}."
        )
    frames, pixels = PRESETS[preset]
    sizes = {"num_frames": frames, "image_size": (pixels, pixels), "patch_size": (int(patch), int(patch))}
    model = TimeSformer(**{**VARIANTS[size], **sizes, **overrides})
    model.check(attention_type=ATTENTIONS, divided_order=ORDERS, pos_embed=POSITIONS, weight_init=INITS)
    return model
