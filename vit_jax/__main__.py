"""The command line, `python -m vit_jax COMMAND`. Each command is a module in `vit_jax/commands/`."""

import argparse
import contextlib
import itertools
import logging
import os
import re
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import vit_jax
from vit_jax.commands.shared import common
from vit_jax.errors import Interrupted, RunError, UserError, nearest

COMMANDS = (
    "train", "plan", "launch", "compare", "evaluate", "predict", "analyze", "convert", "export", "data", "models",
    "configs", "reproduce",
)  # fmt: skip
INTERRUPTED = "interrupted"


class Parser(argparse.ArgumentParser):
    """A parser that accepts options anywhere, and reports an error in one line, naming an unknown option first."""

    _is_intermixed = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if self._is_intermixed or self._subparsers:  # argparse calls this method again, for options and for the rest
            return super().parse_known_args(words, namespace)
        self._check_options(words)
        self._is_intermixed = True
        try:
            return self.parse_known_intermixed_args(words, namespace)
        finally:
            self._is_intermixed = False

    def _check_options(self, words: list[str]) -> None:
        """Exits with an error for an unknown option, which argparse would report only after missing arguments."""
        known = [option for action in self._actions for option in action.option_strings]
        before_dashes = itertools.takewhile(lambda word: word != "--", words)
        for option in (word.partition("=")[0] for word in before_dashes if word.startswith("--")):
            is_override = option.startswith("--config.") and self.get_default("overrides") is not None
            if option not in known and not is_override:
                self.error(f"unknown option {option!r}{self._config_keys(option) or nearest(option, known)}")

    def _config_keys(self, option: str) -> str:
        """Returns a hint at the config keys that end in the name of an unknown option, if the command takes keys."""
        from vit_jax.config import keys

        takes_keys = self.get_default("overrides") is not None
        found = [f"--config.{key}" for key in keys() if f".{key}".endswith(f".{option[2:]}")] if takes_keys else []
        return f"; did you mean {' or '.join(found)}?" if found else ""

    def error(self, message: str) -> Any:
        message = re.sub(r"^argument (\S+): (?=must )", r"\1 ", message)
        if choice := re.match(r"argument (--\S+): invalid choice: (.*) \(choose from (.*)\)$", message):
            *others, last = choice[3].replace("'", "").split(", ")
            message = f"{choice[1]} must be {', '.join(others)} or {last}, got {choice[2]}"
        hint = " See --help." if message.endswith("?") else "; see --help"
        self.exit(2, f"{self.prog}: {message}{hint}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for a failed run, 2 for a user's mistake, 128 + signal."""
    with _interruptible():
        return reported(lambda: _run(argv))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; the function that runs the command is `run` of the result."""
    parser = Parser(prog="vit_jax", description="Transformers for images, video and text, in JAX.")
    parser.add_argument("--version", action="version", version=f"vit_jax {vit_jax.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common.add_commands(parsers, "vit_jax.commands", COMMANDS)
    args, overrides = parser.parse_known_args(argv)
    if hasattr(args, "overrides"):
        args.overrides = overrides
    elif overrides:
        parsers.choices[args.command].error(f"unrecognized arguments: {' '.join(overrides)}")
    return args


def _run(argv: list[str] | None) -> int:
    args = _parse(argv)
    logging.basicConfig(format="vit_jax: %(message)s", level=logging.WARNING)
    return args.run(args)


def reported(run: Callable[[], int]) -> int:
    """Calls `run`; reports an exception in one line and returns the exit status, unless it is a bug of the program."""
    try:
        return run()
    except UserError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except Interrupted as error:
        return _say(str(error), 128 + error.signum)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, 130)
    except BrokenPipeError:  # the program that reads our output, such as `head`, has exited
        sys.stderr.close()
        return 141
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and (error.filename is not None or error.strerror):
            return _fail(f"{error.filename or 'input/output'}: {error.strerror}", 1)
        if "RESOURCE_EXHAUSTED" in str(error):
            advice = "Use a smaller batch size; docs/devices.md lists what else saves memory."
            return _fail(f"out of memory on the devices ({str(error).splitlines()[0]}). {advice}", 1)
        if "jax" in sys.modules:
            from vit_jax.devices import job

            if message := job.lost(error):
                return _fail(message, 1)
            if job.is_shared():
                traceback.print_exc()
                job.end(f"{type(error).__name__}: {error}", 1)
        raise


def _fail(message: str, status: int) -> int:
    """Reports why a command has failed, here and to the other processes of the job, which end then."""
    _say(message, status)
    if "jax" in sys.modules:
        from vit_jax.devices import job

        job.end(message, status)
    return status


def _say(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"vit_jax: {message}", file=sys.stderr, flush=True)
    return status


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A context in which Ctrl-C raises KeyboardInterrupt, but ends the process at once while a module is imported.

    Modules turn a KeyboardInterrupt during their import into an ImportError, or ignore it, and nothing has to be saved.
    """

    def interrupt(signum: int, frame: types.FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                os.write(sys.stderr.fileno(), f"vit_jax: {INTERRUPTED}\n".encode())
                os._exit(128 + signum)
            frame = frame.f_back
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell ignores it for a job with `&`
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
