"""Training: the pure step of an update, and the loop that repeats it, evaluates and saves."""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath

from vit_jax import state as states
from vit_jax.errors import Interrupted
from vit_jax.evaluate import Evaluator
from vit_jax.experiment import Experiment
from vit_jax.interrupts import Interrupts
from vit_jax.parallel import micro_batches, sum_over
from vit_jax.state import TrainState
from vit_jax.tasks import Batch, Sum, Task, group_of
from vit_jax.workdir.checkpoint import Checkpoints, saved_steps
from vit_jax.workdir.claim import check_same_data, claim
from vit_jax.workdir.metrics import Metrics, Window
from vit_jax.workdir.trace import Trace


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
    """Makes one update from a device's share of the global batch.

        gradient = sum over shards and micro-batches of d(loss sum) / d(params), divided once by the sum of the weights
        ema      = ema_decay * ema + (1 - ema_decay) * updated params

    Because the sum is divided only once, every example (or token) has the same weight, even if shards or micro-batches
    have unequal amounts of padding. Dropout differs between shards, micro-batches and steps; mixup and CutMix draw the
    same values for all shards and micro-batches of a step.

    The function is pure, and is compiled by a `Parallel`. It sums over the devices along `axis_name`, which is None if
    the compiler inserts these sums.

    Returns:
      The next state, and the sums of the metrics over all devices: `loss`, those of the task, `gradient_norm` and
      `parameter_norm`.
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
        return jax.grad(loss_sum, has_aux=True)(state.params, micro_batch, index)

    total = sum_over(gradients_and_sums, (jnp.arange(accum_steps), micro_batches(batch, accum_steps, group_of(task))))
    gradients, sums = total if axis_name is None else jax.lax.psum(total, axis_name)

    gradients = jax.tree.map(lambda g: g / sums["loss"].weight, gradients)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = jax.tree.map(lambda average, new: ema_decay * average + (1 - ema_decay) * new, ema, params)
    # if one of these norms is not finite, the run stops and this update is not saved
    sums["gradient_norm"] = Sum(optax.tree.norm(gradients), jnp.float32(1))
    sums["parameter_norm"] = Sum(optax.tree.norm(params), jnp.float32(1))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), sums


def train_and_evaluate(experiment: Experiment, workdir: epath.PathLike, *, quiet: bool = False) -> dict[str, float]:
    """Trains, or resumes from the newest checkpoint in `workdir`; returns the results of the last evaluation.

    Writes `config.json`, `metrics.jsonl`, `checkpoints/` and `tensorboard/` into `workdir`.

    Raises:
      UserError: The workdir belongs to another run or cannot be written, or the weights in `config.init_from` do not
        fit the model.
      Interrupted: The run received SIGTERM or Ctrl-C, and has saved its state.
      RunError: A loss or gradient is not finite (nothing of that step is saved), or a checkpoint cannot be written.
    """
    config, data, plan, parallel = experiment.config, experiment.data, experiment.plan, experiment.parallel
    described, begun = experiment.describe(), bool(saved_steps(workdir))
    state: Any = None
    notes: list[str] = []
    if begun:
        notes = experiment.continued(workdir)
    else:  # before the workdir is created, so that a mistake does not leave an empty one
        state, notes = states.start(experiment)
    workdir, saved = claim(workdir, config)
    if saved:
        check_same_data(workdir, saved, described)

    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        keep = {name: config.checkpoint[name] for name in ("keep_last", "keep_best", "best")}
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, **keep)))
        meta: dict[str, Any] = {}
        if begun:
            restored, meta = checkpoints.restore_latest(states.abstract_state(experiment)) or (state, meta)
            state, notes = parallel.put_state(restored), notes + changed_since(meta, data)
        first_step = int(parallel.fetch(state.step))

        metrics = Metrics(workdir, first_step=first_step, total_steps=plan.total, quiet=quiet)
        stack.callback(metrics.close)
        num_params = sum(x.size for x in jax.tree.leaves(state.params))
        resuming = [f"resuming after step {first_step:,}"] if first_step else []
        for line in (*experiment.summary(num_params), *resuming, *notes):
            metrics.say(line)
        window = Window(parallel, metrics, experiment.schedule, plan.log_every, saved=meta.get("window"))
        step_fn = compile_step(experiment)
        evaluator = Evaluator(experiment.model, experiment.task, parallel)

        def evaluate(step):
            """Returns the evaluation at `step`, made now unless `metrics` has it; None if a signal interrupts it."""
            if metrics.has(step, "eval"):
                return metrics.last("eval")
            started = time.monotonic()
            result = evaluator.evaluate(state.eval_params, data.eval_batches(), stop=interrupts.requested)
            if result:
                result["skipped"] = data.skipped
                metrics.write(step, "eval", {**result, "seconds": time.monotonic() - started})
                window.clear_clock()
            return result

        def save(step, result):
            window.flush()  # raises if a value of this step is not finite, so that such a state is never saved
            progress = {"train_examples": len(data.train), "window": window.sums, "metrics": result or {}}
            checkpoints.save(step, parallel.globalise(state), {**described, **progress}, result)

        def stopped(step):
            message = f"stopped after step {step} of {plan.total}, which is saved; run the same command to continue"
            return Interrupted(interrupts.signum, message)

        result = metrics.last("eval")
        if first_step and (first_step % plan.eval_every == 0 or first_step == plan.total):
            result = evaluate(first_step)  # a previous start may have ended before this evaluation
            if result is None:
                raise stopped(first_step)
        batches = data.train_batches(first_step, plan.total)
        stack.callback(batches.close)
        trace = stack.enter_context(contextlib.closing(Trace(workdir, plan.profile, first_step)))
        window.clear_clock()
        for step in range(first_step + 1, plan.total + 1):
            trace.begin(step)
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started
            state, sums = step_fn(state, parallel.put_batch(batch))
            examples = int(batch["mask"].sum()) * jax.process_count()
            window.add(step, sums, examples=examples, waited=waited)
            trace.end(step, window.flush)

            last, evaluated, stop = step == plan.total, None, interrupts.requested(step)
            if not stop and (last or step % plan.eval_every == 0):
                window.flush()
                result = evaluated = evaluate(step)
                stop = evaluated is None
            if stop or last or step % plan.checkpoint_every == 0:
                save(step, evaluated)
            if stop:
                checkpoints.wait()
                raise stopped(step)
        checkpoints.wait()
    return result or {}


def compile_step(experiment: Experiment) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Sum]]]:
    """Compiles `train_step` for the model, the task, the optimizer and the devices of an experiment."""
    config = experiment.config
    step = functools.partial(
        train_step,
        model=experiment.model,
        task=experiment.task,
        tx=experiment.tx,
        axis_name=experiment.parallel.axis_name,
        accum_steps=config.accum_steps,
        ema_decay=config.optimizer.ema_decay,
    )
    return experiment.parallel.compile(step)


def changed_since(meta: dict[str, Any], data: Any) -> list[str]:
    """Returns a line to print if the number of training examples differs from that in the checkpoint, else nothing."""
    before, now = meta.get("train_examples"), len(data.train)
    if before in (None, now):
        return []
    return [f"{before:,} training examples when the checkpoint was saved, {now:,} now: their order changes"]
