"""The classification task against plain NumPy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.tasks.classification import Classification

RNG = np.random.default_rng(0)
CLASSES, EXAMPLES = 7, 40
LOGITS = RNG.normal(size=(EXAMPLES, CLASSES))
LABELS = RNG.integers(0, CLASSES, EXAMPLES)
NEIGHBOURS = np.array([1, 0, 3, 2, 5, 4])


class Echo(nn.Module):
    """Gives the first pixels of an image as its logits."""

    @nn.compact
    def __call__(self, images, *, train):
        return images.reshape(images.shape[0], -1)[:, :CLASSES]


def loss_of(task, logits, labels, mask=None, train=False, seed=0):
    images = jnp.asarray(logits, jnp.float32)[:, :, None, None]
    mask = jnp.ones(len(logits)) if mask is None else jnp.asarray(mask, jnp.float32)
    batch = {"image": images, "label": jnp.asarray(labels), "mask": mask}
    return task.loss(Echo(), {}, batch, rngs={"mix": jax.random.key(seed)}, train=train)


def score_of(task, logits, labels):
    """Scores logits, one row per view of an example, as evaluation does."""
    images = jnp.asarray(logits, jnp.float32)[:, :, None, None]
    rows = task.measure(Echo(), {}, {"image": images, "label": jnp.asarray(labels)})
    return task.score({name: np.asarray(values) for name, values in rows.items()})


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_loss_is_a_sum_over_real_examples():
    mask = RNG.integers(0, 2, EXAMPLES)
    loss, metrics = loss_of(Classification(CLASSES), LOGITS, LABELS, mask)
    each = -log_softmax(LOGITS)[np.arange(EXAMPLES), LABELS]
    np.testing.assert_allclose(loss.value, (each * mask).sum(), rtol=1e-5)
    assert loss.weight == mask.sum()
    assert metrics["top1"].value == ((LOGITS.argmax(-1) == LABELS) * mask).sum()


def test_label_smoothing_spreads_epsilon_over_all_classes_in_training_only():
    task = Classification(CLASSES, label_smoothing=0.1)
    logp = log_softmax(LOGITS)
    smooth = -(0.9 * logp[np.arange(EXAMPLES), LABELS] + 0.1 * logp.mean(-1))
    np.testing.assert_allclose(loss_of(task, LOGITS, LABELS, train=True)[0].mean(), smooth.mean(), rtol=1e-5)
    plain = -logp[np.arange(EXAMPLES), LABELS].mean()
    np.testing.assert_allclose(loss_of(task, LOGITS, LABELS)[0].mean(), plain, rtol=1e-5)


def test_sigmoid_sums_over_classes():
    targets = RNG.integers(0, 2, (EXAMPLES, CLASSES)).astype(np.float32)
    loss, _ = loss_of(Classification(CLASSES, loss_name="sigmoid"), LOGITS, targets)
    p = 1 / (1 + np.exp(-LOGITS))
    each = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(-1)
    np.testing.assert_allclose(loss.mean(), each.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_score_agrees_with_the_loss_and_counts(kind):
    task = Classification(CLASSES, loss_name=kind)
    score = score_of(task, LOGITS, LABELS)
    np.testing.assert_allclose(score["loss"], loss_of(task, LOGITS, LABELS)[0].mean(), rtol=1e-5)
    ranks = (LOGITS[np.arange(EXAMPLES), LABELS][:, None] < LOGITS).sum(-1)
    assert score["top1"] == (ranks < 1).mean()
    assert score["top5"] == (ranks < 5).mean()
    assert score["examples"] == EXAMPLES


def test_multi_label_scoring_takes_any_of_the_labels_and_leaves_out_unlabelled():
    targets = np.zeros((3, CLASSES), np.float32)
    targets[0, [1, 2]] = 1
    targets[1, 3] = 1
    logits = np.zeros((3, CLASSES), np.float32)
    logits[0, 2] = logits[1, 0] = 1
    score = score_of(Classification(CLASSES), logits, targets)
    assert (score["top1"], score["top5"], score["examples"]) == (0.5, 1.0, 2)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_of_views_are_averaged(kind):
    views = RNG.normal(size=(4, 3, CLASSES)).astype(np.float32)
    labels = np.array([0, 3, 2, 6])
    score = score_of(Classification(CLASSES, loss_name=kind, views=3), views.reshape(12, -1), labels.repeat(3))
    each = np.exp(log_softmax(views.reshape(12, -1))) if kind == "softmax" else 1 / (1 + np.exp(-views))
    mean = each.reshape(4, 3, CLASSES).mean(axis=1)
    true = mean[np.arange(4), labels]
    losses = -np.log(true)
    if kind == "sigmoid":
        losses -= np.log(1 - mean).sum(-1) - np.log(1 - true)
    assert score["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert score["top1"] == (mean.argmax(-1) == labels).mean()
    assert (score["examples"], score["views"]) == (4, 3)


def test_equal_logits_rank_in_the_order_of_the_classes():
    logits = np.zeros((CLASSES, CLASSES), np.float32)
    score = score_of(Classification(CLASSES), logits, np.arange(CLASSES))
    assert (score["top1"], score["top5"]) == (1 / CLASSES, 5 / CLASSES)


def test_measuring_many_classes_keeps_no_array_of_classes():
    examples, classes = 50_000, 1_000
    batch = {
        "image": jax.ShapeDtypeStruct((examples, classes, 1, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((examples,), jnp.int32),
    }

    class Pixels(Echo):
        def __call__(self, images, *, train):
            return images.reshape(images.shape[0], -1)

    task = Classification(classes)
    rows = jax.eval_shape(lambda batch: task.measure(Pixels(), {}, batch), batch)
    assert {row.shape for row in rows.values()} == {(examples,)}
    assert rows.keys() == {"loss", "top1", "top5", "labelled"}


def test_answers_are_sorted_and_average_the_views():
    task, names = Classification(3, views=2), ("cat", "dog", "newt")
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.2, 0.2, 0.6]]))
    first, second = task.answers({"logits": logits}, names)
    assert [one["label"] for one in first["predictions"]] == ["newt", "cat", "dog"]  # of equals, the first
    assert [one["probability"] for one in first["predictions"]] == pytest.approx([0.4, 0.3, 0.3])
    assert [one["label"] for one in second["predictions"]] == ["newt", "cat", "dog"]
    best = dataclasses.replace(task, top=1).answers({"logits": logits}, names)
    assert best[0]["predictions"] == first["predictions"][:1]


def mixed(images, seed=0, **fields):
    task = Classification(CLASSES, **fields)
    targets = jax.nn.one_hot(jnp.arange(len(images)) % CLASSES, CLASSES)
    return *task.mix(jnp.asarray(images, jnp.float32), targets, jax.random.key(seed)), targets


def test_mixup_mixes_images_and_targets_by_one_lambda():
    images = RNG.normal(size=(6, 8, 8, 1))
    out, targets, before = mixed(images, mixup_alpha=0.8)
    weight = 1 - float(targets[0, 0])
    assert 0 < weight < 1
    np.testing.assert_allclose(out, images * (1 - weight) + images[NEIGHBOURS] * weight, atol=1e-5)
    np.testing.assert_allclose(targets, before * (1 - weight) + before[NEIGHBOURS] * weight, atol=1e-6)


def test_repeated_examples_are_not_mixed_with_themselves():
    task = Classification(CLASSES, mixup_alpha=1.0, repeats=3)
    assert task.group == 8
    for phase in range(3):  # a batch may begin within the repeats of an example
        which = (np.arange(24) + phase) // 3
        images = jnp.asarray(which, jnp.float32)[:, None, None, None] + jnp.zeros((1, 2, 2, 1))
        out, targets = task.mix(images, jnp.eye(24), jax.random.key(0))
        weight = 1 - targets[0, 0]
        partner = np.argmax(targets - jnp.eye(24) * (1 - weight), axis=-1)
        assert (partner == np.arange(24) ^ 4).all()
        assert (which[partner] != which).all()
        np.testing.assert_allclose(out[:, 0, 0, 0], which * (1 - weight) + which[partner] * weight, rtol=1e-5)


def test_a_number_of_examples_without_pairs_cannot_be_mixed():
    with pytest.raises(ValueError, match="mixing needs a multiple of 2 examples to form pairs, got 5"):
        mixed(RNG.normal(size=(5, 4, 4, 1)), mixup_alpha=1.0)
    assert Classification(CLASSES).group == 1


def test_cutmix_pastes_a_box_and_weighs_targets_by_its_true_area():
    images = np.broadcast_to(np.arange(6.0)[:, None, None, None], (6, 16, 12, 1))
    areas = []
    for seed in range(20):
        out, targets, _ = mixed(images, seed, cutmix_alpha=1.0)
        pasted = np.asarray(out[4, ..., 0]) == 5.0
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        np.testing.assert_allclose(targets[4, 5], pasted.mean(), atol=1e-6)
        areas.append(pasted.mean())
    assert min(areas) < 0.1
    assert max(areas) > 0.5


def test_both_are_taken_evenly_and_the_probability_is_kept():
    images = RNG.normal(size=(4, 8, 8, 1)).astype(np.float32)
    counts = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(200):
        out, _, _ = mixed(images, seed, mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=0.8)
        same = np.isclose(out, images) | np.isclose(out, images[NEIGHBOURS[:4]])
        counts["none" if np.allclose(out, images) else "cutmix" if same.all() else "mixup"] += 1
    assert 25 < counts["none"] < 75  # a fifth, and boxes of no area
    assert 50 < counts["mixup"] < 110
    assert 40 < counts["cutmix"] < 110


def test_mixup_probability_zero_and_no_alpha_change_nothing():
    images = RNG.normal(size=(4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(mixed(images, mixup_alpha=1.0, mix_probability=0.0)[0], images)
    np.testing.assert_array_equal(mixed(images)[0], images)
