"""Checkpoints: Orbax behind one thin adapter.

A checkpoint is the training state and a JSON part that makes it predict by itself: config, label names,
preprocessing. A workdir holds them as `checkpoints/STEP/{state,meta}`.
"""

import contextlib
import copy
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from vit_jax.errors import RunError, UserError

PyTree = Any
_LOWER_IS_BETTER = ("loss", "perplexity")


class Checkpoints:
    """The checkpoints of a workdir, saved asynchronously and kept last and best.

    Orbax writes beside and renames when complete, and deletes an old checkpoint only after that.
    """

    def __init__(self, workdir: epath.PathLike, *, keep_last: int = 2, keep_best: int = 1, best: str = "top1"):
        self.directory = _absolute(workdir) / "checkpoints"
        policies: list[Any] = [keep.LatestN(max(keep_last, 1))]
        if keep_best:
            policies.append(
                keep.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=best in _LOWER_IS_BETTER,
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies), cleanup_tmp_directories=True
        )
        for path in self.directory.iterdir() if self.directory.exists() else ():
            if ".orbax-checkpoint-tmp" in path.name:  # the manager removes what an earlier process left unfinished
                logging.warning("%s is half-written, passed over", path)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state", "meta"))

    def save(self, step: int, state: PyTree, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts saving; `metrics`, those of an evaluation at this step, rank it among the best."""
        if step in self._manager.all_steps():
            return
        meta = copy.deepcopy(meta)  # written in the background, where Orbax copies arrays alone beforehand
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._explained():
            self._manager.save(step, args=args, metrics=metrics or None, force=True)

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        with self._explained():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises RunError for what goes wrong in writing, which Orbax reports at its next call."""
        try:
            yield
        except Exception as error:  # OSError, ValueError, XlaRuntimeError: as the layer that met the full disk likes
            kept = f"kept: {self._manager.all_steps() or 'none'}"
            raise RunError(f"cannot write a checkpoint to {self.directory}: {_first_line(error)}; {kept}") from error

    def restore_latest(self, abstract_state: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole onto the given shardings; None if there is none.

        A damaged one is named in a warning and set aside under another name, never deleted.

        Raises:
          UserError: There are checkpoints, and all are damaged.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore())
            try:
                item = self._manager.restore(step, args=args)
            except Exception as error:  # Orbax and TensorStore raise many kinds for damage
                aside = f"damaged_{step}"
                logging.warning(
                    "%s is damaged (%s); set aside as %s, going back to the one before",
                    self.directory / str(step), _first_line(error), aside,
                )  # fmt: skip
                damaged.append(step)
                continue
            for step in damaged:
                self._set_aside(step)
            return item["state"], item["meta"]
        if damaged:
            raise UserError(f"every checkpoint in {self.directory} is damaged: {damaged}; give another --workdir")
        return None

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.directory / f"damaged_{step}"
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)
        self._manager.reload()

    def close(self) -> None:
        self._manager.close()


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Returns the steps of a workdir's checkpoints, newest first, without looking whether they are whole."""
    directory = _absolute(workdir) / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def load_checkpoint(workdir: epath.PathLike, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
    """Reads parameters (the moving average where there is one) and meta of a workdir's newest whole checkpoint.

    `workdir` may also be one checkpoint, `WORKDIR/checkpoints/STEP`. Nothing is changed on disk. Arrays are numpy.

    Raises:
      UserError: There is no checkpoint, or none is whole.
    """
    workdir, named = _split(workdir)
    step = named if step is None else step
    directory = workdir / "checkpoints"
    steps = saved_steps(workdir)
    if step is not None:
        if step not in steps:
            raise UserError(f"no checkpoint of step {step} in {directory}; there are {sorted(steps) or 'none'}")
        steps = [step]
    if not steps:
        raise UserError(f"no checkpoint in {directory}; a workdir that `vit_jax train` wrote is needed")
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
    for step in steps:
        try:
            meta = _read_meta(directory / str(step))
            path = directory / str(step) / "state"
            # a Checkpointer around it would warn of metadata that those of a CheckpointManager do not have
            with contextlib.closing(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)) as handler:
                tree = handler.metadata(path).tree
                wanted = "ema" if tree.get("ema") else "params"
                item = {wanted: jax.tree.map(lambda _: 0, tree[wanted])}
                numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
                state = handler.restore(
                    path, args=ocp.args.PyTreeRestore(item=item, restore_args=numpy, partial_restore=True)
                )
            return state[wanted], {"step": step, **meta}
        except Exception as error:
            logging.warning("%s is damaged (%s), passed over", directory / str(step), _first_line(error))
    raise UserError(f"no whole checkpoint in {directory}: {steps} are damaged")


def average_checkpoints(workdir: epath.PathLike, count: int) -> tuple[PyTree, dict[str, Any]]:
    """Averages the parameters of a workdir's newest `count` checkpoints, in float64; the meta is the newest's.

    Raises:
      UserError: There are fewer, or one of them is damaged.
    """
    steps = saved_steps(workdir)[:count]
    if len(steps) < count:
        raise UserError(
            f"{workdir} has {len(steps)} checkpoints, {count} are to be averaged: keep more with "
            f"--config.checkpoint.keep_last={count}"
        )
    total, dtypes, meta = None, None, {}
    for step in reversed(steps):  # the newest last, whose meta stays
        params, meta = load_checkpoint(workdir, step)
        dtypes = jax.tree.map(lambda x: x.dtype, params)
        params = jax.tree.map(lambda x: np.asarray(x, np.float64) / count, params)
        total = params if total is None else jax.tree.map(np.add, total, params)
    return jax.tree.map(lambda x, dtype: x.astype(dtype), total, dtypes), {**meta, "averaged": steps}


def load_meta(workdir: epath.PathLike) -> dict[str, Any] | None:
    """Reads what a workdir's newest checkpoint, or `WORKDIR/checkpoints/STEP`, holds beside arrays.

    None if there is none of which it can be read.
    """
    workdir, named = _split(workdir)
    for step in saved_steps(workdir) if named is None else [named]:
        with contextlib.suppress(OSError, ValueError):
            return _read_meta(workdir / "checkpoints" / str(step))
    return None


def _read_meta(checkpoint: epath.Path) -> dict[str, Any]:
    return json.loads((checkpoint / "meta" / "metadata").read_text())


def _split(path: epath.PathLike) -> tuple[epath.Path, int | None]:
    """Splits `WORKDIR/checkpoints/STEP`; of a workdir there is no step."""
    path = _absolute(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def _absolute(path: epath.PathLike) -> epath.Path:
    """Orbax takes absolute paths only; those with a scheme, as `gs://`, are."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(path))


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-120:]}"  # what failed, and the system's reason
