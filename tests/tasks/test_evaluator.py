"""Evaluation streams rows without padding, scores every example once, and can be stopped."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from vit_jax.devices.parallel import make_parallel
from vit_jax.evaluate import Evaluator, in_order
from vit_jax.tasks.classification import Classification

CLASSES, EXAMPLES, BATCH = 6, 10, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, EXAMPLES)


class Echo(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return images.reshape(images.shape[0], -1) + self.param("bias", nn.initializers.zeros, ())


PARAMS = {"bias": np.float32(0)}


def batches(views=1, taken=None):
    """Yields batches in reverse order of their ids, the last of them padded; notes in `taken` those asked for."""
    for first in range(0, EXAMPLES, BATCH):
        ids = np.arange(first, first + BATCH)[::-1]
        real = ids < EXAMPLES
        ids = np.where(real, ids, 0)
        batch = {"image": LOGITS[ids][..., None, None], "label": LABELS[ids], "mask": np.float32(real), "id": ids}
        if taken is not None:
            taken.append(first)
        yield {name: np.repeat(values, views, axis=0) for name, values in batch.items()}


@pytest.fixture(params=["pmap", "fsdp"])
def evaluator(request):
    return Evaluator(Echo(), Classification(CLASSES), make_parallel(request.param))


def test_every_example_is_scored_once(evaluator):
    result = evaluator.evaluate(evaluator.put(PARAMS), batches())
    ranks = (LOGITS[np.arange(EXAMPLES), LABELS][:, None] < LOGITS).sum(-1)
    normalisers = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
    losses = normalisers - LOGITS[np.arange(EXAMPLES), LABELS]
    assert result["examples"] == EXAMPLES
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert (result["top1"], result["top5"]) == ((ranks < 1).mean(), (ranks < 5).mean())


def test_views_of_an_example_become_one_row(evaluator):
    task = dataclasses.replace(Classification(CLASSES), views=3)
    several = Evaluator(Echo(), task, make_parallel("pmap"))
    result = several.evaluate(several.put(PARAMS), batches(views=3))
    once = evaluator.evaluate(evaluator.put(PARAMS), batches())
    assert result == {name: pytest.approx(value, rel=1e-6) for name, value in {**once, "views": 3}.items()}


def test_rows_are_streamed_without_padding(evaluator):
    params, taken = evaluator.put(PARAMS), []
    rows = evaluator.rows(params, batches(taken=taken))
    first = next(rows)
    assert taken == [0, 4]  # the next batch is being computed, the one after is not yet read
    assert first["id"].tolist() == [3, 2, 1, 0]
    np.testing.assert_array_equal(first["logits"], LOGITS[[3, 2, 1, 0]])
    joined = in_order([first, *rows])
    assert joined["id"].tolist() == list(range(EXAMPLES))
    np.testing.assert_array_equal(joined["logits"], LOGITS)
    np.testing.assert_array_equal(joined["label"], LABELS)


def test_another_function_is_compiled_once(evaluator):
    traced = []

    def double(model, params, batch):
        traced.append(batch["image"].shape)
        return {"double": 2 * model.apply({"params": params}, batch["image"], train=False)}

    for _ in range(2):
        rows = in_order(evaluator.rows(evaluator.put(PARAMS), batches(), double, labels=False))
        np.testing.assert_array_equal(rows["double"], 2 * LOGITS)
        assert rows.keys() == {"id", "double"}
    assert len(traced) == 1


def test_it_stops_when_asked(evaluator):
    taken = []
    assert evaluator.evaluate(evaluator.put(PARAMS), batches(taken=taken), stop=lambda: True) is None
    assert taken == [0, 4]


def test_a_task_without_measure_is_scored_from_its_predictions_and_labels():
    class Own:
        def predict(self, model, params, batch):
            return {"guess": model.apply({"params": params}, batch["image"], train=False).argmax(-1)}

        def score(self, rows):
            return {"hits": int((rows["guess"] == rows["label"]).sum())}

    evaluator = Evaluator(Echo(), Own(), make_parallel("pmap"))
    assert evaluator.evaluate(PARAMS, batches()) == {"hits": (LOGITS.argmax(-1) == LABELS).sum()}
