"""Translation of sentences, scored with BLEU and chrF."""

import dataclasses
import math
import sys
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from vit_jax.errors import counted
from vit_jax.models import decoding
from vit_jax.tasks import Sum, weighted_sum

_LOG_MAX = math.log(sys.float_info.max)


@dataclasses.dataclass(frozen=True)
class Translation:
    """Cross-entropy of every token of the target, given the source and the tokens before it.

    The end of a sentence counts as a token. Every token has the same weight, whatever sentence, batch or device it is
    in; padding has weight 0.

    Attributes:
      vocabulary: The sub-words of both languages.
      max_length: Maximum number of tokens of a sentence in a batch, including its end.
      language: Language of the target, such as "it", for which sacrebleu chooses the tokenisation of BLEU.
      label_smoothing: epsilon; every token of the vocabulary receives epsilon / vocab_size. Deviation: tensor2tensor
        distributes epsilon over the wrong tokens only, and subtracts the minimum of the resulting loss.
      beam_size, length_penalty, extra_length: See `decoding.translate`.

    Raises:
      ValueError: A field has an invalid value, or a package that sacrebleu needs for the language is missing.
    """

    vocabulary: Vocabulary
    max_length: int
    language: str = ""
    label_smoothing: float = 0.1
    beam_size: int = 4
    length_penalty: float = 0.6
    extra_length: int = 50

    name = "translation"
    modalities: ClassVar[tuple[str, ...]] = ("text",)
    scores: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bleu", "chrf")
    metric = "bleu"
    group = 1

    def __post_init__(self):
        if self.beam_size < 1 or self.length_penalty < 0 or self.extra_length < 0:
            raise ValueError("beam_size must be at least 1, and length_penalty and extra_length at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be at least 0 and below 1")
        make_bleu(self.language)

    def init_inputs(self, model) -> tuple[jax.Array, ...]:
        return (jnp.zeros((1, self.max_length), jnp.int32),) * 2

    def model_inputs(self, batch) -> tuple[jax.Array, ...]:
        return batch["source"], batch["target"][:, :-1]

    def loss(self, model, params, batch, *, rngs, train) -> tuple[Sum, dict[str, Sum]]:
        """Returns the loss, summed over real tokens, and `nll`, the loss without smoothing, and `token_accuracy`."""
        logits, labels, weights = _predictions(model, params, batch, train=train, rngs={"dropout": rngs["dropout"]})
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        loss = nll = normaliser - chosen
        if train and self.label_smoothing:
            epsilon = self.label_smoothing
            loss = normaliser - (1 - epsilon) * chosen - epsilon * logits.mean(axis=-1)
        correct = (labels == logits.argmax(axis=-1)).astype(jnp.float32)
        metrics = {"nll": weighted_sum(nll, weights), "token_accuracy": weighted_sum(correct, weights)}
        return weighted_sum(loss, weights), metrics

    def predict(self, model, params, batch) -> dict[str, jax.Array]:
        """Returns the `translation` of each source, as tokens, and its `score`; see `decoding.Decoded`.

        If the batch has targets, the result also has the `reference` (the tokens of the target), its negative
        log-likelihood `nll`, and `tokens`, the number of tokens over which this is summed. All token arrays have the
        same width in every batch, unless a source is longer than `max_length`.
        """
        found = decoding.translate(
            model,
            params,
            batch["source"],
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            beam_size=self.beam_size,
            alpha=self.length_penalty,
            extra_length=self.extra_length,
        )
        rows = {"translation": _widened(found.tokens, self.max_length + self.extra_length), "score": found.scores}
        if "target" not in batch:
            return rows
        logits, labels, weights = _predictions(model, params, batch, train=False, rngs={})
        nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return {
            **rows,
            "reference": _widened(labels, self.max_length),
            "nll": (nll * weights).sum(axis=-1),
            "tokens": weights.sum(axis=-1),
        }

    measure = examine = predict

    def score(self, rows) -> dict[str, Any]:
        """Returns `bleu` and `chrf` in percent, with their signatures, and `loss`, `perplexity` and `examples`.

        BLEU and chrF compare detokenised text. The loss is the mean over all tokens, without smoothing; the perplexity
        is exp(loss). Both are per token of the vocabulary, so they are comparable only between models that share it.
        """
        found, references = self.texts(rows["translation"]), self.texts(rows["reference"])
        return {
            **self.likelihood(rows),
            **bleu_and_chrf(found, references, self.language),
            "examples": len(found),
        }

    def texts(self, tokens) -> list[str]:
        """Returns the text of each row of tokens."""
        return [self.vocabulary.decode(row) for row in tokens]

    def likelihood(self, rows) -> dict[str, float]:
        """Returns `loss` and `perplexity` of the rows of `score`."""
        loss = float(np.sum(rows["nll"], dtype=np.float64) / np.sum(rows["tokens"], dtype=np.float64))
        return {"loss": loss, "perplexity": math.exp(loss) if loss < _LOG_MAX else math.inf}

    def answers(self, rows, labels=()) -> list[dict[str, Any]]:
        """Returns `{"translation", "score"}` for every example; the score is that of `decoding.Decoded`."""
        return [
            {"translation": text, "score": float(score)}
            for text, score in zip(self.texts(rows["translation"]), rows["score"], strict=True)
        ]

    def row(self, answer) -> dict[str, Any]:
        return answer

    def record(self, rows, labels=()) -> dict[str, Any]:
        """Returns the columns `reference`, `translation`, `score` and `nll` of every example of `rows`."""
        answers = self.answers(rows)
        return {
            "reference": self.texts(rows["reference"]),
            "translation": [answer["translation"] for answer in answers],
            "score": [answer["score"] for answer in answers],
            "nll": [float(value) for value in rows["nll"]],
        }

    def text(self, name, answer) -> str:
        return answer["translation"]

    def title(self, answer) -> str:
        return answer["translation"]

    def compare(self, answer, label, labels) -> tuple[bool | None, str]:
        """Returns None: a translation is not simply correct or wrong."""
        return None, ""

    def headline(self, result) -> str:
        return (
            f"BLEU {result['bleu']:.1f}, chrF {result['chrf']:.1f}, perplexity {result['perplexity']:.2f} "
            f"({counted(result['examples'], 'sentences')}, {result['skipped']:,} skipped)"
        )


