"""Weights: read them into a model or a parameter tree, write them in foreign formats, start a run from them.

A *source* is a weight file, a folder with a `config.json`, a workdir, or one of its checkpoints
(`WORKDIR/checkpoints/STEP`). The content of a source determines its format. For example:

    loaded = vit_jax.from_pretrained("B_16.npz", "vit:B/16", num_classes=10)
    logits = loaded.model.apply({"params": loaded.params}, images, train=False)
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from vit_jax.architecture import check_exists, config_key, is_run, naming_init_from, title
from vit_jax.data.image.geometry import CenterCrop, Resize
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.image.values import Normalize
from vit_jax.errors import UserError
from vit_jax.export.model_card import Origin, origin_of_run
from vit_jax.models import build_model
from vit_jax.models.from_image import image_model
from vit_jax.models.timesformer import TimeSformer
from vit_jax.pretrained.fit import fit, initial_values
from vit_jax.pretrained.names import Params, Size, pair, shapes_of
from vit_jax.pretrained.preprocessing import Recipe
from vit_jax.pretrained.report import Report, brief
from vit_jax.pretrained.save import save
from vit_jax.pretrained.stored import Known, Stored, check_name, model_like, naming, open_stored


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its parameters and everything it needs to predict.

    Attributes:
      name: Family and variant: the one whose sizes the source has, else the default one of its format.
      model: The module.
      params: Its parameters: a nested dict of NumPy arrays.
      preprocessing: A `Preprocessing` for an image or one frame, or the `ClipPreprocessing` of a video run; None if the
        source does not state it.
      labels: Names of the classes, in the order of the logits; empty if the source does not list them.
      report: What was loaded, resized, replaced and skipped.
      origin: Where the weights come from, for a model card.
    """

    name: str
    model: nn.Module
    params: Params
    preprocessing: Any
    labels: tuple[str, ...]
    report: Report
    origin: Origin


def from_pretrained(
    path: epath.PathLike,
    name: str | None = None,
    *,
    entry: str | None = None,
    stored_image_size: Size | None = None,
    preprocessing: str | None = None,
    trust: bool = False,
    **overrides: Any,
) -> Pretrained:
    """Builds the model that a source holds, and fills it with the source's weights.

    The architecture is read from the source. Nothing is guessed: what the source does not state must be given, by
    `name` or as a field. A torch file without a config does not state `num_heads`, and a bare file does not state the
    grid of its position embeddings, which follows from the `image_size` of training.

    Args:
      path: A weight file, a folder with a config.json, or a workdir.
      name: Family and variant, for example "vit:B/16"; the weights must agree with it.
      entry: The set of weights to use if a torch file holds several, for example "state_dict_ema".
      stored_image_size: (height, width) in pixels at which a bare file was trained, if it differs from `image_size`.
      preprocessing: A chain of transforms, if the source does not state it.
      trust: Whether to import code outside vit_jax that the checkpoint in a workdir names.
      **overrides: Fields of the module. With another `image_size` or `num_frames`, position embeddings are resampled as
        in the code of the format's authors; with another `num_classes`, the head is initialised from scratch. The
        report lists these changes.

    Raises:
      UserError: The source is damaged, has an unknown format, does not state the architecture completely, or
        contradicts the arguments; the message names the tensor or the field.
    """
    known = Known(
        name=name,
        like=() if name is None else (_build(name),),
        entry=entry,
        stored_image_size=stored_image_size,
        image_size=overrides.get("image_size"),
        fields=overrides,
    )
    stored, run = _open(path, known, trust)
    encoder = None if run is None else run.encoder
    if encoder is not None and not hasattr(encoder, "transforms"):
        raise UserError(f"{path} holds a text model, which no foreign format can store. Load it with vit_jax.load_run")
    is_as_stored = all(field in stored.fields and stored.fields[field] == value for field, value in overrides.items())
    model: Any = stored.model if is_as_stored else _build(stored.base, **{**stored.fields, **overrides})
    shapes = stored.shapes if is_as_stored else shapes_of(model)
    with naming(path):
        params, report = fit(stored, model, shapes, lambda paths: initial_values(model, paths))
    chain = preprocessing or stored.preprocessing(model.image_size)
    if chain is None:
        note = "preprocessing: the file does not say it. Give preprocessing=, a chain of transforms"
        report = dataclasses.replace(report, notes=(*report.notes, note))
    with contextlib.nullcontext() if preprocessing else naming(path):
        preprocess = _preprocessing(model, chain, encoder)
    return Pretrained(
        name=name or stored.variant,
        model=model,
        params=params,
        preprocessing=preprocess,
        labels=stored.labels if model.num_classes == stored.model.num_classes else (),
        report=report,
        origin=_origin(path, stored, run, model, report),
    )


