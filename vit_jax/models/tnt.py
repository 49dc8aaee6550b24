"""Transformer in Transformer (arXiv:2103.00112): images as sentences (patches) of words (parts of a patch)."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.attention import KERNELS
from vit_jax.models.dense import Dense
from vit_jax.models.layers import GELU, REMAT, BlockStack, EncoderBlock, check_choices
from vit_jax.models.positions import token_positions
from vit_jax.models.words import INIT, SentenceProjection, WordEmbed, word_grid

# Table 1
_FIELDS = ("hidden_dim", "mlp_dim", "num_heads", "inner_hidden_dim", "inner_mlp_dim", "inner_num_heads")
VARIANTS = {
    "Ti": dict(zip(_FIELDS, (192, 768, 3, 12, 48, 2), strict=True)),
    "S": dict(zip(_FIELDS, (384, 1536, 6, 24, 96, 4), strict=True)),
    "B": dict(zip(_FIELDS, (640, 2560, 10, 40, 160, 4), strict=True)),
}
POSITIONS = ("learned", "none")


class SqueezeExcitation(nn.Module):
    """Scales each channel by a function of its mean over the tokens (Squeeze-and-Excitation, arXiv:1709.01507).

    As in the authors' code: a norm first, a quarter of the width inside, and tanh, so that scales lie in -1 to 1.
    """

    norm_epsilon: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens hidden_dim"]) -> Float[Array, "batch tokens hidden_dim"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = functools.partial(Dense, kernel_init=INIT, **types)
        scale = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **types)(x.mean(axis=1, keepdims=True))
        scale = nn.relu(dense(x.shape[-1] // 4, name="in")(scale))
        return x * nn.tanh(dense(x.shape[-1], name="out")(scale))


class TNTBlock(nn.Module):
    """Words attend within their patch, are added to its sentence, and sentences attend to each other.

    Without `inner`, a plain block on the sentences, which words pass by (Table 5).

    Attributes:
      inner, outer: Make the blocks on words and on sentences from `name`.
    """

    inner: Callable[..., nn.Module] | None
    outer: Callable[..., nn.Module]
    norm_epsilon: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: tuple[
            Float[Array, "batch patches num_words inner_hidden_dim"],
            Float[Array, "batch tokens hidden_dim"],
        ],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        *,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[tuple[Array, Array], dict[str, Array | None]]:
        """Returns new words and sentences, and the attention weights of `inner` and `outer` if asked for, else None."""
        words, sentences = x
        options: dict[str, Any] = {"return_weights": return_weights, "train": train}
        attention = {}
        if self.inner is not None:
            batch, patches = words.shape[:2]
            flat = words.reshape(-1, *words.shape[2:])  # drop path is drawn for each patch, as in the authors' code
            flat, weights = self.inner(name="inner")(flat, drop_path_rate, **options)
            words = flat.reshape(words.shape)
            attention["inner"] = None if weights is None else weights.reshape(batch, patches, *weights.shape[1:])
            projection = SentenceProjection(
                sentences.shape[-1], False, self.norm_epsilon, self.dtype, self.param_dtype, name="projection"
            )
            sentences = sentences + jnp.pad(projection(words), ((0, 0), (1, 0), (0, 0)))  # the class token has no words
        sentences, attention["outer"] = self.outer(name="outer")(sentences, drop_path_rate, **options)
        return (words, sentences), attention


class TNT(nn.Module):
    """Transformer in Transformer for images of any size, square or not; a class token comes first.

    The same function as huawei-noah/Efficient-AI-Backbones and timm (`legacy=False`), which go beyond the paper in
    how words are made (`WordEmbed`), in the norms around projections (`SentenceProjection`), and in the first
    sentences: projected words, where the paper has zeros. Initialised as the authors' code: N(0, 0.02) and zero
    biases, but torch's uniform default for `WordEmbed`.
    Deviations: the class token's position is a parameter of its own (`cls_pos`), so that `pos_embed` stays a grid;
    the authors' frozen `outer_tokens`, which nothing uses, are left out.

    Attributes:
      num_classes: Width of the logits; None returns the pooled features instead.
      image_size, patch_size: (height, width) in pixels.
      hidden_dim, mlp_dim, num_heads: Of the outer blocks, on sentences.
      inner_hidden_dim, inner_mlp_dim, inner_num_heads: Of the inner blocks, on words.
      num_words: Words of a patch; how far apart they are follows (`word_grid`): 16 in 16 by 16 pixels, 4 pixels.
      tnt_layers: Layers, from 0, with an inner block, the others being plain; None for all. Table 5 counts from 1.
      pos_embed, word_pos_embed: Positions of sentences and of words: `learned` or `none` (Table 6).
      squeeze_excitation: Whether outer MLPs add a rescaled copy of their output, in every layer (Table 12).
      gelu: `exact` (the authors) or `tanh`.
      dropout_rate: Of sentences before the first block, and in all blocks.
      drop_path_rate: See `BlockStack`; drawn for each patch in inner residuals. The projection of words is kept.
      scan_layers, remat: See `BlockStack`; nothing is scanned when `tnt_layers` is given.
      attention_kernel: See `dot_product_attention`.
      dtype, param_dtype: Of the computation (layer norms and softmax stay float32 inside) and of the parameters.
    """

    num_classes: int | None = 1000
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    patch_size: tuple[int, int] = (16, 16)
    hidden_dim: int = 640
    mlp_dim: int = 2560
    num_layers: int = 12
    num_heads: int = 10
    inner_hidden_dim: int = 40
    inner_mlp_dim: int = 160
    inner_num_heads: int = 4
    num_words: int = 16
    tnt_layers: tuple[int, ...] | None = None
    pos_embed: str = "learned"
    word_pos_embed: str = "learned"
    squeeze_excitation: bool = False
    gelu: str = "exact"
    qkv_bias: bool = False
    norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
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

        With `capture`, a pair of the logits and a dict of what it names, tokens being the class token and then the
        sentences: `attention/i`, the weights of layer i, a dict of `outer (batch, num_heads, tokens, tokens)` and,
        in TnT blocks, `inner (batch, patches, inner_num_heads, num_words, num_words)`; `tokens/i`, its output
        `(batch, tokens, hidden_dim)`; `words/i`, its other output `(batch, patches, num_words, inner_hidden_dim)`;
        `tokens/final`, after the last norm; `pooled` `(batch, hidden_dim)`.

        Raises:
          ValueError: The images are not `input_shape`, or a name in `capture` is unknown.
        """
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"images of shape {images.shape[1:]} given to a model built for {self.input_shape}: build it with "
                "image_size= and in_channels=, and resample its positions"
            )
        words, sentences = self._embed(images)
        sentences = nn.Dropout(self.dropout_rate)(sentences, deterministic=not train)
        stack = BlockStack(
            self._blocks(), self.num_layers, self.drop_path_rate, self.scan_layers, self.remat, name="encoder"
        )
        both = {name.replace("words/", "tokens/") for name in capture}
        (_, sentences), outputs = stack((words, sentences), train=train, capture=both)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        sentences = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **types)(sentences)
        pooled = logits = sentences[:, 0]
        if self.num_classes is not None:
            logits = Dense(self.num_classes, kernel_init=INIT, name="head", **types)(pooled)
            logits = logits.astype(jnp.promote_types(self.dtype, jnp.float32))

        captured = {"tokens/final": sentences, "pooled": pooled}
        for name, output in outputs.items():
            captured |= {name: output} if name.startswith("attention/") else _split(name, output)
        if unknown := set(capture) - set(captured):
            raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {self.num_layers - 1}")
        return (logits, {name: captured[name] for name in capture}) if capture else logits

    def split_tokens(
        self, tokens: Float[Array, "batch tokens hidden_dim"]
    ) -> tuple[Float[Array, "batch hidden_dim"], Float[Array, "batch grid_height grid_width hidden_dim"]]:
        """Splits tokens of any layer into the class token and the sentences on their grid."""
        return tokens[:, 0], tokens[:, 1:].reshape(len(tokens), *self.grid, -1)

    def _embed(self, images):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stride, grid = word_grid(self.patch_size, self.num_words)
        words = WordEmbed(self.patch_size, stride, self.inner_hidden_dim, name="patch_embed", **types)(images)
        if self.word_pos_embed == "learned":
            positions = self.param("word_pos", INIT, (*grid, self.inner_hidden_dim), self.param_dtype)
            words = words + positions.astype(words.dtype)
        words = words.reshape(words.shape[0], -1, self.num_words, self.inner_hidden_dim)

        projection = SentenceProjection(self.hidden_dim, True, self.norm_epsilon, name="projection", **types)
        sentences = projection(words)
        token = self.param("cls_token", INIT, (self.hidden_dim,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(sentences.dtype), (sentences.shape[0], 1, self.hidden_dim))
        sentences = jnp.concatenate([token, sentences], axis=1)
        if self.pos_embed == "learned":
            positions = token_positions(self.param, "learned", self.grid, self.hidden_dim, True, self.param_dtype)
            sentences = sentences + positions.astype(sentences.dtype)
        return words, sentences

    def _blocks(self):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = functools.partial(
            EncoderBlock,
            gelu=self.gelu,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            norm_epsilon=self.norm_epsilon,
            kernel_init=INIT,
            bias_init=nn.initializers.zeros,
            attention_kernel=self.attention_kernel,
            **types,
        )
        gate = functools.partial(SqueezeExcitation, self.norm_epsilon, **types) if self.squeeze_excitation else None
        inner = functools.partial(block, num_heads=self.inner_num_heads, mlp_dim=self.inner_mlp_dim)
        outer = functools.partial(block, num_heads=self.num_heads, mlp_dim=self.mlp_dim, mlp_gate=gate)
        tnt = functools.partial(TNTBlock, inner, outer, self.norm_epsilon, **types)
        if self.tnt_layers is None:
            return tnt
        plain = functools.partial(TNTBlock, None, outer, self.norm_epsilon, **types)
        return tuple(tnt if i in self.tnt_layers else plain for i in range(self.num_layers))


def _split(name: str, output: tuple[Array, Array]) -> dict[str, Array]:
    words, sentences = output
    return {name: sentences, name.replace("tokens/", "words/"): words}


def build(variant: str, **overrides: Any) -> TNT:
    """Builds `Ti/16`, `S/16`, `B/16`: a size of `VARIANTS`, and a patch size in pixels."""
    size, _, patch = variant.partition("/")
    if size not in VARIANTS or not patch.isdigit():
        raise ValueError(f"unknown TNT variant {variant!r}: one of {', '.join(VARIANTS)}, then / and a patch size")
    model = TNT(**{**VARIANTS[size], "patch_size": (int(patch), int(patch)), **overrides})
    check_choices(
        model, pos_embed=POSITIONS, word_pos_embed=POSITIONS, gelu=GELU, remat=REMAT, attention_kernel=KERNELS
    )
    for prefix in ("", "inner_"):
        heads, width = (getattr(model, f"{prefix}{field}") for field in ("num_heads", "hidden_dim"))
        if width % heads:
            raise ValueError(f"{prefix}num_heads={heads} does not divide {prefix}hidden_dim={width}")
    if not all(model.patch_size) or not all(model.grid):
        raise ValueError(f"no patch of patch_size={model.patch_size} fits into image_size={model.image_size}")
    word_grid(model.patch_size, model.num_words)
    if unknown := sorted(set(model.tnt_layers or ()) - set(range(model.num_layers))):
        raise ValueError(f"tnt_layers names {unknown}; layers are 0 to {model.num_layers - 1}")
    return model
