"""Arrays on their way between the host and devices, which may belong to several processes."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding


def on_host(x: Any) -> np.ndarray:
    """Copies a whole array to the host, including shards on other processes."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if not x.is_fully_replicated:
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x.addressable_data(0))
    return np.asarray(x)


def distribute(x: Any, sharding: NamedSharding) -> jax.Array:
    """Places an array on the devices as `sharding` says; each process has the whole array."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
