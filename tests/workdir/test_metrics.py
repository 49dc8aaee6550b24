"""Timings of a training row cover its own steps only; metrics need no CPU backend and no local workdir."""

import json

import jax
import jax.numpy as jnp
import optax
import pytest

from vit_jax.tasks import Sum
from vit_jax.workdir import metrics as module
from vit_jax.workdir.metrics import Metrics, Window, read_metrics


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


class Device:
    """Fetches the sums of a step when the device has finished it, at a time that the test sets."""

    def __init__(self, clock):
        self.clock, self.free = clock, clock.now

    def start(self, seconds):
        self.free = max(self.free, self.clock.now) + seconds
        return {"loss": Sum(jnp.float32(2), jnp.float32(4)), "end": Sum(jnp.float32(self.free), jnp.float32(1))}

    def fetch(self, sums):
        self.clock.now = max(self.clock.now, float(sums["end"].value))
        return sums


@pytest.fixture
def run(tmp_path, clock):
    """Runs steps, given as pairs of seconds for the input and on the device, and returns the rows."""

    def run(steps, every=1, examples=8, evaluate_after=()):
        device = Device(clock)
        metrics = Metrics(tmp_path, first_step=0, total_steps=len(steps), quiet=True)
        window = Window(device, metrics, optax.constant_schedule(0.5), every)
        for step, (waited, computing) in enumerate(steps, start=1):
            clock.now += waited
            window.add(step, device.start(computing), examples=examples, waited=waited)
            if step in evaluate_after:
                window.flush()
                clock.now += 1000
                window.clear_clock()
        window.flush()
        metrics.close()
        return read_metrics(tmp_path)

    return run


def test_throughput_is_that_of_the_device_where_input_is_fast(run):
    rows = run([(0.25, 4)] * 12, every=3)
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    # the first batch cannot be prepared while the device computes
    assert rows[0]["examples_per_second"] == pytest.approx(3 * 8 / 12.25, rel=1e-5)
    assert rows[0]["input_wait"] == pytest.approx(4 * 0.25 / 12.25, rel=1e-5)
    assert [row["examples_per_second"] for row in rows[1:]] == pytest.approx([2.0] * 3, rel=1e-5)
    assert [row["input_wait"] for row in rows[1:]] == pytest.approx([0.75 / 12, 0.75 / 12, 0.5 / 12], rel=1e-5)


def test_input_wait_is_a_share_even_if_every_step_is_a_row(run):
    rows = run([(10, 0.5), (0, 0.5), (0.25, 0.5), (20, 0.5), (0, 0.25), (7, 1)], every=1)
    assert len(rows) == 6
    assert all(0 <= row["input_wait"] <= 1 for row in rows)
    assert rows[0]["input_wait"] == pytest.approx(10 / 10.5)
    assert rows[0]["examples_per_second"] == pytest.approx(8 / 10.5)
    slow = rows[2]  # while step 3 was finished, the host waited 20 seconds for the batch of step 4
    assert slow["input_wait"] > 0.95


def test_evaluations_are_not_part_of_the_timings(run):
    rows = run([(0, 2)] * 4, every=2, evaluate_after=(1, 2, 3))
    assert [row["examples_per_second"] for row in rows] == pytest.approx([4.0, 4.0], rel=1e-4)


def test_means_and_rate_are_those_of_the_steps_of_a_row(tmp_path, clock):
    device, metrics = Device(clock), Metrics(tmp_path, first_step=0, total_steps=4, quiet=True)
    window = Window(device, metrics, optax.linear_schedule(1.0, 0.0, 4), 2)
    for step in range(1, 5):
        sums = device.start(1) | {"loss": Sum(jnp.float32(step), jnp.float32(step % 2 + 1))}
        window.add(step, sums, examples=8, waited=0)
    window.flush()
    metrics.close()
    first, second = read_metrics(tmp_path)
    assert (first["loss"], second["loss"]) == ((1 + 2) / (2 + 1), (3 + 4) / (2 + 1))
    assert (first["learning_rate"], second["learning_rate"]) == (0.75, 0.25)


def test_metrics_need_no_cpu_backend(tmp_path, clock, monkeypatch):
    def devices(backend=None, **_):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return [jax.Device]

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setattr(jax, "local_devices", devices)
    device, metrics = Device(clock), Metrics(tmp_path, first_step=0, total_steps=1, quiet=True)
    window = Window(device, metrics, optax.cosine_decay_schedule(1.0, 4), 1)
    window.add(1, device.start(1), examples=8, waited=0)
    window.flush()
    assert read_metrics(tmp_path)[0]["learning_rate"] == 1
    metrics.close()


def test_the_rate_is_asked_for_before_the_sums_are_fetched(tmp_path, clock):
    asked = []

    class Waiting(Device):
        def fetch(self, sums):
            asked.append("sums")
            return super().fetch(sums)

    def schedule(step):
        asked.append(step)
        return 0.5

    device, metrics = Waiting(clock), Metrics(tmp_path, first_step=0, total_steps=4, quiet=True)
    window = Window(device, metrics, schedule, 2)
    for step in range(1, 5):
        window.add(step, device.start(1), examples=8, waited=0)
    window.flush()
    metrics.close()
    assert asked == [1, "sums", "sums", 3, "sums", "sums"]


def test_resuming_removes_the_rows_of_steps_that_are_repeated(tmp_path):
    rows = [{"step": step, "split": "train", "loss": 0.5} for step in (2, 4, 6)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "spl')
    Metrics(tmp_path, first_step=4, total_steps=8, quiet=True).close()
    assert read_metrics(tmp_path) == rows[:2]
    assert not (tmp_path / "metrics.jsonl.tmp").exists()
