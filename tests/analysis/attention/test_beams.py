"""Beam search step by step: its hypotheses have the model's own probabilities, and lead to the translation."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis import beam_steps
from vit_jax.config import default_config
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, Vocabulary
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.plots.beams import plot_beams
from vit_jax.run import Run
from vit_jax.tasks.translation import Translation

WORDS = ["open", "close", "save", "file", "window", "new", "old", "page", "line", "print"]
VOCABULARY = Vocabulary.train([" ".join(WORDS), " ".join(WORDS[::-1])], 290)
SENTENCE = "open the file"
BEAMS, ENDS, LENGTH = 3, 4.0, 16


@pytest.fixture(scope="module")
def run():
    model = build_model(
        "transformer:base", vocab_size=len(VOCABULARY), num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2
    )
    params = model.init(jax.random.key(2), *[jnp.zeros((1, 4), jnp.int32)] * 2, train=False)["params"]
    # the end of a sentence has a larger logit, positive or negative, so that some hypotheses end
    params["embed"]["embedding"] = params["embed"]["embedding"].at[EOS_ID].multiply(ENDS)
    task = Translation(VOCABULARY, 16, beam_size=BEAMS, extra_length=4)
    config = default_config()
    config.data.buckets = (16,)
    return Run(model, params, task, (), VOCABULARY, config, 0)


@pytest.fixture(scope="module")
def steps(run):
    return beam_steps(run, SENTENCE)


@pytest.fixture(scope="module")
def log_prob(run):
    """The log-probability of tokens by a forward pass over the whole target, padded to a fixed length."""
    source = jnp.asarray([[*VOCABULARY.encode(SENTENCE), EOS_ID]])
    forward = jax.jit(lambda target: run.model.apply({"params": run.params}, source, target, train=False))

    def compute(tokens):
        target = np.zeros((1, LENGTH), np.int32)
        target[0, : len(tokens)] = [BOS_ID, *tokens[:-1]]
        logits = np.asarray(forward(target), np.float64)[0, : len(tokens)]
        return float((logits[np.arange(len(tokens)), list(tokens)] - np.log(np.exp(logits).sum(-1))).sum())

    return compute


def test_each_hypothesis_has_the_probability_that_the_model_gives_it(log_prob, steps):
    for found in (found for step in steps for found in step):
        assert found.log_prob == pytest.approx(log_prob(found.tokens), abs=1e-4)
        assert found.score == pytest.approx(found.log_prob / ((5 + len(found.tokens)) / 6) ** 0.6, abs=1e-4)


def test_each_hypothesis_continues_an_unfinished_one(steps):
    assert len(steps[0]) == BEAMS
    for before, after in itertools.pairwise(steps):
        unfinished = {found.tokens for found in before if not found.is_complete}
        assert {found.tokens[:-1] for found in after} <= unfinished
        assert len(after) == len(before) - sum(found.is_complete for found in before)
        assert sorted((found.log_prob for found in after), reverse=True) == [found.log_prob for found in after]


def test_the_best_complete_hypothesis_is_the_translation(run, steps):
    complete = [found for step in steps for found in step if found.is_complete]
    assert complete
    best = max(complete, key=lambda found: found.score)
    answer = next(run.predict([SENTENCE]))
    assert VOCABULARY.decode(best.tokens) == answer["translation"]
    assert best.score == pytest.approx(answer["score"], abs=1e-4)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_tree_is_drawn(steps, tmp_path, suffix):
    path = tmp_path / f"tree.{suffix}"
    plot_beams(steps, VOCABULARY, path)
    assert path.stat().st_size > 1000
    if suffix == "svg":
        assert "<image" not in path.read_text()


def test_a_beam_of_another_size(run):
    assert len(beam_steps(run, SENTENCE, beam_size=2)[0]) == 2
    greedy = [step[0].tokens for step in beam_steps(run, SENTENCE, beam_size=1)]
    assert all(after[:-1] == before for before, after in itertools.pairwise(greedy))


def test_refusals(run):
    with pytest.raises(UserError, match="a sentence that is not blank"):
        beam_steps(run, " ")
    with pytest.raises(UserError, match="beam_size"):
        beam_steps(run, SENTENCE, beam_size=0)
    other = types.SimpleNamespace(task=types.SimpleNamespace(modalities=("image", "video")), modality=run.modality)
    with pytest.raises(UserError, match="a run that translates"):
        beam_steps(other, SENTENCE)
