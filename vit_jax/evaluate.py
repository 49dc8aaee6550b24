"""Evaluation: every example scored exactly once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_jax.parallel import Parallel
from vit_jax.tasks import Batch, Task

PyTree = Any


def evaluate(
    predict: Callable[[PyTree, Batch], PyTree],
    params: PyTree,
    batches: Iterator[Batch],
    task: Task,
    parallel: Parallel,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Scores every example of the padded `batches` and says how many (`examples`); None if stopped in between.

    `predict` is compiled by `parallel`. Padding (mask 0) is dropped on the host, before anything is averaged.
    """
    rows = predict_rows(predict, params, batches, parallel, stop=stop)
    return None if rows is None else task.score(rows)


def predict_rows(
    predict: Callable[[PyTree, Batch], PyTree],
    params: PyTree,
    batches: Iterator[Batch],
    parallel: Parallel,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, np.ndarray] | None:
    """Returns what `predict` gives, with `id` and `label`, one row an example (or view of it) in the order of `id`."""
    done, pending = [], None
    for batch in batches:
        device_batch = parallel.put_batch(batch)
        beside = {name: device_batch[name] for name in ("label", "id", "mask") if name in batch}
        running = (predict(params, device_batch), beside)
        if pending:  # fetched while the device works on the next batch
            done.append(_real_rows(parallel.gather(pending)))
        pending = running
        if stop():
            return None
    if pending:
        done.append(_real_rows(parallel.gather(pending)))
    rows = {name: np.concatenate([rows[name] for rows in done]) for name in done[0]}
    order = np.argsort(rows["id"], kind="stable")
    return {name: values[order] for name, values in rows.items()}


def _real_rows(pair: tuple[dict, dict]) -> dict[str, np.ndarray]:
    rows = {**pair[0], **pair[1]}
    real = rows.pop("mask") > 0
    return {name: values[real] for name, values in rows.items()}
