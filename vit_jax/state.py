"""The training state, and how a new run initialises it on the devices."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from vit_jax import weights

if TYPE_CHECKING:
    from vit_jax.experiment import Experiment

PyTree = Any


class TrainState(struct.PyTreeNode):
    """Everything that an update changes, and that a run needs to resume exactly.

    Attributes:
      step: Number of updates done.
      params: The parameters, a nested dict.
      opt_state: State of the optimizer.
      ema: Exponential moving average of the parameters; None if `config.optimizer.ema_decay` is 0.
      rng: Key from which each step derives its own.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    rng: jax.Array

    @property
    def eval_params(self) -> PyTree:
        """The parameters that are evaluated: the moving average if there is one."""
        return self.params if self.ema is None else self.ema


def initial_state(experiment: "Experiment") -> TrainState:
    """Returns the state at step 0, from `config.seed`. Pure, so that `Parallel.init_state` can compile it."""
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(experiment.config.seed))
    params = experiment.init_params(init_rng)
    ema = jax.tree.map(jnp.copy, params) if experiment.config.optimizer.ema_decay else None
    return TrainState(jnp.int32(0), params, experiment.tx.init(params), ema, step_rng)


def abstract_state(experiment: "Experiment") -> TrainState:
    """Returns the shapes and dtypes of the state, and the shardings with which it is saved and restored."""
    return experiment.parallel.abstract(jax.eval_shape(lambda: initial_state(experiment)))


def start(experiment: "Experiment") -> tuple[TrainState, list[str]]:
    """Makes the state of a new run on the devices; returns it with lines to print.

    Each array is made in its final sharding, so that no device ever holds more than its share. With `config.init_from`,
    the parameters and their moving average are taken from there: see `weights.start_from`.

    Raises:
      UserError: The weights in `config.init_from` do not fit the model.
    """
    config, parallel = experiment.config, experiment.parallel
    state = parallel.init_state(lambda: initial_state(experiment))
    if not config.init_from:
        return state, []
    params, report = weights.start_from(
        config.init_from,
        experiment.model,
        parallel.fetch(state.params),
        experiment.data.labels,
        image_size=config.init_image_size,
        transforms={key: config.data[key] for key in ("eval_transforms", "train_transforms")},
        trust=True,  # Experiment.from_config has checked the code that it names
    )
    state = state.replace(params=params, ema=None if state.ema is None else params)
    return parallel.put_state(state), report
