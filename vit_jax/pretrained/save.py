"""Writing our weights in foreign formats: `.npz` files, and folders that timm and Hugging Face read."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
import safetensors.numpy
from etils import epath

from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.image_processors import to_hugging_face
from vit_jax.pretrained.names import NOT_THE_FUNCTION, Format, Params, to_tensors
from vit_jax.pretrained.preprocessing import Recipe, rounds_otherwise, to_timm


def save(
    path: epath.PathLike,
    model: nn.Module,
    params: Params,
    format: str,
    *,
    labels: Sequence[str] = (),
    transforms: str | None = None,
    recipe: Recipe | None = None,
    card: str | None = None,
) -> tuple[str, ...]:
    """Writes parameters in a foreign format; see `vit_jax.weights.save_pretrained`.

    Args:
      transforms: The preprocessing as a chain; None if it is unknown.
      recipe: The same in terms that the formats can express; None if they cannot.
      card: Text of a model card: `README.md` of a folder, or `NAME.md` next to a file `NAME.npz`.

    Returns:
      One line for each of labels and preprocessing that a reader will not find in what was written.

    Raises:
      UserError: The format cannot express the model, or `path` exists or cannot be written.
    """
    known, path = find_format(format, model), epath.Path(path)
    if known.container is None:
        raise UserError(f"format {format!r} can be read but not written")
    card_path = path.with_suffix(".md") if known.container == "npz" else path / "README.md"
    for target in (path, card_path) if card else (path,):
        check_absent(target)
    num_classes = getattr(model, "num_classes", None)
    if labels and len(labels) != num_classes:
        raise UserError(f"labels lists {len(labels)} names, but the model has {num_classes} classes")
    tensors, config = check_expressible(known, model, params)
    files = {"config.json": config}
    notes = _add_labels(known, config, labels)
    if transforms is not None:
        notes += _add_preprocessing(known, model, files, transforms, recipe)
    try:
        _write(path, known, tensors, {name: json.dumps(fields, indent=2) + "\n" for name, fields in files.items()})
        if card:
            card_path.write_text(card)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return notes


def check_expressible(known: Format, model: nn.Module, params: Params) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors and the `config.json` of a model in a format.

    Raises:
      UserError: The format cannot express the model.
    """
    tensors = to_tensors(known, model, params)
    config = known.config(model) if known.config else {}
    _check_read_back(known, model, tensors, config)
    return tensors, config


def check_absent(path: epath.PathLike) -> None:
    """Raises UserError if `path` exists."""
    if epath.Path(path).exists():
        raise UserError(f"{path} exists already. Give another name")


def _check_read_back(format: Format, model: Any, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Refuses a model that would be read back as a different one."""
    told = format.implied(config) | format.architecture(tensors, config)
    told = {field: getattr(model, field) for field in format.given if field not in told} | told
    told = format.complete(told, tensors) | format.positions(tensors).get(math.prod(model.grid), {})
    if not format.positions(tensors):
        told["image_size"] = model.image_size
    back = build_model(format.base, **told)
    for field in dataclasses.fields(model):
        ours, theirs = getattr(model, field.name), getattr(back, field.name)
        if field.name not in NOT_THE_FUNCTION and ours != theirs:
            raise UserError(
                f"format {format.name!r} cannot hold {field.name}={ours!r}: it would be read back as {theirs!r}"
            )


def _add_labels(format: Format, config: dict[str, Any], labels: Sequence[str]) -> tuple[str, ...]:
    """Adds labels to config.json; returns a note if the format has no place for them."""
    if labels and format.name == "timm":
        config["label_names"] = list(labels)
    elif labels and format.name == "huggingface":
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    elif labels:
        return (f"format {format.name!r} has no place for the {len(labels)} labels",)
    return ()


def _add_preprocessing(
    format: Format, model: Any, files: dict[str, Any], transforms: str, recipe: Recipe | None
) -> tuple[str, ...]:
    """Adds preprocessing to the files of a folder; returns a note if the format cannot express it exactly."""
    if format.name == "timm" and recipe and (fields := to_timm(recipe)):
        files["config.json"]["pretrained_cfg"] = fields
        rounding = "even"
    elif format.name == "huggingface" and recipe and (fields := to_hugging_face(recipe, files["config.json"])):
        files["preprocessor_config.json"] = fields
        rounding = "down"
    elif format.preprocessing(model.image_size, {}) != transforms:
        return (f"format {format.name!r} cannot express the preprocessing {transforms!r}",)
    else:
        return ()
    if recipe and rounds_otherwise(recipe, rounding):
        return (
            f"format {format.name!r} rounds an odd margin of center_crop {rounding!r}: some crops shift by a pixel",
        )
    return ()


def _write(path: epath.Path, format: Format, tensors: dict[str, np.ndarray], files: dict[str, str]) -> None:
    with unfinished(path) as target:
        if format.container == "npz":
            with target.open("wb") as file:
                np.savez(file, **tensors)  # pyright: ignore[reportArgumentType]
        else:
            target.mkdir()
            (target / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))
            for name, content in files.items():
                (target / name).write_text(content)


@contextlib.contextmanager
def unfinished(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary name in the folder of `path`, for a file or folder that gets its own name when it is complete.

    What was written is removed if an exception is raised.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.unfinished"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        if temporary.is_dir():
            temporary.rmtree()
        elif temporary.exists():
            temporary.unlink()
