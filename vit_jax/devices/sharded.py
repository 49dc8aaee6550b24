"""The strategy `fsdp`: parameters and optimizer state sharded over the devices, and long sequences too."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax.devices.arrays import distribute, on_host
from vit_jax.models.placement import EXAMPLES, TOKENS

_AXIS, _SEQUENCE = "batch", "sequence"
_MESH = (_AXIS, _SEQUENCE)
_RULES = ((EXAMPLES, _AXIS), (TOKENS, _SEQUENCE))


class FullySharded:
    """The same step under `jax.jit` over a mesh: batch, parameters and optimizer state sharded over the devices.

    This is ZeRO-3 (arXiv:1910.02054), or FSDP. Each array is split along its largest dimension that is divisible by the
    number of devices; arrays of fewer than `smallest` elements stay replicated. The compiler inserts the sums over
    devices, so `axis_name` is None.
    """

    axis_name = None
    smallest = 2**14  # elements; sharding a smaller array costs more than it saves

    def __init__(self, sequence_devices: int = 1):
        self._mesh = Mesh(np.array(jax.devices()).reshape(-1, sequence_devices), (_AXIS, _SEQUENCE))

    def compile(self, step):
        def sharded(state, batch):  # without constraints, the compiler may choose another sharding for the new state
            with self._mesh, nn.logical_axis_rules(_RULES):
                state, sums = step(state, batch)
            constrain = jax.lax.with_sharding_constraint
            return jax.tree.map(lambda x: constrain(x, self._sharding(x.shape)), state), sums

        return jax.jit(sharded, donate_argnums=0)

    def compile_predict(self, predict):
        return jax.jit(predict, out_shardings=NamedSharding(self._mesh, P(_AXIS)))

    def with_weights(self, loss):
        """Gathers each array of parameters where it is used, and again in the backward pass, so that none is kept."""

        def gathering(params, *rest):
            return loss(jax.tree.map(self._gather, params), *rest)

        return jax.checkpoint(gathering, policy=_but_gathered)

    def init_state(self, make):
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(jax.eval_shape(make)))
        return jax.jit(make, out_shardings=shardings)()

    def put_state(self, state):
        return jax.tree.map(lambda x, y: distribute(x, y.sharding), state, self.abstract(state))

    def put_batch(self, batch):
        sharding = NamedSharding(self._mesh, P(_AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def abstract(self, state):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(x.shape)), state)

    def lower(self, compiled, state, batch):
        sharding = NamedSharding(self._mesh, P(_AXIS))
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), batch)
        return compiled.lower(self.abstract(state), batch)

    def globalise(self, state):
        return state

    def fetch(self, tree):
        return jax.tree.map(on_host, tree)

    def gather(self, rows):
        if jax.process_count() == 1:
            return jax.tree.map(np.asarray, rows)
        return multihost_utils.process_allgather(rows, tiled=True)

    def _gather(self, x):
        sharding = self._sharding(x.shape)
        if sharding.is_fully_replicated:
            return x

        @jax.custom_vjp
        def gather(x):
            return jax.lax.with_sharding_constraint(x, NamedSharding(self._mesh, P()))

        def scatter(_, gradient):
            return (jax.lax.with_sharding_constraint(gradient, sharding),)

        gather.defvjp(lambda x: (gather(x), None), scatter)
        return gather(x)

    def _sharding(self, shape):
        dims = [d for d, size in enumerate(shape) if size % self._mesh.size == 0]
        if not dims or np.prod(shape) < self.smallest:
            return NamedSharding(self._mesh, P())
        largest = max(dims, key=lambda d: shape[d])
        return NamedSharding(self._mesh, P(*(_MESH if d == largest else None for d in range(len(shape)))))


def _but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps everything except what only moves values between the devices."""
    return primitive.name != "sharding_constraint"
