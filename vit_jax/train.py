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
from vit_jax.data.loading.levels import as_floats
from vit_jax.devices.interrupts import Interrupts
from vit_jax.devices.job import from_first
from vit_jax.devices.parallel import micro_batches, sum_over
from vit_jax.errors import Interrupted
from vit_jax.evaluate import Evaluator
from vit_jax.experiment import Experiment
from vit_jax.state import TrainState
from vit_jax.tasks import Batch, Sum, Task, group_of
from vit_jax.workdir.checkpoint import Checkpoints, has_checkpoints, load_meta
from vit_jax.workdir.claim import check_same_run, write_config
from vit_jax.workdir.diagnosis import prng_impl
from vit_jax.workdir.lock import Lock
from vit_jax.workdir.metrics import Metrics, Window
from vit_jax.workdir.mirror import check_installed
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
        loss, metrics = task.loss(model, params, as_floats(micro_batch), rngs=rngs, train=True)
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
    sums["gradient_norm"] = Sum(norm(gradients), jnp.float32(1))
    sums["parameter_norm"] = Sum(norm(params), jnp.float32(1))
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), sums


def norm(tree: Any) -> jax.Array:
    """Returns the square root of the sum of the squares of all elements, in float32.

    The sum of an array is its product with itself over all axes. On a CPU, XLA computes this several times faster than
    the sum of squares of `optax.tree.norm`, which takes a tenth of a train step with a small batch.
    """
    squares = (jnp.tensordot(x, x, x.ndim, preferred_element_type=jnp.float32) for x in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def train_and_evaluate(experiment: Experiment, workdir: epath.PathLike, *, quiet: bool = False) -> dict[str, float]:
    """Trains, or resumes from the newest checkpoint in `workdir`; returns the results of the last evaluation.

    Writes `config.json`, `metrics.jsonl`, `checkpoints/` and `tensorboard/` into `workdir`, which is locked meanwhile.

    Raises:
      UserError: The workdir belongs to another run, is in use or cannot be written, or the weights in
        `config.init_from` do not fit the model.
      Interrupted: The run received SIGTERM or Ctrl-C, and has saved its state.
      RunError: A loss or gradient is not finite (nothing of that step is saved), or a file cannot be written.
    """
    data, plan, parallel = experiment.data, experiment.plan, experiment.parallel
    with contextlib.ExitStack() as stack:
        stack.callback(data.close)
        run = _Training(experiment, workdir, stack, quiet=quiet)
        first_step, result = run.first_step, run.metrics.last("eval")
        if first_step and (first_step % plan.eval_every == 0 or first_step == plan.total):
            result = run.evaluate(first_step)  # a previous start may have ended before this evaluation
            if result is None:
                raise run.stopped(first_step)
        batches = data.train_batches(first_step, plan.total)
        stack.callback(batches.close)
        trace = stack.enter_context(contextlib.closing(Trace(epath.Path(workdir), plan.profile, first_step)))
        step_fn = compile_step(experiment)
        run.window.clear_clock()
        for step in range(first_step + 1, plan.total + 1):
            trace.begin(step)
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started
            run.state, sums = step_fn(run.state, parallel.put_batch(batch))
            examples = int(batch["mask"].sum()) * jax.process_count()
            run.window.add(step, sums, examples=examples, waited=waited, ids=batch["id"])
            trace.end(step, run.window.flush)

            last, evaluated, stop = step == plan.total, None, run.interrupts.requested(step)
            if not stop and (last or step % plan.eval_every == 0):
                run.window.flush()
                result = evaluated = run.evaluate(step)
                stop = evaluated is None
            if stop or last or step % plan.checkpoint_every == 0:
                run.save(step, evaluated)
            if stop:
                run.checkpoints.wait()
                raise run.stopped(step)
        run.checkpoints.wait()
    return result or {}


class _Training:
    """A run that has started or resumed: its state, and what it reads and writes between the steps.

    Everything that has to be closed is added to `stack`.

    Attributes:
      first_step: The step after which the run starts or resumes.
    """

    def __init__(self, experiment: Experiment, workdir: epath.PathLike, stack: contextlib.ExitStack, *, quiet: bool):
        config, data, plan, self._parallel = experiment.config, experiment.data, experiment.plan, experiment.parallel
        self._data, self._plan, self._described = data, plan, experiment.describe()
        check_installed(config.wandb)
        new = None
        if not has_checkpoints(workdir):  # before the workdir is created, so that a mistake does not leave an empty one
            new = states.start(experiment)
        self._lock = stack.enter_context(contextlib.closing(Lock(workdir, jax.process_index() == 0)))
        begun = has_checkpoints(workdir)  # again, because another run may have ended in the meantime
        if saved := load_meta(workdir):
            check_same_run(workdir, saved, self._described)
        extended = experiment.continued(workdir) if begun else []
        self.interrupts = stack.enter_context(Interrupts())
        keep = {name: config.checkpoint[name] for name in ("keep_last", "keep_best", "best")}
        self.checkpoints = stack.enter_context(Checkpoints(workdir, **keep))
        meta: dict[str, Any] = {}
        if begun:
            restored, meta = self.checkpoints.restore_latest(states.abstract_state(experiment))
            self.state, notes = self._parallel.put_state(restored), changed_since(meta, data)
        else:
            self.state, notes = new or states.start(experiment)
        notes = [*extended, *notes, *write_config(workdir, config, begun=begun)]
        self.first_step = int(self._parallel.fetch(self.state.step))

        self.metrics = Metrics(
            workdir,
            first_step=self.first_step,
            total_steps=plan.total,
            quiet=quiet,
            kept=self.checkpoints.kept,
            config=config,
        )
        stack.callback(self.metrics.close)
        num_params = sum(x.size for x in jax.tree.leaves(self.state.params))
        for line in (*experiment.summary(num_params), *self._progress(), *notes):
            self.metrics.say(line)
        self.window = Window(
            self._parallel, self.metrics, experiment.schedule, plan.log_every, saved=meta.get("window")
        )
        self._evaluator = Evaluator(experiment.model, experiment.task, self._parallel)

    def _progress(self) -> list[str]:
        """Returns a line that says where a run resumes, or that it is finished; none for a new run."""
        if self.first_step >= self._plan.total:
            return [f"this run is finished: all {self._plan.total:,} steps are done"]
        return [f"resuming after step {self.first_step:,}"] if self.first_step else []

    def evaluate(self, step: int) -> dict[str, Any] | None:
        """Returns the evaluation at `step`, made now unless `metrics` has it; None if a signal interrupts it."""
        if from_first(self.metrics.has(step, "eval")):
            return self.metrics.last("eval") or {}
        started = time.monotonic()
        batches = self._data.eval_batches()
        result = self._evaluator.evaluate(self.state.eval_params, batches, stop=self.interrupts.requested)
        if result:
            result["skipped"] = self._data.skipped
            self.metrics.write(step, "eval", {**result, "seconds": time.monotonic() - started})
            self.window.clear_clock()
        return result

    def save(self, step: int, result: dict[str, Any] | None) -> None:
        """Starts to save a checkpoint, with the evaluation at `step` if there is one."""
        self.window.flush()  # raises if a value of this step is not finite, so that such a state is never saved
        self._lock.check()
        progress = {
            "train_examples": len(self._data.train),
            "window": self.window.sums,
            "metrics": result or {},
            "prng": prng_impl(),
        }
        self.checkpoints.save(step, self._parallel.globalise(self.state), {**self._described, **progress}, result)

    def stopped(self, step: int) -> Interrupted:
        """Returns the exception that ends a run which was stopped after `step`."""
        message = f"stopped after step {step} of {self._plan.total}, which is saved; run the same command to continue"
        return Interrupted(self.interrupts.signum, message)


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
