"""Attention distance: how far a head looks, in pixels and in frames (Figure 7, right, of the ViT paper)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.analysis.attention.weights import attention
from vit_jax.data.source import Subset
from vit_jax.errors import UserError
from vit_jax.models.blocks.timesformer import split_sequences
from vit_jax.models.blocks.tnt import word_grid
from vit_jax.models.resnet import stride_of
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.transformer import Transformer
from vit_jax.tasks.classification import inputs_of

PyTree = Any


def attention_distance(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    *,
    layers: Sequence[int] | None = None,
    renormalise: bool = True,
) -> dict[str, Float[Array, "batch layers heads"]]:
    """Returns the mean attention distance of each head, for each kind of attention and unit.

    The distance of a query patch i is the mean of its distances from all key patches, weighted by attention, and that
    of a head is the mean over the queries:

        d_i = sum_j A_ij |x_i - x_j| / sum_j A_ij,   distance = mean of d_i

    In `pixels`, x is the centre of a patch, or in `inner` of a word; |x_i - x_j| is Euclidean, and zero between frames.
    In `frames`, x is the number of the frame among those that the model sees. The keys are `KIND/UNIT`, such as
    `attention/pixels` of a ViT, or `temporal/frames` and `spatial/pixels` of a divided TimeSformer. Attention that
    spans both, such as `joint`, has both units. The function is pure; under `jax.jit`, everything but arrays must be
    static.

    Tokens before the patches (class token, registers) have no place: they are neither queries nor keys. The paper calls
    d_i an average weighted by attention, hence the denominator. In the code by S. Kornblith on which published plots
    rest (Keras's "Investigating Vision Transformer representations"), the class token is left out likewise, but the
    denominator is 1: attention to the class token then counts as distance zero. `renormalise=False` computes this.

    Args:
      layers: Indices of layers, None for all; see `analysis.attention`.

    Raises:
      ValueError: The model is not one of images or clips, or has no such layer.
    """
    if isinstance(model, Transformer):
        raise ValueError("attention distance is of images and clips; tokens of a sentence have no pixels")
    distances = {}
    for kind, weights in attention(model, params, inputs, layers=layers).items():
        places, is_real = _places(model, kind)
        prefix = weights.shape[-1] - places.shape[-2]
        weights = weights[..., prefix:, prefix:]
        if weights.ndim == 5:  # without an axis of sequences
            weights = weights[:, :, None]
        if renormalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        offsets = places[:, :, None] - places[:, None]
        queries = is_real / is_real.sum()
        repeats = weights.shape[2] // len(places)  # the words of one patch stand for those of all
        for unit, apart in (("frames", abs(offsets[..., 0])), ("pixels", np.hypot(offsets[..., 1], offsets[..., 2]))):
            if apart.any():
                by_query = jnp.einsum("lbshqk,sqk->lbshq", weights, np.tile(apart, (repeats, 1, 1)))
                mean = jnp.einsum("lbshq,sq->blh", by_query, np.tile(queries / repeats, (repeats, 1)))
                distances[f"{kind}/{unit}"] = mean
    return distances


def _places(
    model: Any, kind: str
) -> tuple[Float[np.ndarray, "sequences tokens 3"], Float[np.ndarray, "sequences tokens"]]:
    """Returns frame, row and column of the patches of each sequence, and 0 for padding, 1 for patches."""
    if kind == "inner":
        stride, words = word_grid(model.patch_size, model.num_words)
        grid, pitch = (1, *words), (stride, stride)
    else:
        stem = getattr(model, "resnet_stages", None)
        stride = 1 if stem is None else stride_of(stem)
        pitch = tuple(stride * side for side in model.patch_size)
        grid = (getattr(model, "num_frames", 1), *model.grid)
    axes = np.meshgrid(*map(np.arange, grid), indexing="ij")
    places = np.stack(axes, axis=-1) * np.array([1, *pitch])
    both = np.concatenate([places, np.ones((*grid, 1))], axis=-1)[None]
    if isinstance(model, TimeSformer):
        with jax.ensure_compile_time_eval():  # under jit, too
            both = np.asarray(split_sequences(jnp.asarray(both, jnp.float32), kind)[0])[0]
    else:
        both = both.reshape(1, math.prod(grid), 4)
    return both[..., :3], both[..., 3]


def distance_of_examples(
    run: Any, source: Any, *, examples: int | None = None, track: Any = None
) -> tuple[dict[str, Float[np.ndarray, "layers heads"]], int]:
    """Returns the `attention_distance` of every layer and head, averaged over examples of a split; and their number.

    The paper averages over 128 images. Each clip has one view. All devices are used.

    Args:
      source: A split, from `Run.open_split`.
      examples: Number of examples, spread evenly over the split; None for all.
      track: See `Run.evaluate`.

    Raises:
      UserError: The run is not one on images or clips.
    """
    if isinstance(run.model, Transformer):
        raise UserError(f"attention distance is of images and clips; this run is on {run.modality.inputs}")
    if examples is not None and examples < len(source):
        source = Subset(source, np.linspace(0, len(source) - 1, examples).round().astype(int).tolist())

    def of_batch(model, params, batch):
        return attention_distance(model, params, inputs_of(batch))

    rows = run.one_view().rows(of_batch, source, **({} if track is None else {"track": track}))
    return {name: values.mean(axis=0) for name, values in rows.items() if "/" in name}, len(rows["id"])
