"""Vision Transformer: An Image is Worth 16x16 Words (arXiv:2010.11929)."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.blocks import EncoderBlock, with_captured
from vit_jax.models.layers import MLP, Dense, PatchEmbed, TypedModule
from vit_jax.models.positions import CLASS_POSITION, relative_positions, token_positions
from vit_jax.models.resnet import FLAVOURS, GROUPS, HYBRIDS, ResNet, stride_of
from vit_jax.models.vision import Outputs, VisionModel

# Table 1; Ti and S are from AugReg (arXiv:2106.10270), Table 1.
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
FINAL_NORMS = ("before_pool", "after_pool", "none")


class PositionedBlock(EncoderBlock):
    """An `EncoderBlock` with position embeddings of its own.

    They are added to its input, as `token_positions`, or, if `relative`, to the logits of its attention.

    Attributes:
      pos_embed: See `ViT`.
      grid: Number of patches in a column and in a row.
      prefix: The tokens before the patches, see `token_positions`.
    """

    pos_embed: str = "learned"
    grid: tuple[int, int] = (14, 14)
    prefix: tuple[tuple[str | None, tuple[int, ...]], ...] = (CLASS_POSITION,)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens hidden_dim"], drop_path_rate: float | Float[Array, ""] = 0.0, **options: Any
    ) -> tuple[Float[Array, "batch tokens hidden_dim"], Float[Array, "batch heads tokens tokens"] | None]:
        *_, num_tokens, hidden_dim = x.shape
        relative = None
        if self.pos_embed == "relative":
            relative = relative_positions(self.param, num_tokens, hidden_dim // self.num_heads, self.param_dtype)
        else:
            sizes = (self.grid, hidden_dim, self.prefix)
            x = x + token_positions(self.param, self.pos_embed, *sizes, self.param_dtype).astype(x.dtype)
        return super().__call__(x, drop_path_rate, relative=relative, **options)


class SharedPositionsBlock(EncoderBlock):
    """An `EncoderBlock` of a pair: adds positions to the tokens, and passes the positions on."""

    @nn.compact
    def __call__(
        self,
        x: tuple[Float[Array, "batch tokens hidden_dim"], Float[Array, "tokens hidden_dim"]],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        **options: Any,
    ) -> tuple[tuple[Array, Array], Float[Array, "batch heads tokens tokens"] | None]:
        tokens, positions = x
        tokens, weights = super().__call__(tokens + positions, drop_path_rate, **options)
        return (tokens, positions), weights


class AttentionPool(TypedModule):
    """Pools tokens by attention (Scaling Vision Transformers, arXiv:2106.04560, section 3.2).

        y = Attention(probe, tokens),   pooled = y + MLP(LayerNorm(y))

    The probe is one learned query. The authors' code has the same residual, norm and MLP.
    """

    num_heads: int
    mlp_dim: int
    gelu: str = "tanh"
    norm_epsilon: float = 1e-6
    attention_kernel: str = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens hidden_dim"], *, train: bool) -> Float[Array, "batch hidden_dim"]:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, x.shape[-1]), self.param_dtype)
        probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        attention = MultiHeadAttention(self.num_heads, kernel=self.attention_kernel, name="attention", **self.types)
        x, _ = attention(probe, x, train=train)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, name="mlp_norm", **self.types)(x)
        return (x + MLP(self.mlp_dim, self.gelu, name="mlp", **self.types)(y, train=train))[:, 0]


class ViT(VisionModel):
    """Vision Transformer for images of any size, square or not.

        x = [cls_token; distillation_token; register_tokens; patches E + b] + positions
        x = block_L(... block_1(stem_norm(dropout(x))))        see `EncoderBlock`
        pooled = pool(LayerNorm(x))
        logits = pooled W + b                                  with `representation_dim`: tanh(pooled W_r + b_r) W + b

    Only the patches, and the class token if the model pools it, are there by default. The fields also describe:

    - "Better plain ViT baselines" (arXiv:2205.01580), as in big_vision: `pool="gap"`, `pos_embed="sincos2d"`,
      `representation_dim=hidden_dim`;
    - DeiT (arXiv:2012.12877): `gelu="exact"`, `distillation_token=True`; DeiT III (arXiv:2204.07118): `gelu="exact"`,
      `layer_scale_init=1e-6`, `prefix_pos_embed=False`;
    - MAE (arXiv:2111.06377) after fine-tuning: `gelu="exact"`, `pool="gap"`,
      `unpooled_class_token=True`, `final_norm="after_pool"`;
    - the image encoder of CLIP (arXiv:2103.00020): `gelu="quick"`, `patch_bias=False`, `stem_norm=True`,
      `norm_epsilon=1e-5`;
    - registers (arXiv:2309.16588): `num_registers=4`.

    Initial values are those of google-research/vision_transformer: patches truncated normal (LeCun), other kernels
    Xavier-uniform, MLP biases N(0, 1e-6), positions N(0, 0.02), class token and head zero. The paper only says that the
    head is zero in fine-tuning.
    Deviation: the class token's position is a parameter of its own (`cls_pos`), so that `pos_embed` remains a grid.

    Fields that are not listed here are those of `VisionModel`.

    Attributes:
      patch_size: (height, width) in pixels; in a hybrid, in positions of the feature map.
      pool: `cls` (the class token), `gap` (mean of the patches) or `map` (`AttentionPool` of the patches).
      unpooled_class_token: Whether a class token takes part in the attention although `pool` is not `cls`.
      distillation_token: Whether a second class token follows it, with a head of its own (DeiT, section 4). The logits
        are the mean of both heads' (timm and Hugging Face: the same), and `pooled` is the mean of both tokens (timm's).
        DeiT trains the second head on a teacher's decisions, this code on the labels.
      num_registers: Number of learned tokens between the class token and the patches that are not pooled.
      pos_embed: `learned` (the paper's 1-D), `learned2d` or `sincos2d`, see `token_positions`; `relative`, offsets that
        each block's attention learns and all its heads share, see `relative_positions`; or `none`.
      prefix_pos_embed: Whether the tokens before the patches have learned positions too, if the patches do.
      pos_embed_at: Where positions are added (Table 8): `stem`, once before the first block; `every_layer`, to the
        input of each block, which has its own; `every_layer_shared`, to the input of each block, the same for all.
      patch_bias: Whether the patch embedding has a bias.
      stem_norm: Whether a layer norm precedes the first block.
      final_norm: Where the last layer norm is: `before_pool`; `after_pool`, of the pooled features; or `none`.
      representation_dim: Width of a tanh layer before the head, used in pre-training; None for no such layer.
      resnet_stages, resnet_width, resnet_flavour: The stem of a hybrid, see `ResNet`. With `resnet_stages=None`,
        patches are of pixels.
      layer_scale_init: Initial scale of the residual branches, see `LayerScale`; None for no scales.
      head_bias_init: Initial bias of the head; -10 suits the sigmoid loss of multi-label pre-training.
    """

    pool: str = "cls"
    unpooled_class_token: bool = False
    distillation_token: bool = False
    num_registers: int = 0
    pos_embed: str = "learned"
    prefix_pos_embed: bool = True
    pos_embed_at: str = "stem"
    patch_bias: bool = True
    stem_norm: bool = False
    final_norm: str = "before_pool"
    representation_dim: int | None = None
    resnet_stages: tuple[int, ...] | None = None
    resnet_width: int = 64
    resnet_flavour: str = "google"
    gelu: str = "tanh"
    layer_scale_init: float | None = None
    head_bias_init: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches in a column and in a row."""
        stride = 1 if self.resnet_stages is None else stride_of(self.resnet_stages)
        height, width = (-(-size // stride) for size in self.image_size)
        return height // self.patch_size[0], width // self.patch_size[1]

    @property
    def has_class_token(self) -> bool:
        """Whether the tokens start with a class token."""
        return self.pool == "cls" or self.unpooled_class_token

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: class token, distillation token and registers."""
        return self.has_class_token + self.distillation_token + self.num_registers

    @property
    def prefix(self) -> tuple[tuple[str | None, tuple[int, ...]], ...]:
        """The tokens before the patches, as `token_positions` takes them."""
        tokens = [CLASS_POSITION] if self.has_class_token else []
        tokens += [("distillation_pos", ())] if self.distillation_token else []
        tokens += [("register_pos", (self.num_registers,))] if self.num_registers else []
        return tuple((name if self.prefix_pos_embed else None, axes) for name, axes in tokens)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Outputs:
        """Return the logits `(batch, num_classes)`, in float32 or wider.

        With `capture`, return the logits and a dict of the values it names. A class token comes first in all of them,
        then the distillation token and the registers.

        - `attention/i`: attention weights of layer i, `(batch, num_heads, tokens, tokens)`.
        - `tokens/i`: output of layer i, `(batch, tokens, hidden_dim)`.
        - `tokens/final`: output of the last layer norm, `(batch, tokens, hidden_dim)`; unless `final_norm` is
          `before_pool`, that of the last block.
        - `pooled`: `(batch, hidden_dim)`.

        Raises:
          ValueError: The images do not have `input_shape`, or `capture` names an unknown value.
        """
        self._check_inputs(images)
        positions = self._positions()
        x = self._tokens(images)
        if positions is not None and self.pos_embed_at == "stem":
            x = x + positions.astype(x.dtype)
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        if self.stem_norm:
            x = nn.LayerNorm(epsilon=self.norm_epsilon, name="stem_norm", **self.types)(x)

        if self.pos_embed_at == "every_layer_shared" and positions is not None:
            both = (x, positions.astype(x.dtype))
            (x, _), captured = self._run_blocks(self._block(), both, train=train, capture=capture)
            captured = {name: out[0] if name.startswith("tokens/") else out for name, out in captured.items()}
        else:
            x, captured = self._run_blocks(self._block(), x, train=train, capture=capture)
        if self.final_norm == "before_pool":
            x = self._final_norm()(x)
        pooled = self._pool(x, train=train)
        if self.final_norm == "after_pool":
            pooled = self._final_norm()(pooled)
        captured |= {"tokens/final": x, "pooled": pooled}
        return with_captured(self._logits(x, pooled), captured, capture, self.num_layers)

    def _positions(self) -> Float[Array, "tokens hidden_dim"] | None:
        """Return the positions that belong to the model; None if only blocks have any."""
        if self.pos_embed in ("relative", "none") or self.pos_embed_at == "every_layer":
            return None
        sizes = (self.grid, self.hidden_dim, self.prefix)
        return token_positions(self.param, self.pos_embed, *sizes, self.param_dtype)

    def _tokens(self, images: Array) -> Float[Array, "batch tokens hidden_dim"]:
        x = images
        if self.resnet_stages is not None:
            x = ResNet(self.resnet_stages, self.resnet_width, self.resnet_flavour, name="resnet", **self.types)(x)
        bias = {"use_bias": self.patch_bias}
        x = PatchEmbed(self.patch_size, self.hidden_dim, name="patch_embed", **bias, **self.types)(x)
        tokens = [x.reshape(len(x), -1, self.hidden_dim)]
        if self.num_registers:
            tokens.insert(0, self._learned_tokens("register_tokens", (self.num_registers,), x))
        if self.distillation_token:
            tokens.insert(0, self._learned_tokens("distillation_token", (), x))
        if self.has_class_token:
            tokens.insert(0, self._class_token(nn.initializers.zeros, len(x), x.dtype))
        return jnp.concatenate(tokens, axis=1)

    def _learned_tokens(self, name: str, axes: tuple[int, ...], x: Array) -> Float[Array, "batch tokens hidden_dim"]:
        tokens = self.param(name, nn.initializers.normal(0.02), (*axes, self.hidden_dim), self.param_dtype)
        tokens = tokens.reshape(-1, self.hidden_dim).astype(x.dtype)
        return jnp.broadcast_to(tokens, (len(x), *tokens.shape))

    def _block(self) -> Callable[..., nn.Module]:
        """Return the factory of a block."""
        block = EncoderBlock
        if self.pos_embed == "relative" or (self.pos_embed != "none" and self.pos_embed_at == "every_layer"):
            fields = {"pos_embed": self.pos_embed, "grid": self.grid, "prefix": self.prefix}
            block = functools.partial(PositionedBlock, **fields)
        elif self.pos_embed_at == "every_layer_shared":
            block = SharedPositionsBlock
        sizes = {"num_heads": self.num_heads, "mlp_dim": self.mlp_dim, "layer_scale_init": self.layer_scale_init}
        return functools.partial(block, **sizes, **self._block_fields())

    def _pool(self, x: Array, *, train: bool) -> Float[Array, "batch hidden_dim"]:
        if self.pool == "cls":
            return x[:, :2].mean(axis=1) if self.distillation_token else x[:, 0]
        x = x[:, self.num_prefix_tokens :]
        if self.pool == "gap":
            return x.mean(axis=1)
        sizes = (self.num_heads, self.mlp_dim, self.gelu, self.norm_epsilon, self.attention_kernel)
        return AttentionPool(*sizes, name="pool", **self.types)(x, train=train)

    def _logits(self, x: Array, pooled: Array) -> Float[Array, "batch outputs"]:
        """Return the logits, or the pooled features if the model has no head."""
        if self.representation_dim:
            pooled = nn.tanh(Dense(self.representation_dim, name="representation", **self.types)(pooled))
        inits = (nn.initializers.zeros, nn.initializers.constant(self.head_bias_init))
        if not self.distillation_token or self.num_classes is None:
            return self._head(*inits)(pooled)
        return (self._head(*inits)(x[:, 0]) + self._head(*inits, name="distillation_head")(x[:, 1])) / 2


def build(variant: str, **overrides: Any) -> ViT:
    """Build a ViT from a variant and fields that override it.

    A variant is a size of `VARIANTS` and a patch size in pixels, such as `B/16` or `H/14`; or one of `HYBRIDS`, such as
    `R50/16`, with a size before the slash: `R50+B/16`.

    Raises:
      ValueError: The variant is unknown, or the fields do not fit together.
    """
    sizes, _, patch = variant.partition("/")
    *resnet, size = sizes.split("+")
    hybrid = "+".join(resnet) + f"/{patch}"
    if size not in VARIANTS or not (hybrid in HYBRIDS if resnet else patch.isdigit()):
        raise ValueError(
            f"unknown ViT variant {variant!r}. Use one of {', '.join(VARIANTS)}, then / and a patch size; or a hybrid, "
            f"with its size between + and /: {', '.join(HYBRIDS)}."
        )
    stem = HYBRIDS[hybrid] if resnet else {"patch_size": (int(patch), int(patch))}
    model = ViT(**{**VARIANTS[size], **stem, **overrides})
    choices = {"pos_embed": POSITIONS, "pos_embed_at": POSITIONS_AT, "resnet_flavour": FLAVOURS}
    model.check(pool=POOLS, final_norm=FINAL_NORMS, **choices)
    _check_tokens(model)
    if model.pos_embed in ("relative", "none") and model.pos_embed_at != "stem":
        raise ValueError(
            f"pos_embed_at={model.pos_embed_at!r} has no effect: pos_embed={model.pos_embed!r} adds nothing to tokens. "
            "Leave pos_embed_at at 'stem'."
        )
    if model.resnet_width % GROUPS:
        raise ValueError(
            f"resnet_width must be a multiple of {GROUPS}, the number of groups of its norms, got {model.resnet_width}"
        )
    return model


def _check_tokens(model: ViT) -> None:
    """Raise ValueError if the tokens before the patches do not fit the way in which they are pooled."""
    if model.pool == "cls" and model.unpooled_class_token:
        raise ValueError("unpooled_class_token needs pool='gap' or 'map': pool='cls' pools the class token")
    if model.distillation_token:
        needed = {"pool": "cls", "final_norm": "before_pool", "representation_dim": None}
        for field, value in needed.items():
            if getattr(model, field) != value:
                raise ValueError(f"distillation_token needs {field}={value!r}, got {getattr(model, field)!r}")
