"""Running commands that must fail with one line."""

import contextlib
import io

from vit_jax.__main__ import main


def ended(*arguments):
    """Runs a command in this process; returns its status and the lines on stderr."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse
            status = left.code
    return status, err.getvalue().splitlines()


def refused(*arguments, status=2):
    """Returns the one line on stderr of a command that must end with `status`."""
    left, lines = ended(*arguments)
    assert left == status, lines
    assert len(lines) == 1, lines
    return lines[0]
