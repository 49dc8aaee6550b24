"""Labelled examples: what images and clips have in common as modalities."""

import abc
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from PIL import Image

from vit_jax.config import Config
from vit_jax.data.layout import named, printable
from vit_jax.data.loading import pipeline
from vit_jax.data.loading.workers import Workers, choose_workers
from vit_jax.data.modality import check_labels
from vit_jax.data.pseudo_labels import with_pseudo_labels
from vit_jax.data.unread import BlankSource
from vit_jax.devices.parallel import batch_shares, check_batch_size
from vit_jax.errors import UserError, counted


class LabelledData:
    """The two splits of a config on labelled images or clips, and their batches: see `Data`.

    Raises:
      UserError: A batch size does not divide over the devices, or the labels of the two splits differ.
    """

    def __init__(self, modality: "LabelledModality", config: Config, train: Any, evaluation: Any):
        check = functools.partial(check_batch_size, devices_per_clip=config.devices_per_clip)
        check(config.batch_size, config.accum_steps)
        check(config.eval_batch_size or config.batch_size, 1, "eval_batch_size")
        data = config.data
        check_labels(train.labels, evaluation.labels, f"split {data.train_split}", f"split {data.eval_split}")
        self.modality, self.config, self.train, self.eval = modality, config, train, evaluation
        self.labels, self.skipped = train.labels, len(evaluation.skipped)
        self.train_encoder = modality.make_encoder(config, train=True)
        self.encoder = modality.make_encoder(config, train=False)
        self._workers = _workers(config, train)

    @property
    def steps_per_epoch(self) -> float:
        return len(self.train) / self.config.batch_size

    @property
    def batch_unit(self) -> int:
        return batch_shares(self.config.devices_per_clip) * self.config.accum_steps

    def train_batches(self, first_step: int, last_step: int) -> pipeline.Batches:
        """Yields this process's slice of the batches of updates `first_step + 1` to `last_step`."""
        return pipeline.train_batches(
            self.train,
            self.train_encoder,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=last_step,
            repeats=self.config.data.repeats,
            workers=self._workers,
            **pipeline.this_process(),
        )

    def batch_shapes(self, batch_size: int) -> list[dict[str, Any]]:
        """Returns the shapes and dtypes of a training batch, found by preparing a single example."""
        check_batch_size(batch_size, self.config.accum_steps, devices_per_clip=self.config.devices_per_clip)
        one = pipeline.train_batches(self.train, self.train_encoder, batch_size=1, seed=0, first_step=0, last_step=1)
        batch = next(one)
        one.close()
        return [jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), batch)]

    def eval_batches(self) -> pipeline.Batches:
        """Yields this process's slice of batches that hold every example of the evaluation split once."""
        return self.modality.eval_batches(self.config, self.eval, self.encoder, workers=self._workers)[0]

    def close(self) -> None:
        """Ends the threads and workers that prepare batches; they start again if they are needed."""
        self._workers.close()

    def summary(self) -> list[str]:
        recognised = dict.fromkeys(getattr(source, "recognised", "") for source in (self.train, self.eval))
        return [*self._counts(), f"classes: {named(self.labels)}", *filter(None, recognised)]

    def _counts(self) -> list[str]:
        unit, skipped = self.modality.unit, len(self.train.skipped)
        return [
            f"{self.train.name}: {len(self.train):,} training and {len(self.eval):,} evaluation {unit}, "
            f"{counted(len(self.labels), 'classes')}",
            *([f"skipped {counted(skipped, f'unreadable {unit}')}"] if skipped else []),
        ]


