"""The rows of metrics.jsonl: means, rates and timings, and atomic writing."""

import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import RunError
from vit_jax.tasks import Sum
from vit_jax.workdir.metrics import Metrics, Window, read_metrics


class Host:
    """Fetches what is already here, and remembers what it was asked for."""

    def __init__(self):
        self.fetched = []

    def fetch(self, tree):
        self.fetched.append(tree)
        return jax.tree.map(np.asarray, tree)


def sums_of(**pairs):
    return {name: Sum(jnp.float32(value), jnp.float32(weight)) for name, (value, weight) in pairs.items()}


@pytest.fixture
def metrics(tmp_path):
    metrics = Metrics(tmp_path, first_step=0, total_steps=100, quiet=True)
    yield metrics
    metrics.close()


def window_of(metrics, log_every=2, schedule=lambda step: 10.0 * step, saved=None, host=None):
    return Window(host or Host(), metrics, schedule, log_every, saved=saved)


def add(window, step, waited=0.0, examples=1, **pairs):
    window.add(step, sums_of(**(pairs or {"loss": (1, 1)})), examples=examples, waited=waited)


def test_a_row_is_the_weighted_mean_of_its_steps(tmp_path, metrics):
    window = window_of(metrics, log_every=3)
    for step, value, weight in ((1, 2, 1), (2, 9, 4), (3, 1, 1), (4, 8, 2), (5, 5, 5), (6, 1, 3)):
        add(window, step, loss=(value, weight), top1=(value, 2 * weight))
    window.flush()
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["split"]) for row in rows] == [(3, "train"), (6, "train")]
    assert [row["loss"] for row in rows] == pytest.approx([12 / 6, 14 / 10])
    assert [row["top1"] for row in rows] == pytest.approx([12 / 12, 14 / 20])


def test_row_n_has_the_rate_of_update_n_whose_schedule_began_at_0(tmp_path, metrics):
    window = window_of(metrics, log_every=2)
    for step in range(1, 7):
        add(window, step)
    window.flush()
    assert [row["learning_rate"] for row in read_metrics(tmp_path)] == [10 * (n - 1) for n in (2, 4, 6)]


def test_a_step_is_fetched_when_the_next_has_been_given_to_the_device(tmp_path, metrics):
    host = Host()
    window = window_of(metrics, log_every=2, host=host)
    for step in (1, 2):
        add(window, step)
        assert len(host.fetched) == step - 1
    assert read_metrics(tmp_path) == []
    window.flush()
    assert [row["step"] for row in read_metrics(tmp_path)] == [2]
    window.flush()  # nothing is pending
    assert len(host.fetched) == 2


def test_half_a_window_travels_with_the_checkpoint(tmp_path, metrics):
    before = window_of(metrics, log_every=4)
    for step in (1, 2):
        add(before, step, loss=(step, 1))
    before.flush()
    assert json.loads(json.dumps(before.sums)) == {"loss": [3.0, 2.0]}
    after = window_of(metrics, log_every=4, saved=json.loads(json.dumps(before.sums)))
    for step in (3, 4):
        add(after, step, loss=(10, 1))
    after.flush()
    (row,) = read_metrics(tmp_path)
    assert row["loss"] == pytest.approx(23 / 4)
    assert after.sums == {}


def test_timings_count_from_the_last_row(tmp_path, metrics, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    window = window_of(metrics, log_every=2)
    for step in range(1, 5):
        now[0] += 2 * step
        add(window, step, examples=8, waited=0.5)
    window.clear_clock()  # as an evaluation does
    now[0] += 5
    window.flush()
    # the row of step 2 is written 12 seconds after the start, when step 3 has been given to the devices
    assert [row["examples_per_second"] for row in read_metrics(tmp_path)] == pytest.approx([16 / 12, 8 / 5])
    assert [row["input_wait"] for row in read_metrics(tmp_path)] == pytest.approx([1.5 / 12, 0])


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stops_the_run_and_is_named(tmp_path, metrics, name, value):
    window = window_of(metrics, log_every=2)
    add(window, 1)
    add(window, 2, loss=(1, 1), **({} if name == "loss" else {name: (value, 1)}))
    if name == "loss":
        window.flush()
        add(window, 3, loss=(value, 1))
    with pytest.raises(RunError, match=rf"{name}.*step {3 if name == 'loss' else 2}\b"):
        window.flush()
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path))


def test_an_evaluation_that_is_not_finite_is_not_written(tmp_path, metrics):
    with pytest.raises(RunError, match=r"loss.*step 4"):
        metrics.write(4, "eval", {"loss": np.nan})
    assert read_metrics(tmp_path) == []


def test_the_last_row_of_a_split_is_the_newest(metrics):
    assert metrics.last("eval") is None
    for step in (2, 4):
        metrics.write(step, "eval", {"loss": float(step)})
        metrics.write(step, "train", {"loss": -float(step)})
    assert metrics.last("eval") == {"step": 4, "split": "eval", "loss": 4.0}
    assert metrics.last("train")["loss"] == -4.0
    assert metrics.has(2, "eval")
    assert not metrics.has(3, "eval")
    assert not metrics.has(4, "test")


def written(folder, steps=(2, 4, 6)):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"step": step, "split": split, "loss": 1.0}) for step in steps for split in ("train", "eval")]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder / "metrics.jsonl"


@pytest.mark.parametrize(("first_step", "left"), [(0, []), (3, [2, 2]), (4, [2, 2, 4, 4]), (9, [2, 2, 4, 4, 6, 6])])
def test_rows_after_the_first_step_are_cut_and_new_ones_appended(tmp_path, first_step, left):
    written(tmp_path)
    metrics = Metrics(tmp_path, first_step=first_step, total_steps=9, quiet=True)
    assert [row["step"] for row in read_metrics(tmp_path)] == left
    metrics.write(9, "eval", {"loss": 2.0, "signature": "text stays in the row"})
    metrics.close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [*left, 9]
    assert rows[-1] == {"step": 9, "split": "eval", "loss": 2.0, "signature": "text stays in the row"}


def test_the_file_is_replaced_and_never_rewritten_in_place(tmp_path):
    """Another link to the old file still holds all of it: had the process died on the way, so would the path."""
    path = written(tmp_path / "run")
    before = path.read_text()
    os.link(path, tmp_path / "old")
    Metrics(tmp_path / "run", first_step=2, total_steps=9, quiet=True).close()
    assert (tmp_path / "old").read_text() == before
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [2, 2]
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_file()] == ["metrics.jsonl"]


def test_a_crash_while_it_is_replaced_leaves_the_old_file(tmp_path, monkeypatch):
    path = written(tmp_path)
    before = path.read_text()

    def no_disk(*_):
        raise OSError("killed here")

    monkeypatch.setattr(os, "replace", no_disk)
    monkeypatch.setattr(os, "rename", no_disk)
    with pytest.raises(RunError, match=r"metrics.jsonl: killed here"):
        Metrics(tmp_path, first_step=2, total_steps=9, quiet=True)
    assert path.read_text() == before


def test_a_half_written_last_line_is_ignored(tmp_path):
    path = written(tmp_path, steps=(2,))
    path.write_text(path.read_text() + '{"step": 4, "spl')
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 2]
    metrics = Metrics(tmp_path, first_step=4, total_steps=9, quiet=True)
    metrics.write(6, "train", {"loss": 1.0})
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 2, 6]
