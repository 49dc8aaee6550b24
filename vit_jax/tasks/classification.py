"""Classification of images and videos: one label an example, or several."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.tasks import Batch, Sum, weighted_sum


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy over classes (`softmax`), or over each class by itself (`sigmoid`, multi-label).

    Labels are ints `(batch,)`, or indicators `(batch, num_classes)`. Of an example that is given as several views
    (clips and crops of a video) the probabilities are averaged.

    Attributes:
      label_smoothing: epsilon; every class gets epsilon / num_classes, before mixing (as timm).
      mixup_alpha, cutmix_alpha: Beta(alpha, alpha) of mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899).
      mix_probability: Share of batches that are mixed.
    """

    num_classes: int
    loss_name: str = "softmax"
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_probability: float = 1.0

    name = "classification"
    scores: ClassVar[tuple[str, ...]] = ("loss", "top1", "top5")
    metric = "top1"

    def init_inputs(self, model) -> tuple[jax.Array, ...]:
        return (jnp.zeros((1, *model.input_shape), model.dtype),)

    def loss(self, model, params, batch, *, rngs, train) -> tuple[Sum, dict[str, Sum]]:
        """Returns the loss summed over real examples, and `top1` (of the unmixed label where images are mixed)."""
        inputs, targets = inputs_of(batch), self.targets(batch["label"])
        if train:
            targets = optax.smooth_labels(targets, self.label_smoothing)
            inputs, targets = self.mix(inputs, targets, rngs["mix"])
        logits = model.apply({"params": params}, inputs, train=train, rngs=rngs)
        loss = weighted_sum(self.cross_entropy(logits, targets), batch["mask"])
        correct = _hits(logits, self.targets(batch["label"]))
        return loss, {"top1": weighted_sum(correct, batch["mask"])}

    def predict(self, model, params, batch):
        return {"logits": model.apply({"params": params}, inputs_of(batch), train=False)}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax, or a sigmoid for each class, on the host in float64."""
        return np.exp(_log_probabilities(logits, self.loss_name)[0])

    def score(self, rows) -> dict[str, float]:
        """Returns `loss`, `top1`, `top5` and `examples`; and `views`, if an example has several.

        With several labels an example counts as right if its best guess is one of them, as ReaL scores
        (arXiv:2006.07159); examples without any label are left out, and `examples` says how many remain.
        """
        _, first, views = np.unique(rows["id"], return_index=True, return_counts=True)
        targets = np.asarray(self.targets(rows["label"][first]))
        yes, no = (_mean_of_views(x, first, views) for x in _log_probabilities(rows["logits"], self.loss_name))
        labelled = targets.sum(-1) > 0
        targets, yes, no = targets[labelled], yes[labelled], no[labelled]
        best = np.argsort(-yes, axis=-1, kind="stable")
        hits = np.take_along_axis(targets, best, axis=-1) > 0
        losses = -(targets * yes + (0 if self.loss_name == "softmax" else (1 - targets) * no)).sum(-1)
        scores = {
            "loss": float(np.mean(losses)),
            "top1": float(np.mean(hits[:, 0])),
            "top5": float(np.mean(hits[:, :5].any(-1))),
            "examples": len(targets),
        }
        return scores if views.max() == 1 else {**scores, "views": int(views.max())}

    def headline(self, result) -> str:
        views = f" in {result['views']} views" if "views" in result else ""
        return f"accuracy {result['top1']:.2%} ({result['examples']} examples{views}, {result['skipped']} skipped)"

    def targets(self, labels: jax.Array) -> jax.Array:
        return labels if labels.ndim == 2 else jax.nn.one_hot(labels, self.num_classes)

    def cross_entropy(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        if self.loss_name == "softmax":
            return optax.softmax_cross_entropy(logits, targets)
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)

    def mix(self, images: jax.Array, targets: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mixes each image with its mirror in the batch, with one lambda for the batch (as timm's batch mode).

        Of videos every frame has the same box. Deviation: the mirror is taken within a device's share of the batch.
        """
        if not (self.mixup_alpha or self.cutmix_alpha):
            return images, targets
        which, whether, beta_m, beta_c, box = jax.random.split(rng, 5)
        use_cutmix = jax.random.bernoulli(which, 0.5 if self.mixup_alpha else 1.0) & (self.cutmix_alpha > 0)
        mixup, cut = (
            jax.random.beta(key, alpha or 1.0, alpha or 1.0)
            for key, alpha in ((beta_m, self.mixup_alpha), (beta_c, self.cutmix_alpha))
        )
        inside = _random_box(box, images.shape[-3], images.shape[-2], 1.0 - cut)  # where the mirror shows
        share = jnp.where(use_cutmix, inside[..., None].astype(images.dtype), 1.0 - mixup)
        share *= jax.random.bernoulli(whether, self.mix_probability)
        weight = share.mean()  # of the mirror: exact for a box cut off at the border
        return (
            images * (1 - share) + images[::-1] * share,
            targets * (1 - weight) + targets[::-1] * weight,
        )


def inputs_of(batch: Batch) -> jax.Array:
    """Returns the images or videos of a batch."""
    return batch["video"] if "video" in batch else batch["image"]


def _random_box(rng: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """Returns a mask `(height, width)` of a box of that share of the area, its centre uniform, cut at the border."""
    size = jnp.asarray((height, width))
    centre = jax.random.uniform(rng, (2,)) * size
    half = 0.5 * jnp.sqrt(area) * size
    low, high = jnp.round(centre - half), jnp.round(centre + half)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    return (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])


def _hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns 1 where the best guess is one of the labels."""
    best = jnp.argmax(logits, axis=-1)
    return (jnp.take_along_axis(targets, best[:, None], axis=-1)[:, 0] > 0).astype(jnp.float32)


def _log_probabilities(logits: np.ndarray, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the probability of each class, and of its absence (sigmoid).

    In float64 on the host, so that a mean does not depend on how examples were batched.
    """
    logits = np.asarray(logits, np.float64)
    if loss == "softmax":
        logits = logits - logits.max(-1, keepdims=True)
        yes = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return yes, np.zeros_like(yes)
    return -np.logaddexp(0, -logits), -np.logaddexp(0, logits)


def _mean_of_views(log_probabilities: np.ndarray, first: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Averages the probabilities of rows `first[i]` to `first[i] + views[i] - 1`; logarithms in and out."""
    if views.max() == 1:
        return log_probabilities
    return np.logaddexp.reduceat(log_probabilities, first, axis=0) - np.log(views)[:, None]
