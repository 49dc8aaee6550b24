"""The parts of Transformer in Transformer (arXiv:2103.00112).

A sentence is the token of a patch, and a word the token of a part of a patch.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from vit_jax.models.kernels.products import matrix_product
from vit_jax.models.layers import Dense, TypedModule, torch_uniform

KERNEL_SIZE = 7  # of the convolution that makes words
INIT = nn.initializers.normal(0.02)  # the authors truncate it at -2 and 2, which is 100 standard deviations


def word_grid(patch_size: tuple[int, int], num_words: int) -> tuple[int, tuple[int, int]]:
    """Return the stride of words in pixels, and their grid (rows, columns) in a patch.

    A stride s gives ceil(height / s) by ceil(width / s) words, as the authors' padded convolution does. If several
    strides give `num_words`, the smallest is taken.

    Raises:
      ValueError: No stride gives `num_words`.
    """
    for stride in range(1, max(patch_size) + 1):
        grid = math.ceil(patch_size[0] / stride), math.ceil(patch_size[1] / stride)
        if math.prod(grid) == num_words:
            return stride, grid
    raise ValueError(f"no stride gives num_words={num_words} in patch_size={patch_size}")


class WordEmbed(TypedModule):
    """Splits images into patches, and each patch into words by a 7x7 convolution.

    The word at row r and column c of a patch is flatten(window) W + b, where the window is the 7x7 pixels around pixel
    (r * stride, c * stride) of the patch. Outside its patch a window is zero.

    This follows the authors' code; in the paper, words are linear projections of parts that do not overlap. The
    convolution is computed as one matrix product, which is several times faster on a CPU. Pixels to the right of the
    last whole patch and below it are dropped.

    Attributes:
      stride: Distance between neighbouring words, in pixels.
      hidden_dim: Width of a word.
    """

    patch_size: tuple[int, int]
    stride: int
    hidden_dim: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch grid_height grid_width words_height words_width hidden_dim"]:
        batch, height, width, channels = images.shape
        ph, pw = self.patch_size
        gh, gw = height // ph, width // pw
        shape, init = (KERNEL_SIZE, KERNEL_SIZE, channels, self.hidden_dim), torch_uniform(KERNEL_SIZE**2 * channels)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", init, (self.hidden_dim,), self.param_dtype)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)

        patches = images[:, : gh * ph, : gw * pw].reshape(batch, gh, ph, gw, pw, channels)
        around = (KERNEL_SIZE // 2,) * 2
        patches = jnp.pad(patches, ((0, 0), (0, 0), around, (0, 0), around, (0, 0)))
        rows, columns = (np.arange(0, p, self.stride)[:, None] + np.arange(KERNEL_SIZE) for p in (ph, pw))
        windows = patches[:, :, rows][..., columns, :]  # batch gh words_height 7 gw words_width 7 channels
        windows = windows.transpose(0, 1, 4, 2, 5, 3, 6, 7)
        kernel = kernel.reshape(-1, self.hidden_dim)
        words = matrix_product(windows.reshape(-1, len(kernel)), kernel) + bias
        return words.reshape(*windows.shape[:5], self.hidden_dim)


class SentenceProjection(TypedModule):
    """Projects the words of each patch to a sentence.

        y = LayerNorm(LayerNorm(concat(words)) W + b)

    Both norms follow the authors' code; the paper has the projection only.

    Attributes:
      hidden_dim: Width of a sentence.
      use_bias: Whether the projection has a bias.
      norm_epsilon: Epsilon of both layer norms.
    """

    hidden_dim: int
    use_bias: bool
    norm_epsilon: float

    @nn.compact
    def __call__(
        self, words: Float[Array, "batch patches num_words inner_hidden_dim"]
    ) -> Float[Array, "batch patches hidden_dim"]:
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_epsilon, **self.types)
        x = norm(name="norm_in")(words.reshape(*words.shape[:2], -1))
        x = Dense(self.hidden_dim, use_bias=self.use_bias, kernel_init=INIT, name="dense", **self.types)(x)
        return norm(name="norm_out")(x)


class SqueezeExcitation(TypedModule):
    """Scales each channel by a function of the mean token (arXiv:1709.01507).

        y = x * tanh(relu(LayerNorm(mean(x)) W_in + b_in) W_out + b_out),   W_in to a quarter of the width

    This follows the authors of TNT; the original has no norm, a sigmoid in place of tanh, and a sixteenth of the width.
    """

    norm_epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens hidden_dim"]) -> Float[Array, "batch tokens hidden_dim"]:
        dense = functools.partial(Dense, kernel_init=INIT, **self.types)
        scale = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **self.types)(x.mean(axis=1, keepdims=True))
        scale = nn.relu(dense(x.shape[-1] // 4, name="in")(scale))
        return x * nn.tanh(dense(x.shape[-1], name="out")(scale))


class TNTBlock(TypedModule):
    """One layer of TNT: an inner block on words, then an outer block on sentences.

        words = inner(words)                                    words attend to each other within their patch
        sentences = outer(sentences + projection(words))        see `SentenceProjection`

    Nothing is added to the class token, which has no words. Without `inner`, only the outer block runs, and the words
    are passed on (Table 5).

    Attributes:
      inner: Factory of the block on words, called as `inner(name=...)`; None for a plain layer.
      outer: Factory of the block on sentences, called likewise.
      norm_epsilon: Epsilon of the layer norms of the projection.
    """

    inner: Callable[..., nn.Module] | None
    outer: Callable[..., nn.Module]
    norm_epsilon: float

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
        """Return new words and sentences, and a dict of attention weights.

        Its keys are `inner` and `outer`, its values None unless `return_weights` is set.
        """
        words, sentences = x
        options: dict[str, Any] = {"return_weights": return_weights, "train": train}
        attention = {}
        if self.inner is not None:
            batch, patches = words.shape[:2]
            flat = words.reshape(-1, *words.shape[2:])  # drop path is drawn for every patch, as in the authors' code
            flat, weights = self.inner(name="inner")(flat, drop_path_rate, **options)
            words = flat.reshape(words.shape)
            attention["inner"] = None if weights is None else weights.reshape(batch, patches, *weights.shape[1:])
            fields = {"use_bias": False, "norm_epsilon": self.norm_epsilon}
            projected = SentenceProjection(sentences.shape[-1], name="projection", **fields, **self.types)(words)
            sentences = sentences + jnp.pad(projected, ((0, 0), (1, 0), (0, 0)))  # zero for the class token
        sentences, attention["outer"] = self.outer(name="outer")(sentences, drop_path_rate, **options)
        return (words, sentences), attention
