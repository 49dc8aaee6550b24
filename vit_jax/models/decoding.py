"""Greedy and beam search, each compiled as one loop that caches keys and values."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.models.transformer import Transformer

# step(tokens, past, position) -> (logits, past). `tokens`, `(batch, beams)`, are those at `position`. `past` is any
# pytree of arrays that start with these two axes. `logits`, `(batch, beams, vocab_size)`, are those of the next tokens.
Step = Callable[[Array, Any, Array], tuple[Array, Any]]


class Decoded(NamedTuple):
    """The best sequence found for each source.

    Attributes:
      tokens: Token ids, `(batch, length)`, without the first token `bos_id`, with `eos_id`, and then padding.
      scores: log P(tokens | source) / length_penalty, `(batch,)`.
    """

    tokens: Int[Array, "batch length"]
    scores: Float[Array, " batch"]


def length_penalty(length: Int[Array, "*batch"], alpha: float) -> Float[Array, "*batch"]:
    """Return ((5 + length) / 6)^alpha (arXiv:1609.08144, equation 14).

    The paper is Google's Neural Machine Translation System. The log-probability of a sequence is divided by it. With
    alpha 0 there is no penalty; the larger alpha is, the longer are the sequences that a search prefers.
    """
    return ((5 + length) / 6) ** alpha


@functools.partial(jax.jit, static_argnames=("model", "beam_size", "alpha", "extra_length", "bos_id", "eos_id"))
def translate(
    model: Transformer,
    params: Any,
    source: Int[Array, "batch source"],
    *,
    bos_id: int,
    eos_id: int,
    beam_size: int = 4,
    alpha: float = 0.6,
    extra_length: int = 50,
) -> Decoded:
    """Translate each source by beam search, or by greedy search if `beam_size` is 1.

    The defaults are those of section 6.1. A translation depends neither on the padding nor on the other sources of the
    batch.

    Args:
      source: Token ids, padded with `model.pad_id`.
      bos_id: Token id with which every target starts.
      eos_id: Token id with which a translation ends.
      beam_size: Number of hypotheses kept for each source.
      alpha: Exponent of `length_penalty`.
      extra_length: A translation, including `eos_id`, has at most this many tokens more than its source. With learned
        positions it also has at most `model.max_length`.

    Raises:
      ValueError: The model has no encoder or no decoder, `beam_size` is less than 1, or `alpha` is negative.
    """
    if model.architecture != "encoder_decoder":
        raise ValueError(f"translation needs architecture='encoder_decoder', not {model.architecture!r}")
    length = source.shape[1] + extra_length
    if model.pos_embed == "learned":
        length = min(length, model.max_length)
    max_lengths = jnp.minimum((source != model.pad_id).sum(axis=1) + extra_length, length)
    step, past = make_step(model, params, source, (beam_size, length))
    search = greedy_search if beam_size == 1 else functools.partial(beam_search, beam_size=beam_size)
    ids = {"bos_id": bos_id, "eos_id": eos_id, "pad_id": model.pad_id}
    return search(step, past, max_lengths, length=length, alpha=alpha, **ids)


def make_step(
    model: Transformer, params: Any, source: Int[Array, "batch source"], shape: tuple[int, int]
) -> tuple[Step, Any]:
    """Encode each source; return the `Step` that continues its translations, and the `past` at position 0.

    Args:
      source: Token ids, padded with `model.pad_id`.
      shape: `(beams, length)` of the translations.
    """
    variables = {"params": params}
    cache = model.bind(variables).start(source, (len(source), *shape))

    def step(tokens, past, position):
        logits, new = model.bind(variables).step(tokens, cache._replace(past=past), position)
        return logits, new.past

    return step, cache.past


def greedy_search(
    step: Step,
    past: Any,
    max_lengths: Int[Array, " batch"],
    *,
    length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    alpha: float = 0.0,
) -> Decoded:
    """Choose the most likely token other than padding at every position.

    A sequence ends with `eos_id`, or at `max_lengths` tokens.

    Args:
      step: See `Step`; called with a single beam.
      past: The pytree that `step` gets at position 0.
      max_lengths: Largest number of tokens for each source, at least 1.
      length: Number of columns of the result, at least the largest of `max_lengths`.
      alpha: Exponent of the `length_penalty` of the scores; it does not change the tokens.
    """

    def more(state):
        i, _, _, _, alive, _ = state
        return (i < length) & alive.any()

    def advance(state):
        i, last, past, tokens, alive, log_probs = state
        logits, past = step(last[:, None], past, i)
        candidates = _log_probabilities(logits, pad_id)[:, 0]
        last = jnp.where(alive, candidates.argmax(axis=-1).astype(jnp.int32), pad_id)
        log_probs += jnp.where(alive, candidates.max(axis=-1), 0)
        tokens = tokens.at[:, i].set(last)
        alive &= (last != eos_id) & (i + 1 < max_lengths)
        return i + 1, last, past, tokens, alive, log_probs

    batch = len(max_lengths)
    first, tokens = jnp.full(batch, bos_id, jnp.int32), jnp.full((batch, length), pad_id, jnp.int32)
    state = jnp.int32(0), first, past, tokens, jnp.full(batch, True), jnp.zeros(batch)
    _, _, _, tokens, _, log_probs = jax.lax.while_loop(more, advance, state)
    return Decoded(tokens, log_probs / length_penalty((tokens != pad_id).sum(axis=1), alpha))


class Beams(NamedTuple):
    """The state of `beam_search` after a position."""

    last: Int[Array, "batch beams"]
    past: Any
    tokens: Int[Array, "batch beams length"]
    kept: Float[Array, "batch beams"]  # log-probabilities; -inf where an earlier, complete hypothesis has the place
    log_probs: Float[Array, "batch beams"]  # the same, but -inf where a beam holds no unfinished hypothesis
    complete: Int[Array, " batch"]  # number of complete hypotheses
    best: Decoded  # the best complete hypothesis


def beam_search(
    step: Step,
    past: Any,
    max_lengths: Int[Array, " batch"],
    *,
    beam_size: int,
    length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    alpha: float = 0.6,
) -> Decoded:
    """Keep the most likely hypotheses at every position; return the best complete one.

    The score of a hypothesis is its log-probability divided by `length_penalty`. A hypothesis is complete when it ends
    with `eos_id`, and then keeps its place in the beam. If a source has no complete hypothesis at `max_lengths` tokens,
    the best of the unfinished ones is returned.

    The search of a source ends when no unfinished hypothesis can exceed the best score. Log-probabilities only fall and
    the penalty only rises with length, so a hypothesis can at most reach its present log-probability divided by the
    penalty at `max_lengths`. Searching longer, while other sources of the batch are unfinished, changes nothing.

    With `beam_size=1` this is `greedy_search`; with a beam that never drops a hypothesis the search is exhaustive.
    Deviation: tensor2tensor refills the beam when a hypothesis is complete, so its beam of 1 is not greedy.

    Args:
      step, max_lengths, length: See `greedy_search`.
      past: The pytree that `step` gets at position 0, for `beam_size` beams.
      beam_size: Number of hypotheses kept for each source.
      alpha: Exponent of `length_penalty`.

    Raises:
      ValueError: `beam_size` is less than 1, or `alpha` is negative.
    """
    more, advance, start = beam_loop(
        step,
        past,
        max_lengths,
        beam_size=beam_size,
        length=length,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        alpha=alpha,
    )
    return jax.lax.while_loop(more, advance, start)[1].best


def beam_loop(
    step: Step,
    past: Any,
    max_lengths: Int[Array, " batch"],
    *,
    beam_size: int,
    length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    alpha: float,
) -> tuple[Callable[..., Any], Callable[..., Any], tuple[Array, Beams]]:
    """Return the loop of `beam_search`: whether it continues, one position, and the state `(position, beams)`."""
    if beam_size < 1:
        raise ValueError(f"beam_size must be at least 1, got {beam_size}")
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")

    def more(state):
        i, beams = state
        bound = beams.log_probs.max(axis=1) / length_penalty(max_lengths, alpha)
        return (i < length) & (bound > beams.best.scores).any()

    def advance(state):
        i, beams = state
        logits, past = step(beams.last, beams.past, i)
        totals = beams.log_probs[..., None] + _log_probabilities(logits, pad_id)
        log_probs, chosen = jax.lax.top_k(totals.reshape(len(totals), -1), beam_size)
        parents, last = jnp.divmod(chosen, totals.shape[-1])
        past, tokens = jax.tree.map(functools.partial(_take_beams, parents=parents), (past, beams.tokens))
        tokens = tokens.at[:, :, i].set(last)

        places = beam_size - beams.complete[:, None]
        kept = jnp.where(jnp.arange(beam_size) < places, log_probs, -jnp.inf)
        scores = kept / length_penalty(i + 1, alpha)
        ended = (last == eos_id) & (kept > -jnp.inf)
        full = i + 1 >= max_lengths
        best = _best(beams.best, tokens, jnp.where(ended, scores, -jnp.inf))
        without_end = full & (best.scores == -jnp.inf)
        best = _best(best, tokens, jnp.where(without_end[:, None], scores, -jnp.inf))
        log_probs = jnp.where(ended | full[:, None], -jnp.inf, kept)
        return i + 1, Beams(last, past, tokens, kept, log_probs, beams.complete + ended.sum(axis=1), best)

    batch = len(max_lengths)
    tokens = jnp.full((batch, beam_size, length), pad_id, jnp.int32)
    log_probs = jnp.full((batch, beam_size), -jnp.inf).at[:, 0].set(0)
    beams = Beams(
        last=jnp.full((batch, beam_size), bos_id, jnp.int32),
        past=past,
        tokens=tokens,
        kept=log_probs,
        log_probs=log_probs,
        complete=jnp.zeros(batch, int),
        best=Decoded(tokens[:, 0], jnp.full(batch, -jnp.inf)),
    )
    return more, advance, (jnp.int32(0), beams)


def _log_probabilities(logits, pad_id):
    return jax.nn.log_softmax(logits).at[..., pad_id].set(-jnp.inf)


def _take_beams(x, parents):
    return jnp.take_along_axis(x, parents.reshape(*parents.shape, *(1,) * (x.ndim - 2)), axis=1)


def _best(best, tokens, scores):
    """Replace the best sequence of each source where one of `tokens` has a better score."""
    top = scores.argmax(axis=1)[:, None]
    found = Decoded(_take_beams(tokens, top)[:, 0], _take_beams(scores, top)[:, 0])
    better = found.scores > best.scores
    return Decoded(jnp.where(better[:, None], found.tokens, best.tokens), jnp.where(better, found.scores, best.scores))
