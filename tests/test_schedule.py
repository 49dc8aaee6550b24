"""Schedules against their formulas, which are computed here, and what a short run makes of their durations."""

import numpy as np
import pytest

from vit_jax.config import default_config
from vit_jax.errors import UserError
from vit_jax.schedule import Durations, make_schedule, same_until


def settings_of(**settings):
    config = default_config().optimizer.schedule
    config.update(settings)
    return config


def make(total_steps=100, **settings):
    return make_schedule(settings_of(**settings), total_steps=total_steps, steps_per_epoch=10, hidden_dim=64)


def schedule(**settings):
    made = make(**settings)
    return lambda *steps: [float(made(step)) for step in steps]


def test_warmup_is_linear_from_zero_and_counts_epochs():
    at = schedule(name="constant", peak=2.0, warmup="2 epochs")
    np.testing.assert_allclose(at(0, 5, 10, 20, 99), [0, 0.5, 1, 2, 2])


def test_cosine_and_linear_end_where_they_should():
    progress = (np.array([20, 60, 99]) - 20) / 80
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress))
    np.testing.assert_allclose(schedule(peak=1.0, warmup="20 steps", end=0.1)(20, 60, 99), cosine, rtol=1e-6)
    linear = schedule(name="linear", peak=1.0, warmup="20 steps", end=0.1)(20, 60, 99, 100)
    np.testing.assert_allclose(linear, [*(1 - 0.9 * progress), 0.1], rtol=1e-6)


def test_step_multiplies_at_each_boundary_counted_from_the_start():
    at = schedule(name="step", peak=1.0, warmup="1 epochs", boundaries=("3 epochs", "60 steps"), step_factor=0.5)
    np.testing.assert_allclose(at(5, 10, 29, 31, 59, 61), [0.5, 1, 1, 0.5, 0.5, 0.25])


def test_rsqrt_as_big_vision():
    warmup, timescale = 10, 25
    at = schedule(name="rsqrt", peak=3.0, warmup=f"{warmup} steps", timescale=f"{timescale} steps")
    shift = timescale - warmup  # big_vision: base / sqrt((step + shift) / timescale)
    np.testing.assert_allclose(at(10, 50), [3 / np.sqrt((s + shift) / timescale) for s in (10, 50)], rtol=1e-6)


def test_noam_is_equation_3():
    at = schedule(name="noam", peak=2.0, warmup="10 steps")
    expected = [2 * 64**-0.5 * min(s**-0.5, s * 10**-1.5) for s in (1, 10, 90)]
    np.testing.assert_allclose(at(0, 9, 89), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cosin"}, "unknown config.optimizer.schedule.name 'cosin'; did you mean 'cosine'"),
        ({"end": 0.1}, "config.optimizer.schedule.end=0.1 must be at most config.optimizer.schedule.peak=0.001"),
        ({"start": 0.1, "warmup": "9 steps"}, "schedule.start=0.1 must be at most config.optimizer.schedule.peak"),
        ({"cooldown": "9 steps"}, "cooldown='9 steps' does not apply to 'cosine', which decreases to"),
        ({"name": "noam", "start": 1e-6}, "start=1e-06 does not apply to 'noam', whose warm-up starts at 0"),
        ({"warmup": "soon"}, "optimizer.schedule.warmup must be a duration, such as .* got 'soon'"),
    ],
)
def test_a_wrong_schedule_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        schedule(**settings)


def test_noam_needs_a_token_width():
    config = default_config().optimizer.schedule
    config.name = "noam"
    with pytest.raises(UserError, match=r"'noam' requires a model with a field hidden_dim"):
        make_schedule(config, total_steps=100, steps_per_epoch=10, hidden_dim=None)


def test_rsqrt_with_a_warmup_longer_than_its_timescale():
    at = schedule(name="rsqrt", peak=3.0, warmup="50 steps", timescale="5 steps")
    expected = [3 * t / 50 if t < 50 else 3 / np.sqrt(1 + (t - 50) / 5) for t in range(100)]
    np.testing.assert_allclose(at(*range(100)), expected, rtol=2e-6)