class LabelledModality(abc.ABC):
    """The common part of the modalities of images and clips: see `Modality`.

    Subclasses make encoders, and find, open and draw the user's files.

    Attributes:
      shown: Number of examples in a preview.
    """

    key: ClassVar[str]
    input_name: ClassVar[str]
    inputs: ClassVar[str]
    input_type: ClassVar[str]
    unit: ClassVar[str]
    shown: ClassVar[int]
    picture: ClassVar[str] = "contact_sheet"

    @abc.abstractmethod
    def is_input(self, stored: Any) -> bool:
        """Returns whether an object is an image or a video."""

    @abc.abstractmethod
    def make_encoder(self, config: Config, *, train: bool) -> Any:
        """Builds the encoder for training, or for evaluation, from `config.data`."""

    @abc.abstractmethod
    def files(self, path: pathlib.Path) -> Iterator[pathlib.Path]:
        """Yields the files (or folders of frames) below a folder, sorted by path."""

    @abc.abstractmethod
    def open_file(self, path: pathlib.Path, config: Config) -> Any:
        """Opens a file.

        Raises:
          UserError: It cannot be read.
        """

    @abc.abstractmethod
    def thumbnail(self, stored: Any) -> Image.Image:
        """Returns a small picture of an image or clip."""

    def make_data(self, config: Config, train: Any, evaluation: Any, start: Any) -> LabelledData:
        return LabelledData(self, config, with_pseudo_labels(config, train), evaluation)

    @abc.abstractmethod
    def blank(self) -> Any:
        """Returns a stored example without content."""

    def unread(self, config: Config, num_classes: int | None, examples: int | None) -> LabelledData | None:
        if num_classes is None or (examples is None and "epoch" in config.duration):
            return None
        source = BlankSource(self.key, self.blank(), num_classes, examples or config.batch_size)
        return LabelledData(self, config, source, source)

    def task_fields(self, config: Config, encoder: Any) -> dict[str, Any]:
        return {"views": encoder.views, "repeats": config.data.repeats}

    def eval_batches(
        self, config: Config, source: Any, encoder: Any, batch_size: int | None = None, workers: Workers | None = None
    ) -> tuple[pipeline.Batches, int]:
        rows = batch_size or config.eval_batch_size or config.batch_size
        shares = batch_shares(config.devices_per_clip)
        examples = min(_whole_examples(rows, encoder.views, shares), _rounded_up(len(source), shares))
        workers = workers or _workers(config, source)
        batches = pipeline.eval_batches(
            source, encoder, batch_size=examples, workers=workers, **pipeline.this_process()
        )
        return batches, len(source.skipped)

    def read_inputs(self, paths: Sequence[str], sentences: Sequence[str], config: Config) -> Iterator[tuple[str, Any]]:
        if sentences:
            raise UserError(f"--text does not apply to a checkpoint that takes {self.inputs}. Name files instead.")
        if not paths:
            raise UserError(f"no inputs were given. Name {self.inputs}, or folders that contain {self.inputs}.")
        for path in paths:  # checked before the first one is read, so that a mistake shows at once
            if not pathlib.Path(path).exists():
                raise UserError(f"{path}: no such file or folder")
        files = itertools.chain.from_iterable(self._named(pathlib.Path(path)) for path in paths)
        first = next(files, None)
        if first is None:
            raise UserError(f"no {self.inputs} in {', '.join(paths)}")
        return ((printable(path), self._opened(path, config)) for path in itertools.chain([first], files))

    def _named(self, path: pathlib.Path) -> Iterator[pathlib.Path]:
        return self.files(path) if path.is_dir() else iter([path])

    def _opened(self, path: pathlib.Path, config: Config) -> Any:
        try:
            return self.open_file(path, config)
        except UserError as error:
            return error

    def input_batches(
        self, run: Any, inputs: Iterable[Any], batch_size: int, settled: dict[int, Any]
    ) -> Iterator[dict[str, Any]]:
        views, shape, inputs = run.encoder.views, run.encoder.row_shape, enumerate(inputs)
        examples, shares = None, batch_shares(run.config.devices_per_clip)
        while chunk := list(itertools.islice(inputs, examples or _whole_examples(batch_size, views, shares))):
            examples = examples or _rounded_up(len(chunk), shares)  # all batches have the shape of the first
            rows = np.zeros((examples, views, *shape), run.encoder.row_dtype)
            ids = np.full((examples, views), -1, np.int32)
            for i, (index, stored) in enumerate(chunk):
                try:
                    if isinstance(stored, UserError):
                        raise stored
                    rows[i], ids[i] = run.encoder.batch_rows(stored, None), index
                except UserError as error:
                    settled[index] = error
                except (OSError, SyntaxError, EOFError) as error:  # Pillow decodes an image when it is used
                    settled[index] = UserError(f"input {index} cannot be decoded ({error})")
            mask = (ids.ravel() >= 0).astype(np.float32)
            yield {self.key: run.encoder.finish(rows.reshape(-1, *shape)), "id": ids.ravel(), "mask": mask}

    def draw(self, run: Any, shown: Sequence[tuple[str, Any, dict[str, Any]]], path: Any) -> None:
        from vit_jax.plots import GREY, contact_sheet

        titles = [run.task.title(answer) for *_, answer in shown]
        pictures = [self.thumbnail(stored) for _, stored, _ in shown]
        heading = f"step {run.step:,}: {counted(len(shown), self.inputs)}"
        contact_sheet(path, pictures, _distinct([name for name, *_ in shown]), titles, [GREY] * len(shown), heading)

    def preview(self, run: Any, workdir: Any) -> list[Any]:
        """Draws examples spread evenly over the evaluation split, with the names of their files, or else their ids.

        The title is green if the prediction is correct, red with the true label if it is wrong, and grey if that does
        not apply.
        """
        from vit_jax.plots import GREEN, GREY, RED, contact_sheet

        source = run.open_split()
        count = min(self.shown, len(source))
        examples = source.__getitems__([i * len(source) // count for i in range(count)])
        shares = batch_shares(run.config.devices_per_clip)
        batch_size = (run.config.eval_batch_size or run.config.batch_size) // shares
        answers = list(run.predict((example[self.key] for example in examples), batch_size=batch_size))
        if jax.process_index():
            return []
        titles, colours = [], []
        for example, answer in zip(examples, answers, strict=True):
            is_right, truth = run.task.compare(answer, example["label"], run.labels)
            titles.append(run.task.title(answer) + ("" if is_right or not truth else f"\ntrue: {truth}"))
            colours.append(GREY if is_right is None else GREEN if is_right else RED)
        total = counted(len(source), self.inputs)
        shown = total if count == len(source) else f"{count} of {total}, spread evenly"
        heading = f"{source.name} {source.split}: {shown}"
        files, ids = getattr(source, "files", None), [int(example["id"]) for example in examples]
        names = [files[i] for i in ids] if files else [f"id {i}" for i in ids]
        pictures = [self.thumbnail(example[self.key]) for example in examples]
        return [contact_sheet(workdir / "predictions.png", pictures, names, titles, colours, heading)]


def _workers(config: Config, source: Any) -> Workers:
    in_memory = getattr(source, "in_memory", False)
    return choose_workers(config.data.num_workers, config.data.num_threads, in_memory=in_memory)


def _distinct(paths: Sequence[str]) -> list[str]:
    """Returns paths without the folders that all of them share."""
    above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(path, above) for path in paths]


def _whole_examples(rows: int, views: int, shares: int) -> int:
    """Returns how many examples of `views` rows each fit into `rows` rows, as a multiple of the shares of a batch."""
    return max(rows // views // shares, 1) * shares


def _rounded_up(examples: int, shares: int) -> int:
    """Returns the next multiple of the shares of a batch."""
    return max(-(-examples // shares), 1) * shares
