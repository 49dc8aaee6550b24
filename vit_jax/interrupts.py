"""SIGTERM and Ctrl-C: finish the current step, save a checkpoint, exit."""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AGREE_EVERY = 2  # steps between the points where several processes agree on whether to stop


class Interrupts:
    """A context in which the first SIGTERM or SIGINT is only noted, and a second one exits at once.

    In a job of several processes, all processes learn of a signal that reached any of them, and stop at the same step.

    Attributes:
      signum: Number of the signal, 0 if there was none. In several processes it is set where they agree on it.
    """

    def __init__(self):
        self.signum, self._received, self._before = 0, 0, {}
        self._alone = jax.process_count() == 1
        self._agreement: jax.Array | None = None
        self._largest = jax.jit(jnp.max, out_shardings=None if self._alone else _sharding(P()))

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum, _frame):
        if self._received:
            os._exit(128 + signum)
        self._received = signum
        if self._alone:
            self.signum = signum
        name = signal.Signals(signum).name
        # os.write, because the signal may have interrupted a call to print()
        message = f"\nvit_jax: {name}: saving the state; send it again to exit at once\n"
        os.write(sys.stderr.fileno(), message.encode())

    def requested(self, step: int = 0) -> bool:
        """Returns whether to stop after `step`. All processes must ask at the same points, and get the same answer.

        Several processes agree at every `AGREE_EVERY`-th step: there, each contributes the signal it has received to a
        reduction on the devices, and reads the result of the previous one. That has long been computed, so the devices
        never wait; a signal takes effect at the second such step after it. Without `step`, every call is such a point.
        """
        if self._alone or self.signum or step % AGREE_EVERY:
            return self.signum != 0
        previous = self._agreement
        flags = np.full(jax.local_device_count(), self._received, np.int32)
        self._agreement = self._largest(jax.make_array_from_process_local_data(_sharding(P("devices")), flags))
        if previous is not None:
            self.signum = int(np.asarray(previous.addressable_data(0)))
        return self.signum != 0


def _sharding(spec: P) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("devices",)), spec)
