"""A workdir belongs to one config and one data set, whatever became of its files."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest
from harness import Crash, Window, crash, hooked, interrupt, rows, saved, stopped_at, tiny_config, train

from vit_jax.errors import RunError, UserError
from vit_jax.tasks import Sum


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, images):
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    stopped_at("update", 6, interrupt, tiny_config(images), workdir)
    return workdir


@pytest.fixture
def begun(tmp_path, stopped):
    """A run that was stopped after step 6."""
    return pathlib.Path(shutil.copytree(stopped, tmp_path / "run"))


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "halved": lambda path: path.write_text(path.read_text()[:200]),
    "NUL": lambda path: path.write_bytes(b"\0" * 500),
    "no object": lambda path: path.write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_config_is_repaired_and_does_not_hide_a_change(begun, images, damage, capfd):
    path = begun / "config.json"
    before = json.loads(path.read_text())
    DAMAGE[damage](path)
    with pytest.raises(UserError, match=r"another config \(optimizer.schedule.peak: 0.01 -> 0.02\)"):
        train(tiny_config(images, optimizer__schedule__peak=0.02), begun)
    train(tiny_config(images), begun, quiet=False)
    assert "config.json was missing or damaged; it is written again" in capfd.readouterr().out
    assert json.loads(path.read_text()) == before


def test_an_edited_config_does_not_hide_a_change(begun, images):
    path = begun / "config.json"
    path.write_text(path.read_text().replace('"peak": 0.01', '"peak": 0.02'))
    with pytest.raises(UserError, match=r"peak: 0.01 -> 0.02"):
        train(tiny_config(images, optimizer__schedule__peak=0.02), begun)
    train(tiny_config(images), begun)
    assert json.loads(path.read_text())["optimizer"]["schedule"]["peak"] == 0.01


def test_another_implementation_of_random_numbers_is_refused(begun, images):
    with jax.default_prng_impl("rbg"), pytest.raises(UserError, match="'threefry2x32', now 'rbg'"):
        train(tiny_config(images), begun)
    assert saved(begun) == [5, 6]


def test_a_checkpoint_of_another_version_is_called_that(begun, images):
    for step in saved(begun):
        path = begun / "checkpoints" / str(step) / "meta" / "metadata"
        meta = json.loads(path.read_text())
        del meta["checksum"], meta["labels"]
        path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"\(KeyError 'labels'\). It is damaged or of another version of vit_jax"):
        train(tiny_config(images), begun)
    assert saved(begun) == [5, 6]


def test_a_run_in_use_is_refused_and_untouched(begun, images):
    refused = []

    def second(step, *_):
        if step == 8:
            with pytest.raises(UserError, match="is in use by process") as caught:
                train(tiny_config(images), begun)
            refused.append(caught)
            crash()

    with hooked(Window, "add", before=second), pytest.raises(Crash):
        train(tiny_config(images), begun)
    assert len(refused) == 1
    train(tiny_config(images), begun)
    steps = [(row["step"], row["split"]) for row in rows(begun)]
    assert sorted(steps) == sorted(set(steps))
    assert steps[-1][0] == 12


def test_a_finished_run_says_so(begun, images, capfd):
    train(tiny_config(images), begun, quiet=False)
    assert "resuming after step 6" in capfd.readouterr().out
    train(tiny_config(images), begun, quiet=False)
    said = capfd.readouterr().out
    assert "this run is finished: all 12 steps are done" in said
    assert "resuming" not in said


def test_lines_of_metrics_that_cannot_be_read_are_named_and_passed_over(begun, images, capfd):
    path = begun / "metrics.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"\0" * 80 + b"\n", b"\xff\xfe\n", *others, b'{"step": 6, "spl']))
    train(tiny_config(images), begun, quiet=False)
    assert f"{path}: lines 2, 3, {len(others) + 4} cannot be read" in capfd.readouterr().out
    assert [(row["step"], row["split"]) for row in rows(begun)] == [
        (3, "train"), (4, "eval"), (6, "train"), (8, "eval"), (9, "train"), (12, "train"), (12, "eval"),
    ]  # fmt: skip


@pytest.mark.parametrize("at", [2, 7])
def test_a_loss_that_is_not_finite_is_explained(tmp_path, images, at):
    """The message names the step, the batch, the last finite loss and what to try, and a checkpoint only if any."""
    config = tiny_config(images, log_every="1 steps")

    def poison(step, sums, **_):
        if step == at:
            sums["loss"] = Sum(jnp.float32(jnp.nan), jnp.float32(4))

    with hooked(Window, "add", before=poison), pytest.raises(RunError) as caught:
        train(config, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"loss is nan at step {at}. The ids of the examples in its batch are ")
    ids = [int(i) for i in message.partition("batch are ")[2].partition(".")[0].split(", ")]
    assert len(ids) == 4
    assert set(ids) <= set(range(12))
    last = next(row["loss"] for row in rows(tmp_path, "train") if row["step"] == at - 1)
    assert f"The loss of step {at - 1} was {last:.6g}." in message
    expected = "There is no checkpoint yet." if at == 2 else "The checkpoint of step 5 is kept;"
    assert expected in message
    assert "config.optimizer.clip_norm=1 or lower, a lower config.optimizer.schedule.peak" in message
    assert saved(tmp_path) == ([] if at == 2 else [5])
