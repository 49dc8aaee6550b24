"""Pseudo-labels: a teacher's predictions as the labels of more training examples (Noisy Student, arXiv:1911.04252)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vit_jax.config import Config
from vit_jax.data.source import open_split
from vit_jax.errors import UserError, counted


class PseudoLabelled:
    """The examples of a labelled source, then those of an unlabelled one with the predictions of a teacher.

    All labels are probabilities of the classes, `(classes,)`: those of the labelled examples are 0 and 1.

    Args:
      labelled: The source that has labels.
      unlabelled: A source whose labels are not used.
      chosen: Indices into `unlabelled`; an index may occur several times.
      probabilities: The label of each of them.
    """

    def __init__(
        self,
        labelled: Any,
        unlabelled: Any,
        chosen: Int[np.ndarray, " chosen"],
        probabilities: Float[np.ndarray, "chosen classes"],
    ):
        self._labelled, self._unlabelled, self._chosen = labelled, unlabelled, chosen
        self._probabilities = probabilities.astype(np.float32)
        self.name, self.kind, self.split, self.labels = labelled.name, labelled.kind, labelled.split, labelled.labels
        self.skipped = [*labelled.skipped, *unlabelled.skipped]
        self.in_memory = getattr(labelled, "in_memory", False) and getattr(unlabelled, "in_memory", False)
        self.recognised = (
            f"{counted(len(chosen), 'pseudo-labelled examples')} "
            f"({len(np.unique(chosen)):,} of the {len(unlabelled):,} in {unlabelled.split} of {unlabelled.name}) "
            f"are added to {len(labelled):,} labelled ones"
        )

    def __len__(self) -> int:
        return len(self._labelled) + len(self._chosen)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        places, first = np.asarray(indices), len(self._labelled)
        is_pseudo = places >= first
        labelled = iter(self._labelled.__getitems__(places[~is_pseudo].tolist()))
        others = iter(self._unlabelled.__getitems__(self._chosen[places[is_pseudo] - first].tolist()))
        eye, examples = np.eye(len(self.labels), dtype=np.float32), []
        for place, pseudo in zip(places, is_pseudo, strict=True):
            example = next(others if pseudo else labelled)
            label = self._probabilities[place - first] if pseudo else eye[example["label"]]
            examples.append({**example, "label": label})
        return examples

    def all_labels(self) -> np.ndarray:
        """Returns the class of every example, in order: the most probable one where the label is a prediction."""
        return np.concatenate([self._labelled.all_labels(), self._probabilities.argmax(axis=-1)])


def with_pseudo_labels(config: Config, labelled: Any) -> Any:
    """Adds the examples of `config.pseudo_labels` to a training split; returns the split itself if there are none.

    The file in `pseudo_labels.predictions` has the `id` and the `logits` of every example of `pseudo_labels.split`, in
    order, as `python -m vit_jax evaluate RUN --predictions=FILE.npz` writes it.

    Raises:
      UserError: The file cannot be read, or does not belong to the split or the classes.
    """
    section = config.pseudo_labels
    if not section.predictions:
        return labelled
    if not section.split:
        raise UserError("config.pseudo_labels.predictions needs config.pseudo_labels.split, whose examples it is about")
    unlabelled = open_split(config, section.split, path=section.path)
    ids, logits = _read(section.predictions)
    _check(section, labelled, unlabelled, ids, logits)
    probabilities = _probabilities(logits, config.task.loss)
    chosen = choose(probabilities, threshold=section.threshold, per_class=section.per_class)
    if not len(chosen):
        raise UserError(
            f"config.pseudo_labels.threshold={section.threshold}: no prediction in {section.predictions} is that "
            f"confident; the largest probability is {probabilities.max():.3f}"
        )
    labels = probabilities[chosen]
    if not section.soft:
        labels = np.eye(labels.shape[-1])[labels.argmax(axis=-1)]
    return PseudoLabelled(labelled, unlabelled, chosen, labels)


def choose(
    probabilities: Float[np.ndarray, "examples classes"], *, threshold: float = 0.0, per_class: int | None = None
) -> Int[np.ndarray, " chosen"]:
    """Returns the indices of the examples to use, by class, the most confident first (section 3.1, "data balancing").

    The class of an example is its most probable one, and its confidence the probability of that.

    Args:
      threshold: Examples of a lower confidence are left out; 0.3 in the paper.
      per_class: Number of examples of each class: if there are more, the most confident; if there are fewer, they are
        repeated. 130,000 in the paper. None uses every example once.
    """
    classes, confidence = probabilities.argmax(axis=-1), probabilities.max(axis=-1)
    chosen = []
    for label in range(probabilities.shape[-1]):
        of_class = np.flatnonzero((classes == label) & (confidence >= threshold))
        ranked = of_class[np.argsort(-confidence[of_class], kind="stable")]
        chosen.append(ranked if per_class is None or not len(ranked) else np.resize(ranked, per_class))
    return np.concatenate(chosen)


def _read(path: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as file:
            return file["id"], file["logits"]
    except FileNotFoundError:
        raise UserError(f"config.pseudo_labels.predictions: {path} does not exist") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"config.pseudo_labels.predictions: {path} is not a file of predictions with id and logits ({error}). "
            "`python -m vit_jax evaluate RUN --split=SPLIT --predictions=FILE.npz` writes one."
        ) from None


def _check(section: Any, labelled: Any, unlabelled: Any, ids: np.ndarray, logits: np.ndarray) -> None:
    """Checks that predictions belong to the split and the classes; the first and last ids stand for all."""
    named = f"config.pseudo_labels.predictions: {section.predictions}"
    if logits.ndim != 2 or logits.shape[-1] != len(labelled.labels):
        raise UserError(f"{named} has logits of shape {logits.shape}, but there are {len(labelled.labels)} classes")
    if len(logits) != len(unlabelled):
        raise UserError(
            f"{named} has predictions of {counted(len(logits), 'examples')}, but {section.split!r} has "
            f"{len(unlabelled):,}. An evaluation that was interrupted leaves such a file; evaluate this split again."
        )
    ends = [0, len(unlabelled) - 1]
    if [example["id"] for example in unlabelled.__getitems__(ends)] != ids[ends].tolist():
        raise UserError(f"{named} has predictions of other examples than those of {section.split!r}")


def _probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
    """Returns softmax probabilities, or for a model trained with `loss="sigmoid"` those of each class, in float64."""
    logits = np.asarray(logits, np.float64)
    if loss == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
