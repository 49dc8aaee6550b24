"""Updates with mixing, and a sharded state, in a separate process: `python mixing_devices.py OUT.npz`.

The number of devices comes from XLA_FLAGS.
"""

import functools
import itertools
import sys
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.devices.parallel import make_parallel
from vit_jax.evaluate import Evaluator
from vit_jax.state import TrainState
from vit_jax.tasks.classification import Classification
from vit_jax.train import train_step
from vit_jax.workdir.checkpoint import Checkpoints

STRATEGIES, ACCUM_STEPS = ("pmap", "fsdp"), (1, 2, 4)
SEEDS = {"mixup": 2, "cutmix": 3}  # of the step's random key: which of the two it chooses
jax.random.beta = lambda key, *_: jax.random.uniform(key)  # Beta(1, 1); the general one takes long to compile
TRACED = []  # shapes with which the model has been traced
EXAMPLES, CLASSES, SIZE = 64, 10, 8  # two examples for each of 8 devices and 4 micro-batches


class Perceptron(nn.Module):
    """A model with one kernel that is large enough to be sharded."""

    width: int

    @nn.compact
    def __call__(self, images, *, train):
        TRACED.append(images.shape)
        hidden = nn.tanh(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        return nn.Dense(CLASSES)(hidden)


def make_batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(EXAMPLES, SIZE, SIZE, 1)).astype(np.float32),
        "label": rng.integers(0, CLASSES, EXAMPLES).astype(np.int32),
        "mask": np.float32([1] * 50 + [0] * 14),
        "id": np.arange(EXAMPLES, dtype=np.int32),
    }


def make_state(model, tx):
    init_rng, step_rng = jax.random.split(jax.random.PRNGKey(0))
    params = model.init(init_rng, jnp.zeros((1, SIZE, SIZE, 1)), train=False)["params"]
    return TrainState(jnp.int32(0), params, tx.init(params), None, step_rng)


def compile_step(model, task, tx, parallel, accum_steps=1):
    settings = {"model": model, "task": task, "tx": tx, "axis_name": parallel.axis_name, "accum_steps": accum_steps}
    return parallel.compile(functools.partial(train_step, **settings))


def gradients():
    """Yields the gradient of one step for every strategy, number of micro-batches and way of mixing."""
    tx = optax.trace(0.0)  # its state after one update is the gradient
    task, model = Classification(CLASSES, label_smoothing=0.1, mixup_alpha=0.8, cutmix_alpha=1.0), Perceptron(512)
    initial = jax.tree.map(np.asarray, jax.jit(lambda: make_state(model, tx))())
    for strategy, accum_steps in itertools.product(STRATEGIES, ACCUM_STEPS):
        parallel = make_parallel(strategy)
        step = compile_step(model, task, tx, parallel, accum_steps)
        TRACED.clear()
        for mix, seed in SEEDS.items():
            state = parallel.put_state(initial.replace(rng=jax.random.PRNGKey(seed)))
            state, sums = step(state, parallel.put_batch(make_batch()))
            name = f"{mix} {strategy} {accum_steps}"
            yield f"{name} loss", parallel.fetch(sums)["loss"].mean()
            yield f"{name} traces", len(TRACED)
            gradient = jax.tree.leaves(jax.tree.map(np.asarray, state.opt_state.trace))
            yield f"{name} gradient", np.concatenate([leaf.ravel() for leaf in gradient])


def largest_share(tree):
    """Returns the most bytes that any device holds of all live arrays, as a share of the bytes of `tree`."""
    held = {device: {} for device in jax.devices()}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:  # several arrays may share a buffer
            held[shard.device][shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return max(sum(buffers.values()) for buffers in held.values()) / sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def equal(ours, theirs):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs)))


def sharded():
    """Yields what a device holds of a state under fsdp, from its initialisation to its restoration."""
    model, tx, task = Perceptron(2**14), optax.adam(1e-3), Classification(CLASSES, mixup_alpha=0.8)
    reference = jax.tree.map(np.array, jax.jit(lambda: make_state(model, tx))())  # copies: no device holds it
    for strategy in STRATEGIES:
        parallel = make_parallel(strategy)
        state = parallel.init_state(lambda: make_state(model, tx))
        yield f"{strategy} equal", equal(state, reference)
        placed = parallel.put_state(reference)
        same = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), state, placed)
        yield f"{strategy} placement", all(jax.tree.leaves(same))
        del state, placed

    shardings = jax.tree.map(lambda x: x.sharding, parallel.abstract(reference))
    memory = jax.jit(lambda: make_state(model, tx), out_shardings=shardings).lower().compile().memory_analysis()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(reference))
    yield "program", (memory.temp_size_in_bytes + memory.output_size_in_bytes) / whole

    state = parallel.init_state(lambda: make_state(model, tx))
    yield "initialised", largest_share(reference)
    state, _ = compile_step(model, task, tx, parallel)(state, parallel.put_batch(make_batch()))
    jax.block_until_ready(state)
    yield "stepped", largest_share(reference)
    evaluator = Evaluator(model, task, parallel)
    result = evaluator.evaluate(state.params, iter([make_batch()]))
    yield "examples", result["examples"]
    yield "evaluated", largest_share(reference)
    rows = next(evaluator.rows(state.params, iter([make_batch()])))
    yield "rows", len(rows["logits"])
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = Checkpoints(workdir)
        checkpoints.save(1, state, {}, None)
        checkpoints.wait()
        expected, abstract = jax.tree.map(np.array, state), parallel.abstract(state)
        del state
        restored, _ = checkpoints.restore_latest(abstract)
        checkpoints.close()
    yield "restored", largest_share(reference)
    yield "restored equal", equal(restored, expected)


if __name__ == "__main__":
    results = dict(gradients())
    if jax.device_count() == 8:
        results |= {f"sharded {name}": value for name, value in sharded()}
    np.savez(sys.argv[1], **results)
