"""Vision Transformer: An Image is Worth 16x16 Words (arXiv:2010.11929)."""

import functools
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import KERNELS, MultiHeadAttention
from vit_jax.models.layers import GELU, MLP, REMAT, BlockStack, EncoderBlock, PatchEmbed
from vit_jax.models.positions import sincos2d

# Table 1; Ti and S from AugReg (arXiv:2106.10270), Table 1
VARIANTS = {
    "Ti": {"num_layers": 12, "hidden_dim": 192, "mlp_dim": 768, "num_heads": 3},
    "S": {"num_layers": 12, "hidden_dim": 384, "mlp_dim": 1536, "num_heads": 6},
    "B": {"num_layers": 12, "hidden_dim": 768, "mlp_dim": 3072, "num_heads": 12},
    "L": {"num_layers": 24, "hidden_dim": 1024, "mlp_dim": 4096, "num_heads": 16},
    "H": {"num_layers": 32, "hidden_dim": 1280, "mlp_dim": 5120, "num_heads": 16},
}
POOLS = ("cls", "gap", "map")
POSITIONS = ("learned", "sincos2d", "none")


class AttentionPool(nn.Module):
    """A learned query attends to all tokens, then an MLP (Scaling Vision Transformers, arXiv:2106.04560, 3.2)."""

    num_heads: int
    mlp_dim: int
    gelu: str = "tanh"
    norm_epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens hidden_dim"], *, train: bool) -> Float[Array, "batch hidden_dim"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, x.shape[-1]), self.param_dtype)
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x, _ = MultiHeadAttention(self.num_heads, name="attention", **types)(probe, x, train=train)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **types)(x)
        return (x + MLP(self.mlp_dim, self.gelu, name="mlp", **types)(y, train=train))[:, 0]


