"""Vision Transformer: An Image is Worth 16x16 Words (arXiv:2010.11929)."""

import functools
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import KERNELS, MultiHeadAttention
from vit_jax.models.dense import Dense
from vit_jax.models.layers import GELU, MLP, REMAT, BlockStack, EncoderBlock, PatchEmbed, check_choices
from vit_jax.models.positions import relative_positions, token_positions
from vit_jax.models.resnet import FLAVOURS, GROUPS, HYBRIDS, ResNet, stride_of

# Table 1; Ti and S from AugReg (arXiv:2106.10270), Table 1
VARIANTS = {
    "Ti": {"num_layers": 12, "hidden_dim": 192, "mlp_dim": 768, "num_heads": 3},
    "S": {"num_layers": 12, "hidden_dim": 384, "mlp_dim": 1536, "num_heads": 6},
    "B": {"num_layers": 12, "hidden_dim": 768, "mlp_dim": 3072, "num_heads": 12},
    "L": {"num_layers": 24, "hidden_dim": 1024, "mlp_dim": 4096, "num_heads": 16},
    "H": {"num_layers": 32, "hidden_dim": 1280, "mlp_dim": 5120, "num_heads": 16},
}
POOLS = ("cls", "gap", "map")
POSITIONS = ("learned", "learned2d", "sincos2d", "relative", "none")
POSITIONS_AT = ("stem", "every_layer", "every_layer_shared")


