"""TimeSformer: Is Space-Time Attention All You Need for Video Understanding? (arXiv:2102.05095)."""

import functools
import math
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import KERNELS
from vit_jax.models.dense import Dense
from vit_jax.models.layers import GELU, REMAT, BlockStack, PatchEmbed, check_choices, torch_uniform
from vit_jax.models.positions import token_positions
from vit_jax.models.space_time import ATTENTIONS, INIT, INITS, TimeSformerBlock
from vit_jax.models.vit import VARIANTS

# sections 4.1 and 4.3: frames, and height and width in pixels
PRESETS = {"": (8, 224), "HR": (16, 448), "L": (96, 224)}
ORDERS = ("time_first", "space_first", "parallel")
POSITIONS = ("space_time", "space", "none")


class TimeSformer(nn.Module):
    """TimeSformer for videos of any number of frames and size, square or not.

    For `space_only`, `joint_space_time` and `divided_space_time` the same function as the authors' code, which differs
    from the paper in `cls_in_temporal_attention`, and as Hugging Face's. In spatial attention the class token is
    repeated for every frame and averaged after. It has no position in time. The two other schemes have no code; the
    paper's text (section 3, figures 1 and 2) is read so:

    - `sparse_local_global`: first `local`, over all frames of a window of half the rows and half the columns, which
      moves with the query and stops at the borders, so that every patch sees as many; then `global`, over the patches
      an even number of frames, rows and columns away from the query.
    - `axial`: `temporal`, `width` and `height`, in the order of its short name, T+W+H.
    - Each attention before the last has an output projection as divided attention's temporal one has, which gives the
      published parameter counts. The class token is treated as in divided attention: left out of all but the last.

    Initialised as the authors' code, for training that starts from an image model: kernels, tokens and positions
    N(0, 0.02), the output projections of all attentions before the last zero, positions in time zero, the patches by
    torch's uniform default. `weight_init="scratch"` is for training without one, which the authors do not do.
    Deviations: tokens are in the order of frames, rows, columns (theirs: rows, columns, frames); the class token's
    position is a parameter of its own (`cls_pos`).

    Attributes:
      num_classes: Width of the logits; None returns the pooled features instead.
      image_size, patch_size: (height, width) in pixels.
      attention_type: `space_only`, `joint_space_time`, `divided_space_time`, `sparse_local_global` or `axial`.
      divided_order: Of divided attention: `time_first` (published), `space_first`, or `parallel`, where both see the
        block's input and are added to it (section 4.1).
      pos_embed: `space_time`, `space` or `none` (Table 4). `space_only` has no positions in time.
      cls_in_temporal_attention: Whether the class token takes part in temporal attention (as in equation 11), there
        too repeated and averaged; in the other schemes, in all attentions before the last.
      gelu: `exact` (the authors) or `tanh` (image models of google-research).
      dropout_rate: As in ViT; patches also drop after their positions in time.
      drop_path_rate: As in the authors' code, attention drops each of its sequences on its own (the frames of spatial
        attention), and not whole examples.
      weight_init: `authors`, or `scratch`: kernels of the blocks Glorot uniform, the output projections before the
        last 2.5 times as wide, positions in time N(0, 0.2).
      scan_layers, remat: See `BlockStack`.
      attention_kernel: See `dot_product_attention`.
      dtype, param_dtype: Of the computation (layer norms and softmax stay float32 inside) and of the parameters.
    """

    num_classes: int | None = 400
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    patch_size: tuple[int, int] = (16, 16)
    num_frames: int = 8
    hidden_dim: int = 768
    mlp_dim: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    attention_type: str = "divided_space_time"
    divided_order: str = "time_first"
    pos_embed: str = "space_time"
    cls_in_temporal_attention: bool = False
    gelu: str = "exact"
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.1
    weight_init: str = "authors"
    scan_layers: bool = False
    remat: str = "none"
    attention_kernel: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Of one example: (frames, height, width, channels)."""
        return (self.num_frames, *self.image_size, self.in_channels)

    @nn.compact
    def __call__(
        self,
        videos: Float[Array, "batch frames height width channels"],
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Any:
        """Returns the logits `(batch, num_classes)`, in float32 or wider.

        With `capture`, a pair of the logits and a dict of what it names:

        - `attention/i`: the weights of layer i, a dict from the names in `ATTENTIONS` to
          `(batch, sequences, num_heads, tokens, tokens)`. Sequences are the frames of `spatial`, the patches of a frame
          of `temporal`, frames x rows of `width`, frames x columns of `height`, the offsets (0 or 1 in frame, row and
          column) of `global`, and a single one of `joint` and `local`.
        - `tokens/i`: the output of layer i, `(batch, 1 + frames * grid_height * grid_width, hidden_dim)`; of
          `space_only` `(batch, frames, 1 + grid_height * grid_width, hidden_dim)`, each frame being an image.
        - `tokens/final`: the same after the last norm.
        - `pooled`: `(batch, hidden_dim)`, the class token. `space_only` averages those of its frames before the norm.
        - `frame_logits`: predictions for every frame, `(batch, frames, num_classes)`: norm and head on the mean of
          the frame's patches in the last layer, or for `space_only` on the frame's class token.

        A class token comes first; then frames, rows and columns, the columns changing fastest.

        Raises:
          ValueError: The videos are not `input_shape`, or a name in `capture` is unknown.
        """
        if videos.shape[1:] != self.input_shape:
            raise ValueError(
                f"videos of shape {videos.shape[1:]} given to a model built for {self.input_shape}: build it with "
                "num_frames=, image_size= and in_channels=, and resample its positions"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        batch, by_frame = videos.shape[0], self.attention_type == "space_only"
        x = self._embed(videos, train=train)
        block = functools.partial(
            TimeSformerBlock,
            grid=(1 if by_frame else self.num_frames, *self.grid),
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            attention_type=self.attention_type,
            divided_order=self.divided_order,
            cls_in_temporal_attention=self.cls_in_temporal_attention,
            gelu=self.gelu,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            norm_epsilon=self.norm_epsilon,
            weight_init=self.weight_init,
            attention_kernel=self.attention_kernel,
            **types,
        )
        stack = BlockStack(block, self.num_layers, self.drop_path_rate, self.scan_layers, self.remat, name="encoder")
        x, captured = stack(x, train=train, capture=capture)
        x = self._frames_apart(x, batch)
        norm = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **types)
        head = self._head()
        pooled = norm(x[:, :, 0].mean(axis=1) if by_frame else x[:, 0])
        logits = head(pooled)
        if not capture:
            return logits

        captured = jax.tree.map(lambda value: self._frames_apart(value, batch), captured)
        per_frame = x[:, :, 0] if by_frame else self.split_tokens(x)[1].mean(axis=(2, 3))
        captured |= {"tokens/final": norm(x), "pooled": pooled, "frame_logits": head(norm(per_frame))}
        if unknown := set(capture) - set(captured):
            raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {self.num_layers - 1}")
        return logits, {name: captured[name] for name in capture}

    def split_tokens(
        self, tokens: Float[Array, "batch *tokens hidden_dim"]
    ) -> tuple[Float[Array, "batch hidden_dim"], Float[Array, "batch frames grid_height grid_width hidden_dim"]]:
        """Splits captured tokens into class token and patches; of `space_only` the frames' class tokens averaged."""
        if self.attention_type == "space_only":
            cls, patches = tokens[:, :, 0].mean(axis=1), tokens[:, :, 1:]
        else:
            cls, patches = tokens[:, 0], tokens[:, 1:]
        return cls, patches.reshape(tokens.shape[0], self.num_frames, *self.grid, tokens.shape[-1])

    def _embed(self, videos, *, train):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        default = torch_uniform(math.prod(self.patch_size) * self.in_channels)
        x = PatchEmbed(self.patch_size, self.hidden_dim, default, default, name="patch_embed", **types)(videos)
        cls = self.param("cls_token", INIT, (self.hidden_dim,), self.param_dtype)
        drop = nn.Dropout(self.dropout_rate, deterministic=not train)
        if self.pos_embed != "none":
            positions = token_positions(self.param, "learned", self.grid, self.hidden_dim, True, self.param_dtype)
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
        return jnp.concatenate([drop(cls), x], axis=1)

    def _frames_apart(self, x, batch):
        """`space_only` takes frames for examples while they are in the blocks: gives them back their axis."""
        if self.attention_type != "space_only":
            return x
        return x.reshape(batch, self.num_frames, *x.shape[1 if x.ndim == 3 else 2 :])

    def _head(self):
        if self.num_classes is None:
            return lambda x: x
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        head = Dense(self.num_classes, kernel_init=INIT, name="head", **types)
        return lambda x: head(x).astype(jnp.promote_types(self.dtype, jnp.float32))


