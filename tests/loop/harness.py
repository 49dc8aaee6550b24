"""The only module in which the tests of the loop use the API that builds and starts a run.

The tests themselves only know `train`, `stopped_at` and the other functions below, and values that they compute
themselves.
"""

import contextlib
import functools
import json
import pathlib
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.config import Config, default_config
from vit_jax.errors import Interrupted
from vit_jax.experiment import Experiment
from vit_jax.state import TrainState
from vit_jax.tasks import Sum, weighted_sum
from vit_jax.tasks.classification import Classification
from vit_jax.train import train_and_evaluate, train_step
from vit_jax.workdir.checkpoint import Checkpoints
from vit_jax.workdir.metrics import TIMINGS, Metrics, Window

__all__ = ("TrainState", "train_step")


# The step


class Linear(nn.Module):
    """`inputs @ kernel`, with dropout of the inputs."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, inputs, *, train):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (inputs.shape[-1],))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(inputs) @ kernel


class SquaredError:
    """Half the squared error of a `Linear`; its metrics show the random numbers that every example was given."""

    group = 1  # examples that must stay together

    def loss(self, model, params, batch, *, rngs, train):
        error = model.apply({"params": params}, batch["inputs"], train=train, rngs=rngs) - batch["target"]
        mask = batch["mask"]
        metrics = {"absolute": weighted_sum(jnp.abs(error), mask), "double": Sum(jnp.sum(2 * mask), 3 * jnp.sum(mask))}
        if "slot" in batch:  # place of the example in the global batch
            for name in ("dropout", "mix"):
                drawn = jax.nn.one_hot(batch["slot"], 16).sum(0) * jax.random.uniform(rngs[name])
                metrics[f"{name}_number"] = Sum(drawn, jnp.float32(1))
        return weighted_sum(0.5 * error**2, mask), metrics


TASK = SquaredError()


def new_state(params: Any, tx: Any, *, ema: Any = None, step: int = 0, seed: int = 0) -> TrainState:
    """Returns a state for `step`, with the parameters and the moving average given."""
    return TrainState(jnp.int32(step), params, tx.init(params), ema, jax.random.PRNGKey(seed))


def update(
    state: TrainState,
    batch: dict[str, np.ndarray],
    *,
    tx: Any,
    model: nn.Module | None = None,
    task: Any = None,
    shards: int = 1,
    accum_steps: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, Sum]]:
    """Does one update; several shards are the elements of an axis of `jax.vmap`, which sums as devices do."""
    if shards > 1:
        batch = {name: value.reshape(shards, -1, *value.shape[1:]) for name, value in batch.items()}
    return _compiled(model or Linear(), task or TASK, tx, shards > 1, accum_steps, ema_decay)(state, batch)


@functools.lru_cache
def _compiled(model, task, tx, is_sharded, accum_steps, ema_decay):
    step = functools.partial(
        train_step,
        model=model,
        task=task,
        tx=tx,
        axis_name="batch" if is_sharded else None,
        accum_steps=accum_steps,
        ema_decay=ema_decay,
    )
    return jax.jit(jax.vmap(step, axis_name="batch", in_axes=(None, 0), out_axes=None) if is_sharded else step)


# The run


def write_images(folder: pathlib.Path, classes: tuple[str, ...] = ("cat", "dog"), train: int = 6, test: int = 4):
    """Writes grey images of 8x8 pixels into `folder/{train,test}/CLASS`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for level, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (8, 8)) + 110 * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{index}.png")
    return folder


def tiny_config(folder: pathlib.Path, **flat: Any) -> Config:
    """Returns a config of 12 steps of 4 images, 3 steps per epoch; `flat` overrides keys, with `__` for the dot."""
    config = default_config()
    config.model.name = "vit:Ti/2"  # which `train` replaces by a `Classifier`
    config.data.update(
        name="folder", path=str(folder), image_size=(8, 8), channels=1, num_threads=1,
        train_transforms="flip|normalize(mean=0.5, std=0.5)", eval_transforms="normalize(mean=0.5, std=0.5)",
    )  # fmt: skip
    config.update(batch_size=4, duration="12 steps", eval_every="4 steps", log_every="3 steps", compilation_cache="")
    config.checkpoint.every = "5 steps"
    config.optimizer.update(name="sgd", ema_decay=0.5)
    config.optimizer.schedule.update(name="constant", peak=0.01)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in flat.items()})
    return config


