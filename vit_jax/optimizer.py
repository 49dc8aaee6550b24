"""The optimizer: clipping, weight decay, layer decay, freezing and the schedule as one optax chain.

One update of the trainable parameters p, from their gradients g at step t:

    g <- g * min(1, clip_norm / ||g||)                      ||g||: global norm over all trainable parameters
    u <- optimizer(g, learning_rate(t)), weight decay included
    p <- p + layer_decay ** (layers above p) * u

Every optimizer except `sgd` has decoupled weight decay: u contains -learning_rate(t) * weight_decay * p. Weight decay
applies to the parameters that `weight_decay_mask` matches.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.config import Config, default_config
from vit_jax.config.extensions import accepted, construct, extra_fields, is_import_path, load_object
from vit_jax.errors import UserError, nearest
from vit_jax.schedule import make_schedule

Params = dict[str, Any]


def make_optimizer(
    config: Config, params: Params, *, total_steps: int, steps_per_epoch: float, hidden_dim: int | None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optax chain of `config.optimizer`, and its learning rate as a function of the step.

    `config.name` may be the import path of a factory, which is called as `factory(learning_rate=schedule,
    **config.extra)`. Clipping, layer decay and freezing apply to its optimizer as well.

    Args:
      config: The section `optimizer` of a config.
      params: The parameters, which may be abstract: patterns are matched with their paths.
      total_steps: Length of training.
      steps_per_epoch: Converts durations in epochs.
      hidden_dim: Token width, used by the schedule `noam`; None for a model without this field.

    Raises:
      UserError: A name is unknown, a pattern matches no parameter, or the user's own code cannot be imported or called.
    """
    schedule = make_schedule(
        config.schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch, hidden_dim=hidden_dim
    )
    trainable = match(config.trainable, params, "optimizer.trainable")
    if config.weight_decay:
        match(config.weight_decay_mask, params, "optimizer.weight_decay_mask")

    def decay_mask(params):  # matches paths again, because with frozen parameters the chain receives a partial tree
        return _map_path(lambda path, _: re.fullmatch(config.weight_decay_mask, path) is not None, params)

    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        _optimizer(config)(config, schedule, decay_mask),
        scale_by_layer(config.layer_decay) if config.layer_decay != 1.0 else optax.identity(),
    )
    if not all(jax.tree.leaves(trainable)):
        labels = jax.tree.map(lambda learns: "learns" if learns else "frozen", trainable)
        tx = optax.multi_transform({"learns": tx, "frozen": optax.set_to_zero()}, labels)
    return tx, schedule


def _optimizer(config):
    """Returns the function that makes the optimizer from (config, schedule, weight decay mask)."""
    extra_fields(config, "config.optimizer", ours=("learning_rate", "mask"))
    if is_import_path(config.name):
        return _own
    if config.name not in _OPTIMIZERS:
        raise UserError(f"unknown config.optimizer.name {config.name!r}{nearest(config.name, _OPTIMIZERS)}")
    return _OPTIMIZERS[config.name]


def _own(config, schedule, mask):
    """Calls `factory(learning_rate=schedule, **config.extra)` at the import path `config.name`.

    If the factory has a parameter `mask`, as optax's own have, it receives the weight decay mask. The keys of the
    built-in optimizers (`b1`, `weight_decay`, ...) have no effect, so setting one is an error.

    Raises:
      UserError: Such a key is set, a parameter is unknown or missing, or the factory raises ValueError.
    """
    defaults = default_config().optimizer
    for key in ("b1", "b2", "eps", "momentum", "nesterov", "mu_dtype", "weight_decay"):
        if config[key] != defaults[key]:
            raise UserError(
                f"config.optimizer.{key} has no effect on {config.name}, which receives the values in "
                f"config.optimizer.extra only. Set config.optimizer.extra.{key} if it has such a parameter."
            )
    factory = load_object(config.name, "config.optimizer.name")
    ours = {"learning_rate": schedule, **accepted(factory, {"mask": mask})}
    return construct(factory, {**config.extra.to_dict(), **ours}, "config.optimizer", config.name)


