"""Experiment: one config, resolved once into data, model, task, optimizer, plan and devices."""

import dataclasses
import json
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath

from vit_jax import config as schema
from vit_jax.architecture import architecture_of
from vit_jax.config import Config, extensions
from vit_jax.data.modality import Data, describe_encoder, get_modality, load_encoder, open_data
from vit_jax.errors import UserError, nearest
from vit_jax.models import build_model
from vit_jax.optimizer import make_optimizer
from vit_jax.parallel import Parallel, check_batch_size, make_parallel
from vit_jax.tasks import TASKS, Task, group_of
from vit_jax.workdir.checkpoint import load_meta

PyTree = Any
_DTYPES = ("float32", "bfloat16", "float64")
_LOSSES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The durations of a config, in steps.

    Attributes:
      total: Length of the run.
      eval_every, checkpoint_every, log_every: Intervals, at least one step each.
      profile: First and last step to trace, or (0, 0).
    """

    total: int
    eval_every: int
    checkpoint_every: int
    log_every: int
    profile: tuple[int, int]
    steps_per_epoch: float

    @classmethod
    def from_config(cls, config: Config, steps_per_epoch: float) -> "Plan":
        """Converts the durations of `config` to steps.

        Raises:
          UserError: A duration is malformed, or the run has no step.
        """

        def steps(key, value):
            return max(schema.steps(key, value, steps_per_epoch), 1)

        profile = tuple(config.profile)
        if profile and (len(profile) != 2 or not 0 < profile[0] <= profile[1]):
            raise UserError(f"config.profile={profile} must be (first, last) steps, the first of them 1 or later")
        if not schema.steps("duration", config.duration, steps_per_epoch):
            raise UserError(
                f"config.duration={config.duration!r} is less than one step; an epoch has {steps_per_epoch:.1f}"
            )
        return cls(
            total=steps("duration", config.duration),
            eval_every=steps("eval_every", config.eval_every),
            checkpoint_every=steps("checkpoint.every", config.checkpoint.every),
            log_every=steps("log_every", config.log_every),
            profile=profile or (0, 0),
            steps_per_epoch=steps_per_epoch,
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config means.

    Attributes:
      config: The config with every key filled in: see `complete`.
      data: Both splits and their batches.
      model, task: What computes, and what is learned.
      tx, schedule: The optimizer, and its learning rate as a function of the step.
      plan: The durations in steps.
      parallel: The devices.
    """

    config: Config
    data: Data
    model: nn.Module
    task: Task
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    plan: Plan
    parallel: Parallel

    @classmethod
    def from_config(cls, config: Config, workdir: epath.PathLike | None = None, *, trust: bool = False) -> "Experiment":
        """Resolves a config. Nothing is written, and no parameter is made.

        Args:
          workdir: Where the run will be written. If it holds a checkpoint, what the run took from `config.init_from` is
            read there, so that the run resumes without its origin.
          trust: Whether code outside vit_jax may be imported that only the checkpoint in `config.init_from` names.

        Raises:
          UserError: A key has a wrong value, or the data, a split or the weights of `init_from` are at fault.
        """
        own = load_meta(workdir) if workdir is not None else None
        origin = own or (load_meta(config.init_from) if config.init_from else None)
        if origin and config.init_from:
            named = extensions.import_paths(config)
            extensions.check_trust(origin, trust, source=workdir if own else config.init_from, own=named)
        config = complete(config, own)
        start = load_encoder(origin["preprocessing"]) if origin and config.init_from else None
        return cls.assemble(config, open_data(config, start))

    @classmethod
    def assemble(cls, config: Config, data: Data) -> "Experiment":
        """Resolves a complete config whose data are open.

        Raises:
          UserError: A key has a wrong value.
        """
        parallel = make_parallel(config.parallel)
        model = make_model(config, data.encoder, data.labels)
        task = make_task(config, data.encoder, data.labels)
        if (best := config.checkpoint.best) not in task.scores:
            raise UserError(
                f"config.checkpoint.best={best!r} is not a score of {task.name}{nearest(best, task.scores)}"
            )
        if (group := group_of(task)) > 1:
            check_batch_size(config.batch_size, config.accum_steps, group=group)
        plan = Plan.from_config(config, data.steps_per_epoch)
        tx, schedule = make_optimizer(
            config.optimizer,
            abstract_params(model, task),
            total_steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            hidden_dim=getattr(model, "hidden_dim", None),
        )
        return cls(config, data, model, task, tx, schedule, plan, parallel)

    def init_params(self, rng: jax.Array) -> PyTree:
        """Returns initial parameters. Pure."""
        return _init_params(self.model, self.task, rng)

    def describe(self) -> dict[str, Any]:
        """Returns what a checkpoint holds besides arrays, as JSON: all that `load_run` needs."""
        return describe(self.config, self.data.labels, self.data.encoder)

    def summary(self, num_params: int) -> list[str]:
        """Returns the lines printed before training: model size, data, batch layout, what is kept."""
        config, plan, devices = self.config, self.plan, jax.device_count()
        each = config.batch_size // devices // config.accum_steps
        unit, kind = get_modality(self.data.encoder.key).unit, jax.devices()[0].device_kind
        about, *more = self.data.summary()
        both = math.lcm(plan.eval_every, plan.checkpoint_every)
        rare = config.checkpoint.keep_best and both > plan.eval_every
        where = f"every {both:,} steps" if both < plan.total else "only at the end"
        return [
            f"{config.model.name}: {num_params:,} parameters; {about}",
            f"{plan.total:,} steps of {config.batch_size} {unit} = {each} x {devices} {kind} device(s) x "
            f"{config.accum_steps} micro-batch(es), on {jax.process_count()} process(es)",
            *([f"evaluation and checkpoint fall together {where}: the best is chosen among these"] if rare else []),
            *more,
        ]


