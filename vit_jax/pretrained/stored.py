"""Weights as a file holds them, and the model they are of: nothing resized, nothing replaced, nothing guessed."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from etils import epath
from flax.traverse_util import flatten_dict

from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError
from vit_jax.experiment import load_run
from vit_jax.models import build_model
from vit_jax.pretrained.formats import recognise
from vit_jax.pretrained.names import Config, Format, Tensors, to_params
from vit_jax.pretrained.readers import File, read
from vit_jax.pretrained.report import Row

_NAMED = ("hidden_dim", "mlp_dim", "num_layers", "num_heads", "patch_size")  # what a variant's name stands for
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Stored:
    """What `open_stored` returns.

    Attributes:
      base, fields: What `model` is built from.
      params: By path.
      resample: How positions of this origin are resampled.
      skipped: Tensors that no model needs.
      notes: What was taken for granted.
      preprocessing: The transforms for a model like this one, of any size; None where nobody says them.
      clips: How a run of ours samples videos.
    """

    format: str
    base: str
    fields: dict[str, Any]
    model: Any
    params: Mapping[str, Any]
    resample: str
    skipped: tuple[Row, ...]
    notes: tuple[str, ...]
    labels: tuple[str, ...]
    preprocessing: Callable[[Any], str | None]
    clips: ClipPreprocessing | None = None


def open_stored(
    path: epath.PathLike,
    *,
    name: str | None = None,
    like: Sequence[nn.Module] = (),
    entry: str | None = None,
    stored_image_size: Size | None = None,
    image_size: Size | None = None,
    given: Mapping[str, Any],
) -> Stored:
    """Reads weights and builds their model; see `from_pretrained` for what may have to be said beside.

    Args:
      name: Family and variant; the file must agree with it.
      like: Models to take from what the file does not say: of `name`, or the caller's own; the first of its family.
      image_size: Wanted by the caller, and the stored one too where the number of positions is the same.
      given: The caller's fields.

    Raises:
      UserError: See `from_pretrained`.
    """
    if is_workdir(path):
        return _open_workdir(path, name, like, given)
    file = read(path, entry)
    try:
        return _open_foreign(file, name, like, stored_image_size, image_size, given)
    except (UserError, KeyError, ValueError, IndexError, TypeError) as error:
        reason = f"tensor {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {reason}") from error


def is_workdir(path: epath.PathLike) -> bool:
    path = epath.Path(path)
    return (path / "checkpoints").is_dir() or (path.parent.name == "checkpoints" and path.name.isdigit())


def _open_workdir(path, name, like, given) -> Stored:
    run = load_run(path)
    if run.preprocessing.key == "text":
        raise UserError(
            f"{path} holds a model of text, which has no foreign formats: vit_jax.experiment.load_run loads it"
        )
    model: Any = run.model
    variant = _of_family(type(model), like)
    names = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    fields = {field: getattr(model, field) for field in names}
    if name is not None:
        _check_name(fields, name, variant, given)
    return Stored(
        format="vit_jax",
        base=run.config.model.name,
        fields=fields,
        model=model,
        params=flatten_dict(run.params, sep="/"),
        resample="bicubic",
        skipped=(),
        notes=(),
        labels=run.labels,
        preprocessing=lambda model: run.preprocessing.transforms,
        clips=run.preprocessing if isinstance(run.preprocessing, ClipPreprocessing) else None,
    )


def _open_foreign(file: File, name, like, stored_image_size, image_size, given) -> Stored:
    family = None if name is None else name.partition(":")[0]
    format = recognise(file.tensors.keys(), file.config, family)
    variant = _of_family(type(build_model(format.base)), like)
    tensors = format.normalise(file.tensors)
    fields = format.architecture(tensors, file.config)
    if name is not None:
        _check_name(fields, name, variant, given)
    for field in (field for field in format.given if field not in fields and field != "image_size"):
        if field not in given and variant is None:
            raise UserError(
                f"the file does not say {field}: give {field}=..., or the model's name, as name={format.base!r}"
            )
        fields[field] = given.get(field, getattr(variant, field, None))
    if stored_image_size is None:
        stored_image_size = fields.get("image_size")
    candidates = [stored_image_size] if stored_image_size else [image_size, getattr(variant, "image_size", None)]
    fields["image_size"] = _find_image_size(format, fields, tensors, [size for size in candidates if size])
    model: Any = build_model(format.base, **fields)
    grid = "x".join(map(str, model.grid))
    is_assumed = stored_image_size is None and format.positions(tensors) is not None
    params = flatten_dict(to_params(format, model, tensors), sep="/")
    needed = {tensor for rule in format.rules(model) if rule.ours for tensor in rule.theirs}
    return Stored(
        format=format.name,
        base=format.base,
        fields=fields,
        model=model,
        params=params,
        resample=format.resample,
        skipped=tuple(Row("skipped", tensor, x.shape, None) for tensor, x in tensors.items() if tensor not in needed),
        notes=(f"positions: taken as those of a {grid} grid, which the file does not say",) if is_assumed else (),
        labels=_labels(file.config, model.num_classes),
        preprocessing=lambda model: format.preprocessing(model, file.config),
    )


def _of_family(family: type, like: Sequence[nn.Module]) -> Any:
    """Returns the first model of the weights' family; None if the caller named no model at all."""
    found = next((model for model in like if isinstance(model, family)), None)
    if like and found is None:
        raise UserError(f"holds a {family.__name__}, not a {' or a '.join(type(model).__name__ for model in like)}")
    return found


def _check_name(fields: Mapping[str, Any], name: str, variant: Any, given: Mapping[str, Any]) -> None:
    for field in _NAMED:
        if field in fields and field not in given and fields[field] != getattr(variant, field):
            raise UserError(f"the weights have {field}={fields[field]}, {name} has {getattr(variant, field)}")


def _find_image_size(format: Format, fields: dict[str, Any], tensors: Tensors, candidates: list[Size]) -> Size:
    """Returns the candidate whose grid has as many patches as the file has positions.

    Their number alone does not tell rows from columns: without a candidate, or with two that fit, nothing is guessed.
    """
    positions = format.positions(tensors)
    if positions is None:
        return candidates[0] if candidates else build_model(format.base).image_size  # pyright: ignore
    grids = {size: build_model(format.base, **{**fields, "image_size": tuple(size)}).grid for size in candidates}  # pyright: ignore
    fitting = {grid: size for size, grid in grids.items() if math.prod(grid) == positions}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    known = "; ".join(f"{size[0]}x{size[1]} pixels are {math.prod(grid)} patches" for size, grid in grids.items())
    raise UserError(
        f"the file stores {positions} positions of patches and not their grid{f' ({known})' if known else ''}: "
        "give stored_image_size=(height, width), that of the images it was trained with"
    )


def _labels(config: Config, num_classes: int | None) -> tuple[str, ...]:
    """The class names of Hugging Face's or timm's config.json; none if it only numbers them."""
    names = config.get("id2label") or config.get("label_names") or ()
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    is_numbered = all(re.fullmatch(r"LABEL_\d+", str(label)) for label in names)
    return () if is_numbered or len(names) != num_classes else tuple(map(str, names))
