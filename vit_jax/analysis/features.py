"""Features: the tokens of any layer of an image or video model, by what they stand for."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from vit_jax.evaluate import Evaluator, in_order
from vit_jax.parallel import make_parallel
from vit_jax.tasks import Batch
from vit_jax.tasks.classification import inputs_of

PyTree = Any
KINDS = ("class", "patch", "frame", "pooled")


def features(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    *,
    layer: int | str = "final",
    kind: str = "pooled",
) -> Float[Array, "batch *positions hidden_dim"]:
    """Returns the tokens of one layer, of one kind. Pure: `jax.jit` it, with `model`, `layer` and `kind` static.

    | kind | what | of images | of videos |
    |---|---|---|---|
    | `class` | the class token | `(batch, hidden_dim)` | the same |
    | `patch` | every patch, on its grid | `(batch, grid_height, grid_width, hidden_dim)` | `(batch, frames, ...)` |
    | `frame` | the mean of each frame's patches | | `(batch, frames, hidden_dim)` |
    | `pooled` | what the head, or a representation layer before it, is given | `(batch, hidden_dim)` | the same |

    Args:
      layer: A block, counted from 0, or from the end as -1, before any norm that follows; or `final`, after the last
        norm. `pooled` is of `final` only.

    Raises:
      ValueError: The model has no such layer or kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: one of {', '.join(KINDS)}")
    if kind == "pooled" and layer != "final":
        raise ValueError(f"kind='pooled' is of layer='final', from which the head predicts, not {layer!r}")
    if kind == "frame" and inputs.ndim != 5:
        raise ValueError(f"kind='frame' is of videos: {type(model).__name__} has images")
    name = "pooled" if kind == "pooled" else f"tokens/{_layer(model, layer)}"
    _, captured = model.apply({"params": params}, inputs, train=False, capture=(name,))
    if kind == "pooled":
        return captured[name]
    class_token, patches = model.split_tokens(captured[name])
    if kind == "patch":
        return patches
    if kind == "class":
        if class_token is None:
            raise ValueError(f"{type(model).__name__} with pool={model.pool!r} has no class token; it has patches")
        return class_token
    return patches.mean(axis=(2, 3))


def extract(
    model: Any, params: PyTree, batches: Iterable[Batch], *, layer: int | str = "final", kind: str = "pooled"
) -> dict[str, np.ndarray]:
    """Returns `features`, `label` and `id` of every example of `batches`, one row each in the order of `id`.

    On all devices; batches as `data.pipeline.eval_batches` yields them, whose padding is dropped.
    """

    def of_batch(model, params, batch):
        return {"features": features(model, params, inputs_of(batch), layer=layer, kind=kind)}

    evaluator = Evaluator(model, None, make_parallel("pmap"))
    return in_order(evaluator.rows(evaluator.put(params), batches, of_batch))


def _layer(model: Any, layer: int | str) -> int | str:
    if layer == "final":
        return layer
    if not isinstance(layer, int) or not -model.num_layers <= layer < model.num_layers:
        last = model.num_layers - 1
        raise ValueError(f"layer={layer!r}: 'final', or 0 to {last}, or -{model.num_layers} to -1 from the end")
    return layer % model.num_layers
