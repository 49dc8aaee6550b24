"""SIGTERM and Ctrl-C: finish the current step, save a checkpoint, exit."""

import functools
import os
import signal
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AGREE_EVERY = 2  # steps between the points where several processes agree on whether to stop


class Interrupts:
    """A context that records the first SIGTERM or SIGINT, and exits at once at the second.

    In a job of several processes, a signal that reaches one of them stops all of them at the same step.

    Attributes:
      signum: Number of the signal that this process has received, or that the processes have agreed on; 0 if none.
    """

    def __init__(self):
        self.signum, self._received, self._agreed, self._before = 0, False, False, {}
        self._alone = jax.process_count() == 1
        self._pending: Callable[[], int] | None = None

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
        self._received, self.signum = True, signum
        name = signal.Signals(signum).name
        # os.write, because the signal may have interrupted a call to print()
        message = f"\nvit_jax: {name}: saving the state; send it again to exit at once\n"
        os.write(sys.stderr.fileno(), message.encode())

    def requested(self, step: int = 0) -> bool:
        """Returns whether to stop after `step`. All processes must call this at the same steps, and agree.

        Several processes agree at every `AGREE_EVERY`-th step. At such a step, each process contributes its signal to a
        maximum, which the devices compute after the work already queued, and reads the maximum of the previous such
        step, which is ready. The devices therefore never wait, and a signal takes effect at the second such step after
        its arrival.

        Without `step`, the processes agree at once. This is used in evaluation, where results are copied to the host
        after every batch anyway.
        """
        if self._alone:
            return self.signum != 0
        if self._agreed or step % AGREE_EVERY:
            return self._agreed
        previous, self._pending = self._pending, start_maximum(self.signum)
        if not step:
            previous = self._pending
        if previous is not None and (signum := previous()):
            self.signum, self._agreed = signum, True
        return self._agreed


def start_maximum(value: int) -> Callable[[], int]:
    """Starts to compute the maximum of a value over all processes; returns a function that waits for it."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    local = np.full(jax.local_device_count(), value, np.int32)
    values = jax.make_array_from_process_local_data(NamedSharding(mesh, P("devices")), local)
    maximum = _maximum(NamedSharding(mesh, P()))(values)
    return lambda: int(np.asarray(maximum.addressable_data(0)))


@functools.cache
def _maximum(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=sharding)
