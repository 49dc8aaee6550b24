"""Checkpoints: a thin adapter around Orbax.

A checkpoint consists of the training state and of a JSON part, the `meta`, with everything else that prediction needs:
config, labels and encoder. A workdir holds them as `checkpoints/STEP/{state,meta}`.
"""

import contextlib
import copy
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from vit_jax.errors import RunError, UserError, counted
from vit_jax.workdir.files import absolute

PyTree = Any
_LOWER_IS_BETTER = ("loss", "perplexity")


class _Best:
    """A preservation policy that keeps the `count` best checkpoints by the metric `name`; ties go to the newest.

    Orbax's own `BestN` knows only the metrics of checkpoints that the same process saved. The train loop also stores
    them in the meta of a checkpoint, so that a resumed run still ranks the checkpoints that were saved before.
    """

    def __init__(self, count: int, name: str):
        self._count, self._name, self._sign = count, name, -1 if name in _LOWER_IS_BETTER else 1
        self._scores: dict[int, float] = {}

    def add(self, step: int, metrics: dict[str, float] | None) -> None:
        """Records the metrics of a checkpoint. Checkpoints without metrics are never among the best."""
        if metrics and self._name in metrics:
            self._scores[step] = self._sign * metrics[self._name]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = sorted((step for step in steps if step in self._scores), key=lambda step: (self._scores[step], step))
        best = ranked[len(ranked) - min(self._count, len(ranked)) :]
        return [step in best for step in steps]


class Checkpoints:
    """The checkpoints of a workdir, saved asynchronously.

    Orbax writes each checkpoint to a temporary directory, renames it when it is complete, and deletes old ones only
    after that. All processes of a job must call the same methods.

    Args:
      keep_last: Number of newest checkpoints to keep; at least 1.
      keep_best: Number of best checkpoints to keep in addition.
      best: The metric that ranks checkpoints; lower is better for `loss` and `perplexity`, higher for all others.
    """

    def __init__(self, workdir: epath.PathLike, *, keep_last: int = 2, keep_best: int = 1, best: str = "top1"):
        self.directory = absolute(workdir) / "checkpoints"
        self._best = _Best(keep_best, best)
        for step in saved_steps(workdir):
            with contextlib.suppress(OSError, ValueError):
                self._best.add(step, _read_meta(self.directory / str(step)).get("metrics"))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(max(keep_last, 1)), self._best]),
            cleanup_tmp_directories=True,
        )
        for path in self.directory.iterdir() if self.directory.exists() else ():
            if ".orbax-checkpoint-tmp" in path.name:  # left by a process that was killed; the manager removes it
                logging.warning("%s is half-written and will be removed.", path)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "meta"))

    def save(self, step: int, state: PyTree, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts to save a checkpoint. Does nothing if there is one for this step.

        Args:
          metrics: Results of an evaluation at this step, by which the checkpoint is ranked; None without one.

        Raises:
          RunError: This or an earlier checkpoint cannot be written.
        """
        if step in self._manager.all_steps():
            return
        self._best.add(step, metrics)
        meta = copy.deepcopy(meta)  # Orbax writes it in the background, and copies only the arrays before that
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._explained():
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Blocks until all saved checkpoints are complete.

        Raises:
          RunError: A checkpoint cannot be written.
        """
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns any failure to write, which Orbax may report only at a later call, into a RunError."""
        try:
            yield
        except Exception as error:  # OSError, ValueError or XlaRuntimeError, depending on the layer that failed
            kept = f"kept: {self._manager.all_steps() or 'none'}"
            raise RunError(f"cannot write a checkpoint to {self.directory}: {_first_line(error)}; {kept}") from error

    def restore_latest(self, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """Restores the newest checkpoint that every process can read; None if there are no checkpoints.

        All processes return the same step. Damaged checkpoints are named in a warning and renamed to `damaged_STEP`,
        never deleted.

        Args:
          abstract_state: Shapes, dtypes and shardings of the state; see `Parallel.abstract`.

        Raises:
          UserError: There are checkpoints, and all of them are damaged.
        """
        damaged = []
        for step in self._common_steps():
            item, reason = None, "another process cannot read it"
            try:
                item = self._read(step, abstract_state)
            except Exception as error:  # Orbax and TensorStore raise many kinds of errors for damaged files
                reason = _first_line(error)
            if _on_all_processes(item is not None):
                self._set_aside(damaged)
                return item
            path, aside = self.directory / str(step), f"damaged_{step}"
            logging.warning("%s is damaged (%s). It is renamed to %s; trying the one before.", path, reason, aside)
            damaged.append(step)
        if damaged:
            raise UserError(f"every checkpoint in {self.directory} is damaged: {damaged}. Use another --workdir.")
        return None

    def _common_steps(self) -> list[int]:
        """Returns the steps that process 0 finds, newest first, so that all processes try the same ones."""
        steps = np.array(sorted(self._manager.all_steps(), reverse=True), np.int32)
        if jax.process_count() > 1:
            count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
            steps = np.resize(steps, count) if len(steps) else np.zeros(count, np.int32)
            steps = multihost_utils.broadcast_one_to_all(steps)
        return [int(step) for step in steps]

    def _read(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Reads this process's part of a checkpoint.

        Unlike `CheckpointManager.restore`, this does not wait for the other processes, which would block forever if the
        part of one of them is damaged.
        """
        directory = self.directory / str(step)
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=_this_process())
        with contextlib.closing(handler):
            state = handler.restore(directory / "state", args=ocp.args.StandardRestore(abstract_state))
        return state, _read_meta(directory)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints in process 0, while the other processes wait."""
        if not steps:
            return
        for step in steps if jax.process_index() == 0 else ():
            aside = self.directory / f"damaged_{step}"
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._manager.reload()

    def close(self) -> None:
        self._manager.close()


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Returns the steps of a workdir's checkpoints, newest first. They are not checked for damage."""
    directory = absolute(workdir) / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def load_checkpoint(workdir: epath.PathLike, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """Reads the parameters and `meta` of a workdir's newest intact checkpoint, or of that of `step`.

    The parameters are NumPy arrays. If the run has a moving average of them, this is returned instead. No file is
    changed.

    Args:
      workdir: A workdir, or one checkpoint, `WORKDIR/checkpoints/STEP`.

    Raises:
      UserError: There is no checkpoint, or all are damaged.
    """
    workdir, named = _split(workdir)
    step = named if step is None else step
    directory = workdir / "checkpoints"
    steps = saved_steps(workdir)
    if step is not None:
        if step not in steps:
            raise UserError(f"no checkpoint of step {step} in {directory}; there are {sorted(steps) or 'none'}.")
        steps = [step]
    if not steps:
        raise UserError(f"no checkpoint in {directory}. Name a workdir written by `python -m vit_jax train`.")
    for step in steps:
        try:
            meta = _read_meta(directory / str(step))
            path = directory / str(step) / "state"
            # a Checkpointer would warn about metadata that a CheckpointManager does not write
            with contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=_this_process())) as handler:
                tree = handler.metadata(path).tree
                wanted = "ema" if tree.get("ema") else "params"
                item = {wanted: jax.tree.map(lambda _: 0, tree[wanted])}
                numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
                state = handler.restore(
                    path, args=ocp.args.PyTreeRestore(item=item, restore_args=numpy, partial_restore=True)
                )
            return state[wanted], {"step": step, **meta}
        except Exception as error:
            logging.warning("%s is damaged (%s) and is ignored.", directory / str(step), _first_line(error))
    raise UserError(f"no intact checkpoint in {directory}: {steps} are damaged.")


