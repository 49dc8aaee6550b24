"""What several commands share."""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator


def add_distributed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes", "found by themselves under Slurm, Open MPI and on TPU pods")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I")


def start_jax(args: argparse.Namespace, compilation_cache: str = "~/.cache/vit_jax/xla") -> None:
    """Loads JAX with the compilation cache, and joins the other processes of the job if there are any."""
    keep_freed_memory()
    import absl.logging
    import jax

    from vit_jax.parallel import initialize_distributed

    # Orbax tells of every save; of a failed one, which it raises as well, it tells in pages, from several threads
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # the writes it gave up
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
    initialize_distributed(
        *(getattr(args, name, None) for name in ("coordinator", "num_processes", "process_id")),
    )


def keep_freed_memory() -> None:
    """Has this process keep the memory it frees, if it computes on the CPU; to be called before JAX is imported.

    Otherwise glibc returns the activations of every step to the system, which hands out zeroed pages again in the
    next: a sixth of a train step of TimeSformer-B. Without glibc nothing happens.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if os.environ.get("JAX_PLATFORMS") != "cpu" and (plugins or importlib.util.find_spec("libtpu")):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        arena_max, mmap_max, trim_threshold = -8, -4, -1  # of malloc.h
        mallopt(arena_max, 1)  # the limits below are of the first arena only
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def _unraisable(what) -> None:
    """Python's own hook, silent about the writes that Orbax leaves to TensorStore when another of them has failed."""
    if str(what.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(what)


def progress(items: Iterable, total: int, description: str) -> Iterator:
    """Yields `items` under a progress bar with an ETA on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, description, total, console=console, disable=not console.is_terminal, transient=True)
