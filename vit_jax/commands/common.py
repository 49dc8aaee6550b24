"""What several commands share."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator


def add_distributed(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes", "found by themselves under Slurm, Open MPI and on TPU pods")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I")


def start_jax(args: argparse.Namespace, compilation_cache: str = "~/.cache/vit_jax/xla") -> None:
    """Loads JAX with the compilation cache, and joins the other processes of the job if there are any."""
    import absl.logging
    import jax

    from vit_jax.parallel import initialize_distributed

    # Orbax tells of every save; of a failed one, which it raises as well, it tells in pages, from several threads
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(compilation_cache))
    initialize_distributed(
        *(getattr(args, name, None) for name in ("coordinator", "num_processes", "process_id")),
    )


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
