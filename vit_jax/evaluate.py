"""Evaluation: every example is scored exactly once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vit_jax.data.loading.levels import as_floats
from vit_jax.devices.parallel import Parallel
from vit_jax.tasks import Batch, Task

PyTree = Any
Rows = dict[str, np.ndarray]
Function = Callable[[nn.Module, PyTree, Batch], dict[str, Any]]


class Evaluator:
    """Applies a model to padded batches on all devices, and scores the results.

    Each function is compiled when it is first used, once per batch shape.

    Example:
      evaluator = Evaluator(model, task, make_parallel("pmap"))
      scores = evaluator.evaluate(evaluator.put(params), batches)

    Args:
      task: Supplies `measure`, `predict` and `score`; None if only other functions are applied.
    """

    def __init__(self, model: nn.Module, task: Task | None, parallel: Parallel):
        self._model, self._task, self._parallel = model, task, parallel
        self._compiled: dict[Function, Callable] = {}

    def put(self, params: PyTree) -> PyTree:
        """Copies parameters to the devices. This is not needed for the parameters of a training state."""
        return self._parallel.put_state(params)

    def evaluate(
        self,
        params: PyTree,
        batches: Iterable[Batch],
        *,
        stop: Callable[[], bool] = lambda: False,
        keep: Callable[[Rows], None] | None = None,
    ) -> dict[str, Any] | None:
        """Scores every example of `batches`; returns what `task.score` returns.

        Rows are computed by `task.measure`, or by `task.predict` if the task has no `measure`, and passed to
        `task.score` sorted by `id`.

        Args:
          stop: Called after every batch; when it returns True, evaluation ends and returns None.
          keep: Called with the rows of every batch as `task.examine` returns them, and their labels.
        """
        assert self._task is not None
        bulky = getattr(self._task, "bulky", ())
        measure, done = getattr(self._task, "examine" if keep else "measure", None), []
        for rows in self.rows(params, batches, measure, labels=bool(keep) or measure is None):
            if keep:
                keep(rows)
            done.append({name: values for name, values in rows.items() if name not in bulky})
            if stop():
                return None
        return self._task.score(in_order(done))

    def rows(
        self, params: PyTree, batches: Iterable[Batch], function: Function | None = None, *, labels: bool = True
    ) -> Iterator[Rows]:
        """Yields what `function(model, params, batch)` returns for each batch, as NumPy arrays without padding.

        The `id` of each row is added, and its `label` if the batch has labels. While one batch is copied to the host,
        the devices compute the next one.

        Args:
          function: Returns arrays with one row per row of the batch, or with one row per group of n consecutive rows,
            which are the views of an example. The default is `task.predict`.
          labels: Whether to add the labels.
        """
        if function is None:
            assert self._task is not None
            function = self._task.predict
        if function not in self._compiled:
            self._compiled[function] = self._compile(function)
        compiled, pending = self._compiled[function], None
        for batch in batches:
            device_batch = self._parallel.put_batch(batch)
            names = ("label", "id", "mask") if labels else ("id", "mask")
            given = {name: device_batch[name] for name in names if name in batch}
            running = given, compiled(params, device_batch)
            if pending:
                yield self._real_rows(*pending)
            pending = running
        if pending:
            yield self._real_rows(*pending)

    def _compile(self, function: Function) -> Callable:
        return self._parallel.compile_predict(lambda params, batch: function(self._model, params, as_floats(batch)))

    def _real_rows(self, given: dict[str, Any], computed: dict[str, Any]) -> Rows:
        """Copies the rows of a batch to the host, and drops the padding (mask 0) before anything is averaged."""
        given, computed = self._parallel.gather((given, computed))
        views = len(given["mask"]) // len(next(iter(computed.values())))
        if views > 1:  # the views of an example follow each other and share its id, label and mask
            given = {name: values[::views] for name, values in given.items()}
        rows = {**given, **computed}
        real = rows.pop("mask") > 0
        return {name: values[real] for name, values in rows.items()}


def in_order(batches_of_rows: Iterable[Rows]) -> Rows:
    """Joins the rows of several batches and sorts them by `id`; rows with the same `id` keep their order."""
    done = list(batches_of_rows)
    rows = {name: np.concatenate([rows[name] for rows in done]) for name in done[0]}
    order = np.argsort(rows["id"], kind="stable")
    return {name: values[order] for name, values in rows.items()}


def own_rows(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns this process's slice of a global batch."""
    index, count = jax.process_index(), jax.process_count()
    return jax.tree.map(lambda rows: rows[index * len(rows) // count :][: len(rows) // count], batch)
