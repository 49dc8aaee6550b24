"""Updates a tiny ViT with every strategy, in a separate process: `python steps.py OUT.npz [PORT I]`.

The number of devices comes from XLA_FLAGS; PORT and I make it process I of two.
"""

import functools
import sys
import types

import jax
import numpy as np
import optax

from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.experiment import Experiment
from vit_jax.state import start
from vit_jax.train import train_step

CASES = (("pmap", "float32", 1), ("pmap", "float64", 1), ("pmap", "float64", 2), ("fsdp", "float64", 2))
BATCH_SIZE, UPDATES = 16, 20


def batches():
    """Yields this process's slices of batches with padding, so that weights differ between the shares."""
    rng = np.random.default_rng(0)
    share = BATCH_SIZE // jax.process_count()
    for _ in range(UPDATES):
        batch = {
            "image": rng.normal(size=(BATCH_SIZE, 8, 8, 1)),
            "label": rng.integers(0, 10, BATCH_SIZE),
            "mask": np.float32([1] * 11 + [0] * 5),
        }
        yield {name: value[jax.process_index() * share :][:share] for name, value in batch.items()}


def updates(strategy: str, dtype: str, accum_steps: int) -> dict[str, np.ndarray]:
    """Returns the losses, the gradient of the first update and the moving average after the last."""
    config = default_config()
    # of the smallest kernels that fsdp shards, 64 x 256
    config.model.update(name="vit:Ti/2", hidden_dim=64, mlp_dim=256, num_layers=1, num_heads=4, dtype=dtype)
    config.data.update(image_size=(8, 8), channels=1)
    config.update(batch_size=BATCH_SIZE, duration=f"{UPDATES} steps")
    config.optimizer.update(name="sgd", ema_decay=0.9)  # its trace after one update is the gradient
    config.optimizer.schedule.peak = 0.1
    config.parallel = strategy
    encoder = Preprocessing((8, 8), 1, "normalize(mean=0.5, std=0.5)")
    data = types.SimpleNamespace(encoder=encoder, labels=tuple("0123456789"), steps_per_epoch=100)
    experiment = Experiment.assemble(config, data)
    model, task, tx, parallel = (getattr(experiment, name) for name in ("model", "task", "tx", "parallel"))
    step = functools.partial(
        train_step, model=model, task=task, tx=tx, axis_name=parallel.axis_name, accum_steps=accum_steps, ema_decay=0.9
    )
    compiled, (state, _), losses, result = parallel.compile(step), start(experiment), [], {}
    for batch in batches():
        state, sums = compiled(state, parallel.put_batch(batch))
        if not losses:
            result = flat("gradient", gathered(parallel, optax.tree.get(state.opt_state, "trace")))
        losses.append(parallel.fetch(sums)["loss"].mean())
    return result | flat("ema", gathered(parallel, state.ema)) | {"losses": np.array(losses)}


def gathered(parallel, tree):
    """Copies a tree that may be sharded over processes to the host."""
    replicate = jax.jit(
        lambda tree: tree, out_shardings=jax.tree.leaves(parallel.abstract({"x": np.zeros(())}))[0].sharding
    )
    return parallel.fetch(replicate(parallel.globalise(tree)))


def flat(prefix, tree):
    return {prefix + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


if __name__ == "__main__":
    if len(sys.argv) > 2:
        jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]))
    jax.config.update("jax_enable_x64", True)
    everything = {}
    for case in CASES:
        for name, value in updates(*case).items():
            everything["-".join(map(str, case)) + ":" + name] = value
    if jax.process_index() == 0:
        np.savez(sys.argv[1], **everything)
