import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading.pipeline import epoch_order, eval_batches, train_batches
from vit_jax.data.loading.workers import Workers
from vit_jax.errors import UserError


class Numbers:
    """A source whose examples are known: image, label and id all say the index."""

    name, split, labels, kind = "numbers", "all", ("even", "odd"), "image"
    skipped: ClassVar[list] = []

    def __init__(self, length, multi_label=False):
        self.length, self.multi_label = length, multi_label

    def __len__(self):
        return self.length

    def all_labels(self):
        return np.arange(self.length) % 2

    def __getitems__(self, indices):
        from PIL import Image

        hot = np.eye(2, dtype=np.float32)
        return [
            {
                "image": Image.new("L", (8, 8), index),
                "label": hot[index % 2] if self.multi_label else index % 2,
                "id": index,
            }
            for index in indices
        ]


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            ours, theirs = np.asarray(one[key]), np.asarray(other[key])
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def train(source, preprocessing, first=0, last=6, batch_size=12, **options):
    options = {"workers": Workers(0, 0), "seed": 3, **options}
    batches = train_batches(source, preprocessing, batch_size=batch_size, first_step=first, last_step=last, **options)
    return [{key: np.array(value) for key, value in batch.items()} for batch in batches]


def ids(batches):
    return np.concatenate([batch["id"] for batch in batches])


def test_batches_have_the_promised_shapes_and_types(digits, augmented):
    batch = train(digits, augmented, last=1)[0]
    described = {key: (np.shape(value), value.dtype.name) for key, value in batch.items()}
    assert described == {
        "image": ((12, 8, 8, 1), "float32"),
        "label": ((12,), "int32"),
        "mask": ((12,), "float32"),
        "id": ((12,), "int32"),
    }
    assert batch["mask"].all()


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_threads_do_not_change_the_batches(digits, augmented, num_threads):
    same(train(digits, augmented), train(digits, augmented, workers=Workers(0, num_threads)))


@pytest.mark.parametrize(("num_workers", "num_threads"), [(1, 0), (2, 2)])
def test_workers_do_not_change_the_batches(digits, augmented, num_workers, num_threads):
    same(train(digits, augmented), train(digits, augmented, workers=Workers(num_workers, num_threads)))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("process_count", [2, 3, 4])
def test_processes_read_blocks_of_the_same_batches(digits, augmented, process_count):
    whole = train(digits, augmented)
    parts = [train(digits, augmented, process_index=i, process_count=process_count) for i in range(process_count)]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts, strict=True)
    ]
    same(whole, joined)


def test_resuming_is_slicing(digits, augmented):
    whole = train(digits, augmented, last=40)  # 480 of 355: into the second epoch
    same(whole[33:], train(digits, augmented, first=33, last=40))


def test_the_seed_changes_order_and_transforms(digits, augmented):
    one, other = train(digits, augmented, seed=3), train(digits, augmented, seed=4)
    assert not np.array_equal(ids(one), ids(other))
    once, again = train(Numbers(1), augmented, last=2, batch_size=1)
    assert not np.array_equal(once["image"], again["image"])  # the same example at another position


def test_every_epoch_sees_every_example_once_in_another_order(plain):
    seen = ids(train(Numbers(10), plain, last=10, batch_size=4)).reshape(
        4, 10
    )  # 40 positions, batches across the border
    assert all(sorted(epoch) == list(range(10)) for epoch in seen.tolist())
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 4


def test_repeated_augmentation_repeats_in_a_row_and_keeps_the_epochs_length(augmented):
    batches = train(Numbers(30), augmented, last=10, batch_size=6, repeats=3)
    rows = ids(batches).reshape(2, 10, 3)
    assert np.all(rows == rows[..., :1])
    for epoch in rows[..., 0]:
        assert len(set(epoch.tolist())) == 10  # one in three of the 30
    first = batches[0]["image"][:3]
    assert not np.array_equal(first[0], first[1])


