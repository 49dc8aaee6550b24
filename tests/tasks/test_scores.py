"""Scores with several views, the training accuracy of mixed images, and the weights of tokens in translation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.tasks.classification import Classification
from vit_jax.tasks.translation import Translation


class Echo(nn.Module):
    """The first pixels of an image are its logits."""

    @nn.compact
    def __call__(self, images, *, train):
        return images.reshape(images.shape[0], -1)[:, :3]


def score_of(task, logits, labels):
    """Scores logits, one row per view of an example, as evaluation does."""
    images = jnp.asarray(logits, jnp.float32)[:, :, None, None]
    rows = task.measure(Echo(), {}, {"image": images, "label": jnp.asarray(labels)})
    return task.score({name: np.asarray(values) for name, values in rows.items()})


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_the_probabilities_of_an_examples_views_are_averaged():
    """One view is sure of class 1, two lean to class 0: the mean of the logarithms would choose otherwise."""
    logits = np.array([[2.0, 0, -9], [2.0, 0, -9], [0, 30.0, 0], [1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0]])
    means = softmax(logits).reshape(2, 3, 3).mean(1)
    score = score_of(Classification(3, views=3), logits, np.array([0] * 3 + [2] * 3))
    assert score["loss"] == pytest.approx(-np.log(means[[0, 1], [0, 2]]).mean(), rel=1e-6)
    assert means[0].argmax() == 0
    assert np.log(softmax(logits)).reshape(2, 3, 3).mean(1)[0].argmax() == 1
    assert (score["top1"], score["examples"], score["views"]) == (1.0, 2, 3)


def test_of_sigmoids_the_probabilities_of_both_answers_are_averaged():
    logits = np.array([[3.0, -1, 0], [-2.0, 0.5, 1]])
    labels = np.array([[1.0, 0, 1]] * 2, np.float32)
    score = score_of(Classification(3, loss_name="sigmoid", views=2), logits, labels)
    p = (1 / (1 + np.exp(-logits))).mean(0)
    expected = -(labels[0] * np.log(p) + (1 - labels[0]) * np.log(1 - p)).sum()
    assert score["loss"] == pytest.approx(expected, rel=1e-6)


def test_logits_are_summed_over_the_views_as_the_authors_of_timesformer_do():
    """Two views lean to class 0, and one is so sure of class 1 that its logit outweighs both."""
    logits = np.array([[2.0, 0, -9], [2.0, 0, -9], [0, 30.0, 0], [1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0]])
    labels = np.array([0] * 3 + [2] * 3)
    summed = logits.reshape(2, 3, 3).sum(1)  # their TestMeter: video_preds[video] += preds
    assert summed.argmax(-1).tolist() == [1, 2]
    score = score_of(Classification(3, views=3, average_views="logits"), logits, labels)
    assert (score["top1"], score["top5"], score["examples"], score["views"]) == (0.5, 1.0, 2, 3)
    assert score["loss"] == pytest.approx(-np.log(softmax(summed / 3)[[0, 1], [0, 2]]).mean(), rel=1e-6)
    assert score_of(Classification(3, views=3), logits, labels)["top1"] == 1.0


def test_of_sigmoids_the_logits_may_be_averaged_too():
    logits, labels = np.array([[3.0, -1, 0], [-2.0, 0.5, 1]]), np.array([[1.0, 0, 1]] * 2, np.float32)
    task = Classification(3, loss_name="sigmoid", views=2, average_views="logits")
    p = 1 / (1 + np.exp(-logits.mean(0)))
    expected = -(labels[0] * np.log(p) + (1 - labels[0]) * np.log(1 - p)).sum()
    assert score_of(task, logits, labels)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("average_views", ["probabilities", "logits"])
def test_answers_follow_the_rule_of_the_scores(average_views):
    logits = np.array([[2.0, 0, -9], [2.0, 0, -9], [0, 30.0, 0]])
    task = Classification(3, views=3, average_views=average_views, per_frame=True, top=None)
    frames = np.stack([logits, logits[:, ::-1]], axis=1)  # (views, frames, classes)
    (answer,) = task.answers({"logits": logits, "frame_logits": frames}, ("a", "b", "c"))
    expected = softmax(logits).mean(0) if average_views == "probabilities" else softmax(logits.mean(0))
    found = {guess["label"]: guess["probability"] for guess in answer["predictions"]}
    assert [found[label] for label in "abc"] == pytest.approx(expected, rel=1e-6)
    best = {"probabilities": ["a", "c"], "logits": ["b", "b"]}[average_views]
    assert [frame["label"] for frame in answer["frames"]] == best
    assert answer["predictions"][0]["label"] == best[0]
    assert answer["frames"][0]["probability"] == pytest.approx(expected.max(), rel=1e-6)


def test_another_average_than_these_is_refused():
    with pytest.raises(ValueError, match="unknown average_views 'logit'; did you mean 'logits'"):
        Classification(3, average_views="logit")


@pytest.mark.parametrize("mixing", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_top1_is_of_the_unmixed_label_and_the_loss_of_the_mixed(mixing):
    """Two images that say their class. Mixed by more than a half each says the other's: 0 are right, not 2."""
    task, seen = Classification(3, **mixing), set()
    images = jnp.zeros((2, 8, 8, 1)).at[0, :, :, 0].set(jnp.eye(3)[0][jnp.arange(64) % 3].reshape(8, 8))
    images = images.at[1, :, :, 0].set(jnp.eye(3)[1][jnp.arange(64) % 3].reshape(8, 8))
    batch = {"image": images, "label": jnp.array([0, 1]), "mask": jnp.ones(2)}

    @jax.jit
    def both(rng):
        return task.loss(Echo(), {}, batch, rngs={"mix": rng}, train=True), task.mix(images, jnp.eye(3)[:2], rng)

    for seed in range(30):
        (loss, metrics), (mixed, targets) = both(jax.random.key(seed))
        logits, targets = np.asarray(mixed.reshape(2, -1)[:, :3], np.float64), np.asarray(targets)
        right = (logits.argmax(-1) == [0, 1]).sum()
        assert (metrics["top1"].value, metrics["top1"].weight) == (right, 2)
        assert loss.value == pytest.approx(-(targets * np.log(softmax(logits))).sum(), rel=1e-4)
        seen.add(int(right))
    assert {0, 2} <= seen


