"""Checkpoints: a thin adapter around Orbax.

A checkpoint consists of the training state and of a JSON part, the `meta`, with everything else that prediction needs:
config, labels and encoder. A workdir holds them as `checkpoints/STEP/{state,meta}`. The meta has checksums of the
arrays and of itself, which are checked on reading; checkpoints of earlier versions, which have none, are read as well.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from vit_jax.devices.job import from_first, on_all
from vit_jax.errors import Interrupted, RunError, UserError, counted
from vit_jax.workdir import checksum, diagnosis
from vit_jax.workdir.best import Best
from vit_jax.workdir.files import absolute, unused

PyTree = Any


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
        self._best = Best(keep_best, best)
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
        if self._is_saved(step):
            return
        self._best.add(step, metrics)
        meta = json.loads(json.dumps(meta))  # a copy: Orbax writes it in the background, and copies only the arrays now
        with self._explained():
            meta["checksum"] = {
                "arrays": checksum.of_parts(state),
                "structure": checksum.of_json(diagnosis.describe(state)),
                "meta": checksum.of_json(meta),
            }
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
            self._manager.save(step, args=args, force=True)

    def _is_saved(self, step: int) -> bool:
        """Returns whether process 0 finds a checkpoint, so that no process saves or skips it alone."""
        return bool(from_first(step in self._manager.all_steps()))

    def wait(self) -> None:
        """Blocks until all saved checkpoints are complete.

        Raises:
          RunError: A checkpoint cannot be written.
        """
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def kept(self) -> list[int]:
        """Returns the steps of all complete checkpoints, newest first, after waiting for one that is being saved."""
        with contextlib.suppress(RunError):
            self.wait()
        return sorted(self._manager.all_steps(), reverse=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns any failure to write, which Orbax may report only at a later call, into a RunError."""
        try:
            yield
        except Exception as error:  # OSError, ValueError or XlaRuntimeError, depending on the layer that failed
            kept = f"kept: {self._manager.all_steps() or 'none'}"
            raise RunError(f"cannot write a checkpoint to {self.directory}: {_first_line(error)}; {kept}") from error

    def restore_latest(self, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores the newest checkpoint that every process can read.

        All processes return the same step. Newer checkpoints that are damaged are renamed to `damaged_STEP` and named
        in a warning. They are never deleted.

        Args:
          abstract_state: Shapes, dtypes and shardings of the state; see `Parallel.abstract`.

        Raises:
          UserError: There are no checkpoints, all of them are damaged, or one is intact but cannot be used: it holds
            another state, or may not be read. Nothing is renamed.
          RunError: This happened in another process.
        """
        damaged: dict[int, str] = {}
        for step in self._common_steps():
            item, reason = self._read_everywhere(step, abstract_state)
            if item is not None:
                self._set_aside(damaged, step)
                return item
            damaged[step] = reason
        if not damaged:
            raise UserError(f"no checkpoint in {self.directory}.")
        newest = next(iter(damaged.values()))
        raise UserError(
            f"every checkpoint in {self.directory} is damaged: {list(damaged)} (the newest: {newest}). "
            "They are left as they are. Use another --workdir."
        )

    def _common_steps(self) -> list[int]:
        """Returns the steps that process 0 finds, newest first, so that all processes try the same ones."""
        steps = np.array(self.kept(), np.int32)
        if jax.process_count() > 1:
            steps = np.resize(steps, from_first(len(steps))) if len(steps) else np.zeros(from_first(0), np.int32)
            steps = multihost_utils.broadcast_one_to_all(steps)
        return [int(step) for step in steps]

    def _read_everywhere(self, step: int, abstract_state: PyTree) -> tuple[Any, str]:
        """Reads a checkpoint in all processes; returns None and a reason if one of them finds that it is damaged."""
        item, error = None, None
        try:
            item = self._read(step, abstract_state)
        except Exception as caught:  # Orbax and TensorStore raise many kinds of errors for damaged files
            error = caught
        is_usable = not isinstance(error, UserError)
        if not on_all(is_usable):
            raise error or RunError(f"another process cannot use {self.directory / str(step)}; see its message.")
        if not on_all(error is None):
            return None, _first_line(error) if error else "another process cannot read it"
        assert item is not None
        state, meta = item
        if "checksum" in meta and meta["checksum"]["arrays"] != checksum.of_parts(state):  # alike in all processes
            return None, "the checksum of its arrays is wrong"
        return item, ""

    def _read(self, step: int, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Reads this process's part of a checkpoint.

        Unlike `CheckpointManager.restore`, this does not wait for the other processes, which would block forever if the
        part of one of them is damaged.
        """
        directory = self.directory / str(step)
        with diagnosis.refusals(directory):
            meta = _read_meta(directory)
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=_this_process())
            with contextlib.closing(handler):
                saved = diagnosis.describe(handler.metadata(directory / "state").tree)
                if "checksum" in meta and meta["checksum"]["structure"] != checksum.of_json(saved):
                    raise ValueError("the checksum of its structure is wrong")
                diagnosis.check_same_state(directory, saved, abstract_state)
                state = handler.restore(directory / "state", args=ocp.args.StandardRestore(abstract_state))
        return state, meta

    def _set_aside(self, damaged: dict[int, str], restored: int) -> None:
        """Renames damaged checkpoints in process 0, while the other processes wait; says so in all of them."""
        if not damaged:
            return
        for step, reason in damaged.items():
            path, renamed = self.directory / str(step), ""
            if jax.process_index() == 0:
                aside = unused(self.directory / f"damaged_{step}")
                path.rename(aside)
                renamed = f" It is renamed to {aside.name}."
            logging.warning("%s is damaged (%s).%s Resuming from step %d.", path, reason, renamed, restored)
        multihost_utils.sync_global_devices("damaged checkpoints are renamed")
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Closes, unless this process of a job has failed: the others would not take part in the pending saves."""
        if jax.process_count() == 1 or kind is None or issubclass(kind, Interrupted):
            self.close()

    def close(self) -> None:
        self._manager.close()


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Returns the steps of a workdir's checkpoints, newest first. They are not checked for damage."""
    directory = absolute(workdir) / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def has_checkpoints(workdir: epath.PathLike) -> bool:
    """Returns whether process 0 finds checkpoints in a workdir. In a job of several processes, all must call this."""
    return bool(from_first(bool(saved_steps(workdir))))


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
            with diagnosis.refusals(directory / str(step)):
                return _read_params(directory / str(step), step)
        except UserError:
            raise
        except Exception as error:
            logging.warning("%s is damaged (%s) and is ignored.", directory / str(step), _first_line(error))
    raise UserError(f"no intact checkpoint in {directory}: {steps} are damaged.")


