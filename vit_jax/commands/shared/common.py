"""Helpers of several commands: types of arguments, starting JAX, several processes, a progress bar."""

import argparse
import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vit_jax.errors import Interrupted

_MOST = 2**31 - 1  # sizes and counts are 32-bit integers on the devices


def add_commands(parsers: Any, package: str, names: Iterable[str], dest: str = "run") -> None:
    """Adds a parser for each module of a package, whose function `run` becomes the value `dest`."""
    for name in names:
        module = importlib.import_module(f"{package}.{name}")
        parser = parsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        parser.set_defaults(**{dest: module.run})


def given(text: str) -> str:
    """An argument type: text that is not empty, such as a path."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def at_least(minimum: int) -> Callable[[str], int]:
    """Returns an argument type: whole numbers from `minimum` up to 2^31 - 1."""

    def whole_number(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= _MOST:
            limit = f" and at most {_MOST:,}" if number > _MOST else ""
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {minimum}{limit}, got {text!r}")
        return number

    return whole_number


def legal(key: str) -> Callable[[str], Any]:
    """Returns an argument type: the values that the schema allows for a key of the config."""

    def value(text: str) -> Any:
        from vit_jax.config import keys

        form = keys()[key].form
        try:
            parsed = form.parse(text)
        except ValueError:
            parsed = None
        if not form.accepts(parsed):
            raise argparse.ArgumentTypeError(f"must be {form}, got {text!r}")
        return parsed

    return value


def add_distributed(parser: argparse.ArgumentParser) -> None:
    """Adds the options that join several processes."""
    group = parser.add_argument_group(
        "several processes", "JAX detects Slurm, Open MPI, Kubernetes and Cloud TPU. These options override it."
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", type=given, help="address of process 0")
    group.add_argument(
        "--num_processes", type=at_least(1), metavar="N", help="number of processes; 1 runs this one alone"
    )
    group.add_argument("--process_id", type=at_least(0), metavar="I", help="index of this process, from 0")


def start_jax(args: argparse.Namespace, compilation_cache: str = "~/.cache/vit_jax/xla") -> None:
    """Prepares JAX for a command: memory, log messages, the compilation cache, and the processes of the job.

    Args:
      compilation_cache: Folder that keeps compiled programs between runs; an empty string disables the cache.

    Raises:
      UserError: See `initialize_distributed`.
    """
    keep_freed_memory()
    use_gpu_flags()
    silence_libraries()
    use_compilation_cache(compilation_cache)
    from vit_jax.devices.job import initialize_distributed

    initialize_distributed(
        *(getattr(args, name, None) for name in ("coordinator", "num_processes", "process_id")),
    )


def computes_on_cpu() -> bool:
    """Returns whether JAX will find no accelerator, without starting it."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not (plugins or importlib.util.find_spec("libtpu"))


def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees, if it computes on the CPU. Call this before importing JAX.

    By default, glibc returns the memory of the activations to the system after every step, and receives zeroed pages in
    the next step. This takes a sixth of the time of a training step of TimeSformer-B. Without glibc, this function does
    nothing.
    """
    if not computes_on_cpu():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        arena_max, mmap_max, trim_threshold = -8, -4, -1  # from malloc.h
        mallopt(arena_max, 1)  # the limits below apply to the first arena only
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


# Measured with train steps of four layers on an H100 (docs/performance.md).
GPU_FLAGS = {
    "xla_gpu_enable_triton_gemm": "false",  # cuBLAS: up to 5 % faster, with the next one, and quick to compile
    "xla_gpu_dot_merger_threshold_mb": "0",  # queries, keys and values stay apart, or one product as the model has them
}


def use_gpu_flags() -> None:
    """Adds `GPU_FLAGS` to `XLA_FLAGS`, which JAX reads when it starts. Those that are set already stay as they are."""
    if computes_on_cpu():
        return
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={value}" for name, value in GPU_FLAGS.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def silence_libraries() -> None:
    """Silences what Orbax and its libraries log about saving; a failed save raises an error in any case."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    # Orbax abandons the remaining writes when one has failed
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def use_compilation_cache(directory: str) -> None:
    """Keeps compiled programs in a folder, so that later runs do not compile them again; does nothing if empty."""
    import jax

    if directory:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))


def _unraisable(what) -> None:
    """Calls Python's own hook, except for writes that Orbax has abandoned because another one failed."""
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


@contextlib.contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """A context in which SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt, so that files are closed."""

    def interrupt(signum: int, _: Any) -> None:
        raise Interrupted(signum, "interrupted")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def progress(items: Iterable, total: int | None, description: str) -> Iterator:
    """Yields `items` and shows a progress bar with the remaining time on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, description, total, console=console, disable=not console.is_terminal, transient=True)
