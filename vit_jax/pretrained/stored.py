"""Weights as a file holds them, and the model they belong to: nothing resized, replaced or guessed."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from etils import epath
from flax.traverse_util import flatten_dict

from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.files.limits import naming
from vit_jax.pretrained.files.readers import read
from vit_jax.pretrained.formats import recognise
from vit_jax.pretrained.names import Config, Format, Size, Tensors, shapes_of, to_params
from vit_jax.pretrained.report import Row
from vit_jax.pretrained.wrappers import unwrapped

_NAMED = ("hidden_dim", "mlp_dim", "num_layers", "num_heads", "patch_size")  # the sizes that a variant's name implies
_UNNAMED = ("pool", "gelu", "norm_epsilon")  # what it does not imply


@dataclasses.dataclass(frozen=True)
class Stored:
    """Weights, and the model that computes with them as they were trained.

    Attributes:
      format: Name of the format.
      base, fields: `model` is `build_model(base, **fields)`.
      variant: Family and variant: the one whose sizes are the file's, else the default one of the format.
      model: The model.
      params: Parameters by path, in the dtypes of the file.
      shapes: Shape and dtype of each of the model's parameters, by path.
      resample: How the authors resample positions (a method of `models.positions.resample`).
      skipped: Tensors that no model needs.
      notes: Assumptions that were made.
      labels: Names of the classes; empty if the file does not list them.
      preprocessing: Returns the chain of transforms for an image size; None if the file does not say it.
    """

    format: str
    base: str
    variant: str
    fields: dict[str, Any]
    model: Any
    params: Mapping[str, Any]
    shapes: Mapping[str, Any]
    resample: str
    skipped: tuple[Row, ...]
    notes: tuple[str, ...]
    labels: tuple[str, ...]
    preprocessing: Callable[[Size], str | None]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says about its model without reading the values.

    Attributes:
      base: Family and variant: the one whose sizes are the file's, else the default one of the format.
      fields: Fields of the model that the file determines, or the caller gave.
      labels: Names of the classes; empty if the file does not list them.
      preprocessing: Returns the chain of transforms for an image size; None if the file does not say it.
    """

    base: str
    fields: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: Callable[[Size], str | None]


@dataclasses.dataclass(frozen=True)
class Known:
    """What the caller knows about a file, for what it does not say itself.

    Attributes:
      name: Family and variant, with which the file must agree.
      like: Models that have the fields which the file leaves open; the first one of its family is used.
      entry: The set of weights to use if a torch file holds several.
      stored_image_size: The image size that the file was trained with.
      image_size: The image size that the caller wants, which is the stored one too if the number of positions agrees.
      fields: The fields that the caller gave.
      is_partial: Whether a header may lack fields that neither the file nor the caller gives.
      option: How messages call a field or an argument.
    """

    name: str | None = None
    like: Sequence[nn.Module] = ()
    entry: str | None = None
    stored_image_size: Size | None = None
    image_size: Size | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_partial: bool = False
    option: Callable[[str], str] = str


def open_stored(path: epath.PathLike, known: Known) -> Stored:
    """Reads weights and builds their model, once.

    Raises:
      UserError: The file is damaged or in no known format, does not say enough, or contradicts what is known; the
        message names the path, and the tensor or field.
    """
    tensors, config = read(path, known.entry)
    with naming(path):
        format, tensors, fields = _identify(tensors, config, known)
        model, is_assumed = _build(format, fields, tensors, known)
        fields |= _read_off(format, model, tensors)
        shapes = shapes_of(model)
        params = flatten_dict(to_params(format, model, tensors, shapes), sep="/")
        needed = {tensor for rule in format.rules(model) if rule.ours for tensor in rule.theirs}
        grid = "x".join(map(str, model.grid))
        assumed = [f"positions: assumed to lie on a {grid} grid, which the file does not say"] if is_assumed else []
        return Stored(
            format=format.name,
            base=format.base,
            variant=_variant_of(format, fields),
            fields=fields,
            model=model,
            params=params,
            shapes=shapes,
            resample=format.resample if isinstance(format.resample, str) else format.resample(tensors, config),
            skipped=tuple(Row("skipped", name, x.shape, None) for name, x in tensors.items() if name not in needed),
            notes=(*assumed, *format.notes(tensors, config)),
            labels=_labels(config, model.num_classes),
            preprocessing=_preprocessing(path, format, config),
        )


def read_header(path: epath.PathLike, known: Known) -> Header:
    """Reads what a file says about its model, without the values of its tensors.

    `image_size` is among the fields only if the file says it or `stored_image_size` is known.

    Raises:
      UserError: See `open_stored`.
    """
    tensors, config = read(path, known.entry, shapes_only=True)
    with naming(path):
        format, tensors, fields = _identify(tensors, config, known)
        if known.is_partial:
            fields |= {"image_size": known.stored_image_size} if known.stored_image_size else {}
        elif known.stored_image_size or "image_size" in fields:
            model, _ = _build(format, fields, tensors, known)
            fields |= _read_off(format, model, tensors)
        return Header(
            base=_variant_of(format, fields),
            fields=fields,
            labels=_labels(config, fields["num_classes"]),
            preprocessing=_preprocessing(path, format, config),
        )


