"""Tasks: a task turns a model's outputs into a loss, predictions and scores. Models do not depend on tasks."""

from typing import Any, ClassVar, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

Batch = dict[str, Any]
PyTree = Any

TASKS = {  # import paths by short name
    "classification": "vit_jax.tasks.classification:Classification",
    "translation": "vit_jax.tasks.translation:Translation",
    "parsing": "vit_jax.tasks.parsing:Parsing",
}


class Sum(NamedTuple):
    """A weighted sum of values and the sum of the weights.

    Both are added over micro-batches and devices before they are divided.
    """

    value: jax.Array
    weight: jax.Array

    def mean(self) -> jax.Array:
        return self.value / self.weight


def weighted_sum(values: jax.Array, weights: jax.Array) -> Sum:
    """Returns the sum of `values * weights` and the sum of `weights`, both of shape `(batch,)`."""
    return Sum(jnp.sum(values * weights), jnp.sum(weights))


def group_of(task: Any) -> int:
    """Returns the number of consecutive examples that a task needs in one micro-batch: its `group`, by default 1."""
    return getattr(task, "group", 1)


class Task(Protocol):
    """What is learned from batches of one or more modalities.

    Attributes:
      name: Name of the task in a config.
      modalities: Keys of the modalities that the task can learn from.
      scores: Names of the results of `score` by which checkpoints can be ranked.
      metric: The name in `scores` that summarises the quality of a model.
      group: Number of consecutive examples that must stay in one micro-batch; see `parallel.micro_batches`.
    """

    name: str
    modalities: ClassVar[tuple[str, ...]]
    scores: ClassVar[tuple[str, ...]]
    metric: str

    @property
    def group(self) -> int: ...

    def init_inputs(self, model: nn.Module) -> tuple[jax.Array, ...]:
        """Returns zeros with the shapes of the model's inputs for one example."""
        ...

    def model_inputs(self, batch: Batch) -> tuple[jax.Array, ...]:
        """Returns the model's inputs in a batch, without which analyses cannot look inside the model."""
        ...

    def loss(
        self, model: nn.Module, params: PyTree, batch: Batch, *, rngs: dict[str, jax.Array], train: bool
    ) -> tuple[Sum, dict[str, Sum]]:
        """Returns the loss and further metrics of a micro-batch, as sums over its examples or tokens.

        Args:
          rngs: `dropout`, which differs between devices and micro-batches, and `mix`, which is the same for all.
          train: Whether to apply dropout and augmentation.
        """
        ...

    def predict(self, model: nn.Module, params: PyTree, batch: Batch) -> PyTree:
        """Returns the outputs for each example, from which `answers` makes predictions. Runs on the devices."""
        ...

    def measure(self, model: nn.Module, params: PyTree, batch: Batch) -> PyTree:
        """Returns the scores of each example, from which `score` computes the totals. Runs on the devices.

        This method is optional. Without it, `score` receives what `predict` returns, and the `label` of each row.
        """
        ...

    def examine(self, model: nn.Module, params: PyTree, batch: Batch) -> PyTree:
        """Returns what `measure` returns, and what else `record` needs. Runs on the devices.

        This method and `record` are optional. Without them, the predictions of an evaluation cannot be kept. Arrays
        that `score` does not need are named in the attribute `bulky`, and are dropped once they are recorded.
        """
        ...

    def record(self, rows: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
        """Turns rows from `examine` into the columns of a table with a row for each example."""
        ...

    def score(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Aggregates the rows of all examples on the host.

        `rows` holds the arrays that `measure` returned, and `id`, sorted by `id`. Every example occurs once.
        """
        ...

    def answers(self, rows: dict[str, Any], labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """Turns rows from `predict` into one JSON-compatible prediction per example.

        Args:
          labels: Class names; empty if there are none.
        """
        ...

    def row(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Returns an answer as a row of a table: values, or lists of values, by column. This method is optional."""
        ...

    def text(self, name: str, answer: dict[str, Any]) -> str:
        """Returns what the command `predict` prints for the answer to the input called `name`."""
        ...

    def title(self, answer: dict[str, Any]) -> str:
        """Returns an answer in a few words, for the title of a picture."""
        ...

    def compare(self, answer: dict[str, Any], label: Any, labels: tuple[str, ...]) -> tuple[bool | None, str]:
        """Returns whether an answer is correct, or None if that does not apply, and the true label as text."""
        ...

    def headline(self, result: dict[str, Any]) -> str:
        """Describes a result of `score` in one line."""
        ...
