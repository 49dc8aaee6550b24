"""Modalities: everything that differs between images, clips and text, behind one protocol.

`get_modality(key)` is the only place that maps a modality's name to its code. The train loop, `Run` and the commands
ask a modality for what they need, and never ask which one it is.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

from vit_jax.config import Config
from vit_jax.data.pipeline import Batches, Encoder
from vit_jax.data.source import open_split
from vit_jax.errors import UserError

_MODALITIES = ("image", "video", "text")


class Data(Protocol):
    """Both splits of a config, and the batches made from them.

    Attributes:
      train: Source of the training split.
      labels: Class names; empty for text.
      encoder: The encoder of evaluation, with which a checkpoint predicts.
      skipped: Number of examples of the evaluation split that are not scored.
    """

    train: Any
    labels: tuple[str, ...]
    encoder: Any
    skipped: int

    @property
    def steps_per_epoch(self) -> float: ...
    def train_batches(self, first_step: int, last_step: int) -> Batches: ...
    def eval_batches(self) -> Batches: ...
    def summary(self) -> list[str]: ...


class Modality(Protocol):
    """What the rest of the code needs to know about images, clips or text.

    A user's own input is an image (`PIL.Image`), a `Video` or a sentence. Functions that take a `run` use its
    `encoder`, `config`, `model` and `labels`.

    Attributes:
      key: Name of the modality, and of its entry in examples and batches.
      unit: What `config.batch_size` counts, in the plural.
      picture: The option of `predict` that draws its result.
      input_name: What JSON lines call the name of an input: "image", "video" or "source".
    """

    key: ClassVar[str]
    input_name: ClassVar[str]
    unit: ClassVar[str]
    picture: ClassVar[str]

    def make_data(self, config: Config, train: Any, evaluation: Any, start: Encoder | None) -> Data:
        """Makes the data of a config from its two splits. `start` is the encoder of the run that training starts from.

        Text adopts its vocabulary, because the parameters belong to its sub-words.
        """
        ...

    def load_encoder(self, fields: dict[str, Any]) -> Any:
        """Rebuilds an encoder from its `to_dict`."""
        ...

    def task_fields(self, config: Config, encoder: Any) -> dict[str, Any]:
        """Returns the fields that a task takes from the data, for those tasks that have them."""
        ...

    def eval_batches(
        self, config: Config, source: Any, encoder: Any, batch_size: int | None = None
    ) -> tuple[Batches, int]:
        """Returns batches that hold every example of a split once, and the number of examples that cannot be scored.

        `batch_size` overrides the config's: rows per batch, or tokens per side for text.
        """
        ...

    def read_inputs(self, paths: Sequence[str], sentences: Sequence[str], config: Config) -> Iterator[tuple[str, Any]]:
        """Yields (name, input) for each input of a user, in order, or (name, UserError) for one that cannot be read.

        Raises:
          UserError: There is nothing to read, or a path does not exist.
        """
        ...

    def input_batches(
        self, run: Any, inputs: Iterable[Any], batch_size: int, settled: dict[int, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yields padded batches of a user's inputs, whose `id` is the place of an input.

        Reads no more than it needs for the next batches. An input that needs no model is put into `settled`, by its
        place: the `UserError` that tells why it cannot be encoded, or the answer if that is known already.
        """
        ...

    def draw(self, run: Any, shown: Sequence[tuple[str, Any, dict[str, Any]]], path: Any) -> None:
        """Draws predictions, each given as (name, input, answer), into a PNG file."""
        ...

    def preview(self, run: Any, workdir: Any) -> list[Any]:
        """Writes what a run predicts for some examples of its evaluation split; returns the files.

        All processes predict; process 0 writes.
        """
        ...


def get_modality(key: str) -> Modality:
    """Returns the modality called `key`.

    Raises:
      UserError: There is no such modality.
    """
    if key not in _MODALITIES:
        raise UserError(f"unknown modality {key!r}; known: {', '.join(_MODALITIES)}")
    return importlib.import_module(f"vit_jax.data.{key}.modality").MODALITY


def load_encoder(described: dict[str, Any]) -> Any:
    """Rebuilds an encoder from what `describe_encoder` returned."""
    fields = dict(described)
    return get_modality(fields.pop("key", "image")).load_encoder(fields)


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Returns an encoder as JSON-compatible values, with the name of its modality as `key`."""
    return {"key": encoder.key, **encoder.to_dict()}


def open_data(config: Config, start: Encoder | None = None) -> Data:
    """Opens both splits of `config.data`; see `Modality.make_data` for `start`.

    Raises:
      UserError: The data set, a split or the transforms are wrong, or the two splits have different labels.
    """
    train, evaluation = (open_split(config, split) for split in (config.data.train_split, config.data.eval_split))
    return get_modality(train.kind).make_data(config, train, evaluation, start)


def check_labels(ours: tuple[str, ...], theirs: tuple[str, ...], us: str, them: str) -> None:
    """Raises UserError, naming the first differences, unless both name the same classes in the same order."""
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) != len(theirs):
        sizes = f"{us} has {len(ours)} classes, {them} has {len(theirs)}"
    else:
        sizes = f"{us} and {them} both have {len(ours)} classes, but with different names"
    only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, theirs), (theirs, ours))]
    raise UserError(f"label names do not match: {sizes}; only in {us}: {only[0]}; only in {them}: {only[1]}")
