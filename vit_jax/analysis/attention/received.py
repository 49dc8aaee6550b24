"""Received attention: where one kind of attention looks, such as the temporal one of a TimeSformer or TNT's words."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.analysis.attention.weights import attention, check_head
from vit_jax.models.blocks.timesformer import split_sequences
from vit_jax.models.blocks.tnt import word_grid
from vit_jax.models.timesformer import TimeSformer

PyTree = Any


def received_attention(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    kind: str,
    *,
    layer: int = -1,
    head: int | None = None,
) -> Float[Array, "batch *frames rows columns"]:
    """Returns the attention that each patch receives within its sequence, averaged over the patches that attend.

        received(j) = mean over queries i of A_ij

    For `temporal`, the maps of all frames sum to one at each place: they say which frames the patches at this place
    look at. For `spatial`, every frame's map sums to one, less the attention to the class token. For TNT's `inner`,
    each patch's words sum to one, and the map has a value for each word: `(batch, grid_height * words_height,
    grid_width * words_width)`. Class tokens are neither queries nor keys.

    Args:
      kind: One of the kinds that `analysis.attention` returns for the model.
      layer: Index of a layer; negative ones count from the last.
      head: Index of a head; None for the mean over the heads.

    Raises:
      ValueError: The model has no such kind, layer or head.
    """
    check_head(model, head, kind)
    found = attention(model, params, inputs, layers=(layer,))
    if kind not in found:
        raise ValueError(f"kind={kind}: the layer has {', '.join(found)}")
    weights = found[kind][0]
    weights = weights.mean(axis=-3) if head is None else weights[..., head, :, :]
    batch = len(inputs)
    if kind == "inner":
        words = word_grid(model.patch_size, model.num_words)[1]
        by_word = weights.mean(axis=-2).reshape(batch, *model.grid, *words).swapaxes(2, 3)
        return by_word.reshape(batch, model.grid[0] * words[0], model.grid[1] * words[1])
    if not isinstance(model, TimeSformer):
        first = model.num_prefix_tokens
        return weights[:, first:, first:].mean(axis=-2).reshape(batch, *model.grid)
    real, join = split_sequences(jnp.ones((batch, model.num_frames, *model.grid, 1)), kind)
    first = weights.shape[-1] - real.shape[2]
    patches = weights[..., first:, first:]
    return join((patches * real).sum(axis=-2)[..., None] / real.sum(axis=-2, keepdims=True))[..., 0]
