"""Experiment: one config, resolved once into data, model, task, optimizer, plan and devices."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath

from vit_jax import config as schema
from vit_jax.architecture import architecture_of, naming_differences, title
from vit_jax.config import Config, extensions
from vit_jax.data.modality import Data, describe_encoder, get_modality, load_encoder, open_data
from vit_jax.data.start import check_start, start_notes
from vit_jax.devices.parallel import Parallel, batch_shares, check_batch_size, check_clips, make_parallel
from vit_jax.errors import UserError, counted, nearest
from vit_jax.models import build_model
from vit_jax.optimizer import make_optimizer
from vit_jax.schedule import Durations, make_schedule, same_until
from vit_jax.tasks import TASKS, Task, group_of
from vit_jax.workdir.checkpoint import load_meta, saved_steps

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """The durations of a config, in steps.

    Attributes:
      total: Length of the run.
      eval_every, checkpoint_every, log_every: Intervals of at least one step. A run that is shorter than
        `config.log_every` writes a line of training metrics at every evaluation instead.
      profile: First and last step to trace; (0, 0) for none.
      steps_per_epoch: Number of training batches per epoch, not necessarily an integer.
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
          UserError: A duration is malformed, the run is shorter than one step, or the profile ends after it.
        """

        def steps(key, value):
            return max(schema.steps(key, value, steps_per_epoch), 1)

        profile, total = tuple(config.profile), schema.steps("duration", config.duration, steps_per_epoch)
        if not total:
            raise UserError(
                f"config.duration={config.duration!r} is less than one step: an epoch has {steps_per_epoch:.2g} steps. "
                "Set --config.duration='1 steps' or more."
            )
        if profile and profile[1] > total:
            raise UserError(
                f"config.profile={profile} traces steps beyond the end of the run, which has {total:,} steps "
                f"(config.duration={config.duration!r})"
            )
        eval_every, log_every = steps("eval_every", config.eval_every), steps("log_every", config.log_every)
        return cls(
            total=total,
            eval_every=eval_every,
            checkpoint_every=steps("checkpoint.every", config.checkpoint.every),
            log_every=log_every if log_every <= total else min(eval_every, total),
            profile=profile or (0, 0),
            steps_per_epoch=steps_per_epoch,
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config, resolved into the objects that training needs.

    Attributes:
      config: The config with every key set: see `complete`.
      data: Both splits and their batches.
      model: The Flax module.
      task: The loss and the scores.
      tx: The optimizer.
      schedule: The learning rate as a function of the step.
      plan: The durations in steps.
      parallel: The strategy that distributes the work over the devices.
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
        """Resolves a config. Nothing is written, and no parameters are made.

        Args:
          workdir: Where the run will be written. If it holds a checkpoint, that checkpoint supplies what the run took
            from `config.init_from`, so that the run can resume without it.
          trust: Whether to import code outside vit_jax that only the checkpoint in `config.init_from` names.

        Raises:
          UserError: A key has a wrong value, or the data or the weights in `config.init_from` cannot be used.
        """
        schema.check(config)
        own = load_meta(workdir) if workdir is not None else None
        origin = own or (load_meta(config.init_from) if config.init_from else None)
        with described_by(workdir if own else config.init_from):
            if origin:
                named = extensions.import_paths(config)
                extensions.check_trust(origin, trust, source=workdir if own else config.init_from, own=named)
            config = complete(config, own)
            start = load_encoder(origin["preprocessing"]) if origin and config.init_from else None
            labels = origin["labels"] if origin else ()
        experiment = cls.assemble(config, open_data(config, start, labels))
        check_start(config, experiment.data, experiment.task)
        return experiment

    @classmethod
    def assemble(cls, config: Config, data: Data) -> "Experiment":
        """Resolves a complete config (see `complete`), given its data.

        Raises:
          UserError: A key has a wrong value.
        """
        parallel = make_parallel(config.parallel, config.devices_per_clip)
        task = make_task(config, data.encoder, data.labels)
        with naming_differences(config):
            model = make_model(config, data.encoder, data.labels)
            params = abstract_params(model, task)
        check_clips(model, config.devices_per_clip)
        if (best := config.checkpoint.best) not in task.scores:
            raise UserError(
                f"config.checkpoint.best={best!r} is not a score of {task.name}{nearest(best, task.scores)}"
            )
        if (group := group_of(task)) > 1:
            sizes = (config.batch_size, config.accum_steps)
            check_batch_size(*sizes, group=group, devices_per_clip=config.devices_per_clip)
        plan = Plan.from_config(config, data.steps_per_epoch)
        tx, schedule = make_optimizer(
            config.optimizer,
            params,
            total_steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            hidden_dim=getattr(model, "hidden_dim", None),
        )
        return cls(config, data, model, task, tx, schedule, plan, parallel)

    def init_params(self, rng: jax.Array) -> PyTree:
        """Returns initial parameters, as a pure function of `rng`."""
        return _init_params(self.model, self.task, rng)

    def describe(self) -> dict[str, Any]:
        """Returns the JSON part of a checkpoint, which contains all that `load_run` needs; see `describe`."""
        return describe(self.config, self.data.labels, self.data.encoder)

    def continued(self, workdir: epath.PathLike) -> list[str]:
        """Checks that the run in a workdir may go on with this `duration`; returns lines that say so if it has changed.

        It may if all updates done had the learning rate that they would have with the new duration, so that the run is
        the one that it would have been from the start.

        Raises:
          UserError: The new duration changes the learning rate of an update done, or is shorter than the steps done.
        """
        meta, done = load_meta(workdir), max(saved_steps(workdir), default=0)
        before = schema.from_dict(meta["config"]) if meta else self.config
        if before.duration == self.config.duration:
            return []
        plan, kind = self.plan, self.config.optimizer.schedule.name
        change = f"config.duration: {before.duration!r} -> {self.config.duration!r}"
        if plan.total < done:
            raise UserError(f"{change}: {workdir} has done {done:,} steps, and cannot end at {plan.total:,}")
        section, total = before.optimizer.schedule, schema.steps("duration", before.duration, plan.steps_per_epoch)
        old = make_schedule(
            section,
            total_steps=total,
            steps_per_epoch=plan.steps_per_epoch,
            hidden_dim=getattr(self.model, "hidden_dim", None),
        )
        if not same_until(done, old, self.schedule):
            was_shortened = Durations.of(section, total, plan.steps_per_epoch).shortened
            why = f"its {was_shortened[0]} was shortened" if was_shortened else f"its schedule is {kind!r}"
            raise UserError(
                f"{change} changes the learning rates of the {done:,} steps done, because {why}. Undo the change; or "
                f"start a new run from these weights, with another --workdir and --config.init_from={workdir}"
            )
        return [f"{change}, which leaves the learning rates of the {done:,} steps done as they were"]

    def summary(self, num_params: int) -> list[str]:
        """Returns the lines printed before training: model size, data, batch layout, which checkpoints can be best."""
        config, plan, per_clip = self.config, self.plan, self.config.devices_per_clip
        shares = batch_shares(per_clip)
        share = config.batch_size // shares // config.accum_steps
        unit, kind = get_modality(self.data.encoder.key).unit, jax.devices()[0].device_kind
        groups = f"{counted(shares, 'groups')} of {per_clip} {kind} devices"
        where = groups if per_clip > 1 else counted(shares, f"{kind} devices")
        data, *notes = self.data.summary()
        notes += start_notes(config, self.data)
        notes += getattr(self.model, "notes", list)()  # the user's own models need not have any
        notes += Durations.of(config.optimizer.schedule, plan.total, plan.steps_per_epoch).notes
        scored = math.lcm(plan.eval_every, plan.checkpoint_every)  # a checkpoint can be best if it has an evaluation
        if config.checkpoint.keep_best and scored > plan.eval_every:
            when = f"every {scored:,} steps" if scored < plan.total else "only at the end"
            notes = [f"the best checkpoint is chosen among those saved at an evaluation: {when}", *notes]
        return [
            f"{title(config.model.name, self.model)}: {counted(num_params, 'parameters')}; {data}",
            f"{counted(plan.total, 'steps')} of {config.batch_size} {unit} = {share} x "
            f"{where} x {counted(config.accum_steps, 'micro-batches')}, "
            f"on {counted(jax.process_count(), 'processes')}",
            *notes,
        ]


@contextlib.contextmanager
def described_by(path: Any) -> Iterator[None]:
    """Turns what an unexpected description in a checkpoint can raise into a UserError that names the checkpoint."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        found = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise UserError(
            f"{path}: the checkpoint's config, labels or preprocessing are not as expected ({found}). It is damaged or "
            "of another version of vit_jax."
        ) from error


