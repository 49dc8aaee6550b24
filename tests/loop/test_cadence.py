"""What a run writes and when: rows, evaluations, checkpoints, and which of them is the best."""

import numpy as np
import pytest
from harness import Interrupted, interrupt, rows, saved, scripted, state_of, stopped_at, tiny_config, train
from PIL import Image

from vit_jax.errors import UserError


def steps_of(workdir, split):
    return [row["step"] for row in rows(workdir, split)]


@pytest.mark.parametrize(
    ("keys", "logged", "evaluated", "kept"),
    [
        ({}, [3, 6, 9, 12], [4, 8, 12], [5, 10, 12]),
        ({"duration": "11 steps"}, [3, 6, 9], [4, 8, 11], [5, 10, 11]),
        ({"duration": "10 steps", "eval_every": "5 steps"}, [3, 6, 9], [5, 10], [5, 10]),
        # 12 images in batches of 4: an epoch is 3 steps, 0.7 epochs are 2.1
        (
            {
                "duration": "3 epochs", "eval_every": "1 epochs", "log_every": "0.7 epochs",
                "checkpoint__every": "2 epochs",
            },
            [2, 4, 6, 8],
            [3, 6, 9],
            [6, 9],
        ),
        # shorter than log_every: a row at every evaluation
        ({"duration": "2 steps", "eval_every": "1_000 steps", "checkpoint__every": "9 epochs"}, [2], [2], [2]),
        ({"duration": "5 steps", "eval_every": "2 steps", "log_every": "6 steps"}, [2, 4], [2, 4, 5], [5]),
        ({"duration": "3 steps", "eval_every": "0.01 epochs", "log_every": "1 steps"}, [1, 2, 3], [1, 2, 3], [3]),
    ],
    ids=str,
)  # fmt: skip
def test_when_a_run_logs_evaluates_and_saves(tmp_path, images, keys, logged, evaluated, kept):
    train(tiny_config(images, checkpoint__keep_last=9, **keys), tmp_path)
    assert steps_of(tmp_path, "train") == logged
    assert steps_of(tmp_path, "eval") == evaluated
    assert saved(tmp_path) == kept
    for step in kept:
        assert state_of(tmp_path, step)["step"] == step


def test_the_result_is_the_last_evaluation(tmp_path, images):
    result = train(tiny_config(images), tmp_path)
    evaluations = rows(tmp_path, "eval")
    assert len({row["loss"] for row in evaluations}) == 3
    assert result["loss"] == evaluations[-1]["loss"]
    assert (result["examples"], result["skipped"]) == (8, 0)
    again = train(tiny_config(images), tmp_path)  # finished: nothing is done
    assert again["loss"] == evaluations[-1]["loss"]
    assert rows(tmp_path, "eval") == evaluations


def test_as_many_of_the_last_are_kept_as_asked_for(tmp_path, images):
    keys = {"checkpoint__every": "2 steps", "checkpoint__keep_best": 0}
    for keep_last in (1, 3):
        train(tiny_config(images, checkpoint__keep_last=keep_last, **keys), tmp_path / f"{keep_last}")
        assert saved(tmp_path / f"{keep_last}") == [8, 10, 12][-keep_last:]


BEST = {"eval_every": "3 steps", "checkpoint__every": "3 steps", "checkpoint__keep_last": 1}


@pytest.mark.parametrize(
    ("best", "kept"), [({"best": "top1"}, [6, 12]), ({"best": "loss"}, [9, 12]), ({"keep_best": 0}, [12])], ids=str
)
def test_the_best_evaluation_is_kept(tmp_path, images, best, kept):
    config = tiny_config(images, **BEST, **{f"checkpoint__{name}": value for name, value in best.items()})
    with scripted(top1=[0.5, 0.9, 0.6, 0.7], loss=[3.0, 2.0, 1.0, 4.0]):
        train(config, tmp_path)
    assert saved(tmp_path) == kept


def test_the_best_is_kept_across_a_resume(tmp_path, images):
    with scripted(top1=[0.5, 0.9, 0.6]):
        stopped_at("update", 10, interrupt, tiny_config(images, **BEST), tmp_path)
    assert saved(tmp_path) == [6, 10]
    with scripted(top1=[0.7]):
        train(tiny_config(images, **BEST), tmp_path)
    assert saved(tmp_path) == [6, 12]


def test_an_evaluation_without_a_checkpoint_is_never_the_best(tmp_path, images):
    with scripted(top1=[0.5, 0.9, 0.6, 0.7, 0.4, 0.3]):  # at steps 2, 4, ..., 12; saved at 6 and 12
        train(tiny_config(images, **{**BEST, "eval_every": "2 steps", "checkpoint__every": "6 steps"}), tmp_path)
    assert saved(tmp_path) == [6, 12]


