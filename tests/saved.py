"""Workdirs with one checkpoint, written without training."""

import json
from typing import Any

from flax import struct


@struct.dataclass
class State:
    """The part of a training state that is read when a run is loaded."""

    params: dict
    ema: None = None


def save_run(workdir, params, config, labels, encoder) -> Any:
    """Writes a checkpoint at step 3; returns `workdir`."""
    from vit_jax.workdir.checkpoint import Checkpoints

    meta = {
        "config": json.loads(config.to_json()),
        "labels": list(labels),
        "preprocessing": {"key": encoder.key, **encoder.to_dict()},
    }
    checkpoints = Checkpoints(workdir)
    checkpoints.save(3, State(params), meta, None)
    checkpoints.wait()
    checkpoints.close()
    return workdir
