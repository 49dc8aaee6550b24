"""Decoding against plain Python: enumeration of all sequences over random tables, and the uncached Transformer."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import build_model
from vit_jax.models.decoding import beam_search, greedy_search, length_penalty, translate

PAD, BOS, EOS, VOCAB, LENGTH, BATCH = 0, 1, 2, 4, 4, 24
IDS = {"pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
MAX_LENGTHS = np.arange(BATCH) % LENGTH + 1


# a toy whose next token depends on all before it: a table of logits, one row for every prefix, whose number in base
# VOCAB is what is known of the past


@functools.cache
def table(eos_bias=0.0):
    logits = 1.5 * np.random.default_rng(0).standard_normal((BATCH, VOCAB**LENGTH, VOCAB))
    logits[..., EOS] += eos_bias
    return jnp.asarray(logits, jnp.float32)


def number(prefix):
    return functools.reduce(lambda past, token: past * VOCAB + token, prefix, 0)


def toy_step(table):
    def step(tokens, past, position):
        past = past * VOCAB + tokens
        return jnp.take_along_axis(table, past[:, :, None], axis=1), past

    return step


def toy(search, logits, max_lengths=MAX_LENGTHS, beam_size=1, **options):
    options |= {} if search is greedy_search else {"beam_size": beam_size}
    past = jnp.zeros((BATCH, beam_size), jnp.int32)

    @jax.jit
    def run(logits, max_lengths):
        return search(toy_step(logits), past, max_lengths, length=LENGTH, **IDS, **options)

    return run(logits, jnp.asarray(max_lengths))


# the same in Python. `log_probs(prefix)` are those of the next token; a hypothesis is (log-probability, tokens)


def toy_log_probs(logits, example):
    logits = np.float64(jax.nn.log_softmax(logits[example]))
    return lambda prefix: logits[number(prefix)]


def penalised(hypothesis, alpha):
    log_prob, tokens = hypothesis
    return log_prob / ((5 + len(tokens)) / 6) ** alpha


def python_beam(log_probs, beam_size, max_length, alpha):
    """The search as it is defined, without ending early."""
    alive, complete = [(0.0, ())], []
    while alive and len(alive[0][1]) < max_length:
        extended = [
            (log_prob + more, (*tokens, token))
            for log_prob, tokens in alive
            for token, more in enumerate(log_probs((BOS, *tokens)))
            if token != PAD
        ]
        kept = sorted(extended, reverse=True)[: beam_size - len(complete)]
        complete += [hypothesis for hypothesis in kept if hypothesis[1][-1] == EOS]
        alive = [hypothesis for hypothesis in kept if hypothesis[1][-1] != EOS]
    return max(complete or alive, key=lambda hypothesis: penalised(hypothesis, alpha))


def python_exhaustive(log_probs, max_length, alpha):
    scored = []
    others = [token for token in range(VOCAB) if token not in (PAD, EOS)]
    for length in range(max_length):
        for body in itertools.product(others, repeat=length):
            tokens = (*body, EOS)
            scored.append((sum(log_probs((BOS, *tokens[:i]))[token] for i, token in enumerate(tokens)), tokens))
    return max(scored, key=lambda hypothesis: penalised(hypothesis, alpha))


def assert_decoded(decoded, expected, alpha):
    for tokens, score, hypothesis in zip(np.asarray(decoded.tokens), decoded.scores, expected, strict=True):
        padding = (PAD,) * (len(tokens) - len(hypothesis[1]))
        assert tuple(tokens) == hypothesis[1] + padding
        np.testing.assert_allclose(score, penalised(hypothesis, alpha), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_a_full_beam_is_exhaustive_search(alpha):
    decoded = toy(beam_search, table(-1.0), beam_size=31, alpha=alpha)  # 15 end, and 16 are cut off
    expected = [python_exhaustive(toy_log_probs(table(-1.0), b), MAX_LENGTHS[b], alpha) for b in range(BATCH)]
    assert_decoded(decoded, expected, alpha)
    assert len({len(tokens) for _, tokens in expected}) >= 3


@pytest.mark.parametrize(
    ("beam_size", "alpha", "eos_bias"), [(2, 0.0, 0.0), (3, 0.6, 0.0), (3, 2.0, 1.0), (2, 0.6, -9.0)]
)
def test_a_narrow_beam_is_that_of_python(beam_size, alpha, eos_bias):
    logits = table(eos_bias)
    decoded = toy(beam_search, logits, beam_size=beam_size, alpha=alpha)
    expected = [python_beam(toy_log_probs(logits, b), beam_size, MAX_LENGTHS[b], alpha) for b in range(BATCH)]
    assert_decoded(decoded, expected, alpha)
    assert any(tokens[-1] == EOS for _, tokens in expected) == (eos_bias > -9)


@pytest.mark.parametrize(("alpha", "eos_bias"), [(0.0, 0.0), (2.0, 0.0), (0.6, -9.0)])
def test_a_beam_of_1_is_greedy(alpha, eos_bias):
    greedy = toy(greedy_search, table(eos_bias), alpha=alpha)
    beam = toy(beam_search, table(eos_bias), alpha=alpha)
    np.testing.assert_array_equal(greedy.tokens, beam.tokens)
    np.testing.assert_allclose(greedy.scores, beam.scores, rtol=1e-6)
    ended = (greedy.tokens == EOS).any(axis=1)
    assert ended.any() == (eos_bias == 0)
    assert not ended.all()
    for row, max_length in zip(np.asarray(greedy.tokens), MAX_LENGTHS, strict=True):
        assert len(row[row != PAD]) <= max_length


def test_the_search_ends_when_nothing_can_better_the_best():
    """One source ends at once, with certainty; the other may go on only where the penalty may still pay."""

    def steps(alpha, log_odds):
        positions = []

        def step(tokens, past, position):
            jax.debug.callback(lambda i: positions.append(int(i)), position)
            return jnp.zeros((1, 2, VOCAB)).at[:, :, EOS].set(log_odds), past

        beam_search(step, (), jnp.asarray([30]), beam_size=2, length=30, alpha=alpha, **IDS)
        jax.effects_barrier()
        return len(positions)

    assert steps(alpha=0.0, log_odds=1.0) == 1
    # log p of the end is -0.55 or -0.05 at first, of another token -1.55 or -3.05; the penalty at 30 is 2.74 or 5.83
    assert steps(alpha=0.6, log_odds=3.0) == 1
    assert steps(alpha=1.0, log_odds=1.0) > 1


def test_length_penalty():
    np.testing.assert_allclose(length_penalty(jnp.asarray([1, 7, 25]), 0.6), [1, 2**0.6, 5**0.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("beam_size", "alpha", "message"),
    [(0, 0.6, "beam_size must be at least 1, got 0"), (2, -0.1, "alpha must not be negative, got -0.1")],
)
def test_a_search_that_makes_no_sense(beam_size, alpha, message):
    with pytest.raises(ValueError, match=message):
        toy(beam_search, table(), beam_size=beam_size, alpha=alpha)


# the Transformer

# the last source is a batch's padding
SOURCE = np.array([[3, 4, 9, 5, 0, 0], [7, 3, 4, 6, 10, 8], [5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.int32)
EXTRA = 2


@pytest.fixture(scope="module")
def transformer(randomised):
    """A function of fields: a model, its parameters, and the log-probabilities of its next tokens, without a cache."""

    @functools.cache
    def make(**fields):
        sizes = {"vocab_size": 11, "hidden_dim": 8, "mlp_dim": 12, "num_layers": 2, "num_heads": 2}
        model = build_model("transformer:base", **sizes, **fields)
        source, target = jnp.zeros((1, 6), jnp.int32), jnp.zeros((1, 9), jnp.int32)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), source, target, train=False))["params"]
        params = randomised(shapes, scale=0.7, seed=1)
        apply = jax.jit(functools.partial(model.apply, {"params": params}, train=False))

        def log_probs(source, prefix):
            target = np.zeros((1, 9), np.int32)
            target[0, : len(prefix)] = prefix
            logits = apply(jnp.asarray(source)[None], jnp.asarray(target))[0, len(prefix) - 1]
            return np.float64(jax.nn.log_softmax(logits))

        return model, params, log_probs

    return make


@pytest.mark.parametrize("fields", [{}, {"norm": "pre", "pos_embed": "learned", "max_length": 9}], ids=str)
@pytest.mark.parametrize("beam_size", [1, 3])
def test_translations_are_those_of_python_without_a_cache(beam_size, fields, transformer):
    model, params, log_probs = transformer(**fields)
    decoded = translate(model, params, SOURCE, beam_size=beam_size, extra_length=EXTRA, bos_id=BOS, eos_id=EOS)
    expected = [
        python_beam(functools.partial(log_probs, source), beam_size, (source != PAD).sum() + EXTRA, alpha=0.6)
        for source in SOURCE
    ]
    assert_decoded(decoded, expected, alpha=0.6)
    assert len({tokens for _, tokens in expected}) == len(SOURCE)


def test_neither_padding_nor_batch_changes_a_translation(transformer):
    model, params, _ = transformer()
    run = functools.partial(translate, beam_size=3, extra_length=EXTRA, bos_id=BOS, eos_id=EOS)
    together, alone = run(model, params, SOURCE), run(model, params, SOURCE[:1, :4])
    np.testing.assert_array_equal(together.tokens[0, : 4 + EXTRA], alone.tokens[0])
    assert not together.tokens[0, 4 + EXTRA :].any()
    np.testing.assert_allclose(together.scores[0], alone.scores[0], rtol=1e-5)


def test_learned_positions_limit_the_length(transformer):
    model, params, _ = transformer(norm="pre", pos_embed="learned", max_length=9)
    out = jax.eval_shape(lambda: translate(model, params, jnp.asarray(SOURCE), bos_id=BOS, eos_id=EOS))
    assert (out.tokens.shape, out.scores.shape) == ((4, 9), (4,))
    with pytest.raises(ValueError, match="10 tokens given to a model with learned positions for max_length=9"):
        jax.eval_shape(lambda: model.apply({"params": params}, jnp.asarray(SOURCE), (4, 1, 10), method="start"))


def test_only_an_encoder_and_a_decoder_translate(transformer):
    model, params, _ = transformer()
    with pytest.raises(ValueError, match="translation needs architecture='encoder_decoder', not 'decoder'"):
        translate(model.clone(architecture="decoder"), params, SOURCE, bos_id=BOS, eos_id=EOS)


def test_beams_share_the_memory_of_their_source(transformer):
    model, params, _ = transformer()
    cache = jax.eval_shape(lambda: model.apply({"params": params}, jnp.asarray(SOURCE), (4, 5, 7), method="start"))
    assert {leaf.shape for leaf in jax.tree.leaves(cache.past)} == {(4, 5, 7, 2, 4)}
    assert {leaf.shape for leaf in jax.tree.leaves(cache.memory)} == {(4, 6, 2, 4)}
    assert math.prod(cache.memory_mask.shape) == 4 * 6