def build(variant: str, **overrides: Any) -> TimeSformer:
    """Builds `B/16`, `B/16-HR`, `B/16-L`, `S/32`, ...: a size of ViT, a patch size in pixels, a preset of `PRESETS`."""
    size, _, rest = variant.partition("/")
    patch, dash, preset = rest.partition("-")
    if size not in VARIANTS or not patch.isdigit() or preset not in PRESETS or bool(dash) != bool(preset):
        raise ValueError(
            f"unknown TimeSformer variant {variant!r}: one of {', '.join(VARIANTS)}, then / and a patch size, then "
            f"nothing or one of {', '.join(f'-{name}' for name in PRESETS if name)}"
        )
    frames, pixels = PRESETS[preset]
    sizes = {"num_frames": frames, "image_size": (pixels, pixels), "patch_size": (int(patch), int(patch))}
    model = TimeSformer(**{**VARIANTS[size], **sizes, **overrides})
    check_choices(
        model,
        attention_type=ATTENTIONS,
        divided_order=ORDERS,
        pos_embed=POSITIONS,
        weight_init=INITS,
        gelu=GELU,
        remat=REMAT,
        attention_kernel=KERNELS,
    )
    if model.divided_order != "time_first" and model.attention_type != "divided_space_time":
        raise ValueError(f"divided_order={model.divided_order!r} needs attention_type='divided_space_time'")
    if model.cls_in_temporal_attention and len(ATTENTIONS[model.attention_type]) == 1:
        raise ValueError(f"cls_in_temporal_attention: attention_type={model.attention_type!r} has no such attention")
    if model.hidden_dim % model.num_heads:
        raise ValueError(f"num_heads={model.num_heads} does not divide hidden_dim={model.hidden_dim}")
    if not all(model.patch_size) or not all(model.grid):
        raise ValueError(f"no patch of patch_size={model.patch_size} fits into image_size={model.image_size}")
    if model.num_frames < 1:
        raise ValueError(f"num_frames={model.num_frames}: at least 1")
    return model
