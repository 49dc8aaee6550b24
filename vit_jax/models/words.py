"""Words of Transformer in Transformer (arXiv:2103.00112): from pixels to words, from words to sentences."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from vit_jax.models.dense import Dense
from vit_jax.models.layers import torch_uniform

KERNEL_SIZE = 7  # of the convolution that makes words
INIT = nn.initializers.normal(0.02)  # the authors' truncated normal is cut at -2 and 2, that is nowhere


def word_grid(patch_size: tuple[int, int], num_words: int) -> tuple[int, tuple[int, int]]:
    """Returns the stride of words in pixels, and words down and across a patch.

    As many as the authors' convolution makes, its padding included; of several strides the smallest.

    Raises:
      ValueError: No stride gives so many words.
    """
    for stride in range(1, max(patch_size) + 1):
        grid = math.ceil(patch_size[0] / stride), math.ceil(patch_size[1] / stride)
        if math.prod(grid) == num_words:
            return stride, grid
    raise ValueError(f"no stride gives num_words={num_words} in patch_size={patch_size}")


class WordEmbed(nn.Module):
    """Splits images into patches, and makes words of each by a 7x7 convolution that sees zeros outside its patch.

    As in the authors' code; the paper has a linear layer of non-overlapping words. Computed as one matrix product:
    several times faster than a convolution on a CPU. Pixels right and below of the last whole patch are dropped.

    Attributes:
      stride: Distance of two words in pixels.
      hidden_dim: Width of a word.
    """

    patch_size: tuple[int, int]
    stride: int
    hidden_dim: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

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
        return windows.reshape(*windows.shape[:5], -1) @ kernel.reshape(-1, self.hidden_dim) + bias


class SentenceProjection(nn.Module):
    """Makes a sentence of the words of a patch; the norms before and after are the authors' code's, not the paper's."""

    hidden_dim: int
    use_bias: bool
    norm_epsilon: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, words: Float[Array, "batch patches num_words inner_hidden_dim"]
    ) -> Float[Array, "batch patches hidden_dim"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_epsilon, **types)
        x = norm(name="norm_in")(words.reshape(*words.shape[:2], -1))
        x = Dense(self.hidden_dim, use_bias=self.use_bias, kernel_init=INIT, name="dense", **types)(x)
        return norm(name="norm_out")(x)
