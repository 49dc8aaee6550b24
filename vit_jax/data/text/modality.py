"""Text as a modality: the vocabulary and batches of a config, and the user's sentences."""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from rich.console import Console

from vit_jax.config import Config
from vit_jax.data.loading.pipeline import Batches, this_process
from vit_jax.data.loading.workers import Workers, choose_workers
from vit_jax.data.source import open_split
from vit_jax.data.text import batches as token_batches
from vit_jax.data.text.learning import learn_vocabulary
from vit_jax.data.text.source import TextSource, decode_lines, read_lines
from vit_jax.data.text.vocabulary import EOS_ID, PAD_ID, UnreadVocabulary, Vocabulary
from vit_jax.errors import UserError, counted

WINDOW = 16  # batches of user input that are read ahead, so that sentences of similar length share a batch


class TextData:
    """The two splits of a config on parallel text, and their batches: see `Data`.

    With `config.init_from`, the vocabulary is that of the run that training starts from, because the parameters belong
    to its sub-words. Otherwise it is learned from the training split; every process learns the same one.

    Attributes:
      skipped: Number of pairs in the evaluation split that are not scored because a side is empty, or longer than the
        longest bucket.

    Raises:
      UserError: `config.init_from` is not a text run, or a count in the config is wrong.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, config: Config, train: TextSource, evaluation: TextSource, start: Any):
        self.config, self.train, self.eval = config, train, evaluation
        if config.init_from and not isinstance(start, Vocabulary):
            raise UserError(
                f"config.init_from={config.init_from} is not a text run. Name the workdir of a text run, whose "
                "vocabulary is then used."
            )
        self.encoder = start or learn_vocabulary([*train.sources, *train.targets], config.data.vocab_size)
        if config.accum_steps < 1:
            raise UserError(f"config.accum_steps must be at least 1, got {config.accum_steps}.")
        rows = jax.device_count() * config.accum_steps
        self._train = _divide(config, train, self.encoder, config.batch_size, rows)
        self._eval = _divide_for_evaluation(config, evaluation, self.encoder)
        self.skipped = len(evaluation.skipped) + self._eval.skipped
        self._workers = _workers(config)

    @property
    def steps_per_epoch(self) -> float:
        return len(self._train)

    @property
    def batch_unit(self) -> int:
        return jax.device_count() * self.config.accum_steps * max(self.config.data.buckets)

    def train_batches(self, first_step: int, last_step: int) -> Batches:
        """Yields this process's rows of the batches of updates `first_step + 1` to `last_step`."""
        return token_batches.train_batches(
            self._train,
            seed=self.config.seed,
            first_step=first_step,
            last_step=last_step,
            workers=self._workers,
            **this_process(),
        )

    def batch_shapes(self, batch_size: int) -> list[dict[str, Any]]:
        """Returns the shapes and dtypes of the batches of every bucket that has pairs."""
        rows = jax.device_count() * self.config.accum_steps
        divided = token_batches.divide(self._train.pairs, self.config.data.buckets, batch_size, rows)
        return token_batches.shapes(divided)

    def eval_batches(self) -> Batches:
        """Yields this process's rows of batches that hold every pair of the evaluation split once."""
        return token_batches.eval_batches(self._eval, workers=self._workers, **this_process())

    def close(self) -> None:
        """Ends the threads and workers that prepare batches; they start again if they are needed."""
        self._workers.close()

    def summary(self) -> list[str]:
        source, target = self.config.data.languages
        train, evaluation = (len(divided.pairs) - divided.skipped for divided in (self._train, self._eval))
        skipped = {
            "with an empty side": len(self.train.skipped),
            f"longer than {max(self.config.data.buckets)} tokens": self._train.skipped,
        }
        return [
            f"{self.train.name}: {train:,} training and {evaluation:,} evaluation pairs, {source} to {target}, "
            f"{len(self.encoder):,} sub-words",
            f"{counted(len(self._train), 'batches')} per epoch, {self._train.padding:.0%} of their tokens are padding",
            *(f"skipped {counted(count, 'training pairs')} {why}" for why, count in skipped.items() if count),
        ]


