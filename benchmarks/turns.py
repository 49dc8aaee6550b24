"""A process for each side, and the turns they take."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from typing import Any

from benchmarks.cases import Case

JAX_SIDES = ("vit_jax", "google-research")
LEFT_OUT = "left out: "  # how the reason begins where there is nothing to measure
_CONTEXT = multiprocessing.get_context("spawn")


class SideError(Exception):
    """Why a side has no measurement: it is not installed, or it failed."""


class Side:
    """A side in a process of its own, which does what it is told and otherwise waits.

    Args:
      turn_to_compile: A semaphore that limits how many of these processes compile at once.
    """

    def __init__(self, name: str, case: Case | None, platform: str, turn_to_compile: Any):
        self.name, self.mode = name, ""
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=_serve, args=(theirs, name, case, platform, turn_to_compile), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(self, command: str, *args: Any) -> None:
        """Starts a command; `answer` returns its result."""
        with contextlib.suppress(OSError):  # if it has ended, `answer` says so
            self._pipe.send((command, *args))

    def answer(self) -> Any:
        """Waits for the result of the last command.

        Raises:
          SideError: The side failed.
        """
        try:
            failed, result = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(10)
            raise SideError(f"its process ended with exit code {self._process.exitcode}") from None
        if failed:
            raise SideError(result)
        return result

    def ask(self, command: str, *args: Any) -> Any:
        self.tell(command, *args)
        return self.answer()

    def stop(self) -> None:
        """Ends the process, which frees all it holds."""
        self._pipe.close()  # a process that waits for a command now ends by itself
        for end in (lambda: None, self._process.terminate, self._process.kill):
            end()
            self._process.join(10)


def turn_semaphores(accelerator: bool) -> dict[str, Any]:
    """Returns who may compile at once: two of JAX's sides and two of torch's; on a CPU one of each."""
    of_jax, of_torch = (_CONTEXT.Semaphore(2 if accelerator else 1) for _ in range(2))
    return {**dict.fromkeys(JAX_SIDES, of_jax), **dict.fromkeys(("timm", "transformers"), of_torch)}


@contextlib.contextmanager
def ruler(library: str) -> Iterator[Side]:
    """Yields a process that measures devices and matrix products with `jax` or `torch`."""
    side = Side(library, None, "", None)
    try:
        yield side
    finally:
        side.stop()


def _serve(pipe: Any, name: str, case: Case | None, platform: str, turn_to_compile: Any) -> None:
    """Runs in the side's process."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    commands = _Commands(name, case, platform, turn_to_compile)
    while True:
        try:
            command, *args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            reply = False, getattr(commands, command)(*args)
        except BaseException as error:  # whatever a library raises is what the row will say
            reply = True, _reason(error)
        try:
            pipe.send(reply)
        except OSError:
            return


class _Commands:
    def __init__(self, name: str, case: Case | None, platform: str, turn_to_compile: Any):
        self.name, self.case, self.platform, self.turn_to_compile = name, case, platform, turn_to_compile
        self.side: Any = None

    def prepare(self) -> dict[str, Any]:
        """Imports, builds and compiles; returns the mode, and of ours the multiply-accumulates."""
        from benchmarks.jax_sides import Google, Ours, set_up

        assert self.case is not None
        set_up()
        if self.name in JAX_SIDES:
            self.side = (Ours if self.name == "vit_jax" else Google)(self.case)
        else:
            from benchmarks.torch_side import Torch

            self.side = Torch(self.case, self.platform)
        with self.turn_to_compile:
            self.side.compile()
        return {"mode": self.side.mode, "macs": self.side.macs() if self.name == "vit_jax" else None}

    def turn(self, warm_up: int, steps: int) -> tuple[float, int]:
        """Allocates, measures and frees; returns the seconds per step and the peak of the memory in bytes."""
        from benchmarks.jax_sides import reset_process_peak

        reset_process_peak()
        self.side.hold()
        self.side.run(warm_up)
        seconds = self.side.run(steps) / steps
        peak = self.side.peak_bytes()
        self.side.release()
        return seconds, peak

    def profile(self, steps: int) -> Any:
        self.side.hold()
        self.side.run(1)
        kernels = self.side.profile(steps)
        self.side.release()
        return kernels

    def device(self) -> dict[str, Any]:
        from benchmarks.jax_sides import device, set_up

        set_up()
        return device()

    def product_rate(self, platform: str, dtype: str, size: int, threads: int) -> float:
        if self.name == "jax":
            from benchmarks.jax_sides import product_rate

            return product_rate(dtype, size)
        from benchmarks import torch_side

        return torch_side.product_rate(platform, dtype, size, threads)


def _reason(error: BaseException) -> str:
    """Says in one line why a side failed."""
    if isinstance(error, ImportError):
        return f"{LEFT_OUT}not installed ({error})"
    if type(error) is LookupError:
        return f"{LEFT_OUT}{error}"
    text = str(error)
    if any(words in text for words in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")) or isinstance(
        error, MemoryError
    ):
        return "out of memory"
    if os.environ.get("BENCHMARK_TRACEBACK"):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
