"""What the tests of the recipes for images share."""

import functools
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest

from vit_jax import config as schema
from vit_jax.data.modality import get_modality
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment
from vit_jax.schedule import make_schedule
from vit_jax.state import initial_state
from vit_jax.train import train_and_evaluate, train_step

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"


def load(file, arg, *overrides):
    return schema.load_config(f"{CONFIGS / file}:{arg}", list(overrides))


def _encoder(config, *, train):
    modality: Any = get_modality("image")
    return modality.make_encoder(config, train=train)


def chain(config, *, train):
    """Returns the transforms as objects, with all arguments filled in."""
    return _encoder(config, train=train).steps


def assemble(config, classes=1000, steps_per_epoch=2_000):
    """Resolves a config as if its data were there."""
    encoder = _encoder(config, train=False)
    labels = tuple(f"class {i}" for i in range(classes))
    data: Any = types.SimpleNamespace(encoder=encoder, labels=labels, steps_per_epoch=steps_per_epoch)
    return Experiment.assemble(schema.resolve_defaults(config), data)


def rates(config, steps, *, total, steps_per_epoch=1000.0):
    """Returns the learning rate at some steps, counted from 0."""
    schedule = config.optimizer.schedule
    rate: Any = make_schedule(schedule, total_steps=total, steps_per_epoch=steps_per_epoch, hidden_dim=None)
    return [float(rate(step)) for step in steps]


def check_step(config):
    """Traces one update at the size of the recipe, and returns the experiment."""
    config = schema.copy(config)
    config.model.scan_layers = True  # traces one block instead of all
    experiment = assemble(config)
    state = jax.eval_shape(lambda: initial_state(experiment))
    rows = config.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *experiment.model.input_shape), np.float32),
        "label": jax.ShapeDtypeStruct((rows,), np.int32),
        "mask": jax.ShapeDtypeStruct((rows,), np.float32),
    }
    step = functools.partial(
        train_step,
        model=experiment.model,
        task=experiment.task,
        tx=experiment.tx,
        axis_name=None,
        accum_steps=config.accum_steps,
        ema_decay=config.optimizer.ema_decay,
    )
    after, sums = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)
    assert {"loss", "top1"} <= sums.keys()
    return experiment


def train(config, workdir):
    """Trains to the end, and returns the results of the last evaluation."""
    config = schema.copy(config)
    config.compilation_cache = ""
    return train_and_evaluate(Experiment.from_config(config, workdir), workdir, quiet=True)


def check_refused(file, arg, message):
    with pytest.raises(UserError) as caught:
        load(file, arg)
    assert message in str(caught.value)
