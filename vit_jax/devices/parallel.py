"""Strategies that distribute training and evaluation over devices and processes.

A `Parallel` strategy compiles the pure functions of training and evaluation, places the state and the batches on the
devices, and copies results to the host. In a job of several processes (`jax.distributed`), each process supplies its
slice of every global batch.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.devices.placement import mapped, on_mesh
from vit_jax.errors import UserError, counted, nearest

PyTree = Any
_AXIS = "batch"
_FRAMES = "frames"


class Parallel(Protocol):
    """A strategy for distributing training and evaluation over all devices.

    Attributes:
      axis_name: Axis over which the step sums gradients and metrics; None if the compiler inserts the sums.
    """

    axis_name: str | None

    def compile(self, step: Callable) -> Callable:
        """Compiles `step(state, batch) -> (state, sums)`; the old state's memory is reused (donated)."""
        ...

    def compile_predict(self, predict: Callable) -> Callable:
        """Compiles `predict(params, batch) -> rows`, whose arrays have one row per example; read them with `gather`."""
        ...

    def init_state(self, make: Callable[[], PyTree]) -> PyTree:
        """Returns the state `make()`, placed as by `put_state`.

        `make` is compiled with this placement for its outputs, so that no device ever holds more than its own part of
        the state. The values do not depend on the strategy or the number of devices.
        """
        ...

    def put_state(self, state: PyTree) -> PyTree:
        """Places a state, from the host or from a checkpoint, as the compiled step expects it."""
        ...

    def put_batch(self, batch: PyTree) -> PyTree:
        """Starts to copy this process's slice of a global batch to its devices."""
        ...

    def abstract(self, state: PyTree) -> PyTree:
        """Returns the shapes, dtypes and global shardings of a state, into which a checkpoint is restored."""
        ...

    def lower(self, compiled: Callable, state: PyTree, batch: PyTree) -> Any:
        """Lowers what `compile` returned for a state and a global batch that are given by their shapes only.

        `.compile()` of the result compiles it. Nothing is allocated on the devices.
        """
        ...

    def globalise(self, state: PyTree) -> PyTree:
        """Returns the state as arrays that span all processes, as `abstract` describes them, for saving."""
        ...

    def fetch(self, tree: PyTree) -> PyTree:
        """Copies a replicated tree to the host."""
        ...

    def gather(self, rows: PyTree) -> PyTree:
        """Copies the rows of all processes to the host, in the order of the global batch."""
        ...


def make_parallel(name: str, devices_per_clip: int = 1) -> Parallel:
    """Returns the strategy called `name` over all devices: `pmap` (data parallel) or `fsdp` (fully sharded).

    Args:
      devices_per_clip: Number of devices that the frames of each clip are divided over; only for `fsdp`.

    Raises:
      UserError: `name` is not a strategy, or it cannot divide clips like this.
    """
    if name not in (strategies := ("pmap", "fsdp")):
        raise UserError(f"unknown config.parallel {name!r}{nearest(name, strategies)}")
    if name == "fsdp":
        return FullySharded(devices_per_clip)
    if devices_per_clip > 1:
        raise UserError(f"config.devices_per_clip={devices_per_clip} needs config.parallel='fsdp', got {name!r}")
    return DataParallel()


def batch_shares(devices_per_clip: int = 1) -> int:
    """Returns the number of shares of a global batch: one for each device, or for each group that shares clips.

    Raises:
      UserError: The devices of a process do not form groups of `devices_per_clip`.
    """
    local = jax.local_device_count()
    if local % devices_per_clip:
        where = "this process" if jax.process_count() > 1 else "this machine"
        groups = [count for count in range(1, local + 1) if local % count == 0]
        raise UserError(
            f"config.devices_per_clip={devices_per_clip} does not divide the {counted(local, 'devices')} of {where}, "
            f"which must hold whole clips; use one of {', '.join(map(str, groups))}"
        )
    return jax.device_count() // devices_per_clip


