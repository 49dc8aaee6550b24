"""Parallel text as the data of a config: its splits, its vocabulary, and the batches made of them."""

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

import jax
from rich.console import Console

from vit_jax.config import Config
from vit_jax.data.pipeline import Batches, processes_and_workers
from vit_jax.data.text import batches as token_batches
from vit_jax.data.text.source import TextSource, open_text
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.errors import UserError
from vit_jax.workdir.checkpoint import load_meta

MANY = 500_000  # sentences: learning sub-words from more takes a while, and is announced


class Sentences:
    """Parallel text, as `experiment.Data`. The vocabulary is learned from the training split, the same by each process.

    Attributes:
      preprocessing: The vocabulary: that of the run in `init_from`, whose parameters are of its sub-words, or learned.
      skipped: Pairs of the evaluation split that are not scored: a side is empty, or longer than the longest bucket.
    """

    labels: tuple[str, ...] = ()
    unit = "tokens a side"

    def __init__(self, config: Config):
        self.config, data = config, config.data
        self.train, self.eval = (open_sentences(config, split) for split in (data.train_split, data.eval_split))
        if config.init_from:
            self.preprocessing = vocabulary_of(config.init_from)
        else:
            self.preprocessing = learn_vocabulary([*self.train.sources, *self.train.targets], data.vocab_size)
        if config.accum_steps < 1:
            raise UserError(f"config.accum_steps={config.accum_steps}: at least 1")
        rows = jax.device_count() * config.accum_steps
        self._train = _divide(config, self.train, self.preprocessing, config.batch_size, rows)
        self._eval = _divide_for_evaluation(config, self.eval, self.preprocessing)
        self.skipped = len(self.eval.skipped) + self._eval.skipped

    @property
    def steps_per_epoch(self) -> float:
        return len(self._train)

    def train_batches(self, first_step: int, last_step: int) -> Batches:
        """Yields this process's rows of the batches of updates `first_step + 1` to `last_step`."""
        return token_batches.train_batches(
            self._train,
            seed=self.config.seed,
            first_step=first_step,
            last_step=last_step,
            **processes_and_workers(self.config),
        )

    def eval_batches(self) -> Batches:
        """Yields this process's rows of batches that hold every pair of the evaluation split once."""
        return token_batches.eval_batches(self._eval, **processes_and_workers(self.config))

    def summary(self) -> list[str]:
        source, target = self.config.data.languages
        train, evaluation = (len(divided.pairs) - divided.skipped for divided in (self._train, self._eval))
        skipped = {
            "empty on a side": len(self.train.skipped),
            f"longer than {max(self.config.data.buckets)} tokens": self._train.skipped,
        }
        return [
            f"{self.train.name}: {train:,} training and {evaluation:,} evaluation pairs, {source} to {target}, "
            f"{len(self.preprocessing):,} sub-words",
            f"{len(self._train):,} batches an epoch, {self._train.padding:.0%} of their tokens padding",
            *(f"skipped {count:,} training pairs {why}" for why, count in skipped.items() if count),
        ]


def open_sentences(config: Config, split: str, path: str | None = None) -> TextSource:
    """Opens a split of the text at `path`, or `config.data.path`.

    Raises:
      UserError: There is no path, there are not two languages, or see `open_text`.
    """
    path = path or config.data.path
    if len(config.data.languages) != 2:
        raise UserError(f"config.data.languages={tuple(config.data.languages)}: two are wanted, as en,it")
    if not path:
        raise UserError("text wants config.data.path: the folder with its splits, as train.tsv")
    return open_text(path, split, config.data.languages)


def sentence_batches(
    config: Config, source: TextSource, vocabulary: Vocabulary, batch_size: int | None = None
) -> tuple[Batches, int]:
    """Returns batches that hold every pair of a split once, and how many pairs cannot be scored.

    Args:
      batch_size: Tokens a side of a batch; that of the config if None.
    """
    divided = _divide_for_evaluation(config, source, vocabulary, batch_size)
    batches = token_batches.eval_batches(divided, **processes_and_workers(config))
    return batches, len(source.skipped) + divided.skipped


def vocabulary_of(workdir: str) -> Vocabulary:
    """Reads the vocabulary of a run.

    Raises:
      UserError: There is no run, or it is not of text.
    """
    meta = load_meta(workdir)
    if meta is None or meta["preprocessing"].get("key") != Vocabulary.key:
        raise UserError(f"config.init_from={workdir}: no run on text is there, whose vocabulary this one is to have")
    return Vocabulary.from_dict(meta["preprocessing"])


def learn_vocabulary(sentences: list[str], size: int) -> Vocabulary:
    """Learns a vocabulary, or reads it where these sentences have been learned from before.

    It is kept in `$XDG_CACHE_HOME/vit_jax` (`~/.cache/vit_jax`).

    Raises:
      UserError: See `Vocabulary.train`.
    """
    digest = hashlib.sha256(f"{version('sentencepiece')} {size}\n".encode())
    for sentence in sentences:
        encoded = sentence.encode()
        digest.update(b"%d:" % len(encoded) + encoded)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_jax" / "vocabularies"
    file = cache / f"{digest.hexdigest()[:32]}.model"
    try:
        return Vocabulary(file.read_bytes())
    except OSError:
        pass  # not learned yet
    console, message = Console(stderr=True), f"learning {size:,} sub-words from {len(sentences):,} sentences"
    if len(sentences) > MANY and not console.is_terminal:
        console.print(message)
    with console.status(message):
        vocabulary = Vocabulary.train(sentences, size)
    partial = file.with_suffix(f".partial{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(vocabulary.model)
        partial.replace(file)
    except OSError:
        pass  # learned again next time
    return vocabulary


def _divide_for_evaluation(
    config: Config, source: TextSource, vocabulary: Vocabulary, batch_size: int | None = None
) -> token_batches.TokenBatches:
    size = batch_size or config.eval_batch_size or config.batch_size
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
