"""Few-shot evaluation: least squares against NumPy and scikit-learn, the choice of examples and of l2, the command."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from vit_jax.__main__ import main
from vit_jax.analysis import few_shot
from vit_jax.analysis.embedding.few_shot import L2_GRID, choose_examples, fit_linear
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.sets.digits import fifth_of_each_class
from vit_jax.errors import UserError
from vit_jax.experiment import describe, make_model
from vit_jax.workdir.checkpoint import Checkpoints

DIGITS = [str(digit) for digit in range(10)]


def pixels():
    """The digits as features, split as the data set `digits`."""
    images, labels = load_digits(return_X_y=True)
    is_test = fifth_of_each_class(labels)
    return [{"features": images[part], "label": labels[part]} for part in (~is_test, is_test)]


def some(rows, indices):
    return {name: values[indices] for name, values in rows.items()}


def random_examples(count, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) * rng.uniform(0.1, 9, width) + rng.normal(0, 5, width), np.arange(
        count
    ) % 3


# ---- least squares ----


@pytest.mark.parametrize(("count", "width"), [(40, 6), (12, 30)])
@pytest.mark.parametrize("l2", [0.5, 300.0])
def test_the_fit_is_that_of_least_squares(count, width, l2):
    """As rows below the examples, `sqrt(l2) I` pulls the weights, but not the bias, to 0."""
    features, labels = random_examples(count, width)
    x = (features - features.mean(0)) / (features.std(0) + 1e-5)
    rows = np.block([[x, np.ones((count, 1))], [np.sqrt(l2) * np.eye(width), np.zeros((width, 1))]])
    targets = np.vstack([np.where(np.eye(3)[labels] > 0, 1, -1), np.zeros((width, 3))])
    solution = np.linalg.lstsq(rows, targets)[0]

    fitted = fit_linear(features, labels, 3, l2)
    np.testing.assert_allclose(fitted.weights, solution[:-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fitted.bias, solution[-1], rtol=1e-9, atol=1e-12)
    fresh = random_examples(5, width, seed=1)[0]
    expected = (fresh - features.mean(0)) / (features.std(0) + 1e-5) @ solution[:-1] + solution[-1]
    np.testing.assert_allclose(fitted.scores(fresh), expected, rtol=1e-9)


@pytest.mark.parametrize(("count", "width"), [(40, 6), (12, 30)])
def test_l2_is_the_best_at_predicting_each_example_by_the_others(count, width):
    features, labels = random_examples(count, width)
    features[:, 0] += 6 * labels  # something to learn, so that the best is inside the grid
    x = (features - features.mean(0)) / (features.std(0) + 1e-5)
    targets = np.where(np.eye(3)[labels] > 0, 1, -1)

    def error(l2):
        errors = []
        for left_out in range(count):
            others = np.arange(count) != left_out
            centre, bias = x[others].mean(0), targets[others].mean(0)
            centred = x[others] - centre
            weights = np.linalg.solve(centred.T @ centred + l2 * np.eye(width), centred.T @ (targets[others] - bias))
            errors.append(np.mean(((x[left_out] - centre) @ weights + bias - targets[left_out]) ** 2))
        return np.mean(errors)

    best = min(L2_GRID, key=error)
    assert L2_GRID[0] < best < L2_GRID[-1]
    assert fit_linear(features, labels, 3).l2 == best


def test_digits_by_their_pixels_are_scikit_learns():
    train, test = pixels()
    chosen = choose_examples(train["label"], 20, DIGITS)
    for l2 in (1.0, 64.0, 1024.0):
        scaler = StandardScaler().fit(train["features"][chosen])
        ridge = RidgeClassifier(l2).fit(scaler.transform(train["features"][chosen]), train["label"][chosen])
        expected = ridge.score(scaler.transform(test["features"]), test["label"])
        found = few_shot(some(train, chosen), test, 10, l2)
        # a pixel that is blank in all 200 but not in the test is worth nothing here and there
        assert found == {"top1": pytest.approx(expected, abs=1e-9), "examples": 355, "labelled": 200, "l2": l2}


def test_more_examples_know_more():
    """Measured: 0.59, 0.81, 0.87 and 0.91 in the mean of ten seeds; 2**10 for all gives 0.59, 0.78, 0.83 and 0.89."""
    train, test = pixels()
    found = [
        np.mean(
            [
                few_shot(some(train, choose_examples(train["label"], shots, DIGITS, seed=seed)), test, 10)["top1"]
                for seed in range(3)
            ]
        )
        for shots in (1, 5, 10, 25)
    ]
    assert found == sorted(found)
    assert found[0] > 0.5
    assert found[-1] > 0.88


def test_any_of_several_labels_is_right_and_none_is_left_out():
    train, test = pixels()
    train = some(train, choose_examples(train["label"], 5, DIGITS))
    single = few_shot(train, test, 10)
    hot = np.eye(10)[test["label"]]
    assert few_shot(train, test | {"label": hot}, 10) == single
    assert few_shot(train, test | {"label": np.ones_like(hot)}, 10)["top1"] == 1
    hot[:100] = 0
    assert few_shot(train, test | {"label": hot}, 10)["examples"] == 255


# ---- the choice of examples ----


def test_examples_are_chosen_by_the_seed_and_more_include_fewer():
    labels = np.random.default_rng(0).integers(0, 10, 300)
    five, again, other, eight = (
        choose_examples(labels, shots, DIGITS, seed=seed) for shots, seed in ((5, 0), (5, 0), (5, 1), (8, 0))
    )
    np.testing.assert_array_equal(labels[five], np.repeat(np.arange(10), 5))
    assert len(set(five)) == 50
    np.testing.assert_array_equal(five, again)
    assert set(five) != set(other)
    assert set(five) < set(eight)


def test_the_examples_chosen_are_the_first_of_a_random_order():
    labels = np.array([0, 1] * 6)
    rng = np.random.default_rng(3)
    expected = [rng.permutation(np.arange(label, 12, 2))[:2] for label in (0, 1)]
    np.testing.assert_array_equal(choose_examples(labels, 2, ("a", "b"), seed=3), np.concatenate(expected))


def test_classes_without_enough_examples_are_named():
    with pytest.raises(UserError, match=r"4 examples per class, but some have fewer: 'b' \(3\), 'd' \(0\)"):
        choose_examples(np.array([0] * 5 + [1] * 3 + [2] * 4), 4, ["a", "b", "c", "d"])
    with pytest.raises(UserError, match="one label each"):
        choose_examples(np.eye(3), 1, ["a", "b", "c"])


# ---- the command ----


@struct.dataclass
class State:
    params: dict
    ema: None = None


@pytest.fixture(scope="module")
def workdir(own_home, randomised, tmp_path_factory):
    """A run on the digits that has learnt nothing."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    config = default_config()
    config.model.update(name="vit:Ti/2", hidden_dim=32, mlp_dim=32, num_layers=1, num_heads=2)
    config.data.update(image_size=(8, 8), channels=1, data_dir=str(workdir.parent))
    preprocessing = Preprocessing((8, 8), 1, "normalize(mean=0.5, std=0.5)")
    model = make_model(config, preprocessing, DIGITS)
    images = jnp.zeros((1, 8, 8, 1))
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"]))
    checkpoints = Checkpoints(workdir)
    meta = describe(config, DIGITS, preprocessing)
    checkpoints.save(7, State(params), meta, None)
    checkpoints.wait()
    checkpoints.close()
    return workdir


