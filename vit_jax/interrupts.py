"""SIGTERM and Ctrl-C: finish the step, save, leave."""

import os
import signal
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

AGREE_EVERY = 5  # steps, of several processes: a round trip each time, and the time there is to save is short


class Interrupts:
    """While entered, the first SIGTERM or SIGINT is only noted; a second ends the process at once.

    In a job of several processes all of them learn of a signal that reached any.
    """

    def __init__(self):
        self.signum, self._before = 0, {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum, _frame):
        if self.signum:
            os._exit(128 + signum)
        self.signum = signum
        name = signal.Signals(signum).name
        # not print(): the signal may have come in the middle of one
        os.write(sys.stderr.fileno(), f"\nvit_jax: {name}: saving the state; once more to leave at once\n".encode())

    def requested(self, step: int = 0) -> bool:
        """Returns whether to stop; every process must ask at the same points, and all get the same answer."""
        if jax.process_count() == 1:
            return self.signum != 0
        if step % AGREE_EVERY:
            return False
        self.signum = int(np.max(multihost_utils.process_allgather(np.int32(self.signum))))
        return self.signum != 0