class ViT(nn.Module):
    """Vision Transformer for images of any size, square or not.

    Initialised as google-research/vision_transformer: truncated-normal (LeCun) patches, Xavier-uniform kernels,
    MLP biases N(0, 1e-6), positions N(0, 0.02), class token and head zero. The paper says no more than that the
    fine-tuning head is zero.
    Deviation: the class token's position is a parameter of its own (`cls_pos`), so that `pos_embed` stays a grid.

    Attributes:
      num_classes: Width of the logits; None returns the pooled features instead.
      image_size, patch_size: (height, width) in pixels.
      pool: `cls` (class token), `gap` (mean of the patches, no class token), `map` (attention pooling, no class token).
      pos_embed: `learned`, `sincos2d` (fixed; with the class token left without) or `none`.
      representation_dim: Width of a tanh layer before the head (used in pre-training); None for none.
      gelu: `tanh` (google-research) or `exact` (timm, Hugging Face).
      head_bias_init: Initial bias of the head; -10 suits the sigmoid loss of multi-label pre-training.
      drop_path_rate, scan_layers, remat: See `BlockStack`.
      attention_kernel: See `dot_product_attention`.
      dtype, param_dtype: Of the computation (layer norms and softmax stay float32 inside) and of the parameters.
    """

    num_classes: int | None = 1000
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    patch_size: tuple[int, int] = (16, 16)
    hidden_dim: int = 768
    mlp_dim: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    pool: str = "cls"
    pos_embed: str = "learned"
    representation_dim: int | None = None
    gelu: str = "tanh"
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
    layer_scale_init: float | None = None
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    head_bias_init: float = 0.0
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
    def input_shape(self) -> tuple[int, int, int]:
        """Of one example: (height, width, channels)."""
        return (*self.image_size, self.in_channels)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Any:
        """Returns the logits `(batch, num_classes)`, in float32 or wider.

        With `capture`, a pair of the logits and a dict of what it names: `attention/i`, the weights of layer i
        `(batch, num_heads, tokens, tokens)`; `tokens/i`, its output `(batch, tokens, hidden_dim)`;
        `tokens/final`, after the last norm; `pooled` `(batch, hidden_dim)`. A class token comes first.

        Raises:
          ValueError: The images are not `input_shape`, or a name in `capture` is unknown.
        """
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"images of shape {images.shape[1:]} given to a model built for {self.input_shape}: build it with "
                "image_size= and in_channels=, and resample its positions"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = PatchEmbed(self.patch_size, self.hidden_dim, name="patch_embed", **types)(images)
        x = self._add_positions(x).reshape(x.shape[0], -1, self.hidden_dim)
        if self.pool == "cls":
            x = self._prepend_class_token(x)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)

        block = functools.partial(
            EncoderBlock,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            gelu=self.gelu,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            layer_scale_init=self.layer_scale_init,
            norm_epsilon=self.norm_epsilon,
            attention_kernel=self.attention_kernel,
            **types,
        )
        stack = BlockStack(block, self.num_layers, self.drop_path_rate, self.scan_layers, self.remat, name="encoder")
        x, captured = stack(x, train=train, capture=capture)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **types)(x)
        pooled = self._pool(x, train=train)
        logits = self._head(pooled)

        captured |= {"tokens/final": x, "pooled": pooled}
        if unknown := set(capture) - set(captured):
            raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {self.num_layers - 1}")
        return (logits, {name: captured[name] for name in capture}) if capture else logits

    def _add_positions(self, x):
        if self.pos_embed == "none":
            return x
        if self.pos_embed == "learned":
            shape = (*self.grid, self.hidden_dim)
            positions = self.param("pos_embed", nn.initializers.normal(0.02), shape, self.param_dtype)
        else:
            positions = sincos2d(self.grid, self.hidden_dim)
        return x + positions.astype(x.dtype)

    def _prepend_class_token(self, x):
        token = self.param("cls_token", nn.initializers.zeros, (self.hidden_dim,), self.param_dtype)
        if self.pos_embed == "learned":
            token += self.param("cls_pos", nn.initializers.normal(0.02), (self.hidden_dim,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.hidden_dim))
        return jnp.concatenate([token, x], axis=1)

    def _pool(self, x, *, train):
        if self.pool == "cls":
            return x[:, 0]
        if self.pool == "gap":
            return x.mean(axis=1)
        return AttentionPool(
            self.num_heads,
            self.mlp_dim,
            self.gelu,
            self.norm_epsilon,
            self.dtype,
            self.param_dtype,
            name="pool",
        )(x, train=train)

    def _head(self, x):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.representation_dim:
            x = nn.tanh(nn.Dense(self.representation_dim, name="representation", **types)(x))
        if self.num_classes is None:
            return x
        zeros, bias = nn.initializers.zeros, nn.initializers.constant(self.head_bias_init)
        head = nn.Dense(self.num_classes, kernel_init=zeros, bias_init=bias, name="head", **types)
        return head(x).astype(jnp.promote_types(self.dtype, jnp.float32))


def build(variant: str, **overrides: Any) -> ViT:
    """Builds `Ti/16`, `S/32`, `B/16`, `H/14`, ...: a size of `VARIANTS`, and a patch size in pixels."""
    size, _, patch = variant.partition("/")
    if size not in VARIANTS or not patch.isdigit():
        raise ValueError(f"unknown ViT variant {variant!r}: one of {', '.join(VARIANTS)}, then / and a patch size")
    model = ViT(**{**VARIANTS[size], "patch_size": (int(patch), int(patch)), **overrides})
    choices = {"pool": POOLS, "pos_embed": POSITIONS, "gelu": GELU, "remat": REMAT, "attention_kernel": KERNELS}
    for field, known in choices.items():
        if getattr(model, field) not in known:
            raise ValueError(f"{field}={getattr(model, field)!r}: one of {', '.join(known)}")
    if model.hidden_dim % model.num_heads:
        raise ValueError(f"num_heads={model.num_heads} does not divide hidden_dim={model.hidden_dim}")
    if not all(model.patch_size) or not all(model.grid):
        raise ValueError(f"no patch of patch_size={model.patch_size} fits into image_size={model.image_size}")
    return model
