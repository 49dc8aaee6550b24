"""What is learned. A task turns a model's outputs into a loss, predictions and scores; models know nothing of it."""

from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

Batch = dict[str, Any]
PyTree = Any


class Sum(NamedTuple):
    """A sum of values and the sum of their weights: adds over micro-batches and devices, divided once."""

    value: jax.Array
    weight: jax.Array

    def mean(self) -> jax.Array:
        return self.value / self.weight


def weighted_sum(values: jax.Array, weights: jax.Array) -> Sum:
    """Sums `values` times `weights`, both `(batch,)`."""
    return Sum(jnp.sum(values * weights), jnp.sum(weights))


class Task(Protocol):
    name: str
    scores: ClassVar[tuple[str, ...]]  # numbers of `score` by which checkpoints may be ranked
    metric: str  # of these: the one that says how good a model is

    def init_inputs(self, model: nn.Module) -> tuple[jax.Array, ...]:
        """Returns zeros of the shapes the model takes, for one example."""
        ...

    def loss(
        self, model: nn.Module, params: PyTree, batch: Batch, *, rngs: dict[str, jax.Array], train: bool
    ) -> tuple[Sum, dict[str, Sum]]:
        """Returns the loss and further metrics; `rngs`: `dropout` of this shard, `mix` of the whole batch."""
        ...

    def predict(self, model: nn.Module, params: PyTree, batch: Batch) -> PyTree:
        """Returns what `score` needs, per example."""
        ...

    def score(self, rows: dict[str, Any]) -> dict[str, float]:
        """Scores on the host: `rows` holds the predictions of every example, with its `id` and, if it has one, `label`.

        Each example is there once, or once for each of its views, in the order of `id`.
        """
        ...

    def headline(self, result: dict[str, float]) -> str:
        """Says a result of `score` in a line for people."""
        ...