def average_checkpoints(workdir: epath.PathLike, count: int) -> tuple[PyTree, dict[str, Any]]:
    """Averages the parameters of a workdir's newest `count` checkpoints, in float64.

    The meta is that of the newest one; its key `averaged` lists the steps.

    Raises:
      UserError: There are fewer checkpoints, or one of them is damaged.
    """
    steps = saved_steps(workdir)[:count]
    if len(steps) < count:
        raise UserError(
            f"cannot average {counted(count, 'checkpoints')}: {workdir} has {len(steps)}. Train with "
            f"--config.checkpoint.keep_last={count} to keep as many."
        )
    total, dtypes, meta = None, None, {}
    for step in reversed(steps):  # the newest one last, because its meta is returned
        params, meta = load_checkpoint(workdir, step)
        dtypes = jax.tree.map(lambda x: x.dtype, params)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64) / count, params)
        total = params if total is None else jax.tree.map(np.add, total, params)
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, dtypes), {**meta, "averaged": steps}


def load_meta(workdir: epath.PathLike) -> dict[str, Any] | None:
    """Reads the `meta` of a workdir's newest checkpoint, or of `WORKDIR/checkpoints/STEP`.

    Checkpoints whose meta cannot be read are passed over. Returns None if none is left.
    """
    workdir, named = _split(workdir)
    for step in saved_steps(workdir) if named is None else [named]:
        with contextlib.suppress(OSError, ValueError):
            return _read_meta(workdir / "checkpoints" / str(step))
    return None


def _read_meta(checkpoint: epath.Path) -> dict[str, Any]:
    return json.loads((checkpoint / "meta" / "metadata").read_text())


def _split(path: epath.PathLike) -> tuple[epath.Path, int | None]:
    """Splits `WORKDIR/checkpoints/STEP` into workdir and step; the step of a workdir is None."""
    path = absolute(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Lets Orbax read in this process without waiting for the others."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})


def _on_all_processes(condition: bool) -> bool:
    """Returns whether a condition holds in every process."""
    return bool(np.all(multihost_utils.process_allgather(np.int32(condition))))


def _first_line(error: Exception) -> str:
    """Returns the first line of an error. A very long line is shortened in the middle; the reason is at its end."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-120:]}"
