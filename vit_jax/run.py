"""Run: a trained model with everything it needs to predict, evaluate, compute features and export its weights."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
from etils import epath

from vit_jax import config as schema
from vit_jax.config import Config, extensions
from vit_jax.config.forms import refusal
from vit_jax.data.labels import indices_of
from vit_jax.data.modality import Modality, check_labels, get_modality
from vit_jax.data.source import in_order_of, open_split
from vit_jax.devices.parallel import Parallel, make_parallel
from vit_jax.errors import UserError, counted
from vit_jax.evaluate import Evaluator, in_order, own_rows
from vit_jax.export.model_card import UNKNOWN_LICENSE, model_card, origin_of_run

PyTree = Any
Track = Callable[[Any, int], Iterable[Any]]  # (batches, their number) -> the same batches


def _untracked(batches: Any, total: int) -> Iterable[Any]:
    return batches


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained model, as `load_run` reads it from a checkpoint.

    Computations use all devices, with the strategy that the run was trained with.

    Example:

        run = load_run("runs/quickstart")
        for answer in run.predict([Image.open("three.png")]):
            print(answer["predictions"][0])
        print(run.evaluate("test"))

    Attributes:
      model: The Flax module.
      params: The parameters as NumPy arrays; their moving average if the run has one.
      task: The task, which makes predictions and scores from the model's outputs.
      labels: Class names; empty for text, and for foreign weights that do not name them.
      encoder: Turns an image, clip or sentence into the model's input.
      config: The run's config.
      step: Number of updates done.
      workdir: The workdir that the run was loaded from; None for one made in memory.
    """

    model: nn.Module
    params: PyTree
    task: Any
    labels: tuple[str, ...]
    encoder: Any
    config: Config
    step: int
    workdir: epath.Path | None = None

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        classes = f", {counted(len(self.labels), 'classes')}" if self.labels else ""
        return f"Run({self.config.model.name}, {counted(count, 'parameters')}, step {self.step:,}{classes})"

    @functools.cached_property
    def parallel(self) -> Parallel:
        """The strategy over all devices."""
        return make_parallel(self.config.parallel, self.config.devices_per_clip)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """The compiled functions of the task."""
        return Evaluator(self.model, self.task, self.parallel)

    @functools.cached_property
    def placed(self) -> PyTree:
        """The parameters on the devices."""
        return self.parallel.put_state(self.params)

    @property
    def modality(self) -> Modality:
        return get_modality(self.encoder.key)

    def predict(
        self, inputs: Iterable[Any], *, batch_size: int = 64, on_error: str = "raise", **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yields the task's answer for each input, in order, as soon as its batch is done.

        Inputs are read only as batches need them, so their number is not limited by memory. In a job of several
        processes, all of them must pass the same inputs.

        Args:
          inputs: Images (`PIL.Image`), videos (`data.video.decode.Video`) or sentences. A single one must be in a list.
          batch_size: Rows per batch: images, views of videos, or sentences. It does not change the answers.
          on_error: "raise" raises the UserError of an input that cannot be read; "yield" yields it in place of an
            answer.
          **options: Fields of the task to change: `top` or `per_frame` for classification, `beam_size` for translation.

        Raises:
          UserError: The task has no such field, or an input cannot be read or is of another kind (see `on_error`); or
            the weights have no head.
        """
        if getattr(self.task, "num_classes", 1) == 0:
            raise UserError("the weights have no head, so they predict no classes. Use their features, or few-shot.")
        _check("eval_batch_size", "batch_size", batch_size)
        task, settled, position = self.task_with(**options), {}, 0
        inputs = _of_this_kind(inputs, self.modality)
        batches = map(own_rows, self.modality.input_batches(self, inputs, batch_size, settled))
        for rows in self.evaluator.rows(self.placed, batches, task.predict):
            positions = dict.fromkeys(rows["id"].tolist())  # without repetitions: the views of an input share its id
            settled.update(zip(positions, task.answers(rows, self.labels), strict=True))
            while position in settled:
                yield _checked(settled.pop(position), on_error)
                position += 1
        for _, answer in sorted(settled.items()):
            yield _checked(answer, on_error)

    def task_with(self, **options: Any) -> Any:
        """Returns the task with other values of its fields.

        Raises:
          UserError: The task has no such field, or refuses its value.
        """
        fields = {field.name for field in dataclasses.fields(self.task)}
        for name in options:
            if name not in fields:
                raise UserError(f"{name} does not apply to {self.task.name}")
            _check(f"task.{name}", name, options[name])
        try:
            return dataclasses.replace(self.task, **options)
        except ValueError as error:
            raise UserError(str(error)) from error

    def with_views(self, clips: int | None = None, crops: int | None = None) -> "Run":
        """Returns the run with another number of evaluation clips per video, or crops per clip.

        Raises:
          UserError: The run is not a video run.
        """
        asked = {name: count for name, count in (("clips", clips), ("crops", crops)) if count is not None}
        if not all(hasattr(self.encoder, name) for name in asked):
            raise UserError(f"clips and crops apply to runs on videos; this run is on {self.modality.inputs}")
        for name, count in asked.items():
            _check(f"data.eval_{name}", name, count)
        if not asked:
            return self
        encoder: Any = dataclasses.replace(self.encoder, **asked)
        fields = extensions.accepted(type(self.task), self.modality.task_fields(self.config, encoder))
        return dataclasses.replace(self, encoder=encoder, task=dataclasses.replace(self.task, **fields))

    def open_split(self, split: str | None = None, **other: str | None) -> Any:
        """Opens a split of the run's data set, by default its evaluation split.

        Args:
          **other: `name`, `path` and `data_dir` of another data set.

        Raises:
          UserError: The data set or the split does not exist, or belongs to another modality; or none is named, and
            the run has none of its own.
        """
        for option, value, known in (("data", other.get("name"), "name"), ("split", split, "eval_split")):
            if not value and not self.config.data[known]:
                raise UserError(
                    f"foreign weights have no {option} of their own. Give --{option}, or {option}=... in Python."
                )
        source = open_split(self.config, split or self.config.data.eval_split, **other)
        if source.kind != self.encoder.key:
            raise UserError(f"{source.name} holds {source.kind} data; this run was trained on {self.encoder.key} data")
        return in_order_of(self.labels, source)

    def batches(self, source: Any, batch_size: int | None = None) -> tuple[Any, int]:
        """Returns batches that hold every example of a source once, and the number of examples that are skipped.

        Raises:
          UserError: The batch size is not a positive number.
        """
        if batch_size is not None:
            _check("eval_batch_size", "batch_size", batch_size)
        return self.modality.eval_batches(self.config, source, self.encoder, batch_size)

    def evaluate(
        self,
        source: Any = None,
        *,
        batch_size: int | None = None,
        track: Track = _untracked,
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Scores every example of a split exactly once; returns the scores, `examples` and `skipped`.

        The classes of the data are found among those of the run by name. If they are only some of them, the others
        cannot be predicted, and the result has `classes`, the number of classes, and `outputs`, that of the run.

        Args:
          source: Name of a split, or a source from `open_split`; by default the evaluation split.
          batch_size: Rows per batch, or tokens per side for text; by default that of the config.
          track: Called with the batches and their number; returns the same batches, to show progress.
          keep: Called after every batch with columns that describe its examples, such as `id`, `file`, `label` and
            `classes`; see the task's `record`.

        Raises:
          UserError: The split does not exist, or it has classes that the run has not.
        """
        source = self.open_split(source) if source is None or isinstance(source, str) else source
        run = self.for_classes(source.labels, f"{source.name} {source.split}")
        batches, skipped = run.batches(source, batch_size)
        record = None if keep is None else run.recorder(source, keep)
        result = run.evaluator.evaluate(run.placed, track(batches, len(batches)), keep=record)
        assert result is not None  # None only if `stop` is given
        subset = {} if run.outputs == self.outputs else {"classes": run.outputs, "outputs": self.outputs}
        return {**result, "skipped": skipped, **subset}

    @property
    def outputs(self) -> int:
        """The number of classes that are distinguished; 0 for text."""
        return getattr(self.task, "num_classes", 0)

    def for_classes(self, labels: tuple[str, ...], whose: str = "the data") -> "Run":
        """Returns the run with those of its classes that have these names, in this order.

        Labels that name a class in different ways, such as "n01440764" and "n01440764 tench", agree. Outputs without
        names are taken to be these classes, if their numbers agree.

        Args:
          whose: Whose labels they are, for messages.

        Raises:
          UserError: The run lacks a class.
        """
        if self.labels == tuple(labels):
            return self
        if not self.labels and self.outputs:
            if len(labels) != self.outputs:
                raise UserError(
                    f"the {self.outputs:,} outputs of the weights have no names, so that the "
                    f"{counted(len(labels), 'classes')} of {whose} are not found among them. Name them with --labels."
                )
            return dataclasses.replace(self, labels=tuple(labels))
        chosen = indices_of(labels, self.labels) if labels and hasattr(self.task, "outputs") else None
        if chosen is None:
            check_labels(self.labels, labels, "the checkpoint", whose)
            return self
        task = dataclasses.replace(self.task, outputs=chosen, num_classes=len(chosen))
        return dataclasses.replace(self, labels=tuple(labels), task=task)

    def recorder(self, source: Any, keep: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Returns a function that turns rows of the task's `examine` into columns, and passes them to `keep`.

        Raises:
          UserError: The task does not say what to record.
        """
        if not hasattr(self.task, "record"):
            raise UserError(f"the task {self.task.name} has no method `record`, so its predictions cannot be kept")
        files = getattr(source, "files", None)

        def record(rows: dict[str, Any]) -> None:
            ids = [int(i) for i in rows["id"]]
            names = [str(files[i]) if files else "" for i in ids]
            keep({"id": ids, "file": names, **self.task.record(rows, self.labels)})

        return record

    def rows(
        self,
        function: Callable[[Any, PyTree, dict], dict],
        source: Any,
        *,
        batch_size: int | None = None,
        track: Track = _untracked,
    ) -> dict[str, Any]:
        """Returns what `function(model, params, batch)` returns for every example of a source, sorted by `id`."""
        batches, _ = self.batches(source, batch_size)
        return in_order(self.evaluator.rows(self.placed, track(batches, len(batches)), function))

    def features(
        self,
        source: Any = None,
        *,
        layer: int | str = "final",
        kind: str = "pooled",
        batch_size: int | None = None,
        track: Track = _untracked,
    ) -> dict[str, Any]:
        """Returns `features`, `label` and `id` of every example of a split, sorted by `id`.

        `layer` and `kind` are those of `analysis.features.features`; the other arguments are those of `evaluate`. Each
        clip has one view.

        Raises:
          UserError: The model has no such layer or kind.
        """
        from vit_jax.analysis.embedding.features import features, inputs_of

        source = self.open_split(source) if source is None or isinstance(source, str) else source

        def extract(model, params, batch):
            return {"features": features(model, params, inputs_of(batch), layer=layer, kind=kind)}

        try:
            return self.one_view().rows(extract, source, batch_size=batch_size, track=track)
        except ValueError as error:
            raise UserError(str(error)) from error

    def one_view(self) -> "Run":
        """Returns the same run with a single view of each example."""
        return self.with_views(clips=1, crops=1) if getattr(self.encoder, "views", 1) > 1 else self

    def export(self, path: epath.PathLike, format: str, *, license: str = UNKNOWN_LICENSE) -> tuple[str, ...]:
        """Writes the weights in a foreign format, with a model card: see `weights.save_pretrained`."""
        from vit_jax.weights import save_pretrained

        described = {"labels": self.labels, "encoder": self.encoder, "license": license}
        card = model_card(self.model, self.params, origin_of_run(self), **described)
        return save_pretrained(
            path, self.model, self.params, format, labels=self.labels, preprocessing=self.encoder, card=card
        )


def _check(key: str, name: str, value: Any) -> None:
    """Raises UserError unless a value is legal for a key of the config; `name` is what the caller named it."""
    known = schema.keys().get(key)
    if known and not known.form.accepts(value):
        raise UserError(refusal(name, known.form, value))


def _of_this_kind(inputs: Any, modality: Modality) -> Iterator[Any]:
    """Yields the inputs. In place of one of another type, it yields the UserError that says so.

    Raises:
      UserError: `inputs` is a single input, such as an image or a path, or cannot be iterated over.
    """
    if modality.is_input(inputs) or isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
        found = type(inputs).__name__
        raise UserError(f"predict takes a list or another iterable of {modality.inputs}, got one {found}; use [input]")
    for position, stored in enumerate(inputs):
        if modality.is_input(stored) or isinstance(stored, UserError):
            yield stored
        else:
            yield UserError(f"input {position} is of type {type(stored).__name__}, but must be {modality.input_type}")


def _checked(answer: Any, on_error: str) -> Any:
    if isinstance(answer, UserError) and on_error == "raise":
        raise answer
    return answer
