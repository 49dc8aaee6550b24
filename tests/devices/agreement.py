"""A signal that reaches one of two processes: `python agreement.py PORT I OUT.json` runs process I."""

import json
import pathlib
import signal
import sys

import jax

STEPS = [(told, at, first) for told, at in ((0, 4), (1, 4), (1, 5), (0, 11)) for first in (0, 3, 7) if at > first]


def stop_of_steps(told, at, first):
    """Returns the step at which a loop that goes on after `first` stops, and the signal, if one process is told."""
    from vit_jax.devices.interrupts import Interrupts

    with Interrupts() as interrupts:
        for step in range(first + 1, 40):
            if (jax.process_index(), step) == (told, at):
                signal.raise_signal(signal.SIGTERM)
            if interrupts.requested(step):
                return step, interrupts.signum
    return None


def stop_of_batches(told, at):
    """Returns the same for the batches of an evaluation, which have no step."""
    from vit_jax.devices.interrupts import Interrupts

    with Interrupts() as interrupts:
        for batch in range(12):
            if (jax.process_index(), batch) == (told, at):
                signal.raise_signal(signal.SIGINT)
            if interrupts.requested():
                return batch, interrupts.signum
    return None


if __name__ == "__main__":
    jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
    found = {
        "steps": [stop_of_steps(*case) for case in STEPS],
        "batches": [stop_of_batches(1, 3), stop_of_batches(0, 4)],
        "nobody": [stop_of_steps(None, 0, 0), stop_of_batches(None, 0)],
    }
    pathlib.Path(sys.argv[3]).write_text(json.dumps(found))
