"""Training: the whole loop, and the pure step it repeats."""

import contextlib
import dataclasses
import functools
import json
import math
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import struct

from vit_jax import config as schema
from vit_jax.config import Config
from vit_jax.errors import Interrupted, UserError, nearest
from vit_jax.evaluate import evaluate
from vit_jax.experiment import describe, make_model, make_task, open_data
from vit_jax.interrupts import Interrupts
from vit_jax.optimizer import make_optimizer
from vit_jax.parallel import make_parallel
from vit_jax.tasks import Batch, Sum, Task
from vit_jax.weights import start_from
from vit_jax.workdir.checkpoint import Checkpoints, load_meta, saved_steps
from vit_jax.workdir.metrics import Metrics, Window

PyTree = Any


class TrainState(struct.PyTreeNode):
    step: jax.Array  # updates done
    params: PyTree
    opt_state: PyTree
    ema: PyTree  # moving average of the parameters; None if there is none
    rng: jax.Array

    @property
    def eval_params(self) -> PyTree:
        return self.params if self.ema is None else self.ema


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    task: Task,
    tx: optax.GradientTransformation,
    axis_name: str | None,
    accum_steps: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, Sum]]:
    """One update from a device's share of the global batch; returns the sums of the metrics over all devices.

    Gradients and weights are summed over micro-batches and devices and divided once, so that unequal weights
    (padding, tokens) count right. Pure: to be compiled by a `Parallel`, under whose axis `axis_name` it sums.
    """
    step_rng = jax.random.fold_in(state.rng, state.step)
    shard = 0 if axis_name is None else jax.lax.axis_index(axis_name)

    def loss_sum(params, micro_batch, index):
        dropout = jax.random.fold_in(jax.random.fold_in(step_rng, shard), index)
        rngs = {"dropout": dropout, "mix": jax.random.fold_in(step_rng, 2**31 - 1)}
        loss, metrics = task.loss(model, params, micro_batch, rngs=rngs, train=True)
        return loss.value, {"loss": loss, **metrics}

    def gradients_and_sums(index_and_micro_batch):
        index, micro_batch = index_and_micro_batch
        gradients, sums = jax.grad(loss_sum, has_aux=True)(state.params, micro_batch, index)
        return gradients, sums

    # the axis of micro-batches is split off inside each shard, so that no example changes device
    micro_batches = jax.tree.map(lambda x: x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1), batch)
    total = _sum_over(gradients_and_sums, (jnp.arange(accum_steps), micro_batches))
    gradients, sums = total if axis_name is None else jax.lax.psum(total, axis_name)

    gradients = jax.tree.map(lambda g: g / sums["loss"].weight, gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = jax.tree.map(lambda average, new: ema_decay * average + (1 - ema_decay) * new, ema, params)
    # the norms, finite or not, also tell whether this update may be saved
    sums["gradient_norm"] = Sum(optax.tree.norm(gradients), jnp.float32(1))
    sums["parameter_norm"] = Sum(optax.tree.norm(params), jnp.float32(1))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), sums


def _sum_over(function, xs):
    """Sums `function` over the leading axis of `xs`, one element at a time."""
    first, rest = (jax.tree.map(lambda x, part=part: x[part], xs) for part in (0, slice(1, None)))
    total = function(first)
    if jax.tree.leaves(rest)[0].shape[0]:
        total, _ = jax.lax.scan(lambda total, x: (jax.tree.map(jnp.add, total, function(x)), None), total, rest)
    return total


@dataclasses.dataclass(frozen=True)
class Plan:
    """The durations of a config in steps."""

    total: int
    eval_every: int
    checkpoint_every: int
    log_every: int
    steps_per_epoch: float


def make_plan(config: Config, steps_per_epoch: float) -> Plan:
    """Derives steps from the length of an epoch, after all overrides.

    Raises:
      UserError: A duration is malformed, or the run has no step.
    """

    def steps(key, value):
        return max(schema.steps(key, value, steps_per_epoch), 1)

    if config.profile and (len(config.profile) != 2 or not 0 < config.profile[0] <= config.profile[1]):
        raise UserError(f"config.profile={config.profile} must be (first, last) steps, the first of them 1 or later")
    if not schema.steps("duration", config.duration, steps_per_epoch):
        raise UserError(f"config.duration={config.duration!r} is less than one step of {steps_per_epoch:.1f} an epoch")
    return Plan(
        total=steps("duration", config.duration),
        eval_every=steps("eval_every", config.eval_every),
        checkpoint_every=steps("checkpoint.every", config.checkpoint.every),
        log_every=steps("log_every", config.log_every),
        steps_per_epoch=steps_per_epoch,
    )


