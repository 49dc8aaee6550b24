"""Exercises the strategies on several devices, in a separate process: `python on_devices.py OUT.npz`.

The number of devices comes from XLA_FLAGS. Every check is a few arrays in OUT; the tests compare them with numpy.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Linear, SquaredError, new_state, train_step

from vit_jax.devices.parallel import make_parallel

DEVICES = 4
SHAPES = {
    "wide kernel": (128, 256),
    "tall kernel": (512, 64),
    "three axes": (8, 256, 16),
    "odd width": (128, 257),
    "odd height": (257, 128),
    "all odd": (129, 257),
    "square kernel": (128, 128),
    "just too small": (4, 4092),
    "bias": (256,),
    "long vector": (2**15,),
    "scalar": (),
}
FEATURES = 2**14  # so that the kernel of the linear model is sharded, too


def example_batch():
    """Returns 8 examples whose weights differ between devices."""
    rng = np.random.default_rng(0)
    return {
        "inputs": (rng.normal(size=(8, FEATURES)) / 128).astype(np.float32),
        "target": rng.normal(size=8).astype(np.float32),
        "mask": np.float32([0, 1, 0, 0, 1, 1, 1, 1]),
        "slot": np.arange(8, dtype=np.int32),
    }


def example_kernel():
    return (np.random.default_rng(1).normal(size=FEATURES) / 128).astype(np.float32)


def shard_shape(x):
    """Returns the shape of the piece of an array that each device holds."""
    (shape,) = {shard.data.shape for shard in x.addressable_shards}
    assert len({shard.device for shard in x.addressable_shards}) == DEVICES
    return shape


def placement(parallel):
    """Yields the shapes of the pieces: as promised for restoring, as put, and as a compiled step returns them."""
    state = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    abstract, put = parallel.abstract(state), parallel.put_state(state)

    def total(state, batch):
        n = batch["x"].sum()
        return state, {"n": jax.lax.psum(n, parallel.axis_name) if parallel.axis_name else n}

    step = parallel.compile(total)
    for name, shape in SHAPES.items():
        yield f"promised/{name}", abstract[name].sharding.shard_shape(shape)
        yield f"put/{name}", shard_shape(put[name])
    returned, sums = step(put, parallel.put_batch({"x": np.arange(8, dtype=np.float32)}))
    for name in SHAPES:
        yield f"returned/{name}", shard_shape(returned[name])
        yield f"saved/{name}", shard_shape(parallel.globalise(returned)[name])
    yield "sum of the batch", parallel.fetch(sums)["n"]
    yield "donated", [x.is_deleted() for x in jax.tree.leaves(put)]


def prediction(parallel):
    """Yields what `gather` brings back: rows in the order of the batch."""
    predict = parallel.compile_predict(lambda params, batch: {"rows": batch["x"] * params["scale"]})
    params = parallel.put_state({"scale": np.float32(10)})
    batch = parallel.put_batch({"x": np.arange(24, dtype=np.float32).reshape(8, 3)})
    yield "predicted", parallel.gather(predict(params, batch))["rows"]
    yield "gathered batch", parallel.gather(batch)["x"]


def updates(parallel, accum_steps):
    """Yields kernel, average and metrics after one update, and the random numbers of every example."""
    tx = optax.sgd(0.5)
    step = functools.partial(
        train_step, model=Linear(), task=SquaredError(), tx=tx, axis_name=parallel.axis_name,
        accum_steps=accum_steps, ema_decay=0.9,
    )  # fmt: skip
    kernel = example_kernel()
    state = parallel.put_state(new_state({"kernel": jnp.array(kernel)}, tx, ema={"kernel": jnp.zeros_like(kernel)}))
    state, sums = parallel.compile(step)(state, parallel.put_batch(example_batch()))
    yield "kernel", np.asarray(state.params["kernel"])
    yield "ema", np.asarray(state.ema["kernel"])
    yield "step", parallel.fetch(state.step)
    for name, (value, weight) in parallel.fetch(sums).items():
        yield f"{name}/value", value
        yield f"{name}/weight", weight


if __name__ == "__main__":
    assert jax.device_count() == DEVICES
    found = {}
    for strategy in ("pmap", "fsdp"):
        parallel = make_parallel(strategy)
        checks = {"placement": placement(parallel), "prediction": prediction(parallel)}
        checks |= {f"update {accum_steps}": updates(parallel, accum_steps) for accum_steps in (1, 2)}
        for check, values in checks.items():
            found |= {f"{strategy}/{check}/{name}": value for name, value in values}
    np.savez(sys.argv[1], **{name: np.asarray(value) for name, value in found.items()})
