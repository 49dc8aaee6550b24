"""Checkpoints: what they contain, which are kept, and what reading one must not do."""

import json
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import RunError, UserError
from vit_jax.experiment import describe, make_model
from vit_jax.load import load_run
from vit_jax.workdir import checkpoint
from vit_jax.workdir.checkpoint import Checkpoints, load_checkpoint


@struct.dataclass
class State:
    params: dict
    ema: dict | None


LABELS = ("cat", "dog", "newt")
PREPROCESSING = Preprocessing((8, 8), 1, "normalize(mean=0.5, std=0.5)")


@pytest.fixture
def config():
    config = default_config()
    config.model.update(name="vit:Ti/4", hidden_dim=8, mlp_dim=8, num_layers=1, num_heads=2)
    config.data.update(image_size=(8, 8), channels=1)
    return config


@pytest.fixture
def params(config, randomised):
    import jax

    model = make_model(config, PREPROCESSING, LABELS)
    images = jnp.zeros((1, 8, 8, 1))
    return randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"]))


def save(workdir, steps, params, ema=None, config=None, **options):
    """Saves `params` times the step at each of `steps`, `{step: metrics}`."""
    checkpoints = Checkpoints(workdir, **options)
    meta = describe(config or default_config(), LABELS, PREPROCESSING)
    for step, metrics in steps.items():
        state = State({"w": params * step} if not isinstance(params, dict) else params, ema)
        checkpoints.save(step, state, meta, metrics)
    checkpoints.wait()
    checkpoints.close()


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def damage(workdir, step):
    for file in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def snapshot(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_labels_config_and_preprocessing_are_inside(tmp_path, config, params):
    save(tmp_path, {3: None}, params, config=config)
    restored, meta = load_checkpoint(tmp_path)
    assert meta["step"] == 3
    assert tuple(meta["labels"]) == LABELS
    assert Preprocessing.from_dict(meta["preprocessing"]) == PREPROCESSING
    np.testing.assert_array_equal(restored["head"]["kernel"], params["head"]["kernel"])


def test_a_loaded_run_predicts_the_same_logits(tmp_path, config, params):
    save(tmp_path, {3: None}, params, config=config)
    run = load_run(tmp_path)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    ours = run.task.predict(run.model, run.params, {"image": images})["logits"]
    theirs = make_model(config, PREPROCESSING, LABELS).apply({"params": params}, images, train=False)
    np.testing.assert_array_equal(ours, theirs)
    assert (run.labels, run.encoder, run.step) == (LABELS, PREPROCESSING, 3)


def test_the_moving_average_is_what_is_loaded_where_there_is_one(tmp_path):
    weights = jnp.arange(4.0)
    save(tmp_path / "plain", {1: None}, weights)
    save(tmp_path / "ema", {1: None}, weights, ema={"w": -weights})
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "plain")[0]["w"], weights)
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "ema")[0]["w"], -weights)


def test_the_last_and_the_best_are_kept(tmp_path):
    steps = {1: {"top1": 0.5}, 2: {"top1": 0.9}, 3: {"top1": 0.6}, 4: None, 5: {"top1": 0.7}, 6: None}
    save(tmp_path / "top1", steps, jnp.arange(4.0), keep_last=2, keep_best=1)
    assert kept(tmp_path / "top1") == [2, 5, 6]
    losses = {step: {"loss": metrics["top1"]} for step, metrics in steps.items() if metrics}
    save(tmp_path / "loss", losses, jnp.arange(4.0), keep_last=1, keep_best=1, best="loss")
    assert kept(tmp_path / "loss") == [1, 5]
    save(tmp_path / "none", steps, jnp.arange(4.0), keep_last=1, keep_best=0)
    assert kept(tmp_path / "none") == [6]


def test_reading_passes_a_damaged_checkpoint_over_and_changes_nothing(tmp_path, caplog):
    save(tmp_path, {1: None, 2: None}, jnp.arange(1000.0))
    damage(tmp_path, 2)
    before = snapshot(tmp_path)
    weights, meta = load_checkpoint(tmp_path)
    assert meta["step"] == 1
    np.testing.assert_array_equal(weights["w"], np.arange(1000.0))
    assert f"{tmp_path}/checkpoints/2 is damaged (" in caplog.text
    assert "object has no attribute" not in caplog.text
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("half", ["meta", "state"])
def test_a_checkpoint_that_lacks_a_half_is_damaged(tmp_path, caplog, half):
    save(tmp_path, {1: None, 2: None}, jnp.arange(4.0))
    path = tmp_path / "checkpoints" / "2" / half
    path.rename(tmp_path / "elsewhere")
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    assert "checkpoints/2 is damaged" in caplog.text


def test_one_checkpoint_may_be_asked_for_and_is_never_replaced_by_another(tmp_path):
    save(tmp_path, {1: None, 2: None}, jnp.arange(1000.0))
    assert load_checkpoint(tmp_path / "checkpoints" / "1")[1]["step"] == 1
    assert load_checkpoint(tmp_path, 1)[1]["step"] == 1
    with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*; there are \[1, 2\]"):
        load_checkpoint(tmp_path, 7)
    damage(tmp_path, 2)
    with pytest.raises(UserError, match=r"no intact checkpoint in .*: \[2\] are damaged"):
        load_checkpoint(tmp_path / "checkpoints" / "2")


def test_where_all_are_damaged_it_says_so_and_keeps_them(tmp_path):
    save(tmp_path, {1: None, 2: None}, jnp.arange(1000.0))
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(UserError, match=r"no intact checkpoint in .*: \[2, 1\] are damaged"):
        load_checkpoint(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: \[2, 1\]"):
        checkpoints.restore_latest(State({"w": jnp.zeros(1000)}, None))
    checkpoints.close()
    assert kept(tmp_path) == [1, 2]


def test_what_cannot_be_written_is_one_line_with_what_is_kept(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    state = State({"w": jnp.arange(4.0)}, None)
    checkpoints.save(1, state, {}, None)
    checkpoints.wait()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(
        RunError, match=r"cannot write a checkpoint to .*No space left on device; kept: \[1\]"
    ) as caught:
        checkpoints.save(2, state, {}, None)
    assert "\n" not in str(caught.value)
    checkpoints.close()


def test_what_changes_while_it_is_written_is_saved_as_it_was(tmp_path, monkeypatch):
    changed, dumps = threading.Event(), json.dumps

    def late(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            assert changed.wait(timeout=60)
        return dumps(*args, **kwargs)

    monkeypatch.setattr(json, "dumps", late)
    checkpoints, window, weights = Checkpoints(tmp_path), {"loss": [0.5, 1.0]}, jnp.arange(4.0)
    checkpoints.save(1, State({"w": weights}, None), {"window": window}, None)
    window["loss"][0] += 0.25  # as the next step does
    window["top1"] = [1.0, 1.0]
    changed.set()
    checkpoints.wait()
    checkpoints.close()
    assert load_checkpoint(tmp_path)[1]["window"] == {"loss": [0.5, 1.0]}


def test_the_json_part_is_json(tmp_path, config, params):
    save(tmp_path, {3: None}, params, config=config)
    meta = json.loads((tmp_path / "checkpoints" / "3" / "meta" / "metadata").read_text())
    assert {"config", "labels", "preprocessing"} <= meta.keys()
    assert checkpoint.load_checkpoint(tmp_path)[1].keys() == {"step", *meta}