def train_and_evaluate(config: Config, workdir: epath.PathLike, *, quiet: bool = False) -> dict[str, float]:
    """Trains as `config` says, or goes on where `workdir` was left; returns the last evaluation.

    Writes `config.json`, `metrics.jsonl`, `checkpoints/` and `tensorboard/` into `workdir`.

    Raises:
      UserError: Something in config, data or workdir is wrong; the message names it.
      Interrupted: SIGTERM or Ctrl-C came; the state was saved.
      RunError: A loss or gradient is not finite (nothing of that step is saved), or a checkpoint cannot be written.
    """
    data, parallel = open_data(config), make_parallel(config.parallel)
    plan = make_plan(config, data.steps_per_epoch)
    model = make_model(config, data.preprocessing, data.labels)
    task = make_task(config, data.preprocessing, data.labels)
    if (best := config.checkpoint.best) not in task.scores:
        raise UserError(f"config.checkpoint.best={best!r} is no score of {task.name}{nearest(best, task.scores)}")
    state, tx, schedule = init_state(config, model, task, plan)
    workdir = prepare_workdir(config, workdir)  # last, so that a mistake in the config leaves no workdir behind

    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        checkpoints = Checkpoints(
            workdir, **{name: config.checkpoint[name] for name in ("keep_last", "keep_best", "best")}
        )
        stack.callback(checkpoints.close)
        described = describe(config, data.labels, data.preprocessing)
        if saved := load_meta(workdir):
            check_same_data(workdir, saved, described)
        restored = checkpoints.restore_latest(parallel.abstract(state))
        report = []
        if restored:
            state, meta = restored
            if (before := meta.get("train_examples")) not in (None, now := len(data.train)):
                report = [f"{before:,} training examples when this was saved, {now:,} now: the order is another"]
        elif config.init_from:
            params, report = start_from(
                config.init_from, model, state.params, data.labels, image_size=config.init_image_size
            )
            state = state.replace(params=params, ema=None if state.ema is None else params)
        state = parallel.put_state(state)
        first_step = int(parallel.fetch(state.step))

        metrics = Metrics(workdir, first_step=first_step, total_steps=plan.total, quiet=quiet)
        stack.callback(metrics.close)
        for line in [*summary(config, plan, data, state, first_step), *report]:
            metrics.say(line)
        window = Window(parallel, metrics, schedule, plan.log_every, saved=restored and meta["window"])
        step_fn = parallel.compile(
            functools.partial(
                train_step, model=model, task=task, tx=tx, axis_name=parallel.axis_name,
                accum_steps=config.accum_steps, ema_decay=config.optimizer.ema_decay,
            )
        )  # fmt: skip
        predict = parallel.compile_predict(functools.partial(task.predict, model))

        def evaluate_now(step):
            if metrics.has(step, "eval"):
                return metrics.last("eval")
            started = time.monotonic()
            stop = interrupts.requested
            result = evaluate(predict, state.eval_params, data.eval_batches(), task, parallel, stop=stop)
            if result:
                result["skipped"] = data.skipped
                metrics.write(step, "eval", {**result, "seconds": time.monotonic() - started})
                window.clear_clock()
            return result

        def save(step, result):
            window.flush()  # raises if this step is not finite: what is saved is good
            meta = {**described, "train_examples": len(data.train), "window": window.sums, "metrics": result or {}}
            checkpoints.save(step, parallel.globalise(state), meta, result)

        def stopped(step):
            message = f"stopped after step {step} of {plan.total}, which is saved; the same command goes on from there"
            return Interrupted(interrupts.signum, message)

        result = metrics.last("eval")
        if first_step and (first_step % plan.eval_every == 0 or first_step == plan.total):
            result = evaluate_now(first_step)  # the run was stopped between a step and its evaluation
            if result is None:
                raise stopped(first_step)
        batches = data.train_batches(first_step, plan.total)
        stack.callback(batches.close)
        first_traced, last_traced = config.profile or (0, 0)
        first_traced = max(first_traced, first_step + 1)
        tracing = stack.enter_context(contextlib.ExitStack())
        window.clear_clock()
        for step in range(first_step + 1, plan.total + 1):
            if step == first_traced <= last_traced:
                jax.profiler.start_trace(str(workdir / "profile"))
                tracing.callback(jax.profiler.stop_trace)
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
            state, sums = step_fn(state, parallel.put_batch(batch))
            examples = int(batch["mask"].sum()) * jax.process_count()
            window.add(step, sums, examples=examples, waited=waited)
            if step == last_traced:
                window.flush()
                tracing.close()

            last, evaluated, stop = step == plan.total, None, interrupts.requested(step)
            if not stop and (last or step % plan.eval_every == 0):
                window.flush()
                result = evaluated = evaluate_now(step)
                stop = evaluated is None
            if stop or last or step % plan.checkpoint_every == 0:
                save(step, evaluated)
            if stop:
                checkpoints.wait()
                raise stopped(step)
        checkpoints.wait()
    return result or {}


