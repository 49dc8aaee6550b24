"""Transformer in Transformer (arXiv:2103.00112).

Images are sentences (patches) of words (parts of a patch).
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.blocks import EncoderBlock, with_captured
from vit_jax.models.blocks.tnt import INIT, SentenceProjection, SqueezeExcitation, TNTBlock, WordEmbed, word_grid
from vit_jax.models.positions import CLASS_POSITION, token_positions
from vit_jax.models.vision import Outputs, VisionModel

# Table 1
_FIELDS = ("hidden_dim", "mlp_dim", "num_heads", "inner_hidden_dim", "inner_mlp_dim", "inner_num_heads")
VARIANTS = {
    "Ti": dict(zip(_FIELDS, (192, 768, 3, 12, 48, 2), strict=True)),
    "S": dict(zip(_FIELDS, (384, 1536, 6, 24, 96, 4), strict=True)),
    "B": dict(zip(_FIELDS, (640, 2560, 10, 40, 160, 4), strict=True)),
}
POSITIONS = ("learned", "none")


class TNT(VisionModel):
    """Transformer in Transformer for images of any size, square or not.

        words = WordEmbed(image) + word_pos
        sentences = dropout([cls_token; SentenceProjection(words)] + positions)
        words, sentences = block_L(... block_1(words, sentences))               see `TNTBlock`
        pooled = LayerNorm(sentences)[0],   logits = pooled W + b

    It computes the same function as huawei-noah/Efficient-AI-Backbones and timm (`legacy=False`). These differ from the
    paper in how words are made (`WordEmbed`), in the norms around projections (`SentenceProjection`), and in the first
    sentences, which are projected words where the paper has zeros.
    Initial values are those of the authors' code: N(0, 0.02) and zero biases, except that `WordEmbed` has torch's
    default (`torch_uniform`).
    Deviations: the class token's position is a parameter of its own (`cls_pos`), so that `pos_embed` remains a grid.
    The authors' `outer_tokens`, which are frozen and unused, are left out.

    Fields that are not listed here are those of `VisionModel`.

    Attributes:
      hidden_dim, mlp_dim, num_heads: Sizes of the outer blocks, on sentences.
      inner_hidden_dim, inner_mlp_dim, inner_num_heads: Sizes of the inner blocks, on words.
      num_words: Words per patch. Their distance follows from it, see `word_grid`: 16 words in 16 x 16 pixels are 4
        pixels apart.
      tnt_layers: Layers with an inner block, counted from 0 (Table 5 counts from 1); None for all layers.
      pos_embed: Positions of the sentences, `learned` or `none` (Table 6).
      word_pos_embed: Positions of the words within their patch, `learned` or `none` (Table 6).
      squeeze_excitation: Whether a `SqueezeExcitation` of their output is added to the MLPs of all outer blocks
        (Table 12).
      dropout_rate: Dropout of the first sentences, after each attention and in each MLP.
      drop_path_rate: See `BlockStack`. In inner blocks, drop path is drawn for every patch rather than every image. The
        projection of words is never dropped.
      scan_layers: See `BlockStack`. Ignored if `tnt_layers` is given.
    """

    hidden_dim: int = 640
    mlp_dim: int = 2560
    num_heads: int = 10
    inner_hidden_dim: int = 40
    inner_mlp_dim: int = 160
    inner_num_heads: int = 4
    num_words: int = 16
    tnt_layers: tuple[int, ...] | None = None
    pos_embed: str = "learned"
    word_pos_embed: str = "learned"
    squeeze_excitation: bool = False
    qkv_bias: bool = False
    norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        capture: Collection[str] = (),
    ) -> Outputs:
        """Return the logits `(batch, num_classes)`, in float32 or wider.

        With `capture`, return the logits and a dict of the values it names. Tokens are the class token, then the
        sentences.

        - `attention/i`: attention weights of layer i, a dict of `outer`, `(batch, num_heads, tokens, tokens)`, and, in
          layers with an inner block, `inner`, `(batch, patches, inner_num_heads, num_words, num_words)`.
        - `tokens/i`: sentences after layer i, `(batch, tokens, hidden_dim)`.
        - `words/i`: words after layer i, `(batch, patches, num_words, inner_hidden_dim)`.
        - `tokens/final`: output of the last layer norm, `(batch, tokens, hidden_dim)`.
        - `pooled`: its class token, `(batch, hidden_dim)`.

        Raises:
          ValueError: The images do not have `input_shape`, or `capture` names an unknown value.
        """
        self._check_inputs(images)
        words, sentences = self._embed(images)
        sentences = nn.Dropout(self.dropout_rate)(sentences, deterministic=not train)
        both = {name.replace("words/", "tokens/") for name in capture}
        (_, sentences), outputs = self._run_blocks(self._blocks(), (words, sentences), train=train, capture=both)
        sentences = self._final_norm()(sentences)
        pooled = sentences[:, 0]
        logits = self._head(INIT)(pooled)

        captured = {"tokens/final": sentences, "pooled": pooled}
        for name, output in outputs.items():
            if name.startswith("tokens/"):
                captured[name.replace("tokens/", "words/")], captured[name] = output
            else:
                captured[name] = output
        return with_captured(logits, captured, capture, self.num_layers)

    def check(self, **choices: Collection[str]) -> None:
        """Check the fields, see `VisionModel.check`."""
        super().check(**choices)
        if self.inner_hidden_dim % self.inner_num_heads:
            raise ValueError(
                f"inner_num_heads={self.inner_num_heads} does not divide inner_hidden_dim={self.inner_hidden_dim}"
            )
        word_grid(self.patch_size, self.num_words)
        if unknown := sorted(set(self.tnt_layers or ()) - set(range(self.num_layers))):
            raise ValueError(f"tnt_layers names {unknown}; layers are 0 to {self.num_layers - 1}")

    def _embed(self, images: Array) -> tuple[Array, Array]:
        """Return the first words and sentences."""
        stride, grid = word_grid(self.patch_size, self.num_words)
        words = WordEmbed(self.patch_size, stride, self.inner_hidden_dim, name="patch_embed", **self.types)(images)
        if self.word_pos_embed == "learned":
            positions = self.param("word_pos", INIT, (*grid, self.inner_hidden_dim), self.param_dtype)
            words = words + positions.astype(words.dtype)
        words = words.reshape(words.shape[0], -1, self.num_words, self.inner_hidden_dim)

        fields = {"use_bias": True, "norm_epsilon": self.norm_epsilon}
        sentences = SentenceProjection(self.hidden_dim, name="projection", **fields, **self.types)(words)
        sentences = jnp.concatenate([self._class_token(INIT, len(sentences), sentences.dtype), sentences], axis=1)
        if self.pos_embed == "learned":
            sizes = (self.grid, self.hidden_dim, [CLASS_POSITION])
            positions = token_positions(self.param, "learned", *sizes, self.param_dtype)
            sentences = sentences + positions.astype(sentences.dtype)
        return words, sentences

    def _blocks(self) -> Callable[..., nn.Module] | tuple[Callable[..., nn.Module], ...]:
        """Return the factory of a block, or with `tnt_layers` one per layer."""
        inits = {"kernel_init": INIT, "bias_init": nn.initializers.zeros}
        block = functools.partial(EncoderBlock, **inits, **self._block_fields())
        fields = {"norm_epsilon": self.norm_epsilon, **self.types}
        gate = functools.partial(SqueezeExcitation, **fields) if self.squeeze_excitation else None
        inner = functools.partial(block, num_heads=self.inner_num_heads, mlp_dim=self.inner_mlp_dim)
        outer = functools.partial(block, num_heads=self.num_heads, mlp_dim=self.mlp_dim, mlp_gate=gate)
        tnt = functools.partial(TNTBlock, inner, outer, **fields)
        if self.tnt_layers is None:
            return tnt
        plain = functools.partial(TNTBlock, None, outer, **fields)
        return tuple(tnt if i in self.tnt_layers else plain for i in range(self.num_layers))


def build(variant: str, **overrides: Any) -> TNT:
    """Build a TNT from a variant such as `S/16`, and fields that override it.

    A variant is a size of `VARIANTS` and a patch size in pixels.

    Raises:
      ValueError: The variant is unknown, or the fields do not fit together.
    """
    size, _, patch = variant.partition("/")
    if size not in VARIANTS or not patch.isdigit():
        raise ValueError(f"unknown TNT variant {variant!r}. Use one of {', '.join(VARIANTS)}, then / and a patch size.")
    model = TNT(**{**VARIANTS[size], "patch_size": (int(patch), int(patch)), **overrides})
    model.check(pos_embed=POSITIONS, word_pos_embed=POSITIONS)
    return model