def _adamw(config, schedule, mask):
    """AdamW (arXiv:1711.05101), with m and v the bias-corrected moments.

    u = -learning_rate * (m / (sqrt(v) + eps) + weight_decay * p)
    """
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
    """SGD with coupled weight decay, as in torch.

    m <- momentum * m + (g + weight_decay * p); u = -learning_rate * m.
    With Nesterov momentum, u = -learning_rate * (g + weight_decay * p + momentum * m).
    """
    momentum = config.momentum or None
    sgd = optax.sgd(schedule, momentum, config.nesterov, accumulator_dtype=config.mu_dtype)
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), sgd)


def _lamb(config, schedule, mask):
    """LAMB (arXiv:1904.00962): AdamW's direction d for each parameter tensor, rescaled to the tensor's norm.

    d = m / (sqrt(v) + eps) + weight_decay * p; u = -learning_rate * ||p|| / ||d|| * d
    """
    return optax.lamb(schedule, config.b1, config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=mask)


def _lion(config, schedule, mask):
    """Lion (arXiv:2302.06675).

    u = -learning_rate * (sign(b1 * m + (1 - b1) * g) + weight_decay * p); then m <- b2 * m + (1 - b2) * g
    """
    return optax.lion(
        schedule, config.b1, config.b2, mu_dtype=config.mu_dtype, weight_decay=config.weight_decay, mask=mask
    )


def _adafactor(config, schedule, mask):
    """Adafactor (arXiv:1804.04235), with the learning rate multiplied by the RMS of each parameter tensor.

    The second moment of a matrix is factored into its row and column means. Deviation from optax: weight decay is
    multiplied by the learning rate, as for the other optimizers.
    """
    return optax.chain(
        optax.adafactor(None, momentum=config.momentum or None, dtype_momentum=config.mu_dtype or jnp.float32),
        optax.add_decayed_weights(-config.weight_decay, mask),
        optax.scale_by_schedule(schedule),
    )


def _muon(config, schedule, mask):
    """Muon (Jordan 2024) for the kernels of the blocks, and Adam for all other parameters.

    For the matrix of a kernel, with m the Nesterov momentum and O the factor U V^T of its singular value decomposition
    m = U S V^T, which Newton-Schulz iterations approximate:

        u = -learning_rate * (0.2 * sqrt(max(rows, columns)) * O + weight_decay * p)

    The factor 0.2 is Moonlight's (arXiv:2502.16982): updates then have the same size as those of AdamW, whose learning
    rates and weight decay can be reused. All heads of the queries, keys or values form one matrix, as in Moonlight's
    code. Adam has Nesterov momentum and the same learning rate.
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
    """Returns the input and output axes of a kernel that Muon updates; None for a parameter that Adam updates."""
    if not re.search(r"(?:^|/)block_\d+/.*kernel$", path):
        return None
    # (hidden_dim, heads, head_dim) for queries, keys and values; (heads, head_dim, hidden_dim) for `out`
    num_inputs = leaf.ndim - 1 if path.endswith("/out/kernel") else 1
    axes = tuple(range(leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:num_inputs], axes[num_inputs:])


_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "lamb": _lamb,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies each update by decay ** (number of layers above the parameter), as in BEiT (arXiv:2106.08254).

    Layer 0 contains all parameters before the blocks (patches, positions, embeddings), layer i + 1 those of `block_i`
    of an encoder or a decoder. The last layer, whose factor is 1, contains the final norm, the pooling and the head.
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
    """Returns a tree of bools: whether the pattern matches the whole path of each parameter.

    A path has the form `encoder/block_0/mlp/in/kernel`.

    Args:
      key: The key of the config that holds the pattern, without `config.`, for messages.

    Raises:
      UserError: No parameter matches, or the pattern is not a regular expression.
    """
    try:
        tree = _map_path(lambda path, _: re.fullmatch(pattern, path) is not None, params)
    except re.error as error:
        raise UserError(f"config.{key} must be a regular expression, got {pattern!r}: {error}") from error
    if not any(jax.tree.leaves(tree)):
        raise UserError(f"config.{key}={pattern!r} matches no parameter. Paths have the form {_paths(params)[0]!r}.")
    return tree


def _map_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def _paths(tree: Any) -> list[str]:
    return jax.tree.leaves(_map_path(lambda path, _: path, tree))
