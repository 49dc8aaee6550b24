"""Regression, as an example of a task of your own; `vit_jax.tasks.Task` describes what a task must have."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from vit_jax.tasks import weighted_sum


@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean squared error of real-valued labels `(batch, outputs)`.

    The model predicts labels in units of `scale`: loss = mean over outputs of (output - label / scale)^2.
    """

    scale: float = 1.0

    name = "regression"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    scores: ClassVar[tuple[str, ...]] = ("r2", "loss")
    metric = "r2"
    group = 1  # no examples have to stay together in a micro-batch

    def init_inputs(self, model):
        return (jnp.zeros((1, *model.input_shape), model.dtype),)

    def loss(self, model, params, batch, *, rngs, train):
        outputs = model.apply({"params": params}, batch["image"], train=train, rngs=rngs)
        errors = jnp.square(outputs - batch["label"] / self.scale).mean(axis=-1)
        return weighted_sum(errors, batch["mask"]), {}

    def predict(self, model, params, batch):
        return {"values": self.scale * model.apply({"params": params}, batch["image"], train=False)}

    def score(self, rows):
        """Returns the loss and r2 = 1 - (sum of squared errors) / (sum of squared deviations from the mean label)."""
        errors = np.square(rows["values"] - rows["label"], dtype=np.float64)
        deviations = np.square(rows["label"] - rows["label"].mean(axis=0), dtype=np.float64)
        loss = float(errors.mean() / self.scale**2)
        return {"loss": loss, "r2": float(1 - errors.sum() / deviations.sum()), "examples": len(errors)}

    def headline(self, result):
        return f"R2 {result['r2']:.3f} ({result['examples']} examples, {result['skipped']} skipped)"

    def answers(self, rows, labels):
        """Returns `{"tilt": 12.5}` for each example."""
        return [dict(zip(labels, map(float, values), strict=True)) for values in rows["values"]]

    def title(self, answer):
        return ", ".join(f"{label} {value:.1f}" for label, value in answer.items())

    def compare(self, answer, label, labels):
        """Returns whether an answer is right, which does not apply to numbers, and the true values as text."""
        return None, ", ".join(f"{name} {value:.1f}" for name, value in zip(labels, label, strict=True))

    def text(self, name, answer):
        return f"{name}: {self.title(answer)}"