def test_the_warmup_starts_at_a_given_rate_as_deits():
    """DeiT: from 1e-6 to the peak over 5 epochs, then by a cosine to 1e-5."""
    at = schedule(peak=1e-3, start=1e-6, end=1e-5, warmup="5 epochs")
    t = np.arange(100)
    warmup = 1e-6 + (1e-3 - 1e-6) * t / 50
    cosine = 1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * (t - 50) / 50)) / 2
    np.testing.assert_allclose(at(*range(100)), np.where(t < 50, warmup, cosine), rtol=2e-5)


@pytest.mark.parametrize("name", ["constant", "step", "rsqrt", "noam"])
def test_the_cooldown_is_that_of_big_vision(name):
    """create_learning_rate_schedule: lr * min(1, (total_steps - step) / cooldown_steps)."""
    options = {"name": name, "peak": 2.0, "warmup": "10 steps", "boundaries": ("30 steps",), "timescale": "9 steps"}
    t = np.arange(100)
    before = np.array(schedule(**options)(*range(100)))
    np.testing.assert_allclose(
        schedule(**options, cooldown="20 steps")(*range(100)), before * np.minimum(1, (100 - t) / 20), rtol=1e-6
    )
    end = 0.01
    np.testing.assert_allclose(
        schedule(**options, cooldown="20 steps", end=end)(*range(100)),
        end + (before - end) * np.minimum(1, (100 - t) / 20),
        rtol=1e-6,
    )


def test_boundaries_that_coincide_in_a_short_run_all_count():
    at = schedule(name="step", peak=1.0, boundaries=("40 steps", "4 epochs"), step_factor=0.5)
    np.testing.assert_allclose(at(39, 41), [1, 0.25])


@pytest.mark.parametrize("total", [1, 2, 5, 20, 99])
@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step", "rsqrt", "noam"])
def test_a_run_shorter_than_its_warmup_works_and_says_so(name, total):
    options = {"name": name, "warmup": "10 epochs", "peak": 1.0}
    durations = Durations.of(settings_of(**options), total, 10)
    rates = np.array([float(make(total, **options)(t)) for t in range(total)])
    assert np.isfinite(rates).all()
    if name == "noam":  # its warm-up determines the highest rate
        assert (durations.warmup, durations.notes) == (100, ())
        return
    assert durations.warmup == total // 10
    assert durations.notes == (
        f"config.optimizer.schedule.warmup is shortened from 100 to {total // 10} steps: the run has {total} steps",
    )
    assert rates.max() == 1
    assert rates.argmax() == total // 10


def test_a_cooldown_that_does_not_fit_is_shortened_and_an_end_without_effect_is_said():
    config = settings_of(name="rsqrt", warmup="50 steps", cooldown="60 steps")
    assert Durations.of(config, 100, 10).cooldown == 10
    assert Durations.of(config, 110, 10) == (50, 60, (), ())
    (note,) = Durations.of(settings_of(name="rsqrt", end=1e-5), 100, 10).notes
    assert (
        note
        == "config.optimizer.schedule.end=1e-05 has no effect on 'rsqrt' without config.optimizer.schedule.cooldown"
    )


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"name": "constant", "warmup": "10 steps"}, True),
        ({"name": "step", "boundaries": ("50 steps",)}, True),
        ({"name": "rsqrt", "warmup": "10 steps"}, True),
        ({"name": "noam", "warmup": "200 steps"}, True),
        ({"name": "rsqrt", "cooldown": "10 steps"}, False),
        ({"name": "constant", "warmup": "100 steps"}, False),  # shortened in the shorter run
        ({"name": "cosine"}, False),
        ({"name": "linear"}, False),
    ],
)
def test_which_schedules_are_the_same_in_a_longer_run(settings, same):
    assert same_until(100, make(100, **settings), make(150, **settings)) is same
    assert same_until(0, make(100, **settings), make(150, **settings))