def _identify(tensors: Tensors, config: Config, known: Known) -> tuple[Format, Tensors, dict[str, Any]]:
    """Returns the format, the tensors under its names, and every field but perhaps `image_size`."""
    tensors, prefix = unwrapped(tensors)
    family = known.name and known.name.partition(":")[0]
    format = recognise(tensors.keys(), config, family, prefix=prefix, wanted=_wanted(known), option=known.option)
    variant = model_like(format.model, known.like)
    tensors = format.normalise(tensors)
    implied = {field: value for field, value in format.implied(config).items() if field not in known.fields}
    fields = implied | format.architecture(tensors, config)
    if known.name is not None:
        check_name(fields, known, variant)
    for field in (field for field in format.given if field not in fields and field != "image_size"):
        if field not in known.fields and (variant is None or (known.name is not None and field in _UNNAMED)):
            if known.is_partial:
                return format, tensors, fields
            or_name = f", or the model's name, for example {known.option('name')}={format.base!r}"
            raise UserError(
                f"the file does not say {field}. Give {known.option(field)}=...{'' if field in _UNNAMED else or_name}"
            )
        fields[field] = known.fields.get(field, getattr(variant, field, None))
    return format, tensors, format.complete(fields, tensors)


def _wanted(known: Known) -> str | None:
    """Returns "timesformer" if the caller gave a field that only videos have, or a model that does not mix frames."""
    is_video = "num_frames" in known.fields or any(getattr(x, "attention_type", "") == "space_only" for x in known.like)
    return "timesformer" if is_video else None


def model_like(family: type, like: Sequence[nn.Module]) -> Any:
    """Returns the first of the caller's models that belongs to the family; None if the caller gave no model at all.

    Raises:
      UserError: The caller's models belong to other families.
    """
    found = next((model for model in like if isinstance(model, family)), None)
    if like and found is None:
        wanted = " or a ".join(type(model).__name__ for model in like)
        raise UserError(f"the weights belong to a {family.__name__}, not to a {wanted}")
    return found


def check_name(fields: Mapping[str, Any], known: Known, variant: Any) -> None:
    """Raises UserError if the weights do not have the sizes that `known.name` implies."""
    for field in _NAMED:
        if field in fields and field not in known.fields and fields[field] != getattr(variant, field):
            raise UserError(f"the weights have {field}={fields[field]}, but {known.name} has {getattr(variant, field)}")


def _build(format: Format, fields: dict[str, Any], tensors: Tensors, known: Known) -> tuple[Any, bool]:
    """Builds the stored model at the stored image size, and returns whether that size had to be assumed.

    The stored size is the candidate whose grid has as many patches as the file has positions. Their number alone does
    not distinguish rows from columns: without a candidate, or with two that fit, nothing is guessed.
    """
    told = known.stored_image_size or fields.get("image_size")
    variant = model_like(format.model, known.like)
    candidates = [told] if told else [known.image_size, getattr(variant, "image_size", None)]
    candidates = [(size[0], size[1]) for size in candidates if size]
    model: Any = build_model(format.base, **{**fields, **({"image_size": candidates[0]} if candidates else {})})
    positions = format.positions(tensors)
    if not positions:
        return model, False
    grids = {size: model.clone(image_size=size).grid for size in candidates}
    fitting = {grid: size for size, grid in grids.items() if math.prod(grid) in positions}
    if len(fitting) == 1:
        ((grid, size),) = fitting.items()
        return model.clone(image_size=size, **positions[math.prod(grid)]), told is None
    found = "; ".join(f"{size[0]}x{size[1]} pixels are {math.prod(grid)} patches" for size, grid in grids.items())
    numbers = " or ".join(map(str, positions))
    raise UserError(
        f"the file stores {numbers} positions of patches but not their grid{f' ({found})' if found else ''}. "
        f"Give {known.option('stored_image_size')}=(height, width), the size of the images it was trained with"
    )


def _read_off(format: Format, model: Any, tensors: Tensors) -> dict[str, Any]:
    """Returns the fields of the stored model that only its positions determine."""
    fields = {field for implied in format.positions(tensors).values() for field in implied}
    return {field: getattr(model, field) for field in ("image_size", *fields)}


def _variant_of(format: Format, fields: Mapping[str, Any]) -> str:
    """Returns the name of the variant that has these sizes; the format's base if there is none."""
    height, width = fields["patch_size"]
    defaults = {field.name: field.default for field in dataclasses.fields(format.model)}
    for name, sizes in format.variants.items() if height == width else ():
        sizes = {**defaults, **sizes, "patch_size": (height, width)}
        if all(sizes[field] == fields[field] for field in _NAMED if field in fields):
            return f"{format.base.partition(':')[0]}:{name}/{height}"
    return format.base


def _preprocessing(path: epath.PathLike, format: Format, config: Config) -> Callable[[Size], str | None]:
    def chain(image_size):
        with naming(path):
            return format.preprocessing(image_size, config)

    return chain


def _labels(config: Config, num_classes: int | None) -> tuple[str, ...]:
    """Returns the class names from Hugging Face's or timm's config.json; none if it only numbers them."""
    names = config.get("id2label") or config.get("label_names") or ()
    if isinstance(names, Mapping):
        keys = [str(i) for i in range(len(names))]
        if len(names) == num_classes and names.keys() != set(keys):
            raise UserError("config.json: id2label must number the classes from 0, without gaps")
        names = [names.get(key) for key in keys]
    is_numbered = all(re.fullmatch(r"LABEL_\d+", str(label)) for label in names)
    return () if is_numbered or len(names) != num_classes else tuple(map(str, names))
