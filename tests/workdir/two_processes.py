"""One of two processes that agree: `python two_processes.py CASE FOLDER`, in the environment of Open MPI or Slurm.

Prints its results as JSON.
"""

import json
import logging
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.__main__ import reported
from vit_jax.devices.interrupts import Interrupts
from vit_jax.devices.job import initialize_distributed
from vit_jax.devices.parallel import make_parallel
from vit_jax.errors import UserError
from vit_jax.workdir.checkpoint import Checkpoints

STEPS = 40


def train(folder):
    """Runs steps until a signal, which this process sends itself if it is process 1, and saves a checkpoint."""
    parallel = make_parallel("fsdp")
    state = parallel.init_state(lambda: {"w": jnp.zeros((4, 2**14)), "step": jnp.int32(0)})
    step_fn = parallel.compile(lambda state, batch: ({"w": state["w"] + batch.sum(), "step": state["step"] + 1}, ()))
    checkpoints, step = Checkpoints(folder), 0
    with Interrupts() as interrupts:
        while step < STEPS and not interrupts.requested(step):
            step += 1
            state, _ = step_fn(state, parallel.put_batch(np.ones((2, 1), np.float32)))
            if step == 7 and jax.process_index() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        checkpoints.save(step, parallel.globalise(state), {}, None)
        checkpoints.wait()
    restored, _ = checkpoints.restore_latest(parallel.abstract(state))
    checkpoints.close()
    values = np.unique([np.asarray(shard.data) for shard in restored["w"].addressable_shards])
    return {"step": step, "signum": interrupts.signum, "saved": int(restored["step"]), "values": values.tolist()}


def damaged(folder):
    """Restores where process 1 cannot read the newest checkpoint, though process 0 can."""
    parallel, checkpoints = make_parallel("fsdp"), Checkpoints(folder, keep_last=3)
    state = parallel.init_state(lambda: {"w": jnp.ones((4, 2**14))})
    for step in (1, 2, 3):
        checkpoints.save(step, jax.tree.map(lambda x, factor=step: x * factor, state), {"step": step}, None)
    checkpoints.wait()
    read, asked = checkpoints._read, []

    def unreadable(step, abstract):
        asked.append(step)
        if step == 3 and jax.process_index() == 1:
            raise OSError("input/output error")
        time.sleep(jax.process_index())
        return read(step, abstract)

    checkpoints._read = unreadable
    restored, meta = checkpoints.restore_latest(parallel.abstract(state))
    kept = list(checkpoints._manager.all_steps())
    checkpoints.close()
    values = np.unique([np.asarray(shard.data) for shard in restored["w"].addressable_shards])
    return {"asked": asked, "meta": meta, "kept": kept, "values": values.tolist()}


def fails(folder):
    """Process 1 fails with a message of its own while process 0 waits for it in a collective operation."""
    if jax.process_index() == 1:
        raise UserError("b.png is not an image")
    return {"sum": int(multihost_utils.process_allgather(np.int32(1)).sum())}


def killed(which):
    """One of the processes is killed between two collective operations."""
    for step in range(10_000):
        multihost_utils.process_allgather(np.int32(1))
        if step == 3 and jax.process_index() == which:
            os.kill(os.getpid(), signal.SIGKILL)


def joined(_):
    total = jax.pmap(lambda x: jax.lax.psum(x, "i"), axis_name="i")(jnp.ones(jax.local_device_count()))
    return {"sum": float(total[0])}


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    initialize_distributed()
    cases = {"train": train, "damaged": damaged, "joined": joined, "fails": fails}
    cases |= {f"killed {i}": lambda folder, i=i: killed(i) for i in (0, 1)}

    def run():
        found = cases[sys.argv[1]](pathlib.Path(sys.argv[2])) or {}
        print(json.dumps({"process": jax.process_index(), "processes": jax.process_count(), **found}))
        return 0

    sys.exit(reported(run))
