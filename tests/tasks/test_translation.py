"""The translation task against plain NumPy and sacrebleu; its results depend on neither batch nor padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from vit_jax.data.text.batches import divide, encode_pairs, eval_batches
from vit_jax.data.text.source import TextSource
from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, Vocabulary
from vit_jax.devices.parallel import make_parallel
from vit_jax.evaluate import Evaluator
from vit_jax.models import build_model
from vit_jax.tasks.translation import Translation, bleu_and_chrf

WORDS = ["open", "close", "save", "file", "window", "new", "old", "page", "line", "print"]
RNG = np.random.default_rng(0)
SENTENCES = [" ".join(RNG.choice(WORDS, RNG.integers(1, 9))) for _ in range(24)]
TARGETS = [sentence[::-1] for sentence in SENTENCES]
VOCABULARY = Vocabulary.train([*SENTENCES, *TARGETS], 330)


class Bigrams:
    """A model whose logits depend on the last token alone: they are its row of a table."""

    def apply(self, variables, source, target, *, train, rngs):
        return variables["params"][target]


def batch_of(targets, width, rows=None):
    """Makes a batch of these targets, with rows of padding up to `rows`."""
    rows = rows or len(targets)
    target = np.full((rows, width + 1), PAD_ID, np.int32)
    target[:, :2] = BOS_ID, EOS_ID
    for row, tokens in zip(target, targets, strict=False):
        row[1 : len(tokens) + 2] = [*tokens, EOS_ID]
    mask = (np.arange(rows) < len(targets)).astype(np.float32)
    return {"source": np.full((rows, width), EOS_ID), "target": target, "mask": mask, "id": np.arange(rows)}


TOKENS = [[5, 7, 4], [6], [4, 4, 9, 8, 7, 5]]
TABLE = np.random.default_rng(1).normal(size=(10, 10))


def losses(tokens, table=TABLE, smoothing=0.0):
    """Of each token of a sentence and of its end."""
    pairs = zip([BOS_ID, *tokens], [*tokens, EOS_ID], strict=True)
    log_probs = table - np.log(np.exp(table).sum(-1, keepdims=True))
    return [-(1 - smoothing) * log_probs[a, b] - smoothing * log_probs[a].mean() for a, b in pairs]


def loss_of(batch, train=False, smoothing=0.1, table=TABLE):
    task = Translation(VOCABULARY, 16, label_smoothing=smoothing)
    params = jnp.asarray(table, jnp.float32)
    return task.loss(Bigrams(), params, batch, rngs={"dropout": jax.random.key(0)}, train=train)


@pytest.mark.parametrize("train", [True, False])
def test_loss_is_a_sum_over_real_tokens_smoothed_in_training_only(train):
    for batch in (batch_of(TOKENS, 7), batch_of(TOKENS, 16, rows=5)):
        loss, metrics = loss_of(batch, train)
        each = [value for tokens in TOKENS for value in losses(tokens, smoothing=0.1 if train else 0.0)]
        np.testing.assert_allclose(loss.value, sum(each), rtol=1e-5)
        assert loss.weight == len(each) == sum(len(tokens) + 1 for tokens in TOKENS)
        plain = [value for tokens in TOKENS for value in losses(tokens)]
        np.testing.assert_allclose(metrics["nll"].value, sum(plain), rtol=1e-5)
        hits = sum(TABLE[a].argmax() == b for tokens in TOKENS for a, b in zip([1, *tokens], [*tokens, 2], strict=True))
        assert metrics["token_accuracy"].value == hits
        assert metrics["token_accuracy"].weight == len(each)


def test_sums_of_single_sentences_are_the_sum_of_the_batch():
    together, _ = loss_of(batch_of(TOKENS, 16, rows=4), train=True)
    alone = [loss_of(batch_of([tokens], len(tokens) + 1), train=True)[0] for tokens in TOKENS]
    np.testing.assert_allclose(together.value, sum(loss.value for loss in alone), rtol=1e-5)
    assert together.weight == sum(loss.weight for loss in alone)


def test_no_gradient_comes_from_padding():
    def mean(table):
        return loss_of(batch_of(TOKENS, 16, rows=5), train=True, table=table)[0].mean()

    gradient = np.asarray(jax.grad(mean)(jnp.asarray(TABLE, jnp.float32)))
    assert np.isfinite(gradient).all()
    reached = {BOS_ID, *(token for tokens in TOKENS for token in tokens)}
    assert set(np.flatnonzero(np.abs(gradient).sum(axis=1))) == reached


@pytest.fixture(scope="module")
def model_and_params(randomised):
    model = build_model(
        "transformer:base", num_layers=1, hidden_dim=16, mlp_dim=32, num_heads=2, **VOCABULARY.model_fields
    )
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), *Translation(VOCABULARY, 8).init_inputs(model)
    )
    return model, randomised(shapes["params"], scale=0.4)


def evaluated(model_and_params, batch_size, buckets=(12, 32), **options):
    """Returns the rows that score was given, and the score."""
    model, params = model_and_params
    options = {"beam_size": 3, "extra_length": 6, **options}
    seen = {}

    class Watched(Translation):
        def score(self, rows):
            seen.update(rows)
            return super().score(rows)

    task, parallel = Watched(VOCABULARY, max(buckets), **options), make_parallel("pmap")
    pairs = encode_pairs(TextSource("test", ("en", "x"), SENTENCES, TARGETS, {}, []), VOCABULARY)
    batches = eval_batches(divide(pairs, buckets, batch_size))
    evaluator = Evaluator(model, task, parallel)
    return seen, evaluator.evaluate(evaluator.put(params), batches)


@pytest.fixture(scope="module")
def scored(model_and_params):
    return evaluated(model_and_params, 128)


def test_every_sentence_is_scored_once_in_order(scored):
    rows, result = scored
    assert result["examples"] == len(SENTENCES)
    assert rows["id"].tolist() == list(range(len(SENTENCES)))
    assert [VOCABULARY.decode(tokens) for tokens in rows["reference"]] == TARGETS
    assert rows["translation"].shape == (len(SENTENCES), 32 + 6)
    assert len({VOCABULARY.decode(tokens) for tokens in rows["translation"]}) > 1


@pytest.mark.parametrize(("batch_size", "buckets"), [(32, (12, 32)), (200, (32,)), (96, (9, 16, 32))])
def test_neither_batch_size_nor_buckets_change_a_translation(model_and_params, scored, batch_size, buckets):
    rows, result = evaluated(model_and_params, batch_size, buckets)
    for name in ("translation", "reference", "tokens", "id"):
        np.testing.assert_array_equal(rows[name], scored[0][name])
    np.testing.assert_allclose(rows["nll"], scored[0]["nll"], rtol=1e-5)
    likelihoods = {name: pytest.approx(scored[1][name], rel=1e-6) for name in ("loss", "perplexity")}
    assert result == {**scored[1], **likelihoods}


def test_answers_are_the_translations_with_their_scores(model_and_params, scored):
    model, params = model_and_params
    task = Translation(VOCABULARY, 32, beam_size=3, extra_length=6)
    source = np.full((len(SENTENCES), 40), PAD_ID)  # wider than max_length, as a user's sentence may be
    for row, sentence in zip(source, SENTENCES, strict=True):
        tokens = VOCABULARY.encode(sentence)
        row[: len(tokens) + 1] = [*tokens, EOS_ID]
    rows = jax.tree.map(np.asarray, task.predict(model, params, {"source": jnp.asarray(source)}))
    answers = task.answers(rows)
    assert [one["translation"] for one in answers] == [VOCABULARY.decode(one) for one in scored[0]["translation"]]
    np.testing.assert_allclose([one["score"] for one in answers], scored[0]["score"], rtol=1e-5)


@pytest.fixture(scope="module")
def log_probabilities(model_and_params):
    """Returns those of each token of a translation and of its end, by the model given the whole of it."""
    model, params = model_and_params

    @jax.jit
    def log_probs(source, target):
        return jax.nn.log_softmax(model.apply({"params": params}, source, target, train=False))

    def of(source, ids):
        inputs = np.full((2, 1, 64), PAD_ID)
        for row, tokens in zip(inputs, ([*VOCABULARY.encode(source), EOS_ID], [BOS_ID, *ids[:-1]]), strict=True):
            row[0, : len(tokens)] = tokens
        return np.asarray(log_probs(*inputs), np.float64)[0, np.arange(len(ids)), ids]

    return of


def test_perplexity_is_per_token_over_the_whole_corpus(scored, log_probabilities):
    pairs = zip(SENTENCES, TARGETS, strict=True)
    each = np.concatenate([log_probabilities(source, [*VOCABULARY.encode(target), EOS_ID]) for source, target in pairs])
    assert scored[1]["loss"] == pytest.approx(-each.mean(), rel=1e-5)
    assert scored[1]["perplexity"] == pytest.approx(math.exp(-each.mean()), rel=1e-4)


def test_a_beam_finds_likelier_translations_than_greedy_search(model_and_params, log_probabilities):
    means = []
    for beam_size in (1, 4):
        rows, _ = evaluated(model_and_params, 800, (32,), beam_size=beam_size, length_penalty=0.0)
        found = [tokens[tokens != PAD_ID] for tokens in rows["translation"]]
        means.append(np.mean([log_probabilities(*pair).sum() for pair in zip(SENTENCES, found, strict=True)]))
    assert means[1] > means[0]


def test_scores_are_those_of_sacrebleu_with_its_signatures():
    found = ["the cat sat on the mat", "an open window.", "hello there", ""]
    wanted = ["the cat sat on a mat", "an open window.", "hello, there you are", "x"]
    encoded = [[VOCABULARY.encode(text) for text in texts] for texts in (found, wanted)]
    rows = {
        name: np.array([[*tokens, EOS_ID, *[PAD_ID] * (40 - len(tokens))] for tokens in side])
        for name, side in zip(("translation", "reference"), encoded, strict=True)
    }
    rows |= {"nll": np.array([1.0, 2.0, 3.0, 6.0], np.float32), "tokens": np.array([1.0, 1.0, 1.0, 3.0], np.float32)}
    result = Translation(VOCABULARY, 40).score(rows)
    assert result["bleu"] == sacrebleu.corpus_bleu(found, [wanted]).score
    assert result["chrf"] == sacrebleu.corpus_chrf(found, [wanted]).score
    assert 0 < result["bleu"] < result["chrf"] < 100
    version = sacrebleu.__version__
    assert result["bleu_signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert result["chrf_signature"] == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    assert (result["loss"], result["perplexity"], result["examples"]) == (2.0, pytest.approx(math.exp(2)), 4)
    line = Translation(VOCABULARY, 40).headline({**result, "bleu": 31.24, "chrf": 55.0, "skipped": 2})
    assert line == "BLEU 31.2, chrF 55.0, perplexity 7.39 (4 sentences, 2 skipped)"


def test_bleu_is_tokenised_as_the_language_of_the_target_is():
    found, wanted = ["\u6211\u4eec\u660e\u5929\u53bb\u5317\u4eac"], ["\u6211\u4eec\u4eca\u5929\u53bb\u5317\u4eac"]
    chinese = bleu_and_chrf(found, wanted, "zh")
    assert chinese["bleu"] > bleu_and_chrf(found, wanted, "it")["bleu"]
    assert "tok:zh" in str(chinese["bleu_signature"])


def test_a_loss_beyond_floats_has_an_infinite_perplexity():
    tokens = np.array([[5, EOS_ID]])
    rows = {"reference": tokens, "translation": tokens, "nll": np.array([1e4]), "tokens": np.ones(1)}
    assert Translation(VOCABULARY, 40).score(rows)["perplexity"] == math.inf


def test_a_perfect_translation_scores_100():
    rows = {"reference": np.array([[*VOCABULARY.encode(text), EOS_ID] for text in ["save the file"] * 2])}
    rows |= {"translation": np.pad(rows["reference"], ((0, 0), (0, 3))), "nll": np.zeros(2), "tokens": np.ones(2)}
    result = Translation(VOCABULARY, 40).score(rows)
    assert result["chrf"] == pytest.approx(100)
    assert result["perplexity"] == 1