def ran(*arguments, status=0):
    """Runs a command in this process; returns what it printed, on stderr if it had to fail."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([str(argument) for argument in arguments]) == status, err.getvalue()
    return (err if status else out).getvalue()


def test_a_checkpoints_features_are_evaluated(workdir):
    one, five = map(json.loads, ran("evaluate", workdir, "--few_shot=1,5", "--json").splitlines())
    assert {
        name: five[name] for name in ("set", "split", "step", "shots", "seed", "examples", "labelled", "skipped")
    } == {
        "set": "digits",
        "split": "test",
        "step": 7,
        "shots": 5,
        "seed": 0,
        "examples": 355,
        "labelled": 50,
        "skipped": 0,
    }
    assert (one["shots"], one["labelled"]) == (1, 10)
    assert five["top1"] > one["top1"] > 0.1  # better than chance, though next to nothing was learnt
    # batches, and what else is evaluated, do not matter
    alone = json.loads(ran("evaluate", workdir, "--few_shot=5", "--batch_size=50", "--json"))
    assert alone == {**five, "top1": pytest.approx(five["top1"], abs=2 / 355)}
    words = ran("evaluate", workdir, "--few_shot=5").split()
    assert words[words.index("top1") + 1] == f"{five['top1']:.4f}"


def test_mistakes_are_named(workdir):
    assert "but some have fewer: '0' (" in ran("evaluate", workdir, "--few_shot=200", status=2)
    assert "no split" in ran("evaluate", workdir, "--few_shot=1", "--train_split=tarin", status=2)
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as err:
        main(["evaluate", str(workdir), "--few_shot=five"])
    assert "--few_shot must be one count or several, such as 5 or 1,5,10, got 'five'" in err.getvalue()
