"""The one exception that stands for a user's mistake."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's: the message names the culprit and the way out.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known word closest to `word`, else the known words."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"
