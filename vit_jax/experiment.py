"""What a config means: the model, the task and the data it names; and what a checkpoint holds beside arrays."""

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from vit_jax import config as schema
from vit_jax.checkpoint import load_checkpoint
from vit_jax.config import Config
from vit_jax.data import pipeline
from vit_jax.data.sources import Source, open_source
from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import UserError, nearest
from vit_jax.models import build_model
from vit_jax.tasks import Task
from vit_jax.tasks.classification import Classification

PyTree = Any
_DTYPES = ("float32", "bfloat16", "float64")


def make_model(config: Config, num_classes: int) -> nn.Module:
    """Builds `config.model` for the images of `config.data`.

    Raises:
      UserError: A name or a field is wrong.
    """
    fields = {name: value for name, value in config.model.items() if value is not None and name != "name"}
    dtype = fields.pop("dtype")
    if dtype not in _DTYPES:
        raise UserError(f"unknown config.model.dtype {dtype!r}{nearest(dtype, _DTYPES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model.dtype 'float64' needs the environment variable JAX_ENABLE_X64=1")
    dtype = jnp.dtype(dtype)
    shape = {"image_size": tuple(config.data.image_size), "in_channels": config.data.channels}
    types = {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}
    try:
        return build_model(config.model.name, num_classes=num_classes, **shape, **types, **fields)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def make_task(config: Config, num_classes: int) -> Task:
    """Builds `config.task`.

    Raises:
      UserError: A name is wrong.
    """
    if config.task.name != "classification":
        raise UserError(f"unknown config.task.name {config.task.name!r}{nearest(config.task.name, ['classification'])}")
    losses = ("softmax", "sigmoid")
    if config.task.loss not in losses:
        raise UserError(f"unknown config.task.loss {config.task.loss!r}{nearest(config.task.loss, losses)}")
    fields = {name: value for name, value in config.task.items() if name not in ("name", "loss")}
    return Classification(num_classes=num_classes, loss_name=config.task.loss, **fields)


@dataclasses.dataclass(frozen=True)
class Data:
    """The two splits of a config, each with its preprocessing."""

    train: Source
    eval: Source
    train_preprocessing: Preprocessing
    eval_preprocessing: Preprocessing
    config: Config

    @property
    def labels(self) -> tuple[str, ...]:
        return self.train.labels

    def train_batches(self, first_step: int, last_step: int) -> pipeline.Batches:
        """Yields this process's slice of the batches of updates `first_step + 1` to `last_step`."""
        return pipeline.train_batches(
            self.train,
            self.train_preprocessing,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=last_step,
            repeats=self.config.data.repeats,
            **self._workers(),
        )

    def eval_batches(self) -> pipeline.Batches:
        """Yields this process's slice of batches that hold every example of the evaluation split once."""
        batch_size = self.config.eval_batch_size or self.config.batch_size
        return pipeline.eval_batches(self.eval, self.eval_preprocessing, batch_size=batch_size, **self._workers())

    def _workers(self) -> dict[str, int]:
        return {
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
            "num_workers": self.config.data.num_workers,
            "num_threads": self.config.data.num_threads,
        }


def open_data(config: Config) -> Data:
    """Opens both splits of `config.data`.

    Raises:
      UserError: Set, split or transforms are wrong, or the two splits have different labels.
    """
    data = config.data
    where = {"path": data.path, "data_dir": data.data_dir, "strict": data.strict}
    train, evaluation = (open_source(data.name, split, **where) for split in (data.train_split, data.eval_split))
    check_labels(train.labels, evaluation.labels, f"split {data.train_split}", f"split {data.eval_split}")
    shape = {"image_size": tuple(data.image_size), "channels": data.channels}
    return Data(
        train=train,
        eval=evaluation,
        train_preprocessing=Preprocessing(transforms=data.train_transforms, **shape),
        eval_preprocessing=Preprocessing(transforms=data.eval_transforms, **shape),
        config=config,
    )


def check_labels(ours: tuple[str, ...], theirs: tuple[str, ...], us: str, them: str) -> None:
    """Raises UserError, with the first differences, unless both name the same classes in the same order."""
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) != len(theirs):
        sizes = f"{us} has {len(ours)} classes, {them} {len(theirs)}"
    else:
        sizes = f"{us} and {them} both have {len(ours)} classes, named differently"
    only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, theirs), (theirs, ours))]
    raise UserError(f"label names do not match: {sizes}; only in {us}: {only[0]}; only in {them}: {only[1]}")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model that predicts by itself: what `load_run` reads from a checkpoint."""

    model: nn.Module
    params: PyTree
    task: Task
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    config: Config
    step: int


def describe(config: Config, labels: tuple[str, ...], preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns what a checkpoint holds beside arrays, as JSON: enough for `load_run`."""
    return {
        "config": json.loads(config.to_json()),
        "labels": list(labels),
        "preprocessing": preprocessing.to_dict(),
    }


def load_run(path: epath.PathLike) -> Run:
    """Loads the newest whole checkpoint of a workdir, or `WORKDIR/checkpoints/STEP`.

    Raises:
      UserError: There is none.
    """
    params, meta = load_checkpoint(path)
    config = schema.from_dict(meta["config"])
    num_classes = len(meta["labels"])
    return Run(
        model=make_model(config, num_classes),
        params=params,
        task=make_task(config, num_classes),
        labels=tuple(meta["labels"]),
        preprocessing=Preprocessing.from_dict(meta["preprocessing"]),
        config=config,
        step=meta["step"],
    )
