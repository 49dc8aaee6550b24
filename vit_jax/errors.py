"""The exceptions that end a command with one line instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: the message names the culprit and the way out. Exit status 2."""


class RunError(Exception):
    """A run that cannot go on: its loss is not finite, its disk is full. Exit status 1."""


class Interrupted(Exception):
    """A signal stopped the run after its state was saved. Exit status 128 + signum."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known word closest to `word`, else the known words."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"
