"""Modalities: everything that differs between images, clips and text, behind one protocol.

`get_modality(key)` is the only place that maps the name of a modality to its code. The train loop, `Run` and the
commands use the protocol, and never test which modality they have.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

from vit_jax.config import Config
from vit_jax.data.loading.pipeline import Batches, Encoder
from vit_jax.data.source import in_order_of, open_split
from vit_jax.errors import UserError, counted, nearest

_MODALITIES = ("image", "video", "text")


class Data(Protocol):
    """Both splits of a config, and the batches made from them, by workers that live until `close`.

    Attributes:
      train: Source of the training split.
      labels: Class names; empty for text.
      encoder: The encoder for evaluation, which is stored in checkpoints for prediction.
      skipped: Number of examples in the evaluation split that are not scored.
      batch_unit: By how much `config.batch_size` grows if every device gets one more example.
    """

    train: Any
    labels: tuple[str, ...]
    encoder: Any
    skipped: int

    @property
    def steps_per_epoch(self) -> float: ...
    @property
    def batch_unit(self) -> int: ...
    def train_batches(self, first_step: int, last_step: int) -> Batches: ...
    def batch_shapes(self, batch_size: int) -> list[dict[str, Any]]:
        """Returns trees of `jax.ShapeDtypeStruct`: the kinds of training batches of this `config.batch_size`."""
        ...

    def eval_batches(self) -> Batches: ...
    def summary(self) -> list[str]: ...
    def close(self) -> None: ...


class Modality(Protocol):
    """What the rest of the code needs to know about images, clips or text.

    A user input is an image (`PIL.Image`), a `Video` or a sentence. Methods that take a `run` use its `encoder`,
    `config`, `model` and `labels`.

    Attributes:
      key: Name of the modality, and of its entry in examples and batches.
      input_name: Key of an input's name in JSON output: "image", "video" or "source".
      inputs: What a user's inputs are called in messages, in the plural.
      input_type: What one of them must be, for messages.
      unit: What `config.batch_size` counts, in the plural, for messages.
      picture: The option of the command `predict` that draws predictions: "contact_sheet" or "attention".
    """

    key: ClassVar[str]
    input_name: ClassVar[str]
    inputs: ClassVar[str]
    input_type: ClassVar[str]
    unit: ClassVar[str]
    picture: ClassVar[str]

    def is_input(self, stored: Any) -> bool:
        """Returns whether an object is an input of a user, in memory."""
        ...

    def make_data(self, config: Config, train: Any, evaluation: Any, start: Encoder | None) -> Data:
        """Makes the data of a config from its two splits.

        Args:
          start: The encoder of the run that training starts from, or None. Text takes its vocabulary from there,
            because the parameters belong to its sub-words.
        """
        ...

    def unread(self, config: Config, num_classes: int | None, examples: int | None) -> Data | None:
        """Returns data of a config without reading them; see `unread.unread_data`."""
        ...

    def load_encoder(self, fields: dict[str, Any]) -> Any:
        """Rebuilds an encoder from its `to_dict`."""
        ...

    def task_fields(self, config: Config, encoder: Any) -> dict[str, Any]:
        """Returns values for fields of a task that depend on the data; a task uses those that it has fields for."""
        ...

    def eval_batches(
        self, config: Config, source: Any, encoder: Any, batch_size: int | None = None
    ) -> tuple[Batches, int]:
        """Returns batches that hold every example of a split once, and the number of examples that cannot be scored.

        Args:
          batch_size: Overrides that of the config: rows per batch, or tokens per side for text.
        """
        ...

    def read_inputs(self, paths: Sequence[str], sentences: Sequence[str], config: Config) -> Iterator[tuple[str, Any]]:
        """Yields (name, input) for each user input, in order, or (name, UserError) for one that cannot be read.

        Raises:
          UserError: There are no inputs, or a path does not exist.
        """
        ...

    def input_batches(
        self, run: Any, inputs: Iterable[Any], batch_size: int, settled: dict[int, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yields padded batches of user inputs, whose `id` is the position of the input.

        Inputs are read only as they are needed. For an input that does not reach the model, the result is written to
        `settled` under its position: the `UserError` that says why it cannot be encoded, or an answer that is already
        known.
        """
        ...

    def draw(self, run: Any, shown: Sequence[tuple[str, Any, dict[str, Any]]], path: Any) -> None:
        """Draws predictions, each given as (name, input, answer), and writes them to a PNG file."""
        ...

    def preview(self, run: Any, workdir: Any) -> list[Any]:
        """Writes predictions for some examples of the evaluation split into `workdir`; returns the files.

        All processes predict, and process 0 writes.
        """
        ...


def get_modality(key: str) -> Modality:
    """Returns the modality called `key`.

    Raises:
      UserError: There is no such modality.
    """
    if key not in _MODALITIES:
        raise UserError(f"unknown modality {key!r}{nearest(key, _MODALITIES)}")
    return importlib.import_module(f"vit_jax.data.{key}.modality").MODALITY


def modality_of(model: Any) -> Any:
    """Returns the modality of a model for images or clips."""
    return get_modality("video" if hasattr(model, "num_frames") else "image")


def load_encoder(described: dict[str, Any]) -> Any:
    """Rebuilds an encoder from what `describe_encoder` returned."""
    fields = dict(described)
    return get_modality(fields.pop("key", "image")).load_encoder(fields)


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Returns an encoder as JSON-compatible values, with the name of its modality as `key`."""
    return {"key": encoder.key, **encoder.to_dict()}


def open_data(config: Config, start: Encoder | None = None, labels: Sequence[str] = ()) -> Data:
    """Opens both splits of `config.data`; see `Modality.make_data` for `start`.

    Args:
      labels: The classes of the checkpoint that training resumes or starts from: see `source.in_order_of`.

    Raises:
      UserError: The data set, a split or the transforms are wrong, or the two splits have different labels.
    """
    wanted = (config.data.train_split, config.data.eval_split)
    train, evaluation = (in_order_of(labels, open_split(config, split)) for split in wanted)
    return get_modality(train.kind).make_data(config, train, evaluation, start)


def check_labels(ours: tuple[str, ...], theirs: tuple[str, ...], us: str, them: str) -> None:
    """Raises UserError, naming the first differences, unless both name the same classes in the same order."""
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) != len(theirs):
        sizes = f"{us} has {counted(len(ours), 'classes')}, {them} has {len(theirs)}"
    else:
        sizes = f"{us} and {them} both have {counted(len(ours), 'classes')}, but with different names"
    only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, theirs), (theirs, ours))]
    raise UserError(f"label names do not match: {sizes}; only in {us}: {only[0]}; only in {them}: {only[1]}")
