"""Which checkpoints are kept, which one is read, and how they are averaged."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from vit_jax.errors import UserError
from vit_jax.workdir.checkpoint import Checkpoints, average_checkpoints, load_checkpoint, load_meta, saved_steps

META = {"labels": ["a", "b"], "config": {}, "preprocessing": {}}


@struct.dataclass
class State:
    params: dict
    ema: dict | None = None


def weights_of(step):
    return np.float32([step, -2 * step, 0.1])


def save(workdir, steps, **options):
    """Saves weights that tell the step at each of `steps`, `{step: metrics}`."""
    checkpoints = Checkpoints(workdir, **options)
    for step, metrics in steps.items():
        state = State({"w": jnp.asarray(weights_of(step))}, options.get("ema"))
        checkpoints.save(step, state, {**META, "saved_at": step}, metrics)
    checkpoints.wait()
    checkpoints.close()


VALUES = {1: 5.0, 2: 9.0, 3: 3.0, 4: 4.0, 5: 6.0}


@pytest.mark.parametrize(
    ("best", "keep_best", "kept"),
    [
        ("perplexity", 1, [3, 5]),
        ("loss", 1, [3, 5]),
        ("loss", 2, [3, 4, 5]),
        ("bleu", 1, [2, 5]),
        ("chrf", 1, [2, 5]),
        ("top1", 1, [2, 5]),
        ("top5", 2, [2, 5]),
        ("top1", 3, [1, 2, 5]),
    ],
)
def test_losses_and_perplexities_are_better_low_and_everything_else_high(tmp_path, best, keep_best, kept):
    save(tmp_path, {step: {best: value} for step, value in VALUES.items()}, keep_last=1, keep_best=keep_best, best=best)
    assert sorted(saved_steps(tmp_path)) == kept


def test_the_metric_asked_for_decides_and_no_other(tmp_path):
    steps = {step: {"loss": value, "top1": value} for step, value in VALUES.items()}
    for best, kept in (("loss", [3, 5]), ("top1", [2, 5])):
        save(tmp_path / best, steps, keep_last=1, best=best)
        assert sorted(saved_steps(tmp_path / best)) == kept


def test_the_newest_is_always_kept(tmp_path):
    save(tmp_path, {1: {"top1": 1.0}, 2: {"top1": 0.5}, 3: None}, keep_last=0, keep_best=1)
    assert sorted(saved_steps(tmp_path)) == [1, 3]


@pytest.mark.parametrize(("count", "of"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4])])
def test_the_newest_are_averaged(tmp_path, count, of):
    save(tmp_path, dict.fromkeys((1, 2, 3, 4)), keep_last=9)
    params, meta = average_checkpoints(tmp_path, count)
    np.testing.assert_allclose(params["w"], np.mean([weights_of(step) for step in of], axis=0), rtol=1e-6)
    assert params["w"].dtype == np.float32
    assert (meta["step"], meta["saved_at"]) == (4, 4)
    assert sorted(meta["averaged"]) == of


def test_more_checkpoints_than_there_are_cannot_be_averaged(tmp_path):
    save(tmp_path, {1: None, 2: None}, keep_last=9)
    with pytest.raises(UserError, match=r"2 .*3|3 .*2"):
        average_checkpoints(tmp_path, 3)


def test_many_small_steps_are_averaged_without_losing_digits(tmp_path):
    """In float32 16777216 + 1 is 16777216."""
    checkpoints = Checkpoints(tmp_path, keep_last=4)
    values = [16777216.0, 1.0, 1.0, 2.0]
    for step, value in enumerate(values, 1):
        checkpoints.save(step, State({"w": jnp.float32([value])}), META, None)
    checkpoints.wait()
    checkpoints.close()
    params, _ = average_checkpoints(tmp_path, 4)
    assert params["w"] == np.float32(16777220 / 4)


def test_a_checkpoint_is_read_by_its_step(tmp_path):
    save(tmp_path, {1: None, 2: None, 3: None}, keep_last=9)
    for path, step in ((tmp_path, None), (tmp_path / "checkpoints" / "2", None), (tmp_path, 1)):
        params, meta = load_checkpoint(path, step)
        expected = step or (2 if path != tmp_path else 3)
        assert meta["step"] == expected
        np.testing.assert_array_equal(params["w"], weights_of(expected))
    assert load_meta(tmp_path)["saved_at"] == 3
    assert load_meta(tmp_path / "checkpoints" / "2")["saved_at"] == 2
    assert load_meta(tmp_path / "elsewhere") is None
    with pytest.raises(UserError, match="7"):
        load_checkpoint(tmp_path, 7)


def test_steps_are_numbers_and_the_newest_comes_first(tmp_path):
    save(tmp_path, {9: None, 10: None, 100: None}, keep_last=9)
    assert saved_steps(tmp_path) == [100, 10, 9]
    assert load_checkpoint(tmp_path)[1]["step"] == 100


def test_the_newest_is_restored_and_nothing_where_there_is_none(tmp_path):
    abstract = State({"w": jnp.zeros(3)})
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.restore_latest(abstract)
    for step in (1, 2):
        checkpoints.save(
            step, State({"w": jnp.asarray(weights_of(step))}), {**META, "window": {"loss": [step, 1]}}, None
        )
    checkpoints.wait()
    state, meta = checkpoints.restore_latest(abstract)
    np.testing.assert_array_equal(state.params["w"], weights_of(2))
    assert meta["window"] == {"loss": [2, 1]}
    checkpoints.close()


def test_what_is_saved_is_what_it_was_when_save_was_called(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    meta = {**META, "window": {"loss": [1.0, 1.0]}}
    checkpoints.save(1, State({"w": jnp.asarray(weights_of(1))}), meta, None)
    meta["window"]["loss"][0] = 7.0
    checkpoints.save(1, State({"w": jnp.asarray(weights_of(5))}), meta, None)  # is there already
    checkpoints.wait()
    checkpoints.close()
    params, read = load_checkpoint(tmp_path)
    assert read["window"] == {"loss": [1.0, 1.0]}
    np.testing.assert_array_equal(params["w"], weights_of(1))
