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


def counted(number: int, nouns: str, noun: str = "") -> str:
    """Returns a number and its noun: `counted(1442, "images")` is "1,442 images", `counted(1, "classes")` "1 class".

    Args:
      nouns: The plural.
      noun: The singular, for plurals that do not end in "s", "sses" or "ches".
    """
    if number != 1:
        return f"{number:,} {nouns}"
    return f"1 {noun or (nouns[:-2] if nouns.endswith(('sses', 'ches')) else nouns.removesuffix('s'))}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` with the closest known word, or a list of all known words if none is close."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"
