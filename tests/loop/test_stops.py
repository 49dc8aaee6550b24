"""A run that is stopped at any point and resumed ends like one that was not stopped."""

import jax
import numpy as np
import pytest
from harness import (
    Crash,
    Interrupted,
    Metrics,
    Window,
    crash,
    hooked,
    interrupt,
    rows,
    saved,
    state_of,
    stopped_at,
    tiny_config,
    train,
)

from vit_jax.errors import UserError

KEEP = {"checkpoint__keep_last": 9}
ROWS = [(3, "train"), (4, "eval"), (6, "train"), (8, "eval"), (9, "train"), (12, "train"), (12, "eval")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    workdir = tmp_path_factory.mktemp("whole")
    train(tiny_config(images, **KEEP), workdir)
    assert [(row["step"], row["split"]) for row in rows(workdir)] == ROWS
    return workdir


def assert_ends_as(whole, workdir, images):
    result = train(tiny_config(images, **KEEP), workdir)
    assert result["loss"] == rows(whole)[-1]["loss"]
    # an evaluation that a stop delayed may come after a row of the same step, never after one of a later step
    key = lambda row: (row["step"], row["split"] == "eval")  # noqa: E731
    assert sorted(rows(workdir), key=key) == sorted(rows(whole), key=key)
    assert [row["step"] for row in rows(workdir)] == sorted(step for step, _ in ROWS)
    jax.tree.map(np.testing.assert_array_equal, state_of(workdir, 12), state_of(whole, 12))


@pytest.mark.parametrize(
    ("step", "evaluated"),
    [(1, []), (3, []), (4, []), (5, [4]), (8, [4]), (11, [4, 8]), (12, [4, 8])],
)
def test_a_signal_saves_the_step_without_evaluating_it(tmp_path, whole, images, step, evaluated):
    stopped_at("update", step, interrupt, tiny_config(images, **KEEP), tmp_path)
    assert saved(tmp_path)[-1] == step
    assert [row["step"] for row in rows(tmp_path, "eval")] == evaluated
    assert state_of(tmp_path, step)["step"] == step
    assert_ends_as(whole, tmp_path, images)


@pytest.mark.parametrize("flush", [1, 3])  # the loop flushes before each evaluation (and before each save)
def test_a_signal_in_an_evaluation_ends_it_and_the_resumed_run_makes_it(tmp_path, whole, images, flush):
    calls = []

    def nth():
        calls.append(1)
        if len(calls) == flush:
            interrupt()

    with hooked(Window, "flush", after=nth), pytest.raises(Interrupted):
        train(tiny_config(images, **KEEP), tmp_path)
    step = {1: 4, 3: 8}[flush]
    assert saved(tmp_path)[-1] == step
    assert (step, "eval") not in [(row["step"], row["split"]) for row in rows(tmp_path)]
    assert_ends_as(whole, tmp_path, images)


@pytest.mark.parametrize("step", [4, 12])
def test_a_signal_in_the_evaluation_of_a_resumed_run(tmp_path, whole, images, step):
    stopped_at("update", step, interrupt, tiny_config(images, **KEEP), tmp_path)
    with hooked(Metrics, "__init__", after=interrupt_whatever), pytest.raises(Interrupted):
        train(tiny_config(images, **KEEP), tmp_path)
    assert (step, "eval") not in [(row["step"], row["split"]) for row in rows(tmp_path)]
    assert saved(tmp_path)[-1] == step
    assert_ends_as(whole, tmp_path, images)


def interrupt_whatever(*_):
    interrupt()


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("update", 1),
        ("update", 4),
        ("update", 7),
        ("update", 12),
        ("before evaluation is written", 4),
        ("before evaluation is written", 12),
        ("after evaluation is written", 8),
        ("after evaluation is written", 12),
        ("before saving", 5),
        ("before saving", 12),
        ("after saving", 10),
        ("after saving", 12),
    ],
)
def test_a_crash_goes_back_to_the_last_checkpoint(tmp_path, whole, images, place, step):
    stopped_at(place, step, crash, tiny_config(images, **KEEP), tmp_path)
    done = [at for at in (5, 10, 12) if at < step or (at == step and place == "after saving")]
    assert saved(tmp_path) == done
    assert_ends_as(whole, tmp_path, images)


def test_stopped_again_and_again(tmp_path, whole, images):
    for place, step, action in (
        ("update", 2, crash),
        ("update", 4, interrupt),
        ("before evaluation is written", 4, crash),
        ("after evaluation is written", 4, crash),
        ("update", 6, interrupt),
        ("before saving", 10, crash),
        ("update", 9, interrupt),
        ("update", 12, interrupt),
        ("before evaluation is written", 12, crash),
    ):
        stopped_at(place, step, action, tiny_config(images, **KEEP), tmp_path)
    assert_ends_as(whole, tmp_path, images)


def test_rows_after_the_restored_step_are_cut(tmp_path, images):
    with pytest.raises(Crash), hooked(Window, "add", before=lambda step, *_: crash() if step == 10 else None):
        train(tiny_config(images, **KEEP), tmp_path)
    assert [(row["step"], row["split"]) for row in rows(tmp_path)][-1] == (8, "eval")
    with pytest.raises(Crash), hooked(Metrics, "__init__", after=lambda *_: crash()):
        train(tiny_config(images, **KEEP), tmp_path)
    assert [(row["step"], row["split"]) for row in rows(tmp_path)] == ROWS[:2]


@pytest.fixture
def own_images(tmp_path):
    from harness import write_images

    return write_images(tmp_path / "own")


def test_other_classes_are_refused_on_resume(tmp_path, own_images):
    config, workdir = tiny_config(own_images), tmp_path / "run"
    stopped_at("update", 6, interrupt, config, workdir)
    before = rows(workdir)
    for split in ("train", "test"):
        (own_images / split / "dog").rename(own_images / split / "fox")
    with pytest.raises(UserError, match=r"labels|classes"):
        train(config, workdir)
    assert rows(workdir) == before
    for split in ("train", "test"):
        (own_images / split / "fox").rename(own_images / split / "dog")
    assert train(config, workdir)["examples"] == 8


def test_another_number_of_training_examples_is_said(tmp_path, own_images, capfd):
    config, workdir = tiny_config(own_images), tmp_path / "run"
    stopped_at("update", 6, interrupt, config, workdir)
    (own_images / "train" / "cat" / "5.png").unlink()
    train(config, workdir, quiet=False)
    said = capfd.readouterr().out
    assert any("12" in line and "11" in line and "training examples" in line for line in said.splitlines())


def test_a_run_resumes_with_other_keys_only_where_they_change_no_result(tmp_path, images):
    stopped_at("update", 6, interrupt, tiny_config(images), tmp_path)
    for key, value in (("accum_steps", 2), ("batch_size", 6), ("optimizer__schedule__peak", 0.02), ("seed", 1)):
        with pytest.raises(UserError, match=key.replace("__", ".")):
            train(tiny_config(images, **{key: value}), tmp_path)
    train(tiny_config(images, log_every="1 steps", eval_every="6 steps", checkpoint__keep_last=5), tmp_path)
    assert [row["step"] for row in rows(tmp_path, "train")] == [3, 6, 7, 8, 9, 10, 11, 12]
    assert [row["step"] for row in rows(tmp_path, "eval")] == [4, 6, 12]