def _read_params(directory: epath.Path, step: int) -> tuple[PyTree, dict[str, Any]]:
    meta, path = _read_meta(directory), directory / "state"
    # a Checkpointer would warn about metadata that a CheckpointManager does not write
    with contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=_this_process())) as handler:
        tree = handler.metadata(path).tree
        wanted = "ema" if tree.get("ema") else "params"
        item = {wanted: jax.tree.map(lambda _: 0, tree[wanted])}
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        state = handler.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=numpy, partial_restore=True))
    if "checksum" in meta and meta["checksum"]["arrays"].get(wanted) != checksum.of_arrays(state[wanted]):
        raise ValueError(f"the checksum of {wanted} is wrong")
    return state[wanted], {"step": step, **meta}


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
    """Reads the JSON part of a checkpoint.

    Raises:
      OSError, ValueError: It is missing or damaged.
    """
    meta = json.loads((checkpoint / "meta" / "metadata").read_text())
    if not isinstance(meta, dict):
        raise ValueError("its JSON part is not an object")
    saved = meta.get("checksum")
    if saved is not None:
        content = {name: value for name, value in meta.items() if name != "checksum"}
        if not isinstance(saved, dict) or saved.get("meta") != checksum.of_json(content):
            raise ValueError("the checksum of its JSON part is wrong")
    return meta


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


def _first_line(error: Exception) -> str:
    """Returns the first line of an error. A very long line is shortened in the middle; the reason is at its end."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-120:]}"