def check_clips(model: Any, devices_per_clip: int) -> None:
    """Checks that the clips of a model can be divided over devices by their frames.

    Raises:
      UserError: The model cannot compute divided clips, or its number of frames is not a multiple.
    """
    if devices_per_clip == 1:
        return
    given = f"config.devices_per_clip={devices_per_clip}"
    if not getattr(model, "divides_clips", False):
        raise UserError(
            f"{given} needs a TimeSformer with config.model.attention_type divided_space_time, joint_space_time or "
            "axial; other models compute an input on one device. Use 1."
        )
    if model.num_frames % devices_per_clip:
        raise UserError(f"{given} does not divide config.data.num_frames={model.num_frames}")


def check_batch_size(
    batch_size: int, accum_steps: int, key: str = "batch_size", group: int = 1, devices_per_clip: int = 1
) -> None:
    """Checks that a global batch divides evenly over devices and micro-batches.

    Args:
      key: Key of the config that holds `batch_size`, for the message.
      group: Consecutive examples that must stay together; see `micro_batches`.
      devices_per_clip: See `make_parallel`.

    Raises:
      UserError: It does not divide, or a share has a number of examples that is not a multiple of `group`.
    """
    if batch_size < 1 or accum_steps < 1:
        raise UserError(f"config.{key}={batch_size} and config.accum_steps={accum_steps} must be at least 1")
    shares = batch_shares(devices_per_clip)
    parts = counted(shares, "devices")
    if devices_per_clip > 1:
        parts = f"{counted(shares, 'groups')} of {devices_per_clip} devices"
    parts += f" x {accum_steps} accum_steps" if accum_steps > 1 else ""
    shares *= accum_steps
    if batch_size % shares:
        whole = max(batch_size // shares, 1) * shares
        raise UserError(f"config.{key}={batch_size} does not divide over {parts}; try {whole}")
    if batch_size // shares % group:
        whole = max(batch_size // (shares * group), 1) * shares * group
        share = counted(batch_size // shares, "examples")
        raise UserError(
            f"config.{key}={batch_size} over {parts} leaves {share} per share, but mixup and CutMix need a multiple of "
            f"{group} to form pairs; try {whole}, or set the mixing alphas to 0"
        )


def micro_batches(batch: PyTree, accum_steps: int, group: int = 1) -> PyTree:
    """Splits every array `(rows, ...)` of a batch into micro-batches `(accum_steps, rows / accum_steps, ...)`.

    Micro-batch m holds the groups m, m + accum_steps, m + 2 accum_steps, ... of `group` consecutive rows each. This
    stride takes the same number of rows from every contiguous share of the batch, so that no example moves to another
    device, and rows of one group (the pairs of mixup) stay together.
    """

    def split(x):
        groups = x.reshape(-1, accum_steps, group, *x.shape[1:]).swapaxes(0, 1)
        return groups.reshape(accum_steps, -1, *x.shape[1:])

    return jax.tree.map(split, batch)


def sum_over(function: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """Returns the sum of `function(x)` over the leading axis of `xs`, computed one element at a time.

    `function` is traced once, whatever the number of elements, and memory does not grow with that number.
    """
    first = jax.tree.map(lambda x: x[0], xs)
    if jax.tree.leaves(xs)[0].shape[0] == 1:
        return function(first)
    traced, constants = jax.closure_convert(function, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(traced, first, *constants))

    def add(total, x):
        return jax.tree.map(jnp.add, total, traced(x, *constants)), None

    return jax.lax.scan(add, zeros, xs)[0]


class DataParallel:
    """`jax.pmap` over all devices, with a replicated state that has no device axis.

    In a job of several processes, the arrays of each process are on the devices of that process.
    """

    axis_name: str | None = _AXIS

    def __init__(self):
        self._local = Mesh(np.array(jax.local_devices()), (_AXIS,))
        self._global = Mesh(np.array(jax.devices()), (_AXIS,))

    def compile(self, step):
        return jax.pmap(mapped()(step), axis_name=_AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)

    def compile_predict(self, predict):
        return jax.pmap(mapped()(predict), axis_name=_AXIS, in_axes=(None, 0), out_axes=0)

    def init_state(self, make):
        return jax.jit(make, out_shardings=NamedSharding(self._local, P()))()

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

    def lower(self, compiled, state, batch):
        def split(x):
            return jax.ShapeDtypeStruct((self._local.size, x.shape[0] // self._global.size, *x.shape[1:]), x.dtype)

        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        return compiled.lower(state, jax.tree.map(split, batch))

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

    This is ZeRO-3 (arXiv:1910.02054), or FSDP. Each array is split along its largest dimension that is divisible by the
    number of devices; arrays of fewer than `smallest` elements stay replicated. The compiler inserts the sums over
    devices, so `axis_name` is None.

    The mesh has an axis for the examples of a batch and one for the frames of a clip. `devices_per_clip` devices share
    every clip and its activations, and the batch is divided over groups of them. The state is always divided over all
    devices.
    """

    axis_name: str | None = None
    smallest = 2**14  # elements; sharding a smaller array costs more than it saves

    def __init__(self, devices_per_clip: int = 1):
        batch_shares(devices_per_clip)  # raises if it does not divide the devices
        self._mesh = Mesh(np.array(jax.devices()).reshape(-1, devices_per_clip), (_AXIS, _FRAMES))
        self._placing = functools.partial(on_mesh, self._mesh if self._mesh.size > 1 else None)

    def compile(self, step):
        def sharded(state, batch):  # without constraints, the compiler may choose another sharding for the new state
            with self._placing():
                state, sums = step(state, batch)
            constrain = jax.lax.with_sharding_constraint
            return jax.tree.map(lambda x: constrain(x, self._sharding(x.shape)), state), sums

        return jax.jit(sharded, donate_argnums=0)

    def compile_predict(self, predict):
        def sharded(params, batch):
            with self._placing():
                return predict(params, batch)

        return jax.jit(sharded, out_shardings=NamedSharding(self._mesh, P(_AXIS)))

    def init_state(self, make):
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(jax.eval_shape(make)))
        return jax.jit(make, out_shardings=shardings)()

    def put_state(self, state):
        return jax.tree.map(lambda x, y: _distribute(x, y.sharding), state, self.abstract(state))

    def put_batch(self, batch):
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._rows(x), x), batch)

    def abstract(self, state):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(x.shape)), state)

    def lower(self, compiled, state, batch):
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._rows(x)), batch)
        return compiled.lower(self.abstract(state), batch)

    def globalise(self, state):
        return state

    def fetch(self, tree):
        return jax.tree.map(_on_host, tree)

    def gather(self, rows):
        if jax.process_count() == 1:
            return jax.tree.map(np.asarray, rows)
        return multihost_utils.process_allgather(rows, tiled=True)

    def _rows(self, x):
        """Returns the sharding of an entry of a batch; only clips have five axes, rows and frames first."""
        return NamedSharding(self._mesh, P(_AXIS, _FRAMES) if x.ndim == 5 else P(_AXIS))

    def _sharding(self, shape):
        dims = [d for d, size in enumerate(shape) if size % self._mesh.size == 0]
        if not dims or np.prod(shape) < self.smallest:
            return NamedSharding(self._mesh, P())
        largest = max(dims, key=lambda d: shape[d])
        return NamedSharding(self._mesh, P(*((_AXIS, _FRAMES) if d == largest else None for d in range(len(shape)))))


def _on_host(x: Any) -> np.ndarray:
    """Copies a whole array to the host, including shards on other processes."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if not x.is_fully_replicated:
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x.addressable_data(0))
    return np.asarray(x)


def _distribute(x: Any, sharding: NamedSharding) -> jax.Array:
    """Places an array on the devices as `sharding` says; each process has the whole array."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
