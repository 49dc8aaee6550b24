"""Which checkpoints are the best, and are kept in addition to the newest ones."""

from collections.abc import Iterable, Sequence
from typing import Any

_LOWER_IS_BETTER = ("loss", "perplexity")


class Best:
    """A preservation policy that keeps the `count` best checkpoints by the metric `name`; ties go to the newest.

    Orbax's own `BestN` knows only the metrics of checkpoints that the same process saved. The train loop also stores
    them in the meta of a checkpoint, so that a resumed run still ranks the checkpoints that were saved before.
    """

    def __init__(self, count: int, name: str):
        self._count, self._name, self._sign = count, name, -1 if name in _LOWER_IS_BETTER else 1
        self._scores: dict[int, float] = {}

    def add(self, step: int, metrics: dict[str, float] | None) -> None:
        """Records the metrics of a checkpoint. Checkpoints without metrics are never among the best."""
        if metrics and self._name in metrics:
            self._scores[step] = self._sign * metrics[self._name]

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Returns those steps that have a score, the best one last."""
        return sorted((step for step in steps if step in self._scores), key=lambda step: (self._scores[step], step))

    def first(self) -> int | None:
        """Returns the step of the best checkpoint; None if none has a score."""
        return next(reversed(self.ranked(self._scores)), None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = self.ranked(steps)
        best = ranked[len(ranked) - min(self._count, len(ranked)) :]
        return [step in best for step in steps]
