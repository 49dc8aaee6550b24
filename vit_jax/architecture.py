"""The architecture of the weights in `config.init_from`, read from their metadata."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from vit_jax.config.extensions import is_import_path
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.names import NOT_THE_FUNCTION, Size
from vit_jax.pretrained.stored import Known, read_header

_OF_THE_DATA = {  # fields of models that a config states as properties of the data
    "image_size": "config.data.image_size",
    "in_channels": "config.data.channels",
    "num_frames": "config.data.num_frames",
    "num_classes": "the number of classes",
    "vocab_size": "config.data.vocab_size",
}
_SIZES = ("hidden_dim", "mlp_dim", "num_layers", "num_heads", "patch_size", "num_words")  # what a name implies
_SIZES += ("inner_hidden_dim", "inner_mlp_dim", "inner_num_heads")
# fields that a run does not take over from the checkpoint it starts from
_OF_THE_RUN = (set(NOT_THE_FUNCTION) - {"layer_scale_init"}) | set(_OF_THE_DATA)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a source says about its model, for a config that does not set the model.

    Attributes:
      name: Family and variant, for example "vit:B/16".
      fields: Fields of the module that differ from the variant's defaults and determine the function: all except those
        that follow from the data (image size, channels, frames, classes, vocabulary) and those that concern training
        and speed (drop rates, dtype, ...).
      image_size: (height, width) in pixels; None for text, and for a file that does not state it.
      channels, num_frames: None if they do not apply or the file does not state them.
      labels: Names of the classes; empty if the source does not list them.
      chain: Returns the evaluation transforms for an image size, or None if the source does not state them.
      train_transforms, sampling: Stored in a run's checkpoint only; `sampling` is that of clips.
    """

    name: str
    fields: dict[str, Any]
    image_size: Size | None
    channels: int | None
    num_frames: int | None
    labels: tuple[str, ...]
    chain: Callable[[Size], str | None]
    train_transforms: str | None = None
    sampling: str | None = None

    def as_config(self, image_size: Size | None = None, eval_transforms: str | None = None) -> dict[str, Any]:
        """Returns the values that a config can take over, by key. Keys that the source does not state are left out.

        Args:
          image_size: `config.data.image_size`, if it is set; it replaces the stored one.
          eval_transforms: `config.data.eval_transforms`, if it is set; it replaces the stored chain.
        """
        size = image_size or self.image_size
        chain = eval_transforms or (None if size is None else self.chain(size))
        data = {
            "image_size": size,
            "channels": self.channels,
            "eval_transforms": chain,
            "train_transforms": self.train_transforms or (chain and _augmented(chain)),
        }
        values = {f"data.{key}": value for key, value in data.items()}
        values |= {f"model.{field}": value for field, value in self.fields.items()} | {"model.name": self.name}
        return {key: value for key, value in values.items() if value is not None}

    @property
    def eval_transforms(self) -> str | None:
        """The evaluation transforms at the stored image size; None if either is unknown."""
        return None if self.image_size is None else self.chain(self.image_size)


def architecture_of(
    path: epath.PathLike, *, given: Mapping[str, Any] | None = None, image_size: Size | None = None
) -> Architecture:
    """Reads the architecture of `config.init_from` from metadata, without reading parameters or building the model.

    Args:
      path: `config.init_from`: any source that `vit_jax.weights` accepts.
      given: `config.model`. If its name is set, the config does not need the source's fields, and fields that a bare
        weight file does not state may be missing.
      image_size: `config.init_image_size`: the image size at which a bare weight file was trained.

    Raises:
      UserError: The source does not exist or does not state the architecture completely; messages name keys of the
        config.
    """
    with naming_init_from(path):
        check_exists(path)
        if is_run(path):
            return _architecture_of_run(path)
        known = Known(
            stored_image_size=image_size,
            fields={field: value for field, value in (given or {}).items() if value is not None},
            is_partial=bool(given and given["name"]),
            option=config_key,
        )
        header = read_header(path, known)
    variant = build_model(header.base)
    fields = {field: value for field, value in header.fields.items() if field not in _OF_THE_RUN}
    return Architecture(
        name=header.base,
        fields={field: value for field, value in fields.items() if value != getattr(variant, field)},
        image_size=header.fields.get("image_size"),
        channels=header.fields["in_channels"],
        num_frames=header.fields.get("num_frames"),
        labels=header.labels,
        chain=header.preprocessing,
    )


