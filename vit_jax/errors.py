"""Exceptions that end a command with a one-line message instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake by the user. The message names the key or file at fault and says what to do. Exit status 2."""


class RunError(Exception):
    """A run that cannot continue, for example because its loss is not finite or its disk is full. Exit status 1."""


class Interrupted(Exception):
    """A run that was stopped by a signal, after its state was saved. Exit status 128 + signum."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` with the closest known word, or a list of all known words if none is close."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"