class Classifier(nn.Module):
    """Logits linear in the pixels: compiled in no time, and computed again in numpy in a line."""

    num_classes: int = 2
    image_size: tuple[int, int] = (8, 8)
    hidden_dim: int = 1
    dtype: Any = jnp.float32

    @property
    def input_shape(self):
        return (*self.image_size, 1)

    @nn.compact
    def __call__(self, images, *, train):
        pixels = images.reshape(images.shape[0], -1)
        kernel = self.param("kernel", nn.initializers.normal(0.01), (pixels.shape[-1], self.num_classes))
        return nn.Dropout(0.1, deterministic=not train)(pixels) @ kernel


def train(config: Config, workdir: pathlib.Path, *, quiet: bool = True) -> dict[str, float]:
    """Runs or resumes training of a `Classifier` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_jax.experiment.make_model", lambda config, encoder, labels: Classifier(len(labels)))
        return train_and_evaluate(Experiment.from_config(config, workdir), workdir, quiet=quiet)


class Crash(BaseException):
    """Ends a run as a killed process does: nothing catches it."""


def crash():
    raise Crash


def interrupt():
    signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def hooked(kind: type, method: str, before: Callable | None = None, after: Callable | None = None) -> Iterator[None]:
    """Calls `before(*arguments)` and `after(*arguments)` around a method of the loop's parts."""
    original = getattr(kind, method)

    @functools.wraps(original)
    def wrapped(self, *arguments, **named):
        if before:
            before(*arguments)
        result = original(self, *arguments, **named)
        if after:
            after(*arguments)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, wrapped)
        yield


def _when(matches: Callable[..., bool], action: Callable[[], None]) -> Callable[..., None]:
    return lambda *arguments: action() if matches(*arguments) else None


PLACES = {
    # after the update, before the loop asks whether to stop
    "update": lambda step, action: hooked(Window, "add", after=_when(lambda at, *_: at == step, action)),
    # around the row of an evaluation
    "before evaluation is written": lambda step, action: hooked(
        Metrics, "write", before=_when(lambda at, split, *_: (at, split) == (step, "eval"), action)
    ),
    "after evaluation is written": lambda step, action: hooked(
        Metrics, "write", after=_when(lambda at, split, *_: (at, split) == (step, "eval"), action)
    ),
    "before saving": lambda step, action: hooked(Checkpoints, "save", before=_when(lambda at, *_: at == step, action)),
    "after saving": lambda step, action: hooked(Checkpoints, "save", after=_when(lambda at, *_: at == step, action)),
}


def stopped_at(place: str, step: int, action: Callable[[], None], config: Config, workdir: pathlib.Path) -> None:
    """Runs until `action` (`crash` or `interrupt`) ends it at a place of `PLACES` in a step."""
    expected = Crash if action is crash else Interrupted
    with PLACES[place](step, action), pytest.raises(expected):
        train(config, workdir)


def rows(workdir: pathlib.Path, split: str | None = None) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl` without timings, of one split or of both."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in TIMINGS}
        for row in lines
        if split in (None, row["split"])
    ]


def saved(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints that a run left."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def state_of(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the arrays of a checkpoint, as a tree: `state["params"]["kernel"]`."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about shardings, which a single device cannot choose
        state = checkpointer.restore((workdir / "checkpoints" / str(step) / "state").absolute())
    return jax.tree.map(np.asarray, state)


@contextlib.contextmanager
def scripted(**scores: list[float]) -> Iterator[None]:
    """Replaces scores of the evaluations, in their order: `top1=[0.5, 0.9]`."""
    left = {name: list(values) for name, values in scores.items()}
    original = Classification.score

    def score(self, rows):
        return {**original(self, rows), **{name: values.pop(0) for name, values in left.items()}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "score", score)
        yield
