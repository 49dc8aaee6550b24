"""The learning rate as a function of the step: warm-up, decay and cool-down."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.config import Config, steps
from vit_jax.errors import UserError, nearest

_KEY = "config.optimizer.schedule"
_NAMES = ("constant", "cosine", "linear", "step", "rsqrt", "noam")
_TO_THE_END = ("cosine", "linear")  # schedules that depend on the length of the run by themselves


def make_schedule(
    config: Config, *, total_steps: int, steps_per_epoch: float, hidden_dim: int | None
) -> optax.Schedule:
    """Returns the learning rate as a function of the step t, counted from 0.

    During warm-up, for t < warmup, it is start + (peak - start) * t / warmup. Then, with s = t - warmup and
    S = total_steps - warmup:

        constant  peak
        cosine    end + (peak - end) * (1 + cos(pi * s / S)) / 2
        linear    peak + (end - peak) * s / S
        step      peak * step_factor ** (number of boundaries passed), boundaries counted from step 0
        rsqrt     peak / sqrt(1 + s / timescale)

    `noam` has its own warm-up (Attention Is All You Need, equation 3, which counts steps from 1):

        noam      peak * hidden_dim ** -0.5 * min((t + 1) ** -0.5, (t + 1) * warmup ** -1.5)

    The last `cooldown` steps of the schedules that do not decrease to `end` by themselves move from the rate above, r,
    to `end`:

        end + (r - end) * min(1, (total_steps - t) / cooldown)

    `rsqrt` and the cool-down are those of google-research/big_vision (`create_learning_rate_schedule`), where `end` is
    0. Deviation: timm's cosine schedule, with which DeiT was trained, counts s from step 0 instead of from the end of
    the warm-up.

    A warm-up or cool-down that does not fit into the run is shortened: see `Durations`.

    Args:
      config: The section `optimizer.schedule` of a config.

    Raises:
      UserError: The name is unknown, a duration is malformed, a rate is higher than `peak`, the schedule has no
        cool-down, or `noam` is used with a model that has no `hidden_dim`.
    """
    if config.name not in _NAMES:
        raise UserError(f"unknown {_KEY}.name {config.name!r}{nearest(config.name, _NAMES)}")
    durations = Durations.of(config, total_steps, steps_per_epoch)
    _check_rates(config, durations)
    rate = _before_cooldown(config, durations.warmup, total_steps, steps_per_epoch, hidden_dim)
    if not durations.cooldown:
        return rate
    end, cooldown = config.end, durations.cooldown
    return lambda step: end + (rate(step) - end) * jnp.minimum(1.0, (total_steps - step) / cooldown)


class Durations(NamedTuple):
    """The warm-up and the cool-down in steps, shortened to a tenth of a run into which they do not fit.

    A config made for hundreds of epochs can then be tried for a few steps. `noam`'s warm-up is never shortened, because
    it determines the highest rate; a short run ends during the warm-up.

    Attributes:
      shortened: The keys that were shortened.
      notes: Lines to print: what was shortened, and an `end` without effect.
    """

    warmup: int
    cooldown: int
    shortened: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, total_steps: int, steps_per_epoch: float) -> "Durations":
        warmup, cooldown = (
            steps(f"optimizer.schedule.{key}", config[key], steps_per_epoch) for key in ("warmup", "cooldown")
        )
        wanted, tenth = {"warmup": warmup, "cooldown": cooldown}, total_steps // 10
        if warmup >= total_steps and config.name != "noam":
            warmup = tenth
        if cooldown > total_steps - (0 if config.name == "noam" else warmup):
            cooldown = tenth
        shortened = tuple(key for key, now in (("warmup", warmup), ("cooldown", cooldown)) if now != wanted[key])
        notes = tuple(
            f"{_KEY}.{key} is shortened from {wanted[key]:,} to {tenth:,} steps: the run has {total_steps:,} steps"
            for key in shortened
        )
        if config.end and config.name not in _TO_THE_END and not cooldown:
            notes += (f"{_KEY}.end={config.end} has no effect on {config.name!r} without {_KEY}.cooldown",)
        return cls(warmup, cooldown, shortened, notes)


def same_until(step: int, before: optax.Schedule, now: optax.Schedule) -> bool:
    """Returns whether two schedules give the same rates for the first `step` updates."""
    done = jnp.arange(step)
    return bool(np.all(before(done) == now(done)))


def _check_rates(config, durations):
    if durations.cooldown and config.name in _TO_THE_END:
        raise UserError(
            f"{_KEY}.cooldown={config.cooldown!r} does not apply to {config.name!r}, which decreases to {_KEY}.end by "
            "itself. Leave the cool-down at '0 steps'."
        )
    if config.name == "noam":
        if config.start:
            raise UserError(f"{_KEY}.start={config.start} does not apply to 'noam', whose warm-up starts at 0")
        return
    for key in ("start", "end"):
        if config[key] > config.peak:
            raise UserError(f"{_KEY}.{key}={config[key]} must be at most {_KEY}.peak={config.peak}")


def _before_cooldown(config, warmup, total_steps, steps_per_epoch, hidden_dim):
    peak, decay_steps = config.peak, total_steps - warmup
    if config.name == "noam":
        if hidden_dim is None:
            raise UserError(f"{_KEY}.name='noam' requires a model with a field hidden_dim")
        return lambda step: (
            peak * hidden_dim**-0.5 * jnp.minimum((step + 1.0) ** -0.5, (step + 1) * max(warmup, 1) ** -1.5)
        )
    if config.name == "constant":
        main = optax.constant_schedule(peak)
    elif config.name == "cosine":
        main = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.end / peak if peak else 0.0)
    elif config.name == "linear":
        main = optax.linear_schedule(peak, config.end, decay_steps)
    elif config.name == "step":
        factors: dict[int, float] = {}
        for boundary in config.boundaries:
            end = steps("optimizer.schedule.boundaries", boundary, steps_per_epoch) - warmup
            factors[end] = factors.get(end, 1.0) * config.step_factor  # in a short run, boundaries may coincide
        main = optax.piecewise_constant_schedule(peak, factors)
    else:
        timescale = max(steps("optimizer.schedule.timescale", config.timescale, steps_per_epoch), 1)
        # joining evaluates this during the warm-up as well, where the step is negative
        main = lambda step: peak * (1.0 + jnp.maximum(step, 0) / timescale) ** -0.5  # noqa: E731
    return optax.join_schedules([optax.linear_schedule(config.start, peak, warmup), main], [warmup]) if warmup else main