class PositionedBlock(EncoderBlock):
    """A block with positions of its own: added to its inputs (see `token_positions`), or relative, in its attention.

    Attributes:
      grid, has_class_token: What the tokens are.
    """

    pos_embed: str = "learned"
    grid: tuple[int, int] = (14, 14)
    has_class_token: bool = True

    @nn.compact
    def __call__(self, x, drop_path_rate=0.0, **arguments):
        *_, num_tokens, hidden_dim = x.shape
        relative = None
        if self.pos_embed == "relative":
            relative = relative_positions(self.param, num_tokens, hidden_dim // self.num_heads, self.param_dtype)
        else:
            sizes = (self.grid, hidden_dim, self.has_class_token)
            x = x + token_positions(self.param, self.pos_embed, *sizes, self.param_dtype).astype(x.dtype)
        return super().__call__(x, drop_path_rate, relative=relative, **arguments)


class SharedPositionsBlock(EncoderBlock):
    """A block of (tokens, positions) that adds the positions to the tokens, and passes them on."""

    @nn.compact
    def __call__(self, x, drop_path_rate=0.0, **arguments):
        tokens, positions = x
        tokens, weights = super().__call__(tokens + positions, drop_path_rate, **arguments)
        return (tokens, positions), weights


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
    """Vision Transformer for images of any size, square or not; hybrid with `resnet_stages`.

    The fields also give the simpler baseline of Better plain ViT baselines (arXiv:2205.01580): `pool="gap"`,
    `pos_embed="sincos2d"`, `representation_dim=hidden_dim`, as big_vision's; and DeiT (arXiv:2012.12877), without its
    distillation token: `gelu="exact"`.

    Initialised as google-research/vision_transformer: truncated-normal (LeCun) patches, Xavier-uniform kernels,
    MLP biases N(0, 1e-6), positions N(0, 0.02), class token and head zero. The paper says no more than that the
    fine-tuning head is zero.
    Deviation: the class token's position is a parameter of its own (`cls_pos`), so that `pos_embed` stays a grid.

    Attributes:
      num_classes: Width of the logits; None returns the pooled features instead.
      image_size, patch_size: (height, width) in pixels; of a hybrid, patches are of its feature map.
      pool: `cls` (class token), `gap` (mean of the patches, no class token), `map` (attention pooling, no class token).
      pos_embed: `none`, `learned` (the paper's 1-D), `learned2d`, `sincos2d` (see `token_positions`), or `relative`:
        offsets that each block's attention learns, shared by its heads (see `relative_positions`).
      pos_embed_at: Where positions are added (Table 8): after the `stem`; to the inputs of `every_layer`, each having
        its own; `every_layer_shared`, the same in each. Then none are added after the stem.
      representation_dim: Width of a tanh layer before the head (used in pre-training); None for none.
      resnet_stages, resnet_width, resnet_flavour: Of a hybrid's stem, see `ResNet`; patches of pixels if None.
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
    pos_embed_at: str = "stem"
    representation_dim: int | None = None
    resnet_stages: tuple[int, ...] | None = None
    resnet_width: int = 64
    resnet_flavour: str = "google"
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
        stride = 1 if self.resnet_stages is None else stride_of(self.resnet_stages)
        height, width = (-(-size // stride) for size in self.image_size)
        return height // self.patch_size[0], width // self.patch_size[1]

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
        positions = self._positions()
        x = self._tokens(images)
        if positions is not None and self.pos_embed_at == "stem":
            x = x + positions.astype(x.dtype)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)

        stack = BlockStack(
            self._block(), self.num_layers, self.drop_path_rate, self.scan_layers, self.remat, name="encoder"
        )
        if self.pos_embed_at == "every_layer_shared" and positions is not None:
            (x, _), captured = stack((x, positions.astype(x.dtype)), train=train, capture=capture)
            captured = {name: out[0] if name.startswith("tokens/") else out for name, out in captured.items()}
        else:
            x, captured = stack(x, train=train, capture=capture)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **types)(x)
        pooled = self._pool(x, train=train)
        logits = self._head(pooled)

        captured |= {"tokens/final": x, "pooled": pooled}
        if unknown := set(capture) - set(captured):
            raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {self.num_layers - 1}")
        return (logits, {name: captured[name] for name in capture}) if capture else logits

    def split_tokens(
        self, tokens: Float[Array, "batch tokens hidden_dim"]
    ) -> tuple[Float[Array, "batch hidden_dim"] | None, Float[Array, "batch grid_height grid_width hidden_dim"]]:
        """Splits tokens of any layer into the class token, or None, and the patches on their grid."""
        first = int(self.pool == "cls")
        patches = tokens[:, first:].reshape(len(tokens), *self.grid, -1)
        return tokens[:, 0] if first else None, patches

    def _positions(self):
        """Positions that belong to the model, not to its blocks: (tokens, hidden_dim)."""
        if self.pos_embed in ("relative", "none") or self.pos_embed_at == "every_layer":
            return None
        sizes = (self.grid, self.hidden_dim, self.pool == "cls")
        return token_positions(self.param, self.pos_embed, *sizes, self.param_dtype)

    def _tokens(self, images):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = images
        if self.resnet_stages is not None:
            x = ResNet(self.resnet_stages, self.resnet_width, self.resnet_flavour, name="resnet", **types)(x)
        x = PatchEmbed(self.patch_size, self.hidden_dim, name="patch_embed", **types)(x)
        x = x.reshape(len(x), -1, self.hidden_dim)
        if self.pool != "cls":
            return x
        token = self.param("cls_token", nn.initializers.zeros, (self.hidden_dim,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.hidden_dim))
        return jnp.concatenate([token, x], axis=1)

    def _block(self):
        """Returns what makes a block."""
        block = EncoderBlock
        if self.pos_embed == "relative" or (self.pos_embed != "none" and self.pos_embed_at == "every_layer"):
            block = functools.partial(
                PositionedBlock, pos_embed=self.pos_embed, grid=self.grid, has_class_token=self.pool == "cls"
            )
        elif self.pos_embed_at == "every_layer_shared":
            block = SharedPositionsBlock
        return functools.partial(
            block,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            gelu=self.gelu,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            layer_scale_init=self.layer_scale_init,
            norm_epsilon=self.norm_epsilon,
            attention_kernel=self.attention_kernel,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

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
            x = nn.tanh(Dense(self.representation_dim, name="representation", **types)(x))
        if self.num_classes is None:
            return x
        zeros, bias = nn.initializers.zeros, nn.initializers.constant(self.head_bias_init)
        head = Dense(self.num_classes, kernel_init=zeros, bias_init=bias, name="head", **types)
        return head(x).astype(jnp.promote_types(self.dtype, jnp.float32))


def build(variant: str, **overrides: Any) -> ViT:
    """Builds `B/16`, `H/14`, ...: a size of `VARIANTS`, and a patch size in pixels; or a hybrid, `R50+B/16`."""
    sizes, _, patch = variant.partition("/")
    *resnet, size = sizes.split("+")
    hybrid = "+".join(resnet) + f"/{patch}"
    if size not in VARIANTS or not (hybrid in HYBRIDS if resnet else patch.isdigit()):
        raise ValueError(
            f"unknown ViT variant {variant!r}: one of {', '.join(VARIANTS)}, then / and a patch size; or a hybrid, "
            f"its size between + and /: {', '.join(HYBRIDS)}"
        )
    stem = HYBRIDS[hybrid] if resnet else {"patch_size": (int(patch), int(patch))}
    model = ViT(**{**VARIANTS[size], **stem, **overrides})
    check_choices(model, pool=POOLS, pos_embed=POSITIONS, pos_embed_at=POSITIONS_AT, gelu=GELU, remat=REMAT)
    check_choices(model, attention_kernel=KERNELS, resnet_flavour=FLAVOURS)
    if model.pos_embed in ("relative", "none") and model.pos_embed_at != "stem":
        raise ValueError(f"pos_embed_at={model.pos_embed_at!r}: pos_embed={model.pos_embed!r} adds nothing to tokens")
    if model.hidden_dim % model.num_heads:
        raise ValueError(f"num_heads={model.num_heads} does not divide hidden_dim={model.hidden_dim}")
    if model.resnet_width % GROUPS:
        raise ValueError(f"resnet_width={model.resnet_width}: a multiple of {GROUPS}, the groups of its norms")
    if not all(model.patch_size) or not all(model.grid):
        raise ValueError(f"no patch of patch_size={model.patch_size} fits into image_size={model.image_size}")
    return model
