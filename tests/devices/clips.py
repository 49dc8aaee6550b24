"""Updates with clips divided over devices, in a separate process: `python clips.py OUT.npz NAME,... [PORT I]`.

The number of devices comes from XLA_FLAGS; PORT and I make it process I of two. The names are those of `computed`.
"""

import sys
import tempfile

import jax
import numpy as np
import optax
from steps import flat, gathered

from vit_jax.analysis.plan import step_memory
from vit_jax.config import default_config
from vit_jax.data.loading.levels import Levels
from vit_jax.data.unread import unread_data
from vit_jax.errors import UserError
from vit_jax.evaluate import Evaluator, own_rows
from vit_jax.experiment import Experiment, complete
from vit_jax.state import start
from vit_jax.train import compile_step
from vit_jax.workdir.checkpoint import Checkpoints

CLIPS, FRAMES, SIDE = 16, 8, 6  # 9 patches of 2 x 2 pixels, which no number of devices divides
TINY = {"name": "timesformer:Ti/2", "hidden_dim": 32, "mlp_dim": 512, "num_layers": 1, "num_heads": 2}
CASES = {
    "divided": {"attention_type": "divided_space_time"},
    "joint": {"attention_type": "joint_space_time", "attention_kernel": "chunked", "scan_layers": True},
    "whole": {"attention_type": "divided_space_time"},
    "axial": {"attention_type": "axial", "cls_in_temporal_attention": True},
}
PLACED = {"divided": 4, "joint": 8, "whole": 1, "axial": 2}  # devices per clip


def experiment_of(devices_per_clip: int, frames: int = FRAMES, batch_size: int = CLIPS, **model) -> Experiment:
    config = default_config()
    config.update(parallel="fsdp", devices_per_clip=devices_per_clip, batch_size=batch_size, duration="9 steps")
    config.model.update(**({"dtype": "float64", "dropout_rate": 0.1, "weight_init": "scratch"} | TINY | model))
    config.data.update(name="video", num_frames=frames, image_size=(SIDE, SIDE))
    config.task.mixup_alpha = 0.2
    config.optimizer.update(name="sgd", ema_decay=0.9)  # its trace after one update is the gradient
    config.accum_steps = 2 if model.get("scan_layers") else 1
    config = complete(config)
    return Experiment.assemble(config, unread_data(config, 10, 100))


def example_batch() -> dict:
    """Returns clips as levels, with padding, so that weights differ between the devices."""
    rng = np.random.default_rng(0)
    scale = np.float32(rng.uniform(0.01, 0.02, (CLIPS, 3)))
    return {
        "video": Levels(rng.integers(0, 256, (CLIPS, FRAMES, SIDE, SIDE, 3), np.uint8), scale, 100 * scale),
        "label": rng.integers(0, 10, CLIPS).astype(np.int32),
        "mask": np.float32([1] * 12 + [0] * 4),
        "id": np.arange(CLIPS, dtype=np.int32),
    }


def update(experiment: Experiment) -> dict[str, np.ndarray]:
    """Returns the loss and the gradient of an update, and the logits of the clips after it."""
    parallel, batch = experiment.parallel, own_rows(example_batch())
    state, _ = start(experiment)
    state, sums = compile_step(experiment)(state, parallel.put_batch(batch))
    rows = next(Evaluator(experiment.model, experiment.task, parallel).rows(state.params, iter([batch])))
    found = flat("gradient", gathered(parallel, optax.tree.get(state.opt_state, "trace")))
    return found | {"loss": parallel.fetch(sums)["loss"].mean(), "logits": rows["logits"], "id": rows["id"]}


def restored() -> bool:
    """Returns whether a checkpoint of one placement is restored to another one."""
    ours, theirs = (experiment_of(count, dtype="float32") for count in (8, 2))
    state, _ = start(ours)
    expected = jax.tree.map(np.array, state)
    with tempfile.TemporaryDirectory() as workdir:
        checkpoints = Checkpoints(workdir)
        checkpoints.save(1, ours.parallel.globalise(state), {}, None)
        checkpoints.wait()
        found, _ = checkpoints.restore_latest(theirs.parallel.abstract(state))
        checkpoints.close()
    found = theirs.parallel.put_state(found)
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))


def temporary(attention_type: str, devices_per_clip: int) -> int:
    """Returns the bytes of activations on a device, with one clip for each group of devices."""
    groups = jax.device_count() // devices_per_clip
    fields = {"attention_type": attention_type, "dtype": "float32", "dropout_rate": 0.0}
    experiment = experiment_of(devices_per_clip, frames=64, batch_size=2 * groups, **fields)
    return step_memory(experiment, 2 * groups).temporary


def refusal() -> str:
    """Returns the message for a clip that would be divided over two processes."""
    try:
        experiment_of(2 * jax.local_device_count())
    except UserError as error:
        return str(error)
    return ""


def computed(name: str) -> dict[str, np.ndarray]:
    """Returns arrays by name: of an update of one of `CASES`, or of one of the checks above."""
    if name in CASES:
        return update(experiment_of(min(PLACED[name], jax.local_device_count()), **CASES[name]))
    if name == "memory":
        kinds = ("divided_space_time", "joint_space_time")
        return {kind: np.array([temporary(kind, count) for count in (1, 8)]) for kind in kinds}
    return {"": np.array({"restored": restored, "refusal": refusal}[name]())}


if __name__ == "__main__":
    out, names, *process = sys.argv[1:]
    if process:
        jax.distributed.initialize(f"localhost:{process[0]}", 2, int(process[1]))
    jax.config.update("jax_enable_x64", True)
    jax.random.beta = lambda key, *_: jax.random.uniform(key)  # Beta(1, 1); the general one takes long to compile
    found = {f"{name}:{key}": value for name in names.split(",") for key, value in computed(name).items()}
    if jax.process_index() == 0:
        np.savez(out, **found)