def _architecture_of_run(path: epath.PathLike) -> Architecture:
    from vit_jax.workdir.checkpoint import load_meta

    meta = load_meta(path)
    if meta is None:
        raise UserError(f"{path}: the workdir has no checkpoint that can be read")
    fields, data, encoder = dict(meta["config"]["model"]), meta["config"]["data"], meta["preprocessing"]
    fields |= fields.pop("extra", None) or {}
    size = encoder.get("image_size")
    return Architecture(
        name=fields["name"],
        fields={
            field: tuple(value) if isinstance(value, list) else value
            for field, value in fields.items()
            if value is not None and field not in _OF_THE_RUN
        },
        image_size=size and (size[0], size[1]),
        channels=encoder.get("channels"),
        num_frames=encoder.get("num_frames"),
        labels=tuple(meta["labels"]),
        chain=lambda _: encoder.get("transforms"),
        train_transforms=data["train_transforms"] if size else None,
        sampling=encoder.get("sampling"),
    )


def _augmented(chain: str) -> str:
    """Returns training transforms for foreign weights: random crops and flips, then the evaluation's last step."""
    return f"random_resized_crop|flip|{chain.rpartition('|')[2]}"


def is_run(path: epath.PathLike) -> bool:
    """Returns whether `path` is a workdir or one of its checkpoints."""
    path = epath.Path(path)
    return (path / "checkpoints").is_dir() or (path.parent.name == "checkpoints" and path.name.isdigit())


def title(name: str, model: Any) -> str:
    """Returns the name of a model, and the sizes in which it differs from the variant of that name."""
    if is_import_path(name):
        return name
    variant = build_model(name, {"vocab_size": model.vocab_size} if hasattr(model, "vocab_size") else {})
    pairs = ((field, getattr(model, field, None), getattr(variant, field, None)) for field in _SIZES)
    sizes = [f"{field}={ours}" for field, ours, named in pairs if ours != named]
    return f"{name} with {', '.join(sizes)}" if sizes else name


@contextlib.contextmanager
def naming_differences(config: Any) -> Iterator[None]:
    """A context that adds to a `UserError` the fields of `config.model` in which it differs from `config.init_from`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{_differences(config)}") from error


def _differences(config: Any) -> str:
    if not config.init_from or is_import_path(config.model.name):
        return ""
    try:
        origin = architecture_of(config.init_from, given=config.model, image_size=config.init_image_size)
        fields = [_fields(name) for name in (config.model.name, origin.name)]
    except (UserError, ValueError):
        return ""  # the first error is the one to read
    is_same_family = config.model.name.partition(":")[0] == origin.name.partition(":")[0]
    ours = {**fields[0], **{key: value for key, value in config.model.items() if value is not None}}
    theirs = {**fields[1], **origin.fields}
    names = [] if is_same_family else [("name", config.model.name, origin.name)]
    compared = [field for field in theirs if field in ours and field not in _OF_THE_RUN]
    names += [(field, ours[field], theirs[field]) for field in compared if ours[field] != theirs[field]]
    pairs = [f"config.model.{field} is {mine!r}, the checkpoint has {its!r}" for field, mine, its in names]
    return f". The model differs from the one in config.init_from: {'; '.join(pairs)}" if pairs else ""


def _fields(name: str) -> dict[str, Any]:
    """Returns the fields of the variant of that name."""
    model: Any = build_model(name, {"vocab_size": 1} if name.startswith("transformer:") else {})
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


def check_exists(path: epath.PathLike) -> None:
    """Raises UserError if there is nothing at `path`."""
    if not epath.Path(path).exists():
        raise UserError(f"{path}: no such file or folder")


@contextlib.contextmanager
def naming_init_from(path: epath.PathLike) -> Iterator[None]:
    """A context that prefixes the message of a `UserError` with the key of the config that names the source."""
    try:
        yield
    except UserError as error:
        raise UserError(f"config.init_from={path}: {str(error).removeprefix(f'{path}: ')}") from error


def config_key(field: str) -> str:
    """Returns the key of a config that sets a field of the model, or an argument of `from_pretrained`."""
    keys = {"stored_image_size": "config.init_image_size", **_OF_THE_DATA}
    return keys.get(field, f"config.model.{field}")