def complete(config: Config, own: dict[str, Any] | None = None) -> Config:
    """Returns a copy of a config in which every key is set.

    A key of the preprocessing, or of a model without a name, that is unset takes its value from the run itself if that
    has started (`own`, the meta of its checkpoint), else from `config.init_from`, else its default. So fine-tuning
    needs the weights and the data, and not the architecture typed in again.

    Raises:
      UserError: `config.init_from` cannot be read.
    """
    config = schema.copy(config)
    if own is not None:
        schema.fill(config, schema.flatten(own["config"]), schema.FROM_WEIGHTS)
    elif config.init_from:
        keep_model = config.model.name is not None
        wanted = [name for name in schema.FROM_WEIGHTS if not (keep_model and name.startswith("model."))]
        origin = architecture_of(config.init_from, image_size=config.init_image_size)
        schema.fill(config, origin.as_config(config.data.image_size), wanted)
    return schema.resolve_defaults(config)


def make_model(config: Config, encoder: Any, labels: tuple[str, ...] = ()) -> nn.Module:
    """Builds `config.model` for the inputs that `encoder` makes and the classes in `labels`.

    Raises:
      UserError: A name or a field is wrong.
    """
    fields = {key: value for key, value in config.model.items() if value is not None and key not in ("name", "extra")}
    dtype = fields.pop("dtype")
    if dtype not in _DTYPES:
        raise UserError(f"unknown config.model.dtype {dtype!r}{nearest(dtype, _DTYPES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model.dtype='float64' needs the environment variable JAX_ENABLE_X64=1")
    dtype = jnp.dtype(dtype)
    offered = {**encoder.model_fields, **({"num_classes": len(labels)} if labels else {})}
    offered |= {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}
    extra = extensions.extra_fields(config.model, "config.model")
    try:
        return build_model(config.model.name, offered, **fields, **extra)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def make_task(config: Config, encoder: Any, labels: tuple[str, ...] = ()) -> Task:
    """Builds `config.task` for the inputs that `encoder` makes and the classes in `labels`.

    A task takes those keys of `config.task`, and of what the data tell, that it has fields for.

    Raises:
      UserError: A name or a field is wrong, or the task does not learn from this kind of data.
    """
    name: str = config.task.name
    if name not in TASKS and not extensions.is_import_path(name):
        raise UserError(f"unknown config.task.name {name!r}{nearest(name, TASKS)}")
    cls = extensions.load_object(TASKS.get(name) or name, "config.task.name")
    if encoder.key not in cls.modalities:
        able = [known for known, path in TASKS.items() if encoder.key in extensions.load_object(path, "").modalities]
        hint = f"; {able[0]!r} does" if able else ""
        raise UserError(f"config.task.name={name!r} does not learn from {encoder.key}{hint}")
    if config.task.loss not in _LOSSES:
        raise UserError(f"unknown config.task.loss {config.task.loss!r}{nearest(config.task.loss, _LOSSES)}")
    keys = {key: value for key, value in config.task.items() if key not in ("name", "loss", "extra")}
    offered = {"num_classes": len(labels), "labels": labels, "loss_name": config.task.loss, **keys}
    offered |= get_modality(encoder.key).task_fields(config, encoder)
    values = extensions.accepted(cls, offered) | extensions.extra_fields(config.task, "config.task")
    if name not in TASKS:
        return extensions.construct(cls, values, "config.task", name)
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"config.task: {error}") from error


def _init_params(model: Any, task: Task, rng: jax.Array) -> PyTree:
    return model.init(rng, *task.init_inputs(model), train=False)["params"]


def abstract_params(model: nn.Module, task: Task) -> PyTree:
    """Returns the shapes and dtypes of the parameters.

    Raises:
      UserError: The model cannot compute as `config.model` says on these devices.
    """
    try:
        return jax.eval_shape(lambda: _init_params(model, task, jax.random.PRNGKey(0)))
    except (ValueError, ImportError) as error:
        raise UserError(f"config.model: {error}") from error


def describe(config: Config, labels: tuple[str, ...], encoder: Any) -> dict[str, Any]:
    """Returns what a checkpoint holds besides arrays, as JSON: config, labels, encoder, and code from elsewhere."""
    return {
        "config": json.loads(config.to_json()),
        "labels": list(labels),
        "preprocessing": describe_encoder(encoder),
        "extensions": extensions.describe(extensions.import_paths(config, [getattr(encoder, "transforms", "")])),
    }
