"""Devices: the only file that knows how many there are.

A strategy compiles the pure step, puts state and batches on the devices and fetches results. With several processes
(`jax.distributed`) each puts its slice of the global batch.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.errors import UserError, nearest

PyTree = Any
_AXIS = "batch"


class Parallel(Protocol):
    axis_name: str | None  # what the step sums over; None where the compiler does it

    def compile(self, step: Callable) -> Callable:
        """Compiles `step(state, batch) -> (state, sums)`, donating the state."""
        ...

    def compile_predict(self, predict: Callable) -> Callable:
        """Compiles `predict(params, batch) -> rows`, one row an example; read them with `gather`."""
        ...

    def put_state(self, state: PyTree) -> PyTree:
        """Puts a state, on the host or restored, where `compile`'s step wants it."""
        ...

    def put_batch(self, batch: PyTree) -> PyTree:
        """Starts copying this process's slice of a global batch to its devices."""
        ...

    def abstract(self, state: PyTree) -> PyTree:
        """Returns shapes, dtypes and shardings over all processes: the target of restoring."""
        ...

    def globalise(self, state: PyTree) -> PyTree:
        """Returns the state as arrays over all processes, as `abstract` describes them: what is saved."""
        ...

    def fetch(self, tree: PyTree) -> PyTree:
        """Copies a replicated tree to the host."""
        ...

    def gather(self, rows: PyTree) -> PyTree:
        """Copies rows of all processes to the host, in the order of the global batch."""
        ...


def initialize_distributed(coordinator: str | None = None, processes: int | None = None, process: int | None = None):
    """Joins the processes of a job: those of the arguments, else of Slurm, Open MPI or a TPU pod where there are any.

    Raises:
      UserError: Some of the three are given, but not all.
    """
    given = [argument is not None for argument in (coordinator, processes, process)]
    if all(given):
        jax.distributed.initialize(coordinator, processes, process)
    elif any(given):
        raise UserError("--coordinator, --num_processes and --process_id go together")
    else:
        counts = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
        if any(int(count) > 1 for count in counts) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
            jax.distributed.initialize()


def make_parallel(name: str) -> Parallel:
    """Returns the strategy `pmap` or `fsdp` over all devices."""
    strategies = {"pmap": DataParallel, "fsdp": FullySharded}
    if name not in strategies:
        raise UserError(f"unknown config.parallel {name!r}{nearest(name, strategies)}")
    return strategies[name]()


def check_batch_size(batch_size: int, accum_steps: int, key: str = "batch_size") -> None:
    """Raises UserError if a batch does not divide evenly over micro-batches and devices."""
    if batch_size < 1 or accum_steps < 1:
        raise UserError(f"config.{key}={batch_size} and config.accum_steps={accum_steps} must be at least 1")
    devices = jax.device_count()
    if batch_size % (devices * accum_steps):
        parts = f"{devices} devices" + (f" x {accum_steps} accum_steps" if accum_steps > 1 else "")
        whole = max(batch_size // (devices * accum_steps), 1) * devices * accum_steps
        raise UserError(f"config.{key}={batch_size} does not divide over {parts}; try {whole}")


class DataParallel:
    """`jax.pmap` over every device, the state an ordinary replicated array without a device axis.

    In a job of several processes pmap's arrays live on the devices of their process.
    """

    axis_name = _AXIS

    def __init__(self):
        self._local = Mesh(np.array(jax.local_devices()), (_AXIS,))
        self._global = Mesh(np.array(jax.devices()), (_AXIS,))

    def compile(self, step):
        return jax.pmap(step, axis_name=_AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)

    def compile_predict(self, predict):
        return jax.pmap(predict, axis_name=_AXIS, in_axes=(None, 0), out_axes=0)

    def put_state(self, state):
        sharding = NamedSharding(self._local, P())
        return jax.tree.map(lambda x: jax.device_put(_on_host(x), sharding), state)

    def put_batch(self, batch):
        devices = self._local.size
        sharding = NamedSharding(self._local, P(_AXIS))
        split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        return jax.device_put(split, sharding)

    def abstract(self, state):
        sharding = NamedSharding(self._global, P())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)

    def globalise(self, state):
        sharding = NamedSharding(self._global, P())

        def join(x):
            return jax.make_array_from_single_device_arrays(
                x.shape, sharding, [shard.data for shard in x.addressable_shards]
            )

        return jax.tree.map(join, state)

    def fetch(self, tree):
        return jax.tree.map(_on_host, tree)

    def gather(self, rows):
        rows = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), rows)
        if jax.process_count() == 1:
            return rows
        return multihost_utils.process_allgather(rows, tiled=True)


class FullySharded:
    """The same step under `jax.jit` over a mesh: batch, parameters and optimizer state sharded over the devices.

    ZeRO-3 / FSDP (arXiv:1910.02054). Each array is split along its largest dimension that the devices divide;
    small ones stay replicated. The compiler inserts the sums, so `axis_name` is None.
    """

    axis_name = None
    smallest = 2**14  # elements: sharding less than this costs more than it saves

    def __init__(self):
        self._mesh = Mesh(np.array(jax.devices()), (_AXIS,))

    def compile(self, step):
        def sharded(state, batch):  # left to itself the compiler may return another sharding than it was given
            state, sums = step(state, batch)
            constrain = jax.lax.with_sharding_constraint
            return jax.tree.map(lambda x: constrain(x, self._sharding(x.shape)), state), sums

        return jax.jit(sharded, donate_argnums=0)

    def compile_predict(self, predict):
        return jax.jit(predict, out_shardings=NamedSharding(self._mesh, P(_AXIS)))

    def put_state(self, state):
        return jax.tree.map(lambda x, y: _distribute(x, y.sharding), state, self.abstract(state))

    def put_batch(self, batch):
        sharding = NamedSharding(self._mesh, P(_AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def abstract(self, state):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(x.shape)), state)

    def globalise(self, state):
        return state

    def fetch(self, tree):
        return jax.tree.map(_on_host, tree)

    def gather(self, rows):
        if jax.process_count() == 1:
            return jax.tree.map(np.asarray, rows)
        return multihost_utils.process_allgather(rows, tiled=True)

    def _sharding(self, shape):
        dims = [d for d, size in enumerate(shape) if size % self._mesh.size == 0]
        if not dims or np.prod(shape) < self.smallest:
            return NamedSharding(self._mesh, P())
        largest = max(dims, key=lambda d: shape[d])
        return NamedSharding(self._mesh, P(*(_AXIS if d == largest else None for d in range(len(shape)))))


def _on_host(x: Any) -> np.ndarray:
    """Copies an array; one that spans processes must be replicated."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(x.addressable_data(0))
    return np.asarray(x)


def _distribute(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
