"""Greedy and beam search, compiled as one loop over a key/value cache."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.models.transformer import Transformer

# takes the tokens `(batch, beams)` at a position, a pytree of what is known of the past, whose arrays begin with
# `(batch, beams)`, and the position; returns the logits of the next tokens `(batch, beams, vocab_size)` and the pytree
Step = Callable[[Array, Any, Array], tuple[Array, Any]]


class Decoded(NamedTuple):
    """The best sequence found for each source.

    Attributes:
      tokens: `(batch, length)`; the end is part of it, the beginning is not, and padding follows.
      scores: `(batch,)`, log-probability divided by `length_penalty`.
    """

    tokens: Int[Array, "batch length"]
    scores: Float[Array, " batch"]


def length_penalty(length: Int[Array, "*batch"], alpha: float) -> Float[Array, "*batch"]:
    """((5 + length) / 6)^alpha (Google's Neural Machine Translation System, arXiv:1609.08144, equation 14)."""
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
    """Decodes each source, padded with `model.pad_id`, by beam search, or greedily with a beam of 1.

    A translation has at most as many tokens as its source and `extra_length` more, the end included (section 6.1;
    there 50, with a beam of 4 and alpha 0.6), and never more than `max_length` of learned positions. Neither the
    padding nor the other sources of the batch change it.

    Raises:
      ValueError: The model has no encoder or no decoder, or see `beam_search`.
    """
    if model.architecture != "encoder_decoder":
        raise ValueError(f"translation needs architecture='encoder_decoder', not {model.architecture!r}")
    length = source.shape[1] + extra_length
    if model.pos_embed == "learned":
        length = min(length, model.max_length)
    max_lengths = jnp.minimum((source != model.pad_id).sum(axis=1) + extra_length, length)
    variables = {"params": params}
    cache = model.bind(variables).start(source, (len(source), beam_size, length))

    def step(tokens, past, position):
        logits, new = model.bind(variables).step(tokens, cache._replace(past=past), position)
        return logits, new.past

    search = greedy_search if beam_size == 1 else functools.partial(beam_search, beam_size=beam_size)
    ids = {"bos_id": bos_id, "eos_id": eos_id, "pad_id": model.pad_id}
    return search(step, cache.past, max_lengths, length=length, alpha=alpha, **ids)


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
    """Takes the likeliest token at every place, but never padding, up to the end or `max_lengths` tokens.

    Args:
      past: What `step` is given first, for a beam of 1.
      max_lengths: Tokens at most, at least 1.
      length: Width of the result; no `max_lengths` is greater.
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


class _Beams(NamedTuple):
    last: Int[Array, "batch beams"]
    past: Any
    tokens: Int[Array, "batch beams length"]
    log_probs: Float[Array, "batch beams"]  # -inf where no hypothesis goes on
    complete: Int[Array, " batch"]  # how many are
    best: Decoded  # of those


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
    """Keeps the `beam_size` likeliest hypotheses at every place, and returns the complete one of the best score.

    A hypothesis is complete with its end, and keeps its place in the beam. One that reaches `max_lengths` without an
    end is returned only if there is no complete one, the likeliest of them. The search of a source is over when no
    hypothesis can better the best: log-probabilities only fall and the penalty only rises, so that the bound is
    today's log-probability at the penalty of `max_lengths`. Going on, as for the other sources of a batch, changes
    nothing. With a beam of 1 this is `greedy_search`; a beam that never drops a hypothesis is exhaustive.
    Deviation: tensor2tensor refills the beam when a hypothesis is complete, so that its beam of 1 is not greedy.

    Args:
      past, max_lengths, length: As in `greedy_search`, `past` for a beam of `beam_size`.

    Raises:
      ValueError: `beam_size` is less than 1, or `alpha` negative.
    """
    if beam_size < 1 or alpha < 0:
        raise ValueError(f"beam_size={beam_size}, alpha={alpha}: at least 1, and not negative")

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
        log_probs = jnp.where(jnp.arange(beam_size) < places, log_probs, -jnp.inf)
        scores = log_probs / length_penalty(i + 1, alpha)
        ended = (last == eos_id) & (log_probs > -jnp.inf)
        full = i + 1 >= max_lengths
        best = _best(beams.best, tokens, jnp.where(ended, scores, -jnp.inf))
        without_end = full & (best.scores == -jnp.inf)
        best = _best(best, tokens, jnp.where(without_end[:, None], scores, -jnp.inf))
        log_probs = jnp.where(ended | full[:, None], -jnp.inf, log_probs)
        return i + 1, _Beams(last, past, tokens, log_probs, beams.complete + ended.sum(axis=1), best)

    batch = len(max_lengths)
    tokens = jnp.full((batch, beam_size, length), pad_id, jnp.int32)
    beams = _Beams(
        last=jnp.full((batch, beam_size), bos_id, jnp.int32),
        past=past,
        tokens=tokens,
        log_probs=jnp.full((batch, beam_size), -jnp.inf).at[:, 0].set(0),
        complete=jnp.zeros(batch, int),
        best=Decoded(tokens[:, 0], jnp.full(batch, -jnp.inf)),
    )
    return jax.lax.while_loop(more, advance, (jnp.int32(0), beams))[1].best


def _log_probabilities(logits, pad_id):
    return jax.nn.log_softmax(logits).at[..., pad_id].set(-jnp.inf)


def _take_beams(x, parents):
    return jnp.take_along_axis(x, parents.reshape(*parents.shape, *(1,) * (x.ndim - 2)), axis=1)


def _best(best, tokens, scores):
    """Replaces the best sequence of each source where one of `tokens` has a better score."""
    top = scores.argmax(axis=1)[:, None]
    found = Decoded(_take_beams(tokens, top)[:, 0], _take_beams(scores, top)[:, 0])
    better = found.scores > best.scores
    return Decoded(jnp.where(better[:, None], found.tokens, best.tokens), jnp.where(better, found.scores, best.scores))