def test_image_label_and_id_belong_together(plain):
    for batch in train(Numbers(10), plain, last=5):
        np.testing.assert_allclose(batch["image"][:, 0, 0, 0], batch["id"] / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(batch["label"], batch["id"] % 2)


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 8, 9, 15, 16])
def test_evaluation_sees_every_example_once_and_pads(plain, length, process_count):
    options = {"batch_size": 8, "process_count": process_count}
    parts = [list(eval_batches(Numbers(length), plain, process_index=i, **options)) for i in range(process_count)]
    assert len({len(part) for part in parts}) == 1
    batches = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts, strict=True)
    ]
    assert all(len(batch["id"]) == 8 for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert ids(batches)[mask == 1].tolist() == list(range(length))
    padding = np.concatenate([batch["image"] for batch in batches])[mask == 0]
    assert np.all(ids(batches)[mask == 0] == -1)
    assert np.all(padding == 0)


def test_evaluation_with_workers_is_the_same(digits, plain):
    expected = list(eval_batches(digits, plain, batch_size=50))
    same(expected, eval_batches(digits, plain, batch_size=50, workers=Workers(2, 1)))


def test_several_labels_are_multi_hot(plain):
    batches = list(eval_batches(Numbers(5, multi_label=True), plain, batch_size=4, process_index=1, process_count=2))
    assert [batch["label"].shape for batch in batches] == [(2, 2), (2, 2)]
    assert batches[0]["label"].dtype == np.float32
    assert batches[0]["label"].tolist() == [[1, 0], [0, 1]]
    assert batches[1]["mask"].tolist() == [0, 0]


def test_no_steps_give_no_batches(digits, plain):
    assert train(digits, plain, first=4, last=4) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9, "process_count": 2}, "batch_size 9 must be a positive multiple of 2 processes"),
        ({"batch_size": 0}, "batch_size 0 must be"),
        ({"repeats": 0}, "config.data.repeats must be 1 or more"),
        ({"source": Numbers(0)}, "numbers: split 'all' is empty"),
    ],
)
def test_mistakes_are_refused_before_the_first_batch(plain, options, message):
    values = {"source": Numbers(10), "batch_size": 4, "seed": 0, "first_step": 0, "last_step": 1, **options}
    with pytest.raises(UserError, match=message):
        train_batches(values.pop("source"), plain, **values)


def test_random_transforms_are_refused_in_evaluation(digits):
    with pytest.raises(UserError, match="must be deterministic: remove flip from"):
        eval_batches(digits, Preprocessing((8, 8), 1, "flip|normalize(0.5, 0.5)"), batch_size=4)


@pytest.mark.parametrize("numbers", [(0, 0), (0, 2), (1, 1)])
def test_a_mistake_seen_in_a_batch_reaches_the_user_as_it_is(numbers):
    small = Preprocessing((9, 9), 1, "normalize(0.5, 0.5)")
    with pytest.raises(UserError, match="an image of 8x8 pixels became 8x8, not 9x9"):
        train(Numbers(10), small, workers=Workers(*numbers))


@pytest.mark.parametrize("numbers", [(0, 2), (1, 2)])
def test_an_abandoned_iterator_leaves_nothing_behind(digits, augmented, numbers):
    before = threading.active_count()
    workers = Workers(*numbers)
    batches = train_batches(digits, augmented, batch_size=8, seed=0, first_step=0, last_step=10**6, workers=workers)
    next(batches)
    del batches, workers
    assert not multiprocessing.active_children()
    assert threading.active_count() == before


def test_the_order_of_an_epoch_is_fixed():
    """A golden: changing it would change every run that resumes."""
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert sorted(epoch_order(1000, 1, 2).tolist()) == list(range(1000))


SCRIPT = """
import sys
from vit_jax.data.loading.pipeline import train_batches
from vit_jax.data.source import open_source
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.loading.workers import Workers
if __name__ == "__main__":
    source = open_source("digits", "train", data_dir=sys.argv[1])
    chain = Preprocessing((8, 8), 1, "random_affine|randaugment|normalize(0.5, 0.5)")
    workers = Workers(1, 1)
    batches = train_batches(source, chain, batch_size=8, seed=0, first_step=0, last_step=99, workers=workers)
    next(batches)
    if "--stay" in sys.argv:
        import multiprocessing, os, time
        worker = multiprocessing.active_children()[0].pid
        print(worker, flush=True)
        os.kill(worker, 2), os.kill(worker, 15)
        time.sleep(0.5)
        list(next(batches) for _ in range(50))
        print("still there", flush=True)
        time.sleep(60)
    print(sorted({"tensorflow", "torch"} & set(sys.modules)))
"""


def test_a_script_with_workers_ends_by_itself_without_tensorflow(data_dir, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, data_dir], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert "Traceback" not in done.stderr


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_leave_signals_to_the_parent_and_die_with_it(data_dir, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script, data_dir, "--stay"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert parent.stdout.readline() == "still there\n"
        parent.kill()
    for _ in range(50):
        if not is_alive(worker):
            break
        time.sleep(0.1)
    assert not is_alive(worker)


def test_importing_the_data_modules_is_light():
    """Grain, when it runs, imports JAX for its profiler; importing our modules loads neither."""
    modules = ("loading.pipeline", "source", "describe", "image.folder", "image.transforms", "sets.prepare")
    imports = "; ".join(f"import vit_jax.data.{module}" for module in modules)
    code = f"import sys; {imports}; import vit_jax.commands.data; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("tensorflow", "tensorflow_datasets", "jax", "grain", "sklearn"):
        assert f"'{heavy}'" not in loaded


def test_batches_cover_many_epochs_cheaply(plain):
    far = train_batches(Numbers(10), plain, batch_size=4, seed=0, first_step=10**6, last_step=10**6 + 2)
    assert len(list(itertools.islice(far, 5))) == 2
