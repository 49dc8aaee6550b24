"""Pseudo-labels: which examples are chosen, what their labels are, and mistakes."""

import pathlib

import numpy as np
import pytest

from vit_jax import config as schema
from vit_jax.data.modality import open_data
from vit_jax.data.pseudo_labels import choose, with_pseudo_labels
from vit_jax.data.source import open_split
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment
from vit_jax.tasks.classification import Classification

QUICKSTART = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.55, 0.45], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("threshold", "per_class", "chosen"),
    [
        (0.0, None, [0, 3, 2, 4, 1]),  # by class, the most confident first
        (0.7, None, [0, 2, 4]),
        (0.0, 2, [0, 3, 2, 4]),
        (0.6, 3, [0, 0, 0, 2, 4, 1]),  # repeated if there are fewer
        (0.95, 3, []),
    ],
)
def test_examples_are_chosen_by_class_and_confidence(threshold, per_class, chosen):
    assert choose(PROBABILITIES, threshold=threshold, per_class=per_class).tolist() == chosen


def config_of(*overrides):
    words = ["data.train_split=train[:20]", "pseudo_labels.split=train[20:50]", *overrides]
    return schema.resolve_defaults(schema.load_config(str(QUICKSTART), [f"--config.{word}" for word in words]))


@pytest.fixture
def predictions(tmp_path):
    """A file of predictions for the 30 examples of train[20:50], with random logits."""
    logits = np.random.default_rng(0).normal(0, 3, (30, 10)).astype(np.float32)
    path = tmp_path / "teacher.npz"
    ids = [example["id"] for example in open_split(config_of(), "train[20:50]").__getitems__(range(30))]
    np.savez(path, id=np.array(ids, np.int32), logits=logits)
    return path


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("soft", [True, False])
def test_labels_are_the_predictions_and_follow_the_labelled_examples(predictions, soft):
    labelled, unlabelled = (open_split(config_of(), split) for split in ("train[:20]", "train[20:50]"))
    config = config_of(f"pseudo_labels.predictions={predictions}", f"pseudo_labels.soft={soft}")
    source = with_pseudo_labels(config, labelled)
    assert len(source) == 50
    expected = softmax(np.load(predictions)["logits"])
    chosen = choose(expected)
    if not soft:
        expected = np.eye(10)[expected.argmax(-1)]
    examples = source.__getitems__([49, 3, 20])
    for example, place in zip([examples[0], examples[2]], [29, 0], strict=True):
        same = unlabelled.__getitems__([int(chosen[place])])[0]
        assert example["id"] == same["id"]
        assert np.array_equal(np.asarray(example["image"]), np.asarray(same["image"]))
        np.testing.assert_allclose(example["label"], expected[chosen[place]], rtol=1e-6)
    assert examples[1]["label"].tolist() == np.eye(10)[labelled.__getitems__([3])[0]["label"]].tolist()
    assert source.all_labels().tolist() == [*labelled.all_labels(), *expected[chosen].argmax(-1)]
    assert "30 pseudo-labelled examples (30 of the 30 in train[20:50] of digits)" in source.recognised


def test_batches_have_probabilities_as_labels_and_runs_say_so(predictions):
    config = config_of(f"pseudo_labels.predictions={predictions}", "batch_size=32")
    data = open_data(config)
    batch = next(data.train_batches(0, 1))
    assert batch["label"].shape == (32, 10)
    np.testing.assert_allclose(batch["label"].sum(-1), 1, rtol=1e-6)
    assert any("pseudo-labelled" in line for line in data.summary())


def test_the_accuracy_in_training_is_that_of_the_most_probable_class():
    class Constant:
        def apply(self, variables, inputs, **options):
            return np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

    labels = np.array([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]], np.float32)
    batch = {"image": np.zeros((3, 1, 1, 1)), "label": labels, "mask": np.ones(3, np.float32)}
    _, metrics = Classification(num_classes=3).loss(Constant(), None, batch, rngs=None, train=False)
    assert float(metrics["top1"].value) == 2


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (None, ["pseudo_labels.predictions=nowhere.npz"], "nowhere.npz does not exist"),
        (lambda old: {"id": old["id"]}, [], "is not a file of predictions with id and logits"),
        (
            lambda old: {**old, "logits": old["logits"][:, :9]},
            [],
            r"shape \(30, 9\), but there are 10 classes",
        ),
        (lambda old: {key: value[:20] for key, value in old.items()}, [], "has predictions of 20 examples, but"),
        (lambda old: {**old, "id": old["id"] + 1}, [], "other examples than those of 'train\\[20:50\\]'"),
        (dict, ["pseudo_labels.threshold=0.9999999"], "no prediction in .* is that confident"),
        (dict, ["pseudo_labels.split="], "needs config.pseudo_labels.split"),
    ],
)
def test_mistakes_are_one_line(predictions, change, overrides, message):
    if change:
        np.savez(predictions, **change(dict(np.load(predictions))))
    config = config_of(f"pseudo_labels.predictions={predictions}", *overrides)
    with pytest.raises(UserError, match=message):
        with_pseudo_labels(config, open_split(config, "train[:20]"))


def test_test_images_are_not_trained_on(predictions, tmp_path):
    np.savez(predictions, id=np.arange(355), logits=np.zeros((355, 10), np.float32))
    config = config_of(f"pseudo_labels.predictions={predictions}", "pseudo_labels.split=test")
    with pytest.raises(UserError, match=r"pseudo_labels.split='test' and config.data.eval_split='test' overlap"):
        Experiment.from_config(config, tmp_path / "run")
