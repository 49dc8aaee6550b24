"""Robustness to common corruptions: accuracy and calibration of a run by corruption and severity.

Images are corrupted at the size of the model's input, after resizing and cropping and before `normalize`, as those of
ImageNet-C are. The random numbers of an image depend on the seed, corruption, severity and its id alone, so that a run
gives the same result with any batch size, number of threads, processes or devices.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax.analysis.robustness.calibration import BINS, log_probabilities, reliability
from vit_jax.analysis.robustness.common_corruptions import CORRUPTIONS, SEVERITIES, corrupt, frost_photographs
from vit_jax.data.image import chain
from vit_jax.data.image.transforms import Preprocessing, to_channels
from vit_jax.data.image.values import Normalize
from vit_jax.errors import UserError, nearest
from vit_jax.evaluate import in_order

CLEAN = "none"  # the corruption of a row of images as they are, at severity 0
MIN_SIDE = 4


@dataclasses.dataclass(frozen=True)
class Score:
    """How a run does on one corruption at one severity.

    Attributes:
      corruption, severity: One of `CORRUPTIONS` and 1 to 5; `CLEAN` and 0 for images as they are.
      examples: Number of labelled examples, all of which were scored.
      accuracy, ece, nll: See `calibration`.
    """

    corruption: str
    severity: int
    examples: int
    accuracy: float
    ece: float
    nll: float


class Corrupted:
    """The examples of a source with their images resized and cropped as by an encoder, and then corrupted.

    `remaining` is the encoder of these images: what follows the crops, from `normalize` on.
    """

    def __init__(self, source: Any, encoder: Preprocessing, name: str, severity: int, seed: int):
        self._source, self.kind, self.labels = source, source.kind, source.labels
        self.name, self.split, self.skipped = source.name, source.split, source.skipped
        place = next(i for i, step in enumerate(encoder.steps) if isinstance(step, Normalize))
        self._channels, self._before = encoder.channels, encoder.steps[:place]
        self._corruption, self._severity, self._seed = name, severity, seed
        after = "|".join(map(_written, list(chain.parse(encoder.transforms))[place:]))
        self.remaining = dataclasses.replace(encoder, transforms=after)

    def __len__(self) -> int:
        return len(self._source)

    def all_labels(self) -> np.ndarray:
        return self._source.all_labels()

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        examples = self._source.__getitems__(indices)
        return [{**example, "image": self._corrupted(example)} for example in examples]

    def _corrupted(self, example: dict[str, Any]) -> Any:
        image = to_channels(example["image"], self._channels)
        for step in self._before:
            image = step(image, None)
        key = [self._seed, CORRUPTIONS.index(self._corruption), self._severity, example["id"]]
        return corrupt(image, self._corruption, self._severity, np.random.default_rng(key))


def _written(call: chain.Call) -> str:
    arguments = [*map(repr, call.args), *(f"{name}={value!r}" for name, value in call.kwargs.items())]
    return f"{call.name}({', '.join(arguments)})"


def evaluate_corruptions(
    run: Any,
    source: Any,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    *,
    seed: int = 0,
    bins: int = BINS,
    batch_size: int | None = None,
    track: Callable[[str], Callable[[Any, int], Any]] | None = None,
) -> Iterator[Score]:
    """Yields the scores of the clean images, and then of each corruption at each severity.

    Every example is scored in each of them, in batches on all devices; only a few numbers per example reach the host.

    Args:
      run: A run on images.
      source: A source from `run.open_split`.
      batch_size: Rows per batch, by default that of the run's config.
      track: Called with a description; returns a function that shows progress over batches, see `Run.evaluate`.

    Raises:
      UserError: The run is not one that classifies images, a name or severity is unknown, or frost is not installed.
    """
    encoder = run.encoder
    if not isinstance(encoder, Preprocessing):
        raise UserError(f"corruptions are of images; this run is on {run.modality.inputs}")
    if min(encoder.image_size) < MIN_SIDE:
        raise UserError(f"corruptions need images of at least {MIN_SIDE} pixels, got {encoder.image_size}")
    for name in corruptions:
        if name not in CORRUPTIONS:
            raise UserError(f"unknown corruption {name!r}{nearest(name, CORRUPTIONS)}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"severity must be from {SEVERITIES[0]} to {SEVERITIES[-1]}, got {severity}")
    if "frost" in corruptions:
        frost_photographs(1.0, encoder.image_size)  # refused before anything is computed
    function = _judged(run.task)
    yield _score(run, source, encoder, function, (CLEAN, 0), bins, batch_size, track)
    for name in corruptions:
        for severity in severities:
            corrupted = Corrupted(source, encoder, name, severity, seed)
            yield _score(run, corrupted, corrupted.remaining, function, (name, severity), bins, batch_size, track)


def _judged(task: Any) -> Callable[[Any, Any, dict[str, Any]], dict[str, Any]]:
    """Returns a function that computes `confidence`, `correct` and `nll` of each example on the devices."""
    scores_of = log_probabilities(task)

    def judge(model: Any, params: Any, batch: dict[str, Any]) -> dict[str, Any]:
        scores = scores_of(model, params, batch)["scores"]
        label = jnp.clip(batch["label"], 0)
        right = jnp.take_along_axis(scores, label[:, None], axis=-1)[:, 0]
        correct = scores.argmax(-1) == batch["label"]
        return {"confidence": jnp.exp(scores.max(-1)), "correct": correct, "nll": -right}

    return judge


def _score(run, source, encoder, function, at, bins, batch_size, track) -> Score:
    batches, _ = run.modality.eval_batches(run.config, source, encoder, batch_size)
    shown = batches if track is None else track(" ".join(map(str, at)))(batches, len(batches))
    rows = in_order(run.evaluator.rows(run.placed, shown, function))
    if rows["label"].ndim > 1:
        raise UserError(f"{source.name} {source.split} has several labels per example; corruptions need one")
    labelled = rows["label"] >= 0
    if not labelled.any():
        raise UserError(f"{source.name} {source.split} has no labels")
    correct = rows["correct"][labelled]
    diagram = reliability(rows["confidence"][labelled], correct, bins)
    nll = float(np.mean(rows["nll"][labelled], dtype=np.float64))
    corruption, severity = at
    return Score(corruption, severity, int(labelled.sum()), float(np.mean(correct)), diagram.ece, nll)


def mean_corruption_error(scores: Sequence[Score], baseline: dict[str, float] | None = None) -> float:
    """Returns the mean over corruptions of their mean error over severities (section 4.1).

        CE_c = sum_s error_{s,c}     mCE = mean over c of CE_c / CE_c of the baseline

    Args:
      scores: The scores of every corruption at the same severities; clean images are left out.
      baseline: CE by corruption of another model, as a mean over the same severities. The paper's is AlexNet on
        ImageNet-C; without a baseline, the errors are averaged as they are.
    """
    errors: dict[str, list[float]] = {}
    for score in scores:
        if score.corruption != CLEAN:
            errors.setdefault(score.corruption, []).append(1 - score.accuracy)
    means = {name: np.mean(each) / (baseline[name] if baseline else 1) for name, each in errors.items()}
    return float(np.mean(list(means.values())))
