"""Updates a tiny TimeSformer whose tokens are divided among devices, in a separate process.

`python sequences.py OUT.npz [PORT I]`. The number of devices comes from XLA_FLAGS; PORT and I make it process I of two.
"""

import sys
import types

import jax
import numpy as np
import optax
from steps import flat, gathered

from vit_jax.config import default_config
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.experiment import Experiment
from vit_jax.state import start
from vit_jax.train import compile_step

CASES = (
    ("joint_space_time", "pmap", 1),
    ("joint_space_time", "fsdp", 1),
    ("joint_space_time", "fsdp", 2),
    ("divided_space_time", "pmap", 1),
    ("divided_space_time", "fsdp", 2),
)
CLIPS, FRAMES, SIDE = 4, 8, 8


def batches():
    """Yields this process's slices of batches with padding."""
    rng = np.random.default_rng(0)
    share = CLIPS // jax.process_count()
    for _ in range(2):
        batch = {
            "video": rng.normal(size=(CLIPS, FRAMES, SIDE, SIDE, 3)),
            "label": rng.integers(0, 10, CLIPS),
            "mask": np.float32([1, 1, 1, 0]),
        }
        yield {name: value[jax.process_index() * share :][:share] for name, value in batch.items()}


def experiment_of(attention_type, strategy, sequence_devices):
    config = default_config()
    config.model.update(name="timesformer:Ti/4", hidden_dim=64, mlp_dim=256, num_layers=1, num_heads=2)
    config.model.update(attention_type=attention_type, drop_path_rate=0.0, dtype="float64", weight_init="scratch")
    config.model.update(attention_kernel="chunked", remat="full")
    config.data.update(image_size=(SIDE, SIDE), num_frames=FRAMES)
    config.update(batch_size=CLIPS, duration="2 steps", parallel=strategy, sequence_devices=sequence_devices)
    config.optimizer.update(name="sgd")  # its trace after one update is the gradient
    encoder = ClipPreprocessing(FRAMES, (SIDE, SIDE), 3, "first", "normalize(mean=0.5, std=0.5)")
    data = types.SimpleNamespace(encoder=encoder, labels=tuple("0123456789"), steps_per_epoch=100)
    return Experiment.assemble(config, data)


def updates(*case):
    """Returns the losses, and the gradient of the first update."""
    experiment = experiment_of(*case)
    parallel = experiment.parallel
    step, (state, _), losses, found = compile_step(experiment), start(experiment), [], {}
    for batch in batches():
        state, sums = step(state, parallel.put_batch(batch))
        found = found or flat("gradient", gathered(parallel, optax.tree.get(state.opt_state, "trace")))
        losses.append(parallel.fetch(sums)["loss"].mean())
    return found | {"losses": np.array(losses)}


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
