"""Foreign weights in: into a model built from what the file tells, or into a tree of yours."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.models.from_image import from_image_params, image_model, origin_of
from vit_jax.models.positions import resample
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import ViT
from vit_jax.pretrained.names import NOT_THE_FUNCTION, Params, listed, shapes_of
from vit_jax.pretrained.report import Report, Row
from vit_jax.pretrained.stored import Size, Stored, open_stored
from vit_jax.transfer import ON_A_GRID

# parameters that are replaced or left out when the caller gives the field another value
_REPLACEABLE = {"head": "num_classes", "representation": "representation_dim"}
_FREE = ("image_size", "num_frames", *_REPLACEABLE.values(), *NOT_THE_FUNCTION)  # other values may do


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that predicts by itself; `preprocessing` is None and `labels` are empty where nobody says them.

    Preprocessing is of images, or of one frame; of a run of ours on videos it is of clips.
    """

    model: nn.Module
    params: Params
    preprocessing: Any
    labels: tuple[str, ...]
    report: Report


def from_pretrained(
    path: epath.PathLike,
    name: str | None = None,
    *,
    entry: str | None = None,
    stored_image_size: Size | None = None,
    preprocessing: str | None = None,
    **overrides: Any,
) -> Pretrained:
    """Builds the model that a weight file, a folder or a workdir of ours holds, and fills it.

    The kind of file and the architecture are read from the content. What that cannot tell has to be given, by `name`
    or as a field: a torch file without config does not say `num_heads`, and no bare file the grid of its positions,
    that is the `image_size` it was trained with. Nothing is guessed.

    Args:
      name: Family and variant, as "vit:B/16"; the file must agree with it.
      entry: Where a torch file holds several sets of weights, the one to take, as "state_dict_ema".
      stored_image_size: The (height, width) that the file was trained with, where `image_size` is another.
      preprocessing: The chain of transforms, where the file does not say it.
      **overrides: The module's fields. With another `image_size` (or `num_frames`) positions are resampled as the
        authors of the format do; with another `num_classes` the head is initialised anew; both are reported.

    Raises:
      UserError: The file is damaged or of no known format, does not say enough, or contradicts what was given; the
        message names the tensor or the field.
    """
    stored = open_stored(
        path,
        name=name,
        like=() if name is None else (_build(name),),
        entry=entry,
        stored_image_size=stored_image_size,
        image_size=overrides.get("image_size"),
        given=overrides,
    )
    model = _build(stored.base, **{**stored.fields, **overrides})
    params, rows = _fit(stored, model, lambda paths: _initial(model, paths))
    chain = preprocessing or stored.preprocessing(model)
    notes = _notes(stored, model)
    if chain is None:
        notes += ("preprocessing: the file does not say it; give preprocessing=, a chain of transforms",)
    return Pretrained(
        model=model,
        params=params,
        preprocessing=_preprocessing(stored, model, chain),
        labels=stored.labels if model.num_classes == stored.model.num_classes else (),
        report=Report(stored.format, rows, notes),
    )


def _preprocessing(stored: Stored, model: Any, chain: str | None) -> Preprocessing | ClipPreprocessing | None:
    if not chain or model.in_channels not in (1, 3):  # others than grey and RGB are no pictures
        return None
    fields = {"image_size": model.image_size, "channels": model.in_channels, "transforms": chain}
    if stored.clips is None:
        return Preprocessing(**fields)
    return dataclasses.replace(stored.clips, num_frames=model.num_frames, **fields)


def load_pretrained(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    *,
    entry: str | None = None,
    stored_image_size: Size | None = None,
    keep_head: bool | None = None,
) -> tuple[Params, Report]:
    """Fills `params`, a tree of `model`, from a weight file, a folder or a workdir; returns it with a report.

    The head stays as it is in `params` if the model has another number of classes, positions are resampled if it has
    another `image_size`; both are reported. A TimeSformer may be given the weights of an image ViT, or of a TimeSformer
    of space-only attention, which is one too; it starts from them as `models.from_image` says. See `from_pretrained`.

    Args:
      keep_head: Whether a TimeSformer takes over an image ViT's head; if None, where the numbers of classes agree.

    Raises:
      UserError: As `from_pretrained`, or the weights are of another model.
    """
    like = (model, image_model(model)) if isinstance(model, TimeSformer) else (model,)
    stored = open_stored(path, like=like, entry=entry, stored_image_size=stored_image_size, given={})
    if isinstance(model, TimeSformer) and _is_image_model(stored.model, model):
        return _fit_video(stored, model, params, keep_head)
    fresh = flatten_dict(params, sep="/")
    filled, rows = _fit(stored, model, lambda paths: {path: fresh[path] for path in paths})
    return filled, Report(stored.format, rows, _notes(stored, model))