def _origin(path: epath.PathLike, stored: Stored, run: Any, model: nn.Module, report: Report) -> Origin:
    """Describes weights for a model card. Scores are left out if parameters were resized or replaced."""
    if run is None:
        return Origin(title(stored.base, model), notes=(f"read from `{path}`, format `{stored.format}`", *report.notes))
    origin, changed = origin_of_run(run), (*report.resized, *report.replaced)
    if changed:
        origin = dataclasses.replace(origin, metrics=(), notes=(f"resized or replaced since: {', '.join(changed)}",))
    return origin


def load_pretrained(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    *,
    entry: str | None = None,
    stored_image_size: Size | None = None,
    keep_head: bool | None = None,
) -> tuple[Params, Report]:
    """Fills an existing parameter tree from a source; returns the new tree and a report.

    If the model has another number of classes than the source, or another `representation_dim`, its head keeps the
    values in `params`. If it has another
    `image_size` or `num_frames`, position embeddings are resampled. The report lists these changes. A TimeSformer can
    be filled from an image ViT, or from a TimeSformer with space-only attention: see `models.from_image`.

    Args:
      path, entry, stored_image_size: See `from_pretrained`.
      model: The module that `params` belong to.
      params: Freshly initialised parameters.
      keep_head: Whether to load the source's head. By default, it is loaded if the number of classes is the same.

    Raises:
      UserError: See `from_pretrained`; or the weights do not fit the model, and the message names a parameter and every
        field that differs.
    """
    stored, _ = _open(path, Known(like=_like(model), entry=entry, stored_image_size=stored_image_size))
    with naming(path):
        return _fill(stored, model, params, keep_head)


def save_pretrained(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    format: str,
    *,
    labels: Sequence[str] = (),
    preprocessing: Any = None,
    card: str | None = None,
) -> tuple[str, ...]:
    """Writes parameters in a foreign format; `from_pretrained` reads exactly the same values back.

    `npz` and `big_vision` are single files, without labels and preprocessing. `timm` and `huggingface` are folders with
    `config.json` and `model.safetensors`; they include the labels, and the preprocessing if the format can express it.

    Args:
      path: A file or folder that does not exist yet.
      format: `npz`, `big_vision`, `timm` or `huggingface`; not every family supports every format.
      labels: Names of the classes, in the order of the logits.
      preprocessing: A `Preprocessing` or `ClipPreprocessing`.
      card: Text of a model card, see `model_card.model_card`: `README.md` of a folder, `NAME.md` next to `NAME.npz`.

    Returns:
      Lines that name the labels or preprocessing if the format could not store them.

    Raises:
      UserError: The format cannot express the model (the message names the parameter or the field), or `path` exists or
        cannot be written.
    """
    chain = {} if preprocessing is None else {"transforms": preprocessing.transforms, "recipe": _recipe(preprocessing)}
    return save(path, model, params, format, labels=labels, card=card, **chain)


def start_from(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    labels: tuple[str, ...],
    *,
    image_size: Size | None = None,
    transforms: Mapping[str, str | None] = MappingProxyType({}),
    trust: bool = False,
) -> tuple[Params, list[str]]:
    """Fills the initial parameters of a run from `config.init_from`; returns the new tree and lines to print.

    The source's head is loaded if the classes are the same. They are compared by name if the source is a run, otherwise
    by number. Other differences are handled as in `load_pretrained`. A text run can start only from a text run.

    Args:
      path: `config.init_from`.
      params: Initial parameters. Their values are used only for a head that is not loaded.
      labels: Names of the run's classes.
      image_size: `config.init_image_size`: the image size at which a bare file was trained.
      transforms: Chains of transforms by their keys in `config.data`; a line says where they normalize otherwise than
        the source.
      trust: Whether to import code outside vit_jax that the checkpoint in a workdir names.

    Raises:
      UserError: See `load_pretrained`; messages name keys of the config.
    """
    known = Known(like=_like(model), stored_image_size=image_size, option=config_key)
    with naming_init_from(path):
        stored, run = _open(path, known, trust)
        keep_head = None if run is None else tuple(run.labels) == tuple(labels)
        filled, report = _fill(stored, model, params, keep_head, config_key)
        lines = report.lines() + _other_normalization(stored, model, transforms)
    origin = path if run is None else f"{path}, step {run.step}"
    return filled, [f"from {origin}: {line}" for line in lines]


