"""What ViT, TNT and TimeSformer have in common."""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vit_jax.models.attention import KERNELS
from vit_jax.models.blocks import REMAT, BlockStack
from vit_jax.models.layers import GELU, Dense, TypedModule, at_least_float32, check_choices

# The logits, or the pooled features of a model with num_classes=None; with `capture`, also a dict of what it names.
Outputs = Float[Array, "batch outputs"] | tuple[Float[Array, "batch outputs"], dict[str, Any]]


class VisionModel(TypedModule):
    """Base class of the models of images and videos.

    They all compute

        x = blocks(dropout(embed(inputs))),   pooled = pool(LayerNorm(x)),   logits = pooled W + b.

    The head, W and b, computes in float32 even if `dtype` is bfloat16: in bfloat16, which has 8 significant bits, the
    largest logits are often equal, and the class with the lowest number would win.

    Attributes:
      num_classes: Number of logits; None returns the pooled features instead, without a head.
      image_size: (height, width) in pixels.
      in_channels: Channels of the input.
      patch_size: (height, width) in pixels. Pixels at the right and bottom edges that fill no patch are ignored.
      hidden_dim: Token width.
      mlp_dim: Width of the hidden layer of each block's MLP.
      num_layers: Number of blocks.
      num_heads: Attention heads of each block; must divide `hidden_dim`.
      gelu: `exact` (timm, Hugging Face), `tanh` (google-research) or `quick` (CLIP), see `MLP`.
      qkv_bias: Whether the projections to queries, keys and values have a bias.
      norm_epsilon: Epsilon of all layer norms.
      dropout_rate: Dropout after the embedding, after each attention and in each MLP.
      attention_dropout_rate: Dropout of the attention weights.
      drop_path_rate: Drop path rate of the last block, rising linearly from 0 at the first, see `BlockStack`.
      scan_layers: Whether to compile one block and loop over the layers, see `BlockStack`.
      remat: What is kept for the backward pass: `none`, `full`, `dots`, `attention`, `dots_attention` or `branches`,
        see `BlockStack`.
      attention_kernel: See `dot_product_attention`.
      dtype: Dtype of the computation. Layer norms, softmax and the head compute in float32 or wider all the same.
      param_dtype: Dtype of the parameters.
    """

    num_classes: int | None = 1000
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    patch_size: tuple[int, int] = (16, 16)
    hidden_dim: int = 768
    mlp_dim: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    gelu: str = "exact"
    qkv_bias: bool = True
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan_layers: bool = False
    remat: str = "none"
    attention_kernel: str = "auto"

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches in a column and in a row."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    def notes(self) -> list[str]:
        """Return what a user should know about a model of these sizes before training."""
        covered = tuple(count * side for count, side in zip(self.grid, self.patch_size, strict=True))
        if covered == tuple(self.image_size):
            return []
        height, width = self.image_size
        return [
            f"the patches cover {covered[0]} x {covered[1]} of the {height} x {width} pixels of an image; the model "
            "does not see its right and bottom edges"
        ]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, (height, width, channels); videos have the number of frames before it."""
        return (*self.image_size, self.in_channels)

    @property
    def has_class_token(self) -> bool:
        """Whether the tokens start with a class token."""
        return True

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: the class token, and others that a model may have."""
        return int(self.has_class_token)

    def split_tokens(
        self, tokens: Float[Array, "batch tokens hidden_dim"]
    ) -> tuple[Float[Array, "batch hidden_dim"] | None, Float[Array, "batch *grid hidden_dim"]]:
        """Split captured tokens of any layer into the class token and the patches on their grid.

        The class token is None if the model has none. Other tokens before the patches are left out.
        """
        patches = tokens[:, self.num_prefix_tokens :].reshape(len(tokens), *self.grid, -1)
        return tokens[:, 0] if self.has_class_token else None, patches

    def check(self, **choices: Collection[str]) -> None:
        """Check that the fields have supported values and fit together.

        Args:
          choices: The supported values of further fields.

        Raises:
          ValueError: A field has a value that is not supported, or two fields do not fit together.
        """
        check_choices(self, **choices, gelu=GELU, remat=REMAT, attention_kernel=KERNELS)
        if self.num_heads < 1 or self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={self.hidden_dim}")
        if not all(self.patch_size) or not all(self.grid):
            raise ValueError(f"no patch of patch_size={self.patch_size} fits into image_size={self.image_size}")

    def _check_inputs(self, inputs: Array) -> None:
        if inputs.shape[1:] != self.input_shape:
            is_video = len(self.input_shape) == 4
            raise ValueError(
                f"{'videos' if is_video else 'images'} of shape {inputs.shape[1:]} given to a model built for "
                f"{self.input_shape}: build it with {'num_frames=, ' if is_video else ''}image_size= and in_channels=, "
                "and resample its position embeddings."
            )

    def _block_fields(self) -> dict[str, Any]:
        """Return the fields that every block takes from its model unchanged."""
        names = ("gelu", "qkv_bias", "dropout_rate", "attention_dropout_rate", "norm_epsilon", "attention_kernel")
        remat_branches = self.remat == "branches"
        return {name: getattr(self, name) for name in names} | {"remat_branches": remat_branches} | self.types

    def _class_token(self, init: Callable, batch: int, dtype: Any) -> Float[Array, "batch 1 hidden_dim"]:
        token = self.param("cls_token", init, (self.hidden_dim,), self.param_dtype)
        return jnp.broadcast_to(token.astype(dtype), (batch, 1, self.hidden_dim))

    def _run_blocks(
        self, block: Any, x: PyTree[Array], *, train: bool, capture: Collection[str]
    ) -> tuple[PyTree[Array], dict[str, Any]]:
        """Run the blocks that the factory `block` (or a factory per layer) makes; see `BlockStack`."""
        stack = BlockStack(block, self.num_layers, self.drop_path_rate, self.scan_layers, self.remat, name="encoder")
        return stack(x, train=train, capture=capture)

    def _final_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=self.norm_epsilon, name="norm", **self.types)

    def _head(
        self, kernel_init: Callable, bias_init: Callable = nn.initializers.zeros, name: str = "head"
    ) -> Callable[[Array], Array]:
        """Return the head, in float32 or wider; the identity if `num_classes` is None."""
        if self.num_classes is None:
            return lambda pooled: pooled
        return Dense(
            self.num_classes,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=at_least_float32(self.dtype),
            param_dtype=self.param_dtype,
            name=name,
        )
