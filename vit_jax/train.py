"""Training: the pure step, and the loop that repeats it."""

import contextlib
import functools
import time
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

    Dividing once makes unequal weights (padding, tokens) count right. Dropout differs between shards, micro-batches and
    steps; mixing is the same for all shards and micro-batches of a step.

    Pure: a `Parallel` compiles it, and it sums over the devices along `axis_name` (None if the compiler does that).

    Returns:
      The next state, and the sums of the metrics over all devices: `loss`, what the task adds, and the norms of
      gradient and parameters.
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
    # a norm that is not finite also tells that this update must not be saved
    sums["gradient_norm"] = Sum(optax.tree.norm(gradients), jnp.float32(1))
    sums["parameter_norm"] = Sum(optax.tree.norm(params), jnp.float32(1))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), sums


def train_and_evaluate(experiment: Experiment, workdir: epath.PathLike, *, quiet: bool = False) -> dict[str, float]:
    """Trains, or resumes where `workdir` was left; returns the last evaluation.

    Writes `config.json`, `metrics.jsonl`, `checkpoints/` and `tensorboard/` into `workdir`.

    Raises:
      UserError: The workdir belongs to another run, cannot be written, or `config.init_from` does not fit.
      Interrupted: SIGTERM or Ctrl-C came, and the state was saved.
      RunError: A loss or gradient is not finite (nothing of that step is saved), or a checkpoint cannot be written.
    """
    config, data, plan, parallel = experiment.config, experiment.data, experiment.plan, experiment.parallel
    described, begun = experiment.describe(), bool(saved_steps(workdir))
    state: Any = None
    notes: list[str] = []
    if not begun:  # before the workdir exists, so that a mistake leaves none behind
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
            state, notes = parallel.put_state(restored), changed_since(meta, data)
        first_step = int(parallel.fetch(state.step))

        metrics = Metrics(workdir, first_step=first_step, total_steps=plan.total, quiet=quiet)
        stack.callback(metrics.close)
        num_params = sum(x.size for x in jax.tree.leaves(state.params))
        resuming = [f"resuming after step {first_step:,}"] if first_step else []
        for line in (*experiment.summary(num_params), *resuming, *notes):
            metrics.say(line)
        window = Window(parallel, metrics, experiment.schedule, plan.log_every, saved=meta.get("window"))
        step_fn = parallel.compile(
            functools.partial(
                train_step,
                model=experiment.model,
                task=experiment.task,
                tx=experiment.tx,
                axis_name=parallel.axis_name,
                accum_steps=config.accum_steps,
                ema_decay=config.optimizer.ema_decay,
            )
        )
        evaluator = Evaluator(experiment.model, experiment.task, parallel)

        def evaluate(step):
            """Returns the evaluation at `step`, made now unless a run before did; None if a signal came meanwhile."""
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
            window.flush()  # raises if this step is not finite, so that only good states are saved
            beside = {"train_examples": len(data.train), "window": window.sums, "metrics": result or {}}
            checkpoints.save(step, parallel.globalise(state), {**described, **beside}, result)

        def stopped(step):
            message = f"stopped after step {step} of {plan.total}, which is saved; the same command goes on from there"
            return Interrupted(interrupts.signum, message)

        result = metrics.last("eval")
        if first_step and (first_step % plan.eval_every == 0 or first_step == plan.total):
            result = evaluate(first_step)  # the run was stopped between a step and its evaluation
            if result is None:
                raise stopped(first_step)
        batches = data.train_batches(first_step, plan.total)
        stack.callback(batches.close)
        trace = stack.enter_context(contextlib.closing(Trace(workdir, plan.profile, first_step)))
        window.clear_clock()
        for step in range(first_step + 1, plan.total + 1):
            trace.begin(step)
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
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


def changed_since(meta: dict[str, Any], data: Any) -> list[str]:
    """Returns a line if the number of training examples is no longer that of the checkpoint, else nothing."""
    before, now = meta.get("train_examples"), len(data.train)
    if before in (None, now):
        return []
    return [f"{before:,} training examples when this was saved, {now:,} now: they come in another order"]


class Trace:
    """A profiler trace of some steps, written into `WORKDIR/profile`.

    A resumed run traces those of the steps that it makes itself.
    """

    def __init__(self, workdir: epath.Path, steps: tuple[int, int], first_step: int):
        self._directory, (first, self._last) = workdir / "profile", steps
        self._first, self._running = max(first, first_step + 1), False

    def begin(self, step: int) -> None:
        """Starts the trace before the first of its steps."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def end(self, step: int, finish: Any) -> None:
        """Stops the trace after the last of its steps; `finish` waits until the devices have done them."""
        if self._running and step == self._last:
            finish()
            self.close()

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