def init_state(
    config: Config, model: nn.Module, task: Task, plan: Plan
) -> tuple[TrainState, optax.GradientTransformation, optax.Schedule]:
    """Initialises parameters from `config.seed`, and builds the optimizer for them.

    Raises:
      UserError: The model cannot compute as `config.model` says on these devices, or see `make_optimizer`.
    """
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(config.seed))

    def init_params():
        return model.init(init_rng, *task.init_inputs(model), train=False)["params"]

    try:
        shapes = jax.eval_shape(init_params)
    except (ValueError, ImportError) as error:
        raise UserError(f"config.model: {error}") from error
    tx, schedule = make_optimizer(
        config.optimizer,
        shapes,
        total_steps=plan.total,
        steps_per_epoch=plan.steps_per_epoch,
        hidden_dim=model.hidden_dim,
    )

    @jax.jit
    def init():
        params = init_params()
        ema = jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None
        return TrainState(jnp.int32(0), params, tx.init(params), ema, step_rng)

    return init(), tx, schedule


def prepare_workdir(config: Config, workdir: epath.PathLike) -> epath.Path:
    """Creates the workdir with `config.json`; one that already holds checkpoints must be of this config.

    Raises:
      UserError: It cannot be written, or belongs to another config (the differences are named).
    """
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    claimed = path.exists() and saved_steps(workdir)
    if claimed and (changed := schema.differences(json.loads(path.read_text()), config)):
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}): undo the change or give another --workdir"
        )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(config.to_json(indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
    return workdir


def check_same_data(workdir: epath.Path, saved: dict[str, Any], described: dict[str, Any]) -> None:
    """Raises UserError if a checkpoint has other classes, or another vocabulary, than the data has now."""
    for what in ("labels", "preprocessing"):
        if saved[what] != json.loads(json.dumps(described[what])):
            raise UserError(
                f"the data have changed since {workdir} was trained: their {what} are others than those in its "
                "checkpoint; bring the old data back, or give another --workdir"
            )


def summary(config, plan, data, state, first_step) -> list[str]:
    """Returns what a user wants to have read before the hours pass."""
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    devices = jax.device_count()
    each = config.batch_size // devices // config.accum_steps
    kind = jax.devices()[0].device_kind
    about, *more = data.summary()
    both = math.lcm(plan.eval_every, plan.checkpoint_every)
    rare = config.checkpoint.keep_best and both > plan.eval_every
    where = f"every {both:,} steps" if both < plan.total else "at the end alone"
    return [
        f"{config.model.name}: {parameters:,} parameters; {about}",
        f"{plan.total:,} steps of {config.batch_size} {data.unit} = {each} x {devices} {kind} device(s) x "
        f"{config.accum_steps} micro-batch(es), on {jax.process_count()} process(es)",
        *([f"resuming after step {first_step:,}"] if first_step else []),
        *([f"evaluation and checkpoint fall together {where}: of these the best is kept"] if rare else []),
        *more,
    ]
