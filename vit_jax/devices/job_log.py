"""Shortens what jaxlib logs when it ends a process because the coordinator of the job is gone.

jaxlib then aborts the process, without a call of Python, and logs some thirty lines of C++ functions. The standard
error of a process that belongs to a job therefore passes through this program, which replaces these lines by one and
copies everything else.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

ABORT = b"Terminating process because the JAX distributed service detected fatal errors"
MESSAGE = (
    b"vit_jax: lost the connection to process 0 of the job, or process 0 to another one. "
    b"The same command resumes from the last checkpoint.\n"
)
NOISE = re.compile(rb"[EWI]\d{4} .*(coordination_service|preemption_sync_manager)")
MORE_NOISE = re.compile(
    rb"Additional GRPC error|:[A-Z]+:|The tasks have crashed|=== Source Location|external/xla|\. This is only|\d*$"
)
SAID = MESSAGE[: MESSAGE.index(b" to ")]  # how the process itself says it, if its own call fails before jaxlib aborts
_reader: Any = None  # keeps the program from being reported as still running


def shorten() -> None:
    """Sends the standard error of this process through a process that runs this file."""
    global _reader
    _reader = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE)
    os.dup2(_reader.stdin.fileno(), 2)


class Copy:
    """Copies lines, or parts of lines, until jaxlib says that it ends the process."""

    def __init__(self, write: Callable[[bytes], Any]):
        self._write = write
        self._part = b""  # of a line that is not complete yet, and not written
        self._start = b""  # of the line that `_part` continues, written already
        self._is_noise = self._is_said = self._has_ended = False

    def add(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
            self._start = b""
        is_log = self._is_noise or re.match(rb"[EWIF](\d|$)", self._part)
        if self._part and not self._has_ended and not is_log:  # a prompt or a progress bar
            self._write(self._part)
            self._start, self._part = self._start + self._part, b""

    def _line(self, line: bytes) -> None:
        if self._has_ended:
            return
        if ABORT in line:
            self._has_ended = True
            if not self._is_said:
                self._write(MESSAGE)
            return
        self._is_said |= (self._start + line).startswith(SAID)
        self._is_noise = bool(NOISE.match(line) or (self._is_noise and MORE_NOISE.match(line)))
        if not self._is_noise:
            self._write(line)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to all processes of a job, which may still have something to say
    copy = Copy(lambda data: os.write(2, data))
    while data := os.read(0, 65536):
        copy.add(data)


if __name__ == "__main__":
    main()