def test_a_checkpoint_without_an_evaluation_is_not_ranked_by_the_one_before(tmp_path, images):
    with scripted(top1=[0.9, 0.5, 0.6]):  # at steps 4, 8 and 12; saved at 6 and 12
        train(tiny_config(images, **{**BEST, "eval_every": "4 steps", "checkpoint__every": "6 steps"}), tmp_path)
    assert saved(tmp_path) == [12]


def pixels(images, split):
    """Returns the normalized pixels of a split, one row an image, and the labels."""
    files = [
        (path, label) for label, name in enumerate(("cat", "dog")) for path in sorted((images / split / name).iterdir())
    ]
    x = np.stack([np.asarray(Image.open(path), np.float64).ravel() for path, _ in files]) / 255
    return (x - 0.5) / 0.5, np.array([label for _, label in files])


def scores_of(kernel, images):
    x, labels = pixels(images, "test")
    logits = x @ kernel.astype(np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(-1) == labels).mean()


@pytest.mark.parametrize("eval_batch_size", [None, 3])
def test_the_moving_average_is_evaluated_on_every_test_image(tmp_path, images, eval_batch_size):
    keys = {} if eval_batch_size is None else {"eval_batch_size": eval_batch_size}
    train(tiny_config(images, duration="3 steps", **keys), tmp_path)
    (row,), state = rows(tmp_path, "eval"), state_of(tmp_path, 3)
    loss, top1 = scores_of(state["ema"]["kernel"], images)
    assert (row["loss"], row["top1"], row["examples"]) == (pytest.approx(loss, rel=1e-5), top1, 8)
    assert scores_of(state["params"]["kernel"], images)[0] != pytest.approx(loss, rel=1e-3)


def test_without_a_moving_average_the_parameters_are_evaluated(tmp_path, images):
    train(tiny_config(images, duration="3 steps", optimizer__ema_decay=0.0), tmp_path)
    (row,), state = rows(tmp_path, "eval"), state_of(tmp_path, 3)
    assert row["loss"] == pytest.approx(scores_of(state["params"]["kernel"], images)[0], rel=1e-5)
    assert not state.get("ema")


def test_the_loop_averages_with_the_decay_of_the_config(tmp_path, images):
    keys = {"checkpoint__every": "1 steps", "checkpoint__keep_last": 9, "optimizer__ema_decay": 0.75}
    train(tiny_config(images, duration="3 steps", **keys), tmp_path)
    states = {step: state_of(tmp_path, step) for step in (1, 2, 3)}
    for step in (2, 3):
        before, after = states[step - 1]["ema"]["kernel"], states[step]["ema"]["kernel"]
        np.testing.assert_allclose(after, 0.75 * before + 0.25 * states[step]["params"]["kernel"], rtol=1e-4)


def test_the_loop_takes_the_rate_of_the_schedule_from_step_0_on(tmp_path, images):
    """A linear warm-up from 0 to 0.8 over 4 steps, as of plain SGD: the first update changes nothing."""
    keys = {"schedule__warmup": "4 steps", "schedule__peak": 0.8, "momentum": 0.0}
    keys = {f"optimizer__{name}": value for name, value in keys.items()}
    config = tiny_config(
        images, duration="6 steps", log_every="1 steps", checkpoint__every="1 steps", checkpoint__keep_last=9, **keys
    )
    train(config, tmp_path)
    logged = rows(tmp_path, "train")
    assert [row["learning_rate"] for row in logged] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    kernels = {step: state_of(tmp_path, step)["params"]["kernel"] for step in range(1, 7)}
    moved = {step: np.linalg.norm(kernels[step] - kernels[step - 1]) for step in range(2, 7)}
    for step, distance in moved.items():
        rate = [0, 0.2, 0.4, 0.6, 0.8, 0.8][step - 1]
        assert distance == pytest.approx(rate * logged[step - 1]["gradient_norm"], rel=1e-3)
        assert logged[step - 1]["parameter_norm"] == pytest.approx(np.linalg.norm(kernels[step]), rel=1e-5)
    assert logged[0]["parameter_norm"] == pytest.approx(np.linalg.norm(kernels[1]), rel=1e-5)


def test_the_seed_decides_where_a_run_starts(tmp_path, images):
    kernels = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        keys = {"duration": "1 steps", "optimizer__schedule__peak": 0.0, "seed": seed}
        train(tiny_config(images, **keys), tmp_path / name)
        kernels.append(state_of(tmp_path / name, 1)["params"]["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-3


def test_a_score_that_the_task_does_not_have_is_refused_before_anything_is_written(tmp_path, images):
    with pytest.raises(UserError, match="top2"):
        train(tiny_config(images, checkpoint__best="top2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_says_which_signal_it_was(tmp_path, images):
    from harness import PLACES

    with PLACES["update"](2, interrupt), pytest.raises(Interrupted, match="2") as caught:
        train(tiny_config(images), tmp_path)
    assert caught.value.signum == 15
