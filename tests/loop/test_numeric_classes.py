"""Runs on numeric class folders, which earlier versions sorted as text: 0, 10, 2."""

import contextlib

import flax.linen as nn
import numpy as np
import pytest
from harness import crash, rows, state_of, stopped_at, tiny_config, train, write_images

from vit_jax.data import layout
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.modality import open_data
from vit_jax.run import Run


@contextlib.contextmanager
def old_order():
    """Sorts classes as earlier versions did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "sorted_classes", lambda names: tuple(sorted(names)))
        yield


@pytest.mark.slow
def test_a_run_of_an_earlier_version_resumes_bit_for_bit(tmp_path):
    config = tiny_config(write_images(tmp_path / "images", ("0", "10", "2")), data__train_split="train[:80%]")
    with old_order():
        train(config, tmp_path / "whole")
        stopped_at("update", 7, crash, config, tmp_path / "run")
    train(config, tmp_path / "run")
    ours, theirs = (state_of(tmp_path / name, 12)["params"] for name in ("run", "whole"))
    np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])
    assert rows(tmp_path / "run", "eval") == rows(tmp_path / "whole", "eval")


def test_classes_keep_their_numbers_in_the_checkpoint(tmp_path):
    config = tiny_config(write_images(tmp_path / "images", ("0", "10", "2")))
    data = {labels: open_data(config, labels=labels) for labels in ((), ("0", "10", "2"), ("0", "2"))}
    assert [found.labels for found in data.values()] == [("0", "2", "10"), ("0", "10", "2"), ("0", "2", "10")]
    new, old, _ = (found.eval.all_labels() for found in data.values())
    assert [("0", "2", "10")[label] for label in new] == [("0", "10", "2")[label] for label in old]


def test_a_run_reads_splits_in_its_own_order(tmp_path):
    config = tiny_config(write_images(tmp_path / "images", ("0", "10", "2")))
    for labels in (("0", "10", "2"), ("0", "2", "10")):
        encoder = Preprocessing((8, 8), 1, config.data.eval_transforms)
        run = Run(nn.Dense(3), {}, None, labels, encoder, config, step=0)
        source = run.open_split("test")
        assert source.labels == labels
        assert [source.files[index].split("/")[0] for index in range(12)] == [labels[i] for i in source.all_labels()]
