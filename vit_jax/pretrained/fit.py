"""Filling the parameter tree of a model from stored weights, and reporting every change."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.errors import UserError
from vit_jax.models.from_image import from_image_params, image_model, origin_of
from vit_jax.models.positions import METHODS, resample
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import ViT
from vit_jax.pretrained.names import NOT_THE_FUNCTION, Params, listed
from vit_jax.pretrained.report import Report, Row
from vit_jax.pretrained.stored import Stored

ON_A_GRID = ("pos_embed", "pos_embed_x", "pos_embed_y", "time_embed")
_SIZES = ("image_size", "num_frames")  # positions are resampled where these differ
_REPLACEABLE = {
    "head": "num_classes",
    "distillation_head": "num_classes",
    "representation": "representation_dim",
}
_OF_VIDEO = ("attention_type", "divided_order", "cls_in_temporal_attention")  # what an image model leaves open
_FROM_IMAGE = (
    "started from an image model: attentions before the last are copies of its own, with output projections of zero"
)


def fit(
    stored: Stored,
    model: nn.Module,
    shapes: Mapping[str, Any],
    initial: Callable[[list[str]], Mapping[str, Any]],
    *,
    keep_head: bool | None = None,
    option: Callable[[str], str] = str,
) -> tuple[Params, Report]:
    """Fills a parameter tree of `model` from stored weights.

    Positions on a grid are resampled if `image_size` or `num_frames` differs. The head is replaced if the number of
    classes differs or `keep_head` is False, and the representation layer if `representation_dim` differs. A TimeSformer
    that attends in time starts from an image ViT, or from a TimeSformer that does not attend in time, as
    `models.from_image` says. Any other difference in the parameters is refused.

    Args:
      shapes: Shape and dtype of every parameter of `model`, by path.
      initial: Returns the values of parameters that are replaced, given their paths.
      keep_head: Whether the stored head is kept; None keeps it if the number of classes is the same.
      option: How messages call a field of the model.

    Raises:
      UserError: The parameters do not fit; the message names the parameter and every field that differs.
    """
    keeps: bool = _num_classes(stored.model) == _num_classes(model) if keep_head is None else keep_head
    is_video = _is_video_from_image(stored.model, model)
    try:
        params, rows = (_fill_video if is_video else _fill)(stored, model, shapes, initial, keeps)
    except (UserError, ValueError) as error:
        raise UserError(f"{error}{_explain(stored.model, model, option)}") from error
    notes = tuple(
        f"{option(field)} is {ours!r}, but the weights were trained with {theirs!r}"
        for field, (ours, theirs) in _differences(stored.model, model).items()
        if field in stored.fields and field not in (*_SIZES, *_REPLACEABLE.values())
    )
    notes = (*stored.notes, *notes, *[_FROM_IMAGE] * is_video)
    if any(row.status == "resized" for row in rows):
        notes += (f"positions were resampled by {METHODS['nearest' if is_video else stored.resample]}",)
    return params, Report(stored.format, (*rows, *stored.skipped), notes)


def initial_values(model: Any, paths: Sequence[str]) -> Mapping[str, Any]:
    """Initialises the parameters at `paths` only: the compiler removes the rest of the computation."""
    if not paths:
        return {}

    @jax.jit
    def init():
        inputs = jnp.zeros((1, *model.input_shape))
        params = flatten_dict(model.init(jax.random.key(0), inputs, train=False)["params"], sep="/")
        return {path: params[path] for path in paths}

    return init()


def _num_classes(model: nn.Module) -> int | None:
    return getattr(model, "num_classes", None)


def _fill(stored: Stored, model: Any, shapes, initial, keep_head: bool) -> tuple[Params, list[Row]]:
    fields = {layer: (getattr(model, f, None), getattr(stored.model, f, None)) for layer, f in _REPLACEABLE.items()}
    replaced = tuple(f"{layer}/" for layer, (ours, theirs) in fields.items() if ours != theirs)
    if not keep_head or "representation/" in replaced:  # a head is of no use without the layer it was trained behind
        replaced += ("head/", "distillation_head/")
    new = initial([path for path in shapes if path.startswith(replaced)])
    params, rows = {}, []
    for path, leaf in shapes.items():
        value, status = stored.params.get(path), "loaded"
        stored_shape = None if value is None else value.shape
        if path in new:
            value, status = new[path], "replaced"
        elif value is None:
            raise UserError(f"the weights have no parameter {path}, which this model has")
        elif _is_on_another_grid(path, value, leaf):
            value, status = resample(jnp.asarray(value), leaf.shape[:-1], stored.resample), "resized"
        if value.shape != leaf.shape:
            raise UserError(f"{path} has shape {stored_shape} in the weights, but {tuple(leaf.shape)} in this model")
        params[path] = np.asarray(value).astype(leaf.dtype)
        rows.append(Row(status, path, stored_shape, tuple(leaf.shape)))
    if extra := [path for path in stored.params if path not in shapes and not path.startswith(replaced)]:
        raise UserError(f"the weights have {listed(extra)}, which this model does not have")
    rows += [Row("skipped", path, x.shape, None) for path, x in stored.params.items() if path not in shapes]
    return unflatten_dict(params, sep="/"), rows


def _is_on_another_grid(path: str, value: Any, leaf: Any) -> bool:
    is_grid = path.rpartition("/")[2] in ON_A_GRID and value.ndim == len(leaf.shape)
    return is_grid and value.shape[-1] == leaf.shape[-1] and value.shape != leaf.shape


def _is_video_from_image(stored: nn.Module, model: nn.Module) -> bool:
    if not isinstance(model, TimeSformer):
        return False
    by_frame = isinstance(stored, TimeSformer) and stored.attention_type == "space_only" != model.attention_type
    return by_frame or isinstance(stored, ViT)


def _fill_video(stored: Stored, model: Any, shapes, initial, keep_head: bool) -> tuple[Params, list[Row]]:
    heads = [path for path in shapes if path.startswith("head/") and not keep_head]
    new = initial(heads)
    params = {path: new[path] if path in new else np.zeros(x.shape, x.dtype) for path, x in shapes.items()}
    image_params, params = (unflatten_dict(dict(tree), sep="/") for tree in (stored.params, params))
    started = from_image_params(image_params, params, model, keep_head=keep_head)
    flat: dict[str, Any] = flatten_dict(started, sep="/")
    rows = []
    for path, value in flat.items():
        origin = stored.params.get(origin_of(path, model))
        kept = "loaded" if origin is not None and origin.shape == value.shape else "resized"
        status = "replaced" if origin is None or path in heads else kept
        rows.append(Row(status, path, None if origin is None else origin.shape, value.shape))
    return jax.tree.map(np.asarray, started), rows


def _differences(stored: Any, model: Any) -> dict[str, tuple[Any, Any]]:
    """Returns `{field: (ours, theirs)}` for the fields in which the two models compute differently."""
    left_out: tuple[str, ...] = NOT_THE_FUNCTION
    if _is_video_from_image(stored, model):
        left_out += _OF_VIDEO
        model = image_model(model) if isinstance(stored, ViT) else model
    names = [field.name for field in dataclasses.fields(stored) if field.name not in left_out]
    both = {name: (getattr(model, name), getattr(stored, name)) for name in names if hasattr(model, name)}
    ours, theirs = (getattr(x, "layer_scale_init", None) for x in (model, stored))
    if (ours is None) != (theirs is None):
        both["layer_scale_init"] = (ours, theirs)
    return {name: (ours, theirs) for name, (ours, theirs) in both.items() if ours != theirs}


def _explain(stored: Any, model: Any, option: Callable[[str], str]) -> str:
    """Returns ". config.model.hidden_dim is 192, the checkpoint has 64", with every field that may be the cause."""
    differences = _differences(stored, model)
    causes = [field for field in differences if field not in (*_SIZES, *_REPLACEABLE.values())] or differences
    pairs = ((option(name), *differences[name]) for name in causes)
    named = "; ".join(f"{name} is {ours!r}, the checkpoint has {theirs!r}" for name, ours, theirs in pairs)
    return f". {named}" if named else ""
