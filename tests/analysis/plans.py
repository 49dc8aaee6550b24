"""Plans of tiny runs on simulated devices, in a separate process: `python plans.py OUT.json`.

The number of devices comes from XLA_FLAGS.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from vit_jax.analysis.plan import make_plan, memory_of, step_memory
from vit_jax.config import default_config
from vit_jax.data.unread import unread_data
from vit_jax.devices.recompute import compiler_options
from vit_jax.experiment import Experiment, complete
from vit_jax.state import start
from vit_jax.train import compile_step

TINY = {"hidden_dim": 64, "mlp_dim": 256, "num_layers": 1, "num_heads": 2}
LIMIT = 12 * 2**20


def config_of(kind):
    config = default_config()
    config.update(batch_size=32, duration="7 steps")
    config.optimizer.ema_decay = 0.9
    if kind == "image":
        config.model.update(name="vit:Ti/8", dropout_rate=0.1, **TINY)
        config.data.update(name="folder", image_size=(32, 32))
        config.task.update(mixup_alpha=0.2)
    elif kind == "video":
        config.model.update(name="timesformer:Ti/8", **TINY)
        config.data.update(name="video", image_size=(16, 16), num_frames=4)
        config.accum_steps, config.model.num_layers, config.batch_size = 2, 4, 256
    else:
        config.model.update(name="transformer:base", **TINY)
        config.data.update(name="text", buckets=(8, 16), vocab_size=500)
        config.task.name = "translation"
        config.checkpoint.best = "bleu"
        config.batch_size = 1_024
    return config


def zeros_like(experiment, batch_size):
    """Returns real batches of the shapes that are planned."""
    for shapes in experiment.data.batch_shapes(batch_size):
        yield jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def planned_and_used(kind, strategy, remats, limit):
    """Returns the plan of a run, and the memory of the step compiled for its state and batches, which then runs."""
    config = config_of(kind)
    plan = make_plan(
        config, strategies=(strategy,), remats=remats, num_classes=10, examples=100, memory=limit, peak_tflops=2,
        utilisation=0.5,
    )  # fmt: skip
    config.parallel, config.model.remat = strategy, remats[0]
    config = complete(config)
    experiment = Experiment.assemble(config, unread_data(config, 10, 100))
    options = compiler_options(config, "cpu")
    used = 0
    for batch in zeros_like(experiment, config.batch_size):
        state, _ = start(experiment)
        placed = experiment.parallel.put_batch(batch)
        compiled = compile_step(experiment).lower(state, placed).compile(compiler_options=options)
        used = max(used, memory_of(compiled, batch, jax.device_count()).peak)
        state, _ = compiled(state, placed)
        assert int(experiment.parallel.fetch(state.step)) == 1
    found = {"plan": plan.to_dict(), "used": used}
    if limit:
        largest = plan.layouts[0].largest_batch
        next_one = largest + experiment.data.batch_unit * experiment.task.group
        found["around"] = [step_memory(experiment, size).peak for size in (largest, next_one)]
    return found


CASES = {
    "image/pmap": (("none",), LIMIT),
    "image/fsdp": (("none",), None),
    "video/pmap": (("full", "none"), None),
    "text/fsdp": (("dots",), None),
}

if __name__ == "__main__":
    found = {case: planned_and_used(*case.split("/"), *options) for case, options in CASES.items()}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