def make_bleu(language: str) -> Any:
    """Returns sacrebleu's BLEU with its tokenisation for a language.

    Raises:
      ValueError: A package that this tokenisation needs is not installed.
    """
    from sacrebleu.metrics.bleu import BLEU

    try:
        return BLEU(trg_lang=language)
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"BLEU for the language {language!r}: {' '.join(str(error).split())}") from error


def bleu_and_chrf(translations: list[str], references: list[str], language: str) -> dict[str, float | str]:
    """Scores translations into a language, in percent, against one reference each (sacrebleu, arXiv:1804.08771).

    The signatures name everything the numbers depend on: case, tokenisation, smoothing and version.
    """
    from sacrebleu.metrics.chrf import CHRF

    scores: dict[str, float | str] = {}
    for name, metric in (("bleu", make_bleu(language)), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(translations, [references]).score
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


def _predictions(model, params, batch, *, train, rngs):
    """Returns the logits for every token of the target, the tokens, and their weights (0 for padding)."""
    source, target, labels = batch["source"], batch["target"][:, :-1], batch["target"][:, 1:]
    logits = model.apply({"params": params}, source, target, train=train, rngs=rngs)
    weights = (labels != PAD_ID) * batch["mask"][:, None]
    return logits, labels, weights


def _widened(tokens, width):
    """Pads `(batch, length)` tokens to `width`, unless they are longer."""
    return jnp.pad(tokens, ((0, 0), (0, max(width - tokens.shape[1], 0))), constant_values=PAD_ID)
