"""The classification task against plain numpy."""

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
    score = task.score({"label": LABELS, "id": np.arange(EXAMPLES), "logits": LOGITS.astype(np.float32)})
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
    score = Classification(CLASSES).score({"label": targets, "id": np.arange(3), "logits": logits})
    assert (score["top1"], score["top5"], score["examples"]) == (0.5, 1.0, 2)


def mixed(images, seed=0, **fields):
    task = Classification(CLASSES, **fields)
    targets = jax.nn.one_hot(jnp.arange(len(images)) % CLASSES, CLASSES)
    return *task.mix(jnp.asarray(images, jnp.float32), targets, jax.random.key(seed)), targets


def test_mixup_mixes_images_and_targets_by_one_lambda():
    images = RNG.normal(size=(6, 8, 8, 1))
    out, targets, before = mixed(images, mixup_alpha=0.8)
    weight = 1 - float(targets[0, 0])
    assert 0 < weight < 1
    np.testing.assert_allclose(out, images * (1 - weight) + images[::-1] * weight, atol=1e-5)
    np.testing.assert_allclose(targets, before * (1 - weight) + before[::-1] * weight, atol=1e-6)


def test_cutmix_pastes_a_box_and_weighs_targets_by_its_true_area():
    images = np.broadcast_to(np.arange(6.0)[:, None, None, None], (6, 16, 12, 1))
    areas = []
    for seed in range(20):
        out, targets, _ = mixed(images, seed, cutmix_alpha=1.0)
        pasted = np.asarray(out[0, ..., 0]) == 5.0
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        np.testing.assert_allclose(targets[0, 5], pasted.mean(), atol=1e-6)
        areas.append(pasted.mean())
    assert min(areas) < 0.1
    assert max(areas) > 0.5


def test_both_are_taken_evenly_and_the_probability_is_kept():
    images = RNG.normal(size=(4, 8, 8, 1)).astype(np.float32)
    counts = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(200):
        out, _, _ = mixed(images, seed, mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=0.8)
        same = np.isclose(out, images) | np.isclose(out, images[::-1])
        counts["none" if np.allclose(out, images) else "cutmix" if same.all() else "mixup"] += 1
    assert 25 < counts["none"] < 75  # a fifth, and boxes of no area
    assert 50 < counts["mixup"] < 110
    assert 40 < counts["cutmix"] < 110


def test_mixup_probability_zero_and_no_alpha_change_nothing():
    images = RNG.normal(size=(4, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(mixed(images, mixup_alpha=1.0, mix_probability=0.0)[0], images)
    np.testing.assert_array_equal(mixed(images)[0], images)