class TextModality:
    """Sentences and their translations: see `Modality`."""

    key: ClassVar[str] = "text"
    input_name: ClassVar[str] = "source"
    inputs: ClassVar[str] = "sentences"
    input_type: ClassVar[str] = "a sentence (str)"
    unit: ClassVar[str] = "tokens per side"
    picture: ClassVar[str] = "attention"

    def is_input(self, stored: Any) -> bool:
        return isinstance(stored, str)

    def make_data(self, config: Config, train: TextSource, evaluation: TextSource, start: Any) -> TextData:
        return TextData(config, train, evaluation, start)

    def unread(self, config: Config, num_classes: int | None, examples: int | None) -> TextData | None:
        """Returns a pair of sentences for each bucket, in sub-words that are not learned.

        The number of batches in an epoch depends on the lengths of the sentences, so it is not known: None if the
        duration of the run is in epochs.
        """
        if "epoch" in config.duration:
            return None
        lengths = [str(bucket - 1) for bucket in config.data.buckets]  # with the end token, they fill their buckets
        source = TextSource("", tuple(config.data.languages), lengths, lengths, {}, [])
        return self.make_data(config, source, source, UnreadVocabulary(config.data.vocab_size))

    def load_encoder(self, fields: dict[str, Any]) -> Vocabulary:
        return Vocabulary.from_dict(fields)

    def task_fields(self, config: Config, encoder: Vocabulary) -> dict[str, Any]:
        language = config.data.languages[-1]
        return {"vocabulary": encoder, "max_length": max(config.data.buckets), "language": language}

    def eval_batches(
        self, config: Config, source: TextSource, encoder: Vocabulary, batch_size: int | None = None
    ) -> tuple[Batches, int]:
        divided = _divide_for_evaluation(config, source, encoder, batch_size)
        batches = token_batches.eval_batches(divided, workers=_workers(config), **this_process())
        return batches, len(source.skipped) + divided.skipped

    def read_inputs(self, paths: Sequence[str], sentences: Sequence[str], config: Config) -> Iterator[tuple[str, Any]]:
        """Yields `sentences`, then each line of the files; "-" is standard input. A sentence is its own name."""
        for path in paths:
            if path != "-" and not pathlib.Path(path).exists():
                raise UserError(f"{path}: no such file. To translate a sentence, pass it as --text.")
        files = paths or ([] if sentences else ["-"])
        if "-" in files and sys.stdin.isatty():
            print("vit_jax: reading sentences from standard input; end with Ctrl-D", file=sys.stderr)
        lines = itertools.chain.from_iterable(map(_lines, files))
        return ((sentence, sentence) for sentence in itertools.chain(sentences, lines))

    def input_batches(
        self, run: Any, inputs: Iterable[str], batch_size: int, settled: dict[int, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yields batches of sentences of similar length, padded to the next bucket of the training data.

        Neither the grouping nor `batch_size` changes a translation. The translation of a blank sentence is empty.
        """
        multiple, numbered = jax.device_count(), enumerate(inputs)
        most = -(-batch_size // multiple) * multiple
        rows = None
        while window := list(itertools.islice(numbered, WINDOW * most)):
            lengths: dict[int, list[tuple[int, list[int]]]] = {}
            for index, sentence in window:
                if isinstance(sentence, UserError):
                    settled[index] = sentence
                elif not sentence.strip():
                    settled[index] = {"translation": "", "score": 0.0}
                else:
                    try:
                        tokens = [*run.encoder.encode(sentence), EOS_ID]
                        length = _padded_length(run, sentence, len(tokens))
                        lengths.setdefault(length, []).append((index, tokens))
                    except UserError as error:
                        settled[index] = error
            full = sum(map(len, lengths.values()))
            rows = rows or min(most, -(-full // multiple) * multiple)
            for length, group in sorted(lengths.items()):
                for start in range(0, len(group), rows):
                    yield _source_batch(group[start : start + rows], rows, length)

    def draw(self, run: Any, shown: Sequence[tuple[str, Any, dict[str, Any]]], path: Any) -> None:
        """Draws the attention of the first sentence and its translation."""
        from vit_jax.data.text.preview import plot_attention

        _, sentence, answer = shown[0]
        plot_attention(run, sentence, answer["translation"], path)

    def preview(self, run: Any, workdir: Any) -> list[Any]:
        from vit_jax.data.text.preview import write_translations

        source = open_split(run.config, run.config.data.eval_split)
        return write_translations(run, source, workdir)


def _lines(path: str) -> Iterable[str]:
    return decode_lines(sys.stdin.buffer.read(), "standard input") if path == "-" else read_lines(pathlib.Path(path))


def _padded_length(run: Any, sentence: str, length: int) -> int:
    """Returns the smallest bucket that holds `length` tokens; beyond the largest bucket, a multiple of it."""
    buckets, model = run.config.data.buckets, run.model
    padded = min((bucket for bucket in buckets if bucket >= length), default=-(-length // max(buckets)) * max(buckets))
    if model.pos_embed != "learned":
        return padded
    if length > model.max_length:
        raise UserError(
            f"{sentence[:40]!r}... has {length} tokens, but the model has learned positions for {model.max_length}. "
            "Split the sentence."
        )
    return min(padded, model.max_length)


def _source_batch(group: Sequence[tuple[int, list[int]]], rows: int, length: int) -> dict[str, np.ndarray]:
    """Pads every sentence to `length` tokens, and the batch to `rows` rows with empty sentences."""
    batch = {
        "source": np.full((rows, length), PAD_ID, np.int32),
        "id": np.full(rows, -1, np.int32),
        "mask": np.zeros(rows, np.float32),
    }
    batch["source"][:, 0] = EOS_ID
    for row, (index, tokens) in enumerate(group):
        batch["source"][row, : len(tokens)] = tokens
        batch["id"][row], batch["mask"][row] = index, 1
    return batch


def _divide_for_evaluation(
    config: Config, source: TextSource, vocabulary: Vocabulary, batch_size: int | None = None
) -> token_batches.TokenBatches:
    size = batch_size or config.eval_batch_size or config.batch_size
    size = min(size, max(config.data.buckets) * max(len(source), 1))  # no batch needs more
    return _divide(config, source, vocabulary, size, jax.device_count())


def _divide(
    config: Config, source: TextSource, vocabulary: Vocabulary, batch_size: int, multiple: int
) -> token_batches.TokenBatches:
    console = Console(stderr=True)
    with console.status("") as status:
        pairs = token_batches.encode_pairs(
            source, vocabulary, lambda done, total: status.update(f"{source.split}: {done:,} of {total:,} sentences")
        )
    try:
        return token_batches.divide(pairs, config.data.buckets, batch_size, multiple)
    except UserError as error:
        raise UserError(f"{source.name}, split {source.split!r}: {error}") from None


def _workers(config: Config) -> Workers:
    return choose_workers(config.data.num_workers, config.data.num_threads, in_memory=True)


MODALITY = TextModality()
