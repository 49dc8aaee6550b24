"""Classification of images and videos, with one or several labels per example."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.errors import UserError, counted, nearest
from vit_jax.tasks import Batch, Sum, weighted_sum
from vit_jax.tasks.mixing import partners, random_box

_AVERAGES = ("probabilities", "logits")


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy over the classes (`softmax`), or binary cross-entropy for each class (`sigmoid`, multi-label).

    Labels are integers `(batch,)`, or 0 and 1 for each class `(batch, num_classes)`.

    Attributes:
      num_classes: Number of classes.
      loss_name: `softmax` or `sigmoid`.
      label_smoothing: epsilon; targets are (1 - epsilon) * one_hot + epsilon / num_classes, before mixing, as in timm.
      mixup_alpha: mixup (arXiv:1710.09412) draws lambda from Beta(alpha, alpha); 0 disables it.
      cutmix_alpha: The same for CutMix (arXiv:1905.04899). If both are set, each batch uses one of them, with equal
        probability.
      mix_probability: Probability that a batch is mixed.
      repeats: Number of consecutive copies of each training example (repeated augmentation, `config.data.repeats`).
      views: Number of consecutive rows that hold the views (clips and crops) of one example in evaluation.
      average_views: What is averaged over the views of an example: `probabilities`, as in the TimeSformer paper, or
        `logits`, before the softmax or sigmoid. TimeSformer's authors sum the logits in their code, and published
        results of that; the mean ranks the classes in the same order.
      top: Number of classes in an answer; None for all.
      per_frame: Whether an answer also has the most probable class of every frame of a video.
      with_logits: Whether an answer also has the logits of all classes.
      outputs: Which of the model's outputs are the classes, in their order: `num_classes` indices; None for all of
        them. ImageNet-A, for example, has 200 of the 1,000 classes of ImageNet.
    """

    num_classes: int
    loss_name: str = "softmax"
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_probability: float = 1.0
    repeats: int = 1
    views: int = 1
    average_views: str = "probabilities"
    top: int | None = 5
    per_frame: bool = False
    with_logits: bool = False
    outputs: tuple[int, ...] | None = None

    name = "classification"
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")
    scores: ClassVar[tuple[str, ...]] = ("loss", "top1", "top5")
    metric = "top1"
    bulky: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self):
        if self.average_views not in _AVERAGES:
            raise ValueError(f"unknown average_views {self.average_views!r}{nearest(self.average_views, _AVERAGES)}")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")

    @property
    def group(self) -> int:
        """Number of consecutive examples that must stay together: 1, or with mixing, twice the distance of a pair.

        The distance is the smallest power of two that is at least `repeats`, so that no example is mixed with a copy of
        itself.
        """
        return 2 << (self.repeats - 1).bit_length() if self.mixup_alpha or self.cutmix_alpha else 1

    def init_inputs(self, model) -> tuple[jax.Array, ...]:
        return (jnp.zeros((1, *model.input_shape), model.dtype),)

    def model_inputs(self, batch) -> tuple[jax.Array, ...]:
        return (inputs_of(batch),)

    def loss(self, model, params, batch, *, rngs, train) -> tuple[Sum, dict[str, Sum]]:
        """Returns the loss, summed over real examples, and `top1`, the accuracy with respect to the unmixed labels."""
        inputs, targets = inputs_of(batch), self.targets(batch["label"])
        if train:
            targets = optax.smooth_labels(targets, self.label_smoothing)
            inputs, targets = self.mix(inputs, targets, rngs["mix"])
        logits = model.apply({"params": params}, inputs, train=train, rngs=rngs)
        loss = weighted_sum(self.cross_entropy(logits, targets), batch["mask"])
        correct = _hits(logits, self.targets(batch["label"]))
        return loss, {"top1": weighted_sum(correct, batch["mask"])}

    def predict(self, model, params, batch) -> dict[str, jax.Array]:
        """Returns the `logits` of every row, `(rows, num_classes)`.

        With `per_frame`, the result also has `frame_logits`, `(rows, frames, num_classes)`.

        Raises:
          UserError: `per_frame` is set, but the model is not a video model.
        """
        inputs = inputs_of(batch)
        if not self.per_frame:
            return {"logits": self._chosen(model.apply({"params": params}, inputs, train=False))}
        if inputs.ndim != 5:
            raise UserError("per_frame applies to videos; this model takes images")
        logits, captured = model.apply({"params": params}, inputs, train=False, capture=("frame_logits",))
        return {"logits": self._chosen(logits), "frame_logits": self._chosen(captured["frame_logits"])}

    def _chosen(self, logits: jax.Array) -> jax.Array:
        """Returns the logits of the classes, along the last axis."""
        return logits if self.outputs is None else logits[..., np.asarray(self.outputs)]

    def measure(self, model, params, batch) -> dict[str, jax.Array]:
        """Returns `loss`, `top1`, `top5` and `labelled` of every example, each `(rows / views,)`.

        An example with several labels counts as correct if any of them is the most probable class (or among the 5 most
        probable classes), as in ReaL (arXiv:2006.07159). Classes with equal probabilities rank in the order of their
        indices. `labelled` is False for examples without a label, which `score` leaves out.
        """
        measured = self.examine(model, params, batch)
        return {name: values for name, values in measured.items() if name not in self.bulky}

    def examine(self, model, params, batch) -> dict[str, jax.Array]:
        """Returns what `measure` returns, and the `logits` of every example, `(rows / views, num_classes)`.

        If probabilities are averaged over views, `logits` are numbers that yield these probabilities.
        """
        logits = self._chosen(model.apply({"params": params}, inputs_of(batch), train=False))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if self.average_views == "logits":
            logits = logits.reshape(-1, self.views, logits.shape[-1]).mean(axis=1)
        labels = batch["label"].reshape(-1, self.views, *batch["label"].shape[1:])[:, 0]
        targets, ranked = self.targets(labels), logits
        if self.loss_name == "softmax":
            yes, no = jax.nn.log_softmax(logits), jnp.zeros_like(logits)
        else:
            yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        if self.views > 1 and self.average_views == "probabilities":
            yes, no = _mean_of_views(yes, self.views), _mean_of_views(no, self.views)
            ranked, logits = yes, yes if self.loss_name == "softmax" else yes - no
        _, best = jax.lax.top_k(ranked, min(5, self.num_classes))
        hits = jnp.take_along_axis(targets, best, axis=-1) > 0
        missed = 0 if self.loss_name == "softmax" else (1 - targets) * no
        return {
            "loss": -(targets * yes + missed).sum(-1),
            "top1": hits[:, 0].astype(jnp.float32),
            "top5": hits.any(-1).astype(jnp.float32),
            "labelled": targets.sum(-1) > 0,
            "logits": logits,
        }

    def score(self, rows) -> dict[str, Any]:
        """Averages the rows of `measure` in float64; returns `loss`, `top1`, `top5` and `examples`.

        `examples` is the number of examples with a label. If each has several views, their number is `views`.
        """
        labelled = rows["labelled"]
        means = {name: float(np.mean(rows[name][labelled], dtype=np.float64)) for name in self.scores}
        scores = {**means, "examples": int(labelled.sum())}
        return scores if self.views == 1 else {**scores, "views": self.views}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the softmax, or the sigmoid of each class, in float64 on the host."""
        logits = np.asarray(logits, np.float64)
        if self.loss_name == "sigmoid":
            return np.exp(-np.logaddexp(0, -logits))
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def answers(self, rows, labels) -> list[dict[str, Any]]:
        """Returns `{"predictions": [{"label", "probability"}, ...]}` for every example, most probable class first.

        An answer has `top` classes. With `per_frame`, it also has `frames`, the most probable class of every frame;
        with `with_logits`, it has `logits`, numbers that yield the probabilities.

        Args:
          rows: The result of `predict`, with `views` consecutive rows per example, which are averaged (see
            `average_views`).
          labels: Names of the classes.
        """
        answers: list[dict[str, Any]] = [
            {"predictions": _best(each, labels, self.top)} for each in self._averaged(rows["logits"])
        ]
        if self.with_logits:
            for answer, logits in zip(answers, self._averaged_logits(rows["logits"]), strict=True):
                answer["logits"] = logits.tolist()
        if self.per_frame:
            for answer, frames in zip(answers, self._averaged(rows["frame_logits"]), strict=True):
                answer["frames"] = [_best(frame, labels, 1)[0] for frame in frames]
        return answers

    def _averaged(self, logits: np.ndarray) -> np.ndarray:
        """Returns the probabilities of every example, averaged over its views."""
        stacked = np.asarray(logits, np.float64).reshape(-1, self.views, *logits.shape[1:])
        if self.average_views == "logits":
            return self.probabilities(stacked.mean(axis=1))
        return self.probabilities(stacked).mean(axis=1)

    def _averaged_logits(self, logits: np.ndarray) -> np.ndarray:
        """Returns numbers that yield the probabilities of `_averaged`: means of logits where logits are averaged."""
        if self.views == 1 or self.average_views == "logits":
            return np.asarray(logits, np.float64).reshape(-1, self.views, *logits.shape[1:]).mean(axis=1)
        probabilities = self._averaged(logits)
        with np.errstate(divide="ignore"):
            return np.log(probabilities) - (np.log1p(-probabilities) if self.loss_name == "sigmoid" else 0)

    def row(self, answer) -> dict[str, Any]:
        """Returns an answer as a row of a table: `classes`, `probabilities`; `logits` and `frames` if it has them."""
        guesses = answer["predictions"]
        names, values = ([guess[key] for guess in guesses] for key in ("label", "probability"))
        row: dict[str, Any] = {"classes": names, "probabilities": values}
        if "logits" in answer:
            row["logits"] = np.asarray(answer["logits"], np.float32)
        return {**row, **({"frames": [guess["label"] for guess in answer["frames"]]} if "frames" in answer else {})}

    def record(self, rows, labels) -> dict[str, Any]:
        """Returns columns that describe every example of `rows`, which `examine` has computed.

        They are `label` (the name, or a list of names if an example can have several), `correct` (None without a
        label), `classes` and `probabilities` (the `top` most probable), and `logits`, `(rows, num_classes)`.
        """
        found = [{"predictions": _best(each, labels, self.top)} for each in self.probabilities(rows["logits"])]
        columns = {name: [self.row(answer)[name] for answer in found] for name in ("classes", "probabilities")}
        names = [[_name(labels, i) for i in _indices(label)] for label in rows["label"]]
        return {
            "label": names if rows["label"].ndim > 1 else [name for (name,) in names],
            "correct": [
                bool(hit) if known else None for hit, known in zip(rows["top1"], rows["labelled"], strict=True)
            ],
            **columns,
            "logits": np.asarray(rows["logits"], np.float32),
        }

    def text(self, name, answer) -> str:
        """Returns a tab-separated line with the classes, followed by one for each frame if the answer has frames."""
        guesses = "\t".join(f"{guess['label']} {guess['probability']:.4f}" for guess in answer["predictions"])
        frames = [
            f"{name}\tframe {i}\t{frame['label']} {frame['probability']:.4f}"
            for i, frame in enumerate(answer.get("frames", ()))
        ]
        return "\n".join([f"{name}\t{guesses}", *frames])

    def title(self, answer) -> str:
        best = answer["predictions"][0]
        return f"{best['label']} ({best['probability']:.0%})"

    def compare(self, answer, label, labels) -> tuple[bool | None, str]:
        """Returns whether the most probable class is one of the labels, and the labels as text."""
        true = [_name(labels, i) for i in _indices(label)]
        return answer["predictions"][0]["label"] in true, ", ".join(true)

    def headline(self, result) -> str:
        views = f" in {counted(result['views'], 'views')}" if "views" in result else ""
        examples = counted(result["examples"], "examples")
        return f"accuracy {result['top1']:.2%} ({examples}{views}, {result['skipped']:,} skipped)"

    def targets(self, labels: jax.Array) -> jax.Array:
        """Returns labels as 0 and 1 for each class, `(batch, num_classes)`."""
        return labels if labels.ndim == 2 else jax.nn.one_hot(labels, self.num_classes)

    def cross_entropy(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns the loss of each example, `(batch,)`; for `sigmoid`, the sum over the classes."""
        if self.loss_name == "softmax":
            return optax.softmax_cross_entropy(logits, targets)
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)

    def mix(self, images: jax.Array, targets: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mixes the two examples of every pair, with one lambda (and one box) for the whole batch.

        mixup: x <- lambda x + (1 - lambda) partner(x). CutMix: a box that covers a share of 1 - lambda of the image is
        copied from the partner; all frames of a video have the same box. The targets are mixed with the same weights;
        for CutMix, the weight of the partner is the area of the box after it is clipped at the border.

        The partner of example i is its neighbour, i + 1 for even and i - 1 for odd i (further away with `repeats`; see
        `group`). Since pairs are never divided, the mixed batch does not depend on the number of devices or
        micro-batches, provided that all of them use the same `rng`. Deviations: timm mixes the batch with the reversed
        batch, and the authors of the two papers mix it with a shuffled or shifted batch.

        Raises:
          ValueError: The number of examples is not a multiple of `group`.
        """
        if self.group == 1:
            return images, targets
        if len(images) % self.group:
            raise ValueError(f"mixing needs a multiple of {self.group} examples to form pairs, got {len(images)}")
        which, whether, beta_m, beta_c, box = jax.random.split(rng, 5)
        use_cutmix = jax.random.bernoulli(which, 0.5 if self.mixup_alpha else 1.0) & (self.cutmix_alpha > 0)
        mixup, cut = (
            jax.random.beta(key, alpha or 1.0, alpha or 1.0)
            for key, alpha in ((beta_m, self.mixup_alpha), (beta_c, self.cutmix_alpha))
        )
        inside = random_box(
            box, images.shape[-3], images.shape[-2], 1.0 - cut
        )  # True where pixels come from the partner
        share = jnp.where(use_cutmix, inside[..., None].astype(images.dtype), 1.0 - mixup)
        share *= jax.random.bernoulli(whether, self.mix_probability)
        weight = share.mean()  # weight of the partner, also exact for a box that is clipped at the border
        return (
            images * (1 - share) + partners(images, self.group) * share,
            targets * (1 - weight) + partners(targets, self.group) * weight,
        )


def _best(probabilities: np.ndarray, labels: tuple[str, ...], top: int | None) -> list[dict[str, Any]]:
    """Returns the most probable classes; classes with equal probabilities are in the order of `labels`."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [{"label": _name(labels, i), "probability": float(probabilities[i])} for i in order]


def _name(labels: tuple[str, ...], index: int) -> str:
    """Returns the name of a class, or its number if the classes have no names."""
    return labels[index] if labels else str(index)


def _indices(label: Any) -> list[int]:
    """Returns the classes of an example, given as a number or as 0 and 1 for each class."""
    return [int(i) for i in (np.flatnonzero(label) if np.ndim(label) else [label])]


def inputs_of(batch: Batch) -> jax.Array:
    """Returns the images or videos of a batch."""
    return batch["video"] if "video" in batch else batch["image"]


def _hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns 1 where the most probable class is one of the labels, else 0.

    Of a label that consists of probabilities, this is the largest one.
    """
    best = jnp.argmax(logits, axis=-1)
    target, largest = jnp.take_along_axis(targets, best[:, None], axis=-1)[:, 0], targets.max(axis=-1)
    return ((target > 0) & (target >= largest)).astype(jnp.float32)


def _mean_of_views(log_probabilities: jax.Array, views: int) -> jax.Array:
    """Averages the probabilities of every `views` consecutive rows, given and returned as logarithms."""
    stacked = log_probabilities.reshape(-1, views, log_probabilities.shape[-1])
    return jax.nn.logsumexp(stacked, axis=1) - jnp.log(views)
