"""Our weights out: `.npz` files, and folders as timm and Hugging Face read them."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
import safetensors.numpy
from etils import epath

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.names import NOT_THE_FUNCTION, Format, Params, to_tensors
from vit_jax.pretrained.preprocessing import to_hugging_face, to_timm


def save_pretrained(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    format: str,
    *,
    labels: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> tuple[str, ...]:
    """Writes parameters in a foreign format: the inverse of `from_pretrained`, bit by bit.

    `npz` and `big_vision` are one file, without labels and preprocessing. `timm` and `huggingface` are a folder with
    `config.json` and `model.safetensors`; labels go with it, and preprocessing where the format has words for it.
    Returns, a line each, which of the two a reader will not find there.

    Raises:
      UserError: The format cannot express the model (the parameter or the field is named), `path` exists already, or
        cannot be written.
    """
    known, path = find_format(format, model), epath.Path(path)
    if known.container is None:
        raise UserError(f"format {format!r} is only read")
    check_absent(path)
    if labels and len(labels) != getattr(model, "num_classes", None):
        raise UserError(f"{len(labels)} labels for {getattr(model, 'num_classes', None)} classes")
    tensors = to_tensors(known, model, params)
    config = known.config(model) if known.config else {}
    _check_read_back(known, model, tensors, config)
    beside = {"config.json": config}
    notes = _describe(known, model, beside, labels, preprocessing)
    try:
        _write(path, known, tensors, beside)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return notes


def check_absent(path: epath.PathLike) -> None:
    """Raises UserError if there is something already."""
    if epath.Path(path).exists():
        raise UserError(f"{path} exists already: give another name")


def _check_read_back(format: Format, model: Any, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Refuses a model that would be read back as another one."""
    told = format.architecture(tensors, config)
    unsaid = {field: getattr(model, field) for field in format.given if field not in told}
    if format.positions(tensors) is None:
        unsaid["image_size"] = model.image_size
    back = build_model(format.base, **{**unsaid, **told})
    for field in dataclasses.fields(model):
        ours, theirs = getattr(model, field.name), getattr(back, field.name)
        if field.name not in NOT_THE_FUNCTION and ours != theirs:
            raise UserError(
                f"format {format.name!r} cannot hold {field.name}={ours!r}: it would be read back as {theirs!r}"
            )


def _describe(
    format: Format, model: Any, beside: dict[str, Any], labels: Sequence[str], preprocessing: Preprocessing | None
) -> tuple[str, ...]:
    """Adds labels and preprocessing to the files of a folder; returns what could not be said."""
    notes, config = [], beside["config.json"]
    if labels and format.name == "timm":
        config["label_names"] = list(labels)
    elif labels and format.name == "huggingface":
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    elif labels:
        notes.append(f"format {format.name!r} has no place for the {len(labels)} labels")
    if preprocessing is None:
        return tuple(notes)
    if format.name == "timm" and (fields := to_timm(preprocessing)):
        config["pretrained_cfg"] = fields
    elif format.name == "huggingface" and (fields := to_hugging_face(preprocessing)):
        beside["preprocessor_config.json"] = fields
    elif format.preprocessing(model, {}) != preprocessing.transforms:
        notes.append(f"format {format.name!r} cannot say the preprocessing {preprocessing.transforms!r}")
    return tuple(notes)


def _write(path: epath.Path, format: Format, tensors: dict[str, np.ndarray], beside: dict[str, Any]) -> None:
    """Writes beside, and renames when complete."""
    unfinished = path.parent / f".{path.name}.{os.getpid()}.unfinished"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if format.container == "npz":
            with unfinished.open("wb") as file:
                np.savez(file, **tensors)  # pyright: ignore[reportArgumentType]
        else:
            unfinished.mkdir()
            (unfinished / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
            for name, fields in beside.items():
                (unfinished / name).write_text(json.dumps(fields, indent=2) + "\n")
        unfinished.rename(path)
    finally:
        if unfinished.is_dir():
            unfinished.rmtree()
        elif unfinished.exists():
            unfinished.unlink()
