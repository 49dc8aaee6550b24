"""Features: the class token, patch tokens or pooled output of any layer of an image or video model."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from vit_jax.devices.parallel import make_parallel
from vit_jax.evaluate import Evaluator, in_order
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
    """Returns the tokens of one layer, of one kind.

    The function is pure; under `jax.jit`, `model`, `layer` and `kind` must be static.

    | kind | meaning | shape for images | shape for videos |
    |---|---|---|---|
    | `class` | class token | `(batch, hidden_dim)` | the same |
    | `patch` | patch tokens, on their grid | `(batch, grid_height, grid_width, hidden_dim)` | `(batch, frames, ...)` |
    | `frame` | mean of each frame's patch tokens | not available | `(batch, frames, hidden_dim)` |
    | `pooled` | input of the head (or of the representation layer) | `(batch, hidden_dim)` | the same |

    Args:
      layer: Index of a block, whose output is taken before any norm that follows; negative indices count from the end.
        Or `final`, the output of the last norm. `pooled` requires `final`.

    Raises:
      ValueError: The model has no such layer or kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "pooled" and layer != "final":
        raise ValueError(f"kind='pooled' requires layer='final', got layer={layer!r}")
    if kind == "frame" and inputs.ndim != 5:
        raise ValueError(f"kind='frame' requires a video model, but {type(model).__name__} takes images")
    name = "pooled" if kind == "pooled" else f"tokens/{_layer(model, layer)}"
    _, captured = model.apply({"params": params}, inputs, train=False, capture=(name,))
    if kind == "pooled":
        return captured[name]
    class_token, patches = model.split_tokens(captured[name])
    if kind == "patch":
        return patches
    if kind == "class":
        if class_token is None:
            raise ValueError(f"{type(model).__name__} with pool={model.pool!r} has no class token. Use kind='patch'.")
        return class_token
    return patches.mean(axis=(2, 3))


def extract(
    model: Any, params: PyTree, batches: Iterable[Batch], *, layer: int | str = "final", kind: str = "pooled"
) -> dict[str, np.ndarray]:
    """Returns `features`, `label` and `id` of every example of `batches`, sorted by `id`. Uses all devices.

    Args:
      batches: Padded batches, as `data.pipeline.eval_batches` yields them; the padding is dropped.
      layer, kind: See `features`.
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
        raise ValueError(f"layer must be 'final', 0 to {last} or -{model.num_layers} to -1, got {layer!r}")
    return layer % model.num_layers