def test_padding_weighs_nothing_in_the_accuracy():
    images = jnp.eye(3)[:, :, None, None]
    batch = {"image": images, "label": jnp.array([0, 0, 2]), "mask": jnp.array([1.0, 1.0, 0.0])}
    _, metrics = Classification(3).loss(Echo(), {}, batch, rngs={}, train=False)
    assert (metrics["top1"].value, metrics["top1"].weight) == (1, 2)


class Constant(nn.Module):
    """Logits over 260 tokens that prefer token 5, whatever it is given."""

    @nn.compact
    def __call__(self, source, target, *, train):
        return jnp.broadcast_to(2.0 * jax.nn.one_hot(5, 260), (*target.shape, 260))


@pytest.mark.parametrize("train", [True, False])
def test_every_token_of_a_translation_weighs_the_same(train):
    from vit_jax.data.text.vocabulary import BOS_ID, EOS_ID, PAD_ID

    task = Translation(vocabulary=None, max_length=4, label_smoothing=0.1)
    target = jnp.array([
        [BOS_ID, 5, 6, EOS_ID, PAD_ID],
        [BOS_ID, EOS_ID, PAD_ID, PAD_ID, PAD_ID],
        [BOS_ID, 5, EOS_ID, PAD_ID, PAD_ID],  # padding of the batch
    ])  # fmt: skip
    batch = {"source": jnp.zeros((3, 4), jnp.int32), "target": target, "mask": jnp.array([1.0, 1.0, 0.0])}
    loss, metrics = task.loss(Constant(), {}, batch, rngs={"dropout": jax.random.key(0)}, train=train)
    log_all = np.log(np.exp(2.0) + 259)
    nll = (log_all - 2) + 3 * log_all  # token 5, token 6 and two ends
    assert metrics["nll"].value == pytest.approx(nll, rel=1e-5)
    assert metrics["nll"].weight == metrics["token_accuracy"].weight == loss.weight == 4
    assert metrics["token_accuracy"].value == 1
    smooth = 0.9 * nll + 0.1 * 4 * (log_all - 2 / 260)
    assert loss.value == pytest.approx(smooth if train else nll, rel=1e-5)


def test_the_perplexity_is_of_all_tokens_and_not_of_sentences():
    class Words:
        def decode(self, tokens):
            return "a b c d"

    rows = {
        "translation": np.zeros((2, 3), int), "reference": np.zeros((2, 3), int),
        "nll": np.array([6.0, 1.0]), "tokens": np.array([3.0, 1.0]), "id": np.arange(2),
    }  # fmt: skip
    score = Translation(vocabulary=Words(), max_length=3).score(rows)
    assert score["loss"] == pytest.approx(7 / 4)
    assert score["perplexity"] == pytest.approx(np.exp(7 / 4))
    assert score["bleu"] == pytest.approx(100)
    assert score["examples"] == 2
