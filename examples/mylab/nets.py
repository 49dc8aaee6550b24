"""A small MLP-Mixer (arXiv:2105.01601), as an example of a model of your own."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Mixer(nn.Module):
    """MLP-Mixer for images: MLPs across the patches alternate with MLPs across the channels.

    A model needs `init` and `apply` with the keyword `train`; the task for images also reads `input_shape` and `dtype`.
    Of the fields that the data determine (`num_classes`, `image_size`, `in_channels`, `dtype`, `param_dtype`) a model
    declares those it wants. All other fields are set by `config.model` and `config.model.extra`.

    Layer decay recognises blocks by the name `block_i`, and the head and final norm by `head` and `norm`.
    """

    num_classes: int
    image_size: tuple[int, int]
    in_channels: int
    patch_size: tuple[int, int] = (4, 4)
    hidden_dim: int = 64
    token_mlp_dim: int = 32
    num_layers: int = 2
    dtype: Any = jnp.float32

    @property
    def input_shape(self):
        return (*self.image_size, self.in_channels)

    @nn.compact
    def __call__(self, images, *, train):
        """Maps images `(batch, height, width, channels)` to outputs `(batch, num_classes)`, in float32."""
        patches = nn.Conv(self.hidden_dim, self.patch_size, self.patch_size, dtype=self.dtype, name="patch_embed")
        x = patches(images).reshape(len(images), -1, self.hidden_dim)
        for i in range(self.num_layers):
            x = MixerBlock(self.token_mlp_dim, self.dtype, name=f"block_{i}")(x)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x).mean(axis=1)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


class MixerBlock(nn.Module):
    """x <- x + MLP(norm(x)^T)^T, then x <- x + MLP(norm(x)), for tokens `(batch, patches, hidden_dim)`."""

    token_mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        _, patches, hidden_dim = x.shape
        y = nn.LayerNorm(dtype=self.dtype, name="token_norm")(x).swapaxes(1, 2)
        y = nn.gelu(nn.Dense(self.token_mlp_dim, dtype=self.dtype, name="token_in")(y))
        x = x + nn.Dense(patches, dtype=self.dtype, name="token_out")(y).swapaxes(1, 2)
        y = nn.LayerNorm(dtype=self.dtype, name="channel_norm")(x)
        y = nn.gelu(nn.Dense(2 * hidden_dim, dtype=self.dtype, name="channel_in")(y))
        return x + nn.Dense(hidden_dim, dtype=self.dtype, name="channel_out")(y)
