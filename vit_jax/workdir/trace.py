"""Profiler traces of a run, for TensorBoard or Perfetto."""

from collections.abc import Callable

import jax
from etils import epath


class Trace:
    """A profiler trace of some steps, written to `WORKDIR/profile`.

    Args:
      steps: First and last step to trace, or (0, 0) for none.
      first_step: The step after which the run starts or resumes; earlier steps cannot be traced.
    """

    def __init__(self, workdir: epath.Path, steps: tuple[int, int], first_step: int):
        self._directory, (first, self._last) = workdir / "profile", steps
        self._first, self._running = max(first, first_step + 1), False

    def begin(self, step: int) -> None:
        """Starts the trace before the first of its steps."""
        if step == self._first <= self._last:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def end(self, step: int, finish: Callable[[], None]) -> None:
        """Stops the trace after the last of its steps; `finish` blocks until the devices have finished them."""
        if self._running and step == self._last:
            finish()
            self.close()

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
