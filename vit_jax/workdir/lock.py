"""The lock of a workdir: only one run at a time writes into it.

The lock is the file `WORKDIR/lock.json`, which names the process that holds it. A process that ends removes the file; a
process that is killed leaves it behind, and the next run takes over: at once if the holder belonged to the same machine
and its process no longer exists, else after the holder has not renewed the file for a minute. Neither needs a file
system with locks, nor clocks that agree.

In a job of several processes, process 0 holds the lock. Prediction and evaluation take no lock.

Two runs that start within the same second are not told apart at once in an object store, and neither is a process that
was suspended for more than a minute while another machine took over. The process whose lock is lost finds out when it
renews the file, and stops before it saves again.
"""

import contextlib
import json
import logging
import os
import pathlib
import platform
import threading
import time
import uuid
from typing import Any

from etils import epath

from vit_jax.errors import RunError, UserError
from vit_jax.workdir import files

NAME = "lock.json"
RENEW_EVERY = 10.0  # seconds
PATIENCE = 60.0  # seconds without renewal after which a holder on another machine counts as dead


class Lock:
    """Holds the lock of a workdir, which is created if necessary, until `close` is called.

    Args:
      is_holder: Whether this process takes the lock: process 0 of a job does, for all processes of the job.

    Raises:
      UserError: Another process holds the lock, or the workdir cannot be written.
    """

    def __init__(self, workdir: epath.PathLike, is_holder: bool = True):
        self._workdir, self._path, self._is_holder = workdir, epath.Path(workdir) / NAME, is_holder
        if not is_holder:
            return
        pid = os.getpid()
        self._lease = {
            "host": platform.node(), "pid": pid, "machine": _machine(), "started": _started(pid),
            "token": uuid.uuid4().hex, "renewed": 0,
        }  # fmt: skip
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while not files.create(self._path, json.dumps(self._lease)):
                self._remove_if_dead(_read(self._path))
        except OSError as error:
            raise UserError(f"cannot write to the workdir {workdir}: {error.strerror or error}") from error
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks that no other process has taken over the lock.

        Raises:
          RunError: One has, because this process was suspended for more than a minute.
        """
        if self._is_holder and self._is_lost(holder := _read(self._path)):
            raise RunError(
                f"{self._workdir} was taken over by {_name(holder)}, because this process did not renew its lock for "
                f"{PATIENCE:.0f} seconds. Nothing more is written."
            )

    def close(self) -> None:
        """Removes the lock, unless another process has taken over."""
        if not self._is_holder:
            return
        self._released.set()
        self._thread.join()
        if not self._is_lost(_read(self._path)):
            self._path.unlink(missing_ok=True)

    def _is_lost(self, holder: dict[str, Any]) -> bool:
        return holder["token"] not in (self._lease["token"], None)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_EVERY):
            if self._is_lost(_read(self._path)):
                return  # `check` reports it
            self._lease["renewed"] += 1
            with contextlib.suppress(OSError):  # if the disk is full, the run stops when it writes its results
                files.replace(self._path, json.dumps(self._lease))

    def _remove_if_dead(self, holder: dict[str, Any]) -> None:
        """Removes the lock if its holder is dead; raises UserError if it may be alive."""
        if holder["machine"] == self._lease["machine"]:
            is_alive = _started(holder["pid"]) == holder["started"]
        else:
            now = self._wait_for_change(holder)
            if now["token"] != holder["token"]:  # removed, or taken over by another process
                return
            is_alive = now != holder
        if is_alive:
            raise UserError(
                f"{self._workdir} is in use by {_name(holder)}. Wait until it ends, stop it, or use another --workdir."
            )
        if not files.is_local(self._path):
            self._path.unlink(missing_ok=True)
            return
        # Several processes may find the same dead holder. The one that creates this file removes its lock; no other
        # lock can be in its place meanwhile, because a lock is only created where there is none.
        claim = self._path.with_name(f"{NAME}.{holder['token']}.tmp")
        if files.create(claim, json.dumps(self._lease)):
            if self._path.exists() and _read(self._path)["token"] == holder["token"]:
                self._path.unlink()
            claim.unlink(missing_ok=True)
            return
        taker = _read(claim)
        if taker["machine"] == self._lease["machine"] and _started(taker["pid"]) != taker["started"]:  # killed
            claim.unlink(missing_ok=True)
        time.sleep(0.01)

    def _wait_for_change(self, holder: dict[str, Any]) -> dict[str, Any]:
        """Waits until the lock differs from `holder`, but not longer than `PATIENCE`; returns what it says then."""
        logging.warning(
            "%s names %s, which may have been killed; waiting up to %.0f seconds to see whether it renews its lock.",
            self._path, _name(holder), PATIENCE,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while (now := _read(self._path)) == holder and time.monotonic() < deadline:
            time.sleep(min(1.0, PATIENCE / 10))
        return now


def holder_of(path: epath.PathLike) -> str:
    """Returns the process of this machine that holds the lock of a workdir, in words; "" if none does."""
    holder = _read(epath.Path(path) / NAME)
    return _name(holder) if holder["machine"] == _machine() and is_alive(holder) else ""


def identity(pid: int) -> dict[str, Any]:
    """Returns what identifies a process of this machine, for `is_alive`."""
    return {"host": platform.node(), "pid": pid, "machine": _machine(), "started": _started(pid)}


def is_alive(process: dict[str, Any]) -> bool:
    """Returns whether a process runs, given its `identity`; one on another machine counts as running."""
    is_here = process.get("machine") == _machine()
    return not is_here or (process.get("started") is not None and _started(process.get("pid")) == process["started"])


def _read(path: epath.Path) -> dict[str, Any]:
    """Returns what a lock says; None for all that a file which is missing or not a lock does not say."""
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError):
        saved = None
    lease: dict[str, Any] = saved if isinstance(saved, dict) else {}
    return {name: lease.get(name) for name in ("host", "pid", "machine", "started", "token", "renewed")}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder["pid"] else "an unknown process"


def _machine() -> str:
    """Identifies the machine, its boot and its process namespace: within these, a process number means one process."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{platform.node()}/{uuid.getnode()}"


def _started(pid: Any) -> int | None:
    """Returns when a process of this machine started, in clock ticks since the boot; None if it does not run.

    Without `/proc`, this is 0 for every process that runs.
    """
    if not isinstance(pid, int) or pid < 1:
        return None
    if pathlib.Path("/proc/self/stat").exists():
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        state, started = fields[0], int(fields[19])
        return None if state in "ZX" else started  # killed, but not yet reaped by its parent
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # of another user
        return 0
    return 0