def complete(config: Config, own: dict[str, Any] | None = None) -> Config:
    """Returns a copy of a config in which every key is set.

    The keys of `schema.FROM_WEIGHTS` (model and preprocessing) that are unset take their values from the checkpoint of
    the run itself if it has one, else from `config.init_from`, else from their defaults. If `config.model.name` is set,
    `config.init_from` does not supply keys of the model. Fine-tuning therefore needs only the weights and the data.

    Args:
      own: The meta of the run's own checkpoint, if the run has started.

    Raises:
      UserError: `config.init_from` cannot be read.
    """
    config = schema.copy(config)
    if own is None and config.model.name is None and not config.init_from:
        raise UserError(
            "config.model.name is unset. Give a name, such as vit:B/16, or weights to start from as config.init_from."
        )
    if own is not None:
        schema.fill(config, schema.flatten(own["config"]), schema.FROM_WEIGHTS)
    elif config.init_from:
        keep_model = config.model.name is not None
        wanted = [name for name in schema.FROM_WEIGHTS if not (keep_model and name.startswith("model."))]
        origin = architecture_of(config.init_from, given=config.model, image_size=config.init_image_size)
        schema.fill(config, origin.as_config(config.data.image_size, config.data.eval_transforms), wanted)
    return schema.resolve_defaults(config)


