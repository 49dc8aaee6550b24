"""The command line, `python -m vit_jax COMMAND`. Each command is a module in `vit_jax/commands/`."""

import argparse
import importlib
import itertools
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any

import vit_jax
from vit_jax.errors import Interrupted, RunError, UserError, nearest

COMMANDS = ("train", "evaluate", "predict", "convert", "data", "reproduce")


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
        hint = " See --help." if message.endswith("?") else "; see --help"
        self.exit(2, f"{self.prog}: {message}{hint}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 for a failed run, 2 for a user's mistake, 128 + signal."""
    parser = Parser(prog="vit_jax", description="Transformers for images, video and text, in JAX.")
    parser.add_argument("--version", action="version", version=f"vit_jax {vit_jax.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module(f"vit_jax.commands.{name}") for name in COMMANDS}
    for name, module in modules.items():
        subparser = parsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
    args, overrides = parser.parse_known_args(argv)
    if hasattr(args, "overrides"):
        args.overrides = overrides
    elif overrides:
        parsers.choices[args.command].error(f"unrecognized arguments: {' '.join(overrides)}")

    logging.basicConfig(format="vit_jax: %(message)s", level=logging.WARNING)
    return _run(modules[args.command], args)


def _run(module, args) -> int:
    try:
        return module.run(args)
    except UserError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except Interrupted as error:
        return _fail(str(error), 128 + error.signum)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the program that reads our output, such as `head`, has exited
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno is None or (error.filename is None and not error.strerror):
            raise
        return _fail(f"{error.filename or 'input/output'}: {error.strerror}", 1)
    except RuntimeError as error:  # JAX's, which cannot be imported here: its import is slow
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        advice = "Use a smaller batch size; docs/devices.md lists what else saves memory."
        return _fail(f"out of memory on the devices ({str(error).splitlines()[0]}). {advice}", 1)


def _fail(message: str, status: int) -> int:
    sys.stdout.flush()
    print(f"vit_jax: {message}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
