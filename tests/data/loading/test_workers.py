"""Workers: what a run is made of does not depend on them, they outlive evaluations, and nothing is left of them."""

import collections
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading import workers as workers_module
from vit_jax.data.loading.pipeline import PART_BYTES, LoadBatch, eval_batches, train_batches
from vit_jax.data.loading.workers import Workers, choose_workers, cores_of_this_process
from vit_jax.data.source import open_source
from vit_jax.errors import RunError

CHAIN = "random_resized_crop|flip|randaug(2, 10)|normalize(0.5, 0.25)"


@pytest.fixture
def photos(tmp_path):
    """A folder of 12 JPEGs of 40 x 30 pixels."""
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "photos" / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((40 + index, 30)).save(folder / f"{index}.jpg")
    return open_source("folder", "train", path=str(tmp_path / "photos"))


def arrays(batches):
    return [{key: np.array(value) for key, value in batch.items()} for batch in batches]


def same(one, other):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("crop", ["random_resized_crop", "random_resized_crop(exact=False)"])
def test_order_and_pixels_are_those_of_no_workers_also_after_a_resume(photos, crop):
    if "exact" in crop:
        pytest.importorskip("cykooz_resizer", reason="there is no wheel for Linux on ARM")
    encoder = Preprocessing((16, 16), 3, CHAIN.replace("random_resized_crop", crop))

    def train(workers, first=0):
        options = {"batch_size": 8, "seed": 5, "first_step": first, "last_step": 6, "workers": workers}
        return arrays(train_batches(photos, encoder, **options))

    expected, evaluator = train(Workers(0, 0)), Preprocessing((16, 16), 3, "resize(16)|center_crop|normalize(0.5, 1.0)")
    scored = arrays(eval_batches(photos, evaluator, batch_size=12, workers=Workers(0, 0)))
    with_four = Workers(4, 1)
    same(train(with_four), expected)
    processes = {process.pid for process in multiprocessing.active_children()}
    assert len(processes) == 4
    for _ in range(2):  # the same processes serve every evaluation, and training after it
        same(arrays(eval_batches(photos, evaluator, batch_size=12, workers=with_four)), scored)
    same(train(with_four, first=4), expected[4:])
    assert {process.pid for process in multiprocessing.active_children()} == processes
    with_four.close()
    assert not multiprocessing.active_children()
    same(train(Workers(1, 2), first=2), expected[2:])


def test_a_worker_needs_megabytes_whatever_the_batch():
    class Many:
        name, split = "many", "train"

        def __len__(self):
            return 10**6

    source: Any = Many()
    load = LoadBatch(source, Preprocessing((224, 224), 3, CHAIN), 4096, 1, 2, seed=0)
    parts = load.parts(3, 8)
    assert [position for part in parts for position in part] == list(range(3 * 4096 + 2048, 4 * 4096))
    assert max(map(len, parts)) * 224 * 224 * 3 <= PART_BYTES
    assert [len(part) for part in LoadBatch(source, load.encoder, 64, 0, 1, seed=0).parts(0, 8)] == [8] * 8


def test_a_worker_that_is_killed_ends_the_run_in_one_line(photos):
    workers = Workers(1, 1)
    batches = train_batches(
        photos, Preprocessing((16, 16), 3, CHAIN), batch_size=4, seed=0, first_step=0, last_step=10**6, workers=workers
    )
    next(batches)
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"a worker process .* has ended \(status -9\)"):
        collections.deque(batches, maxlen=0)
    workers.close()


class Broken:
    """Can be sent to a worker, where it cannot be received."""

    def __reduce__(self):
        return int, ("seven",)


def test_a_load_that_a_worker_cannot_receive_is_no_deadlock(photos):
    photos.extra = Broken()
    encoder, workers = Preprocessing((16, 16), 3, CHAIN), Workers(1, 2)
    batches = train_batches(photos, encoder, batch_size=4, seed=0, first_step=0, last_step=2, workers=workers)
    with pytest.raises(ValueError, match="seven"):
        next(batches)


SCRIPT = """
import multiprocessing, sys, time
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading.pipeline import train_batches
from vit_jax.data.source import open_source
from vit_jax.data.loading.workers import Workers
if __name__ == "__main__":
    source = open_source("folder", "train", path=sys.argv[1])
    workers = Workers(2, 1)
    chain = Preprocessing((16, 16), 3, "random_resized_crop|normalize(0.5, 0.5)")
    batches = train_batches(source, chain, batch_size=8, seed=0, first_step=0, last_step=10**6, workers=workers)
    next(batches)
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    while True:
        next(batches)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_an_interrupted_program(photos, tmp_path, signum):
    script, shared = tmp_path / "script.py", "/dev/shm"
    script.write_text(SCRIPT)
    before = set(os.listdir(shared)) if os.path.isdir(shared) else set()
    with subprocess.Popen(
        [sys.executable, script, photos.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(signum)
    for _ in range(50):
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            break
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    after = set(os.listdir(shared)) if os.path.isdir(shared) else set()
    assert not {name for name in after - before if name.startswith(("vit_jax", "psm_", "sem.mp", "pym-"))}


def test_the_numbers_come_from_the_cores(monkeypatch):
    def numbers(*given, **options):
        chosen = choose_workers(*given, **options)
        return chosen.num_workers, chosen.num_threads

    assert numbers(None, None) == (0, 2)  # here the cores compute the steps, too
    assert numbers(3, None) == (3, 1)
    assert numbers(3, 2) == (3, 2)
    assert numbers(None, 0) == (0, 0)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr(workers_module, "cores_of_this_process", lambda: 12)
    assert numbers(None, None) == (11, 1)
    assert numbers(None, None, in_memory=True) == (0, 2)
    monkeypatch.setattr(workers_module, "cores_of_this_process", lambda: 256)
    assert numbers(None, None) == (48, 1)


@pytest.mark.parametrize(
    ("allowed", "told", "cores"),
    [(16, {}, 16), (16, {"SLURM_NTASKS_PER_NODE": "4"}, 4), (6, {"LOCAL_WORLD_SIZE": "4"}, 6)],
)
def test_processes_of_a_job_share_the_cores_of_their_host(monkeypatch, allowed, told, cores):
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    assert cores_of_this_process() == cores
