"""The optimizer: schedule, clipping, weight-decay mask, layer decay and freezing as one optax chain."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.config import Config, steps
from vit_jax.errors import UserError, nearest

Params = dict[str, Any]


def make_optimizer(
    config: Config, params: Params, *, total_steps: int, steps_per_epoch: float, hidden_dim: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the chain for `config.optimizer` and the schedule of its learning rate.

    Gradients are clipped at the global norm of the trainable parameters; layer decay scales the whole update of a
    layer, decay included. `params` may be abstract.

    Raises:
      UserError: A name is unknown, or a pattern matches no parameter.
    """
    schedule = make_schedule(
        config.schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch, hidden_dim=hidden_dim
    )
    trainable = match(config.trainable, params, "optimizer.trainable")
    if config.weight_decay:
        match(config.weight_decay_mask, params, "optimizer.weight_decay_mask")
    if config.name not in _OPTIMIZERS:
        raise UserError(f"unknown optimizer.name {config.name!r}{nearest(config.name, _OPTIMIZERS)}")

    def decay_mask(params):  # freezing hands the chain a tree with holes, so paths are matched again here
        return _map_path(lambda path, _: re.fullmatch(config.weight_decay_mask, path) is not None, params)

    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _OPTIMIZERS[config.name](config, schedule, decay_mask),
        scale_by_layer(config.layer_decay) if config.layer_decay != 1.0 else optax.identity(),
    )
    if not all(jax.tree.leaves(trainable)):
        labels = jax.tree.map(lambda learns: "learns" if learns else "frozen", trainable)
        tx = optax.multi_transform({"learns": tx, "frozen": optax.set_to_zero()}, labels)
    return tx, schedule


def make_schedule(config: Config, *, total_steps: int, steps_per_epoch: float, hidden_dim: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step: linear warm-up from 0, then `config.name`.

    `rsqrt` is google-research/big_vision's; `noam` is Attention Is All You Need, equation 3, with step + 1 for step.

    Raises:
      UserError: The name is unknown, or the warm-up is no shorter than the run.
    """

    def duration(key):
        return steps(f"optimizer.schedule.{key}", config[key], steps_per_epoch)

    peak, warmup = config.peak, duration("warmup")
    if warmup and warmup >= total_steps:
        raise UserError(f"optimizer.schedule.warmup is {warmup} steps, the whole run {total_steps}")
    decay_steps = total_steps - warmup
    if config.name == "noam":
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
        ends = [steps("optimizer.schedule.boundaries", end, steps_per_epoch) for end in config.boundaries]
        main = optax.piecewise_constant_schedule(peak, {end - warmup: config.step_factor for end in ends})
    elif config.name == "rsqrt":
        timescale = duration("timescale")
        main = lambda step: peak * (1.0 + step / timescale) ** -0.5  # noqa: E731
    else:
        known = ("constant", "cosine", "linear", "step", "rsqrt", "noam")
        raise UserError(f"unknown optimizer.schedule.name {config.name!r}{nearest(config.name, known)}")
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup]) if warmup else main


def _adamw(config, schedule, mask):
    return optax.adamw(
        schedule,
        config.b1,
        config.b2,
        config.eps,
        mu_dtype=config.mu_dtype,
        weight_decay=config.weight_decay,
        mask=mask,
    )


def _sgd(config, schedule, mask):
    momentum = config.momentum or None
    sgd = optax.sgd(schedule, momentum, config.nesterov, accumulator_dtype=config.mu_dtype)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), sgd)


def _lamb(config, schedule, mask):
    return optax.lamb(schedule, config.b1, config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=mask)


def _lion(config, schedule, mask):
    return optax.lion(
        schedule, config.b1, config.b2, mu_dtype=config.mu_dtype, weight_decay=config.weight_decay, mask=mask
    )


def _adafactor(config, schedule, mask):
    # optax's own decay is not scaled by the learning rate; here weight_decay means the same for every optimizer
    return optax.chain(
        optax.adafactor(None, momentum=config.momentum or None, dtype_momentum=config.mu_dtype or jnp.float32),
        optax.add_decayed_weights(-config.weight_decay, mask),
        optax.scale_by_schedule(schedule),
    )


def _muon(config, schedule, mask):
    """Muon (Jordan 2024) of the kernels in blocks, Adam of all else, at one rate and both with Nesterov momentum.

    As in Moonlight (arXiv:2502.16982) updates are scaled to the size of AdamW's, so that its learning rates and decay
    serve. Queries, keys and values are matrices of all heads together, as in its code.
    """
    muon = optax.contrib.muon(
        1.0,
        beta=config.momentum,
        eps=config.eps,
        mu_dtype=config.mu_dtype,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=lambda params: _map_path(_matrix, params),
        consistent_rms=0.2,
    )
    return optax.chain(muon, optax.add_decayed_weights(-config.weight_decay, mask), optax.scale_by_schedule(schedule))


def _matrix(path: str, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes are the inputs and which the outputs of a matrix; None if it is no kernel of a block."""
    if not re.search(r"(?:^|/)block_\d+/.*kernel$", path):
        return None
    last_inputs = leaf.ndim - 1 if path.endswith("/out/kernel") else 1  # the heads are outputs, or inputs of `out`
    axes = tuple(range(leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:last_inputs], axes[last_inputs:])


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Scales updates by `decay` to the number of layers above: head and final norm 0, patches and positions most.

    As in BEiT (arXiv:2106.08254): layer 0 holds what comes before the blocks, layer i + 1 is `block_i`, of an encoder
    or of a decoder.
    """

    def update(updates, params):
        return _map_path(lambda path, x: x * decay ** (_top(params) - _layer(path, _top(params))), updates)

    return optax.stateless(update)


def _top(params: Params) -> int:
    blocks = [int(block) for path in _paths(params) for block in re.findall(r"(?:^|/)block_(\d+)/", path)]
    return max(blocks, default=-1) + 2


def _layer(path: str, top: int) -> int:
    if block := re.search(r"(?:^|/)block_(\d+)/", path):
        return int(block[1]) + 1
    return top if re.match(r"((encoder_|decoder_)?norm|pool|representation|head)/", path) else 0


def match(pattern: str, params: Params, key: str) -> Any:
    """Returns a tree of bools: whether a parameter's whole path (`encoder/block_0/mlp/in/kernel`) matches.

    Raises:
      UserError: Nothing matches, or the pattern is no regular expression.
    """
    try:
        tree = _map_path(lambda path, _: re.fullmatch(pattern, path) is not None, params)
    except re.error as error:
        raise UserError(f"config.{key}={pattern!r} is no regular expression: {error}") from error
    if not any(jax.tree.leaves(tree)):
        raise UserError(f"config.{key}={pattern!r} matches no parameter; they are named as {_paths(params)[0]!r}")
    return tree


def _map_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def _paths(tree: Any) -> list[str]:
    return jax.tree.leaves(_map_path(lambda path, _: path, tree))