def _is_image_model(stored: nn.Module, model: TimeSformer) -> bool:
    by_frame = isinstance(stored, TimeSformer) and stored.attention_type == "space_only" != model.attention_type
    return by_frame or isinstance(stored, ViT)


def _fit_video(stored: Stored, model: TimeSformer, params: Params, keep_head: bool | None) -> tuple[Params, Report]:
    """Fills the tree of a video model from an image model."""
    same_head: bool = getattr(stored.model, "num_classes", 0) == model.num_classes if keep_head is None else keep_head
    image_params = unflatten_dict(dict(stored.params), sep="/")
    try:
        started = from_image_params(image_params, params, model, keep_head=same_head)
    except ValueError as error:
        raise UserError(str(error)) from error
    flat: dict[str, Any] = flatten_dict(started, sep="/")
    rows = []
    for path, value in flat.items():
        is_own = path.startswith("head/") and not same_head
        origin = None if is_own else stored.params.get(origin_of(path, model))
        status = "replaced" if origin is None else "loaded" if origin.shape == value.shape else "resized"
        rows.append(Row(status, path, None if origin is None else origin.shape, value.shape))
    note = "from an image model: attentions before the last are copies of its own, their output projections zero"
    return jax.tree.map(np.asarray, started), Report(stored.format, tuple(rows), (*_notes(stored, model), note))


def _build(name: str, **fields: Any) -> Any:
    try:
        return build_model(name, **fields)
    except ValueError as error:
        raise UserError(str(error)) from error


def _fit(
    stored: Stored, model: nn.Module, fresh: Callable[[list[str]], Mapping[str, Any]]
) -> tuple[Params, tuple[Row, ...]]:
    """Fills a tree of `model` from what is stored; `fresh` gives the values of what the caller wanted replaced."""
    replaced = tuple(
        f"{layer}/"
        for layer, field in _REPLACEABLE.items()
        if getattr(model, field, None) != getattr(stored.model, field, None)
    )
    shapes = shapes_of(model)
    new = fresh([path for path in shapes if path.startswith(replaced)])
    params, rows = {}, []
    for path, leaf in shapes.items():
        value, status = stored.params.get(path), "loaded"
        stored_shape = None if value is None else value.shape
        if path in new:
            value, status = new[path], "replaced"
        elif value is None:
            raise UserError(f"the weights have no {path}, which this model has")
        elif _on_another_grid(path, value, leaf):
            value, status = resample(jnp.asarray(value), leaf.shape[:-1], stored.resample), "resized"
        if value.shape != leaf.shape:
            raise UserError(f"{path} has shape {stored_shape} in the weights, {leaf.shape} in this model")
        params[path] = np.asarray(value).astype(leaf.dtype)
        rows.append(Row(status, path, stored_shape, leaf.shape))
    if extra := [path for path in stored.params if path not in shapes and not path.startswith(replaced)]:
        raise UserError(f"the weights have {listed(extra)}, which this model has not")
    rows += [Row("skipped", path, x.shape, None) for path, x in stored.params.items() if path not in shapes]
    return unflatten_dict(params, sep="/"), (*rows, *stored.skipped)


def _on_another_grid(path: str, value: Any, leaf: Any) -> bool:
    is_grid = path.rpartition("/")[2] in ON_A_GRID and value.ndim == leaf.ndim
    return is_grid and value.shape[-1] == leaf.shape[-1] and value.shape != leaf.shape


def _initial(model: Any, paths: Iterable[str]) -> Mapping[str, Any]:
    """Initial values of some parameters only: the compiler leaves out the rest."""

    @jax.jit
    def init():
        inputs = jnp.zeros((1, *model.input_shape))
        params = flatten_dict(model.init(jax.random.key(0), inputs, train=False)["params"], sep="/")
        return {path: params[path] for path in paths}

    return init() if paths else {}


def _notes(stored: Stored, model: nn.Module) -> tuple[str, ...]:
    """What makes this model another function than the one the weights were trained as."""
    return stored.notes + tuple(
        f"{field}: {value!r} is what the weights were trained with, {getattr(model, field)!r} what this model has"
        for field, value in stored.fields.items()
        if field not in _FREE and getattr(model, field, value) != value
    )
