"""Translations of sentences that need not belong to any data set, and the attention they were made with."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID
from vit_jax.errors import UserError
from vit_jax.experiment import Run
from vit_jax.models import decoding
from vit_jax.plots import heat_maps
from vit_jax.sentences import open_sentences

EXAMPLES = 50
SHOWN_WORDS = (4, 10)  # of a translation: enough to see something, few enough to read

KINDS = {
    "encoder/attention": "encoder: from each token of the source to the source",
    "decoder/attention": "decoder: from each token of the translation to those before",
    "decoder/cross_attention": "from each token of the translation to the source",
}


def translate(
    run: Run,
    sentences: Sequence[str],
    *,
    batch_size: int = 64,
    beam_size: int | None = None,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> list[tuple[str, float]]:
    """Returns the translation of each sentence, with its score (log-probability over the length penalty).

    Sentences of about the same length are decoded together, padded to the next bucket of the training data; neither
    that nor `batch_size` changes a translation. Blank sentences become empty. `track` may show how far the batches are.

    Raises:
      UserError: A sentence is no Unicode, or too long for learned positions.
    """
    task, vocabulary = run.task, run.preprocessing
    options = {
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "beam_size": beam_size or task.beam_size,
        "alpha": task.length_penalty,
        "extra_length": task.extra_length,
    }
    sources = [[*tokens, EOS_ID] for tokens in vocabulary.encode_all(list(sentences))]
    full = [i for i, sentence in enumerate(sentences) if sentence.strip()]
    lengths = {i: _padded_length(run, sentences[i], len(sources[i])) for i in full}
    batches = [
        group[start : start + batch_size]
        for _, together in itertools.groupby(sorted(full, key=lengths.__getitem__), key=lengths.__getitem__)
        for group in [list(together)]
        for start in range(0, len(group), batch_size)
    ]
    found = [("", 0.0)] * len(sentences)
    for batch in track(batches):
        length = lengths[batch[0]]
        rows = np.full((min(batch_size, len(full)), length), PAD_ID, np.int32)  # one shape a length, one compilation
        rows[:, 0] = EOS_ID
        for row, i in zip(rows, batch, strict=False):
            row[: len(sources[i])] = sources[i]
        decoded = decoding.translate(run.model, run.params, jnp.asarray(rows), **options)
        for i, tokens, score in zip(batch, np.asarray(decoded.tokens), np.asarray(decoded.scores), strict=False):
            found[i] = vocabulary.decode(tokens), float(score)
    return found


def _padded_length(run: Run, sentence: str, length: int) -> int:
    """The smallest bucket that holds so many tokens; beyond the largest, a multiple of it."""
    buckets, model = run.config.data.buckets, run.model
    padded = min((bucket for bucket in buckets if bucket >= length), default=-(-length // max(buckets)) * max(buckets))
    if model.pos_embed != "learned":
        return padded
    if length > model.max_length:
        raise UserError(
            f"{sentence[:40]!r}... has {length} tokens, and the model's learned positions end at {model.max_length}: "
            "split the sentence"
        )
    return min(padded, model.max_length)


def plot_attention(run: Run, sentence: str, translation: str, path: Any, layer: int = -1) -> pathlib.Path:
    """Draws the attention of one layer, its heads averaged, of a sentence and its translation.

    Encoder and decoder to themselves, and the decoder to the encoder; queries down, keys across.
    """
    vocabulary, layer = run.preprocessing, layer % run.model.num_layers
    source, target = (vocabulary.encode(text) for text in (sentence, translation))
    tokens = {"source": [*source, EOS_ID], "target": [BOS_ID, *target]}
    names = tuple(f"{kind}/{layer}" for kind in KINDS)

    @jax.jit
    def weights(params, source, target):
        captured: Any = run.model.apply({"params": params}, source, target, train=False, capture=names)[1]
        return [captured[name][0].mean(axis=0) for name in names]

    maps = weights(run.params, *(jnp.asarray([ids], jnp.int32) for ids in tokens.values()))
    words = {side: [_plain(vocabulary.piece(token)) for token in ids] for side, ids in tokens.items()}
    sides = (("source", "source"), ("target", "target"), ("target", "source"))
    panels = [
        (title, np.asarray(values), words[queries], words[keys])
        for title, values, (queries, keys) in zip(KINDS.values(), maps, sides, strict=True)
    ]
    return heat_maps(path, panels, _plain(f"{sentence}\n{translation}\n(layer {layer}, mean of its heads)"))


def _plain(text: str) -> str:
    """Keeps Matplotlib from reading formulas into a text."""
    return text.replace("$", r"\$")


def write_translations(run: Run, directory: pathlib.Path, count: int = EXAMPLES) -> list[pathlib.Path]:
    """Translates the first pairs of the evaluation split, and draws the attention of one; returns the files.

    `translations.tsv` has a row a pair: source, translation, reference (white space as single spaces).
    """
    data = run.config.data
    pairs = open_sentences(run.config, data.eval_split)
    sources, references = pairs.sources[:count], pairs.targets[:count]
    found = [text for text, _ in translate(run, sources)]
    rows = [("source", "translation", "reference"), *zip(sources, found, references, strict=True)]
    table = directory / "translations.tsv"
    table.write_text(
        "".join("\t".join(" ".join(text.split()) for text in row) + "\n" for row in rows), encoding="utf-8"
    )
    words = [len(text.split()) for text in found]
    shown = next((i for i, number in enumerate(words) if SHOWN_WORDS[0] <= number <= SHOWN_WORDS[1]), 0)
    return [table, plot_attention(run, sources[shown], found[shown], directory / "attention.png")]