def make_model(config: Config, encoder: Any, labels: tuple[str, ...] = ()) -> nn.Module:
    """Builds `config.model` for the inputs that `encoder` makes and the classes in `labels`.

    Raises:
      UserError: The name or a field is wrong.
    """
    schema.check(config, "model.dtype")
    fields = {key: value for key, value in config.model.items() if value is not None and key not in ("name", "extra")}
    dtype = fields.pop("dtype")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError(
            "config.model.dtype='float64' requires 64-bit JAX. Set the environment variable JAX_ENABLE_X64=1."
        )
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

    Of the keys of `config.task` and the values that depend on the data, a task receives those that it has fields for.

    Raises:
      UserError: The name or a field is wrong, or the task does not learn from this modality.
    """
    name: str = config.task.name
    if name not in TASKS and not extensions.is_import_path(name):
        raise UserError(f"unknown config.task.name {name!r}{nearest(name, TASKS)}")
    cls = extensions.load_object(TASKS.get(name) or name, "config.task.name")
    if encoder.key not in cls.modalities:
        able = [known for known, path in TASKS.items() if encoder.key in extensions.load_object(path, "").modalities]
        hint = f"; {able[0]!r} does" if able else ""
        raise UserError(f"config.task.name={name!r} does not learn from {encoder.key}{hint}")
    schema.check(config, "task.loss")
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
      UserError: The model cannot be computed with these fields on these devices.
    """
    try:
        return jax.eval_shape(lambda: _init_params(model, task, jax.random.PRNGKey(0)))
    except (ValueError, ImportError) as error:
        raise UserError(f"config.model: {error}") from error


def describe(config: Config, labels: tuple[str, ...], encoder: Any) -> dict[str, Any]:
    """Returns the JSON part of a checkpoint: config, labels, encoder, and the user's own code that these name."""
    return {
        "config": json.loads(config.to_json()),
        "labels": list(labels),
        "preprocessing": describe_encoder(encoder),
        "extensions": extensions.describe(extensions.import_paths(config, [getattr(encoder, "transforms", "")])),
    }