def _open(path: epath.PathLike, known: Known, trust: bool = False) -> tuple[Stored, Any]:
    """Opens a source; returns its weights, and the run if the source is a workdir."""
    check_exists(path)
    if not is_run(path):
        return open_stored(path, known), None
    from vit_jax.load import load_run

    run = load_run(path, trust=trust)
    model: Any = run.model
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    fields = {name: value for name, value in fields.items() if name not in ("parent", "name")}
    with naming(path):
        variant = model_like(type(model), known.like)
        if known.name is not None:
            check_name(fields, known, variant)
    params = flatten_dict(run.params, sep="/")
    stored = Stored(
        format="vit_jax",
        base=run.config.model.name,
        variant=run.config.model.name,
        fields=fields,
        model=model,
        params=params,
        shapes=params,
        resample="bicubic",
        skipped=(),
        notes=(),
        labels=run.labels,
        preprocessing=lambda _: run.encoder.transforms,
    )
    return stored, run


def _fill(
    stored: Stored, model: nn.Module, params: Params, keep_head: bool | None, option: Callable[[str], str] = str
) -> tuple[Params, Report]:
    fresh = flatten_dict(params, sep="/")
    return fit(
        stored, model, fresh, lambda paths: {path: fresh[path] for path in paths}, keep_head=keep_head, option=option
    )


def _other_normalization(stored: Stored, model: Any, transforms: Mapping[str, str | None]) -> list[str]:
    """Returns a line for each chain that normalizes by another mean and std than that of the source."""
    try:
        theirs = _normalization(stored.preprocessing(model.image_size) if hasattr(model, "image_size") else None, model)
    except UserError:  # the source's preprocessing cannot be expressed: the config had to give another
        return []
    lines = []
    for key, chain in transforms.items():
        ours = _normalization(chain, model)
        if ours and theirs and not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
            numbers = [[brief(x) for x in pair] for pair in (ours, theirs)]
            lines.append(
                f"config.data.{key} normalizes with mean={numbers[0][0]}, std={numbers[0][1]}, but the weights were "
                f"trained with mean={numbers[1][0]}, std={numbers[1][1]}"
            )
    return lines


def _normalization(chain: str | None, model: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns mean and std of a chain, one number per channel; None if there is no chain."""
    if not chain or model.in_channels not in (1, 3):
        return None
    return Preprocessing(model.image_size, model.in_channels, chain).normalization


def _like(model: nn.Module) -> tuple[nn.Module, ...]:
    """Returns the models whose weights `model` may be filled from."""
    return (model, image_model(model)) if isinstance(model, TimeSformer) else (model,)


def _build(name: str, **fields: Any) -> nn.Module:
    try:
        return build_model(name, **fields)
    except ValueError as error:
        raise UserError(str(error)) from error


def _preprocessing(model: Any, chain: str | None, encoder: Any) -> Any:
    if not chain or model.in_channels not in (1, 3):  # arrays with other numbers of channels are not images
        return None
    fields = {"image_size": model.image_size, "channels": model.in_channels, "transforms": chain}
    if encoder is None:
        return Preprocessing(**fields)
    frames = {"num_frames": model.num_frames} if hasattr(encoder, "num_frames") else {}
    return dataclasses.replace(encoder, **frames, **fields)


def _recipe(preprocessing: Any) -> Recipe | None:
    """Describes a chain of the form of `pretrained.preprocessing.squashed` or `cropped`; returns None for others."""
    resize, *crop, normalize = preprocessing.steps if len(preprocessing.steps) > 1 else (None, None)
    if not isinstance(resize, Resize) or not resize.antialias or not isinstance(normalize, Normalize):
        return None
    size, whole = preprocessing.image_size, resize.size or preprocessing.image_size
    scaled, cover = pair(whole), resize.cover or isinstance(whole, int)
    if len(crop) > 1 or any(not isinstance(step, CenterCrop) or pair(step.size or size) != size for step in crop):
        return None
    if not crop and (cover or scaled != size):
        return None
    return Recipe(
        image_size=size,
        channels=preprocessing.channels,
        scaled=scaled,
        cover=cover,
        rounding=crop[0].rounding if crop else "even",
        method=resize.method,
        mean=normalize.mean,
        std=normalize.std,
    )
