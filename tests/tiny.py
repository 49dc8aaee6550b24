"""A tiny training run with all features, as a command in a separate process."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# checkpoints fall between log lines and evaluations, so that a resume has to carry half a window of metrics
FLAGS = {
    "duration": "30 steps",
    "batch_size": 32,
    "log_every": "4 steps",
    "eval_every": "10 steps",
    "checkpoint.every": "7 steps",
    "model.num_layers": 2,
    "model.hidden_dim": 16,
    "model.mlp_dim": 32,
    "model.dropout_rate": 0.1,
    "model.drop_path_rate": 0.1,
    "task.mixup_alpha": 0.2,
    "optimizer.ema_decay": 0.9,
    "optimizer.schedule.warmup": "5 steps",
}


def command(workdir: pathlib.Path, *arguments: str, **flags: object) -> list[str]:
    """Returns the command line; flags override `FLAGS`, with `__` for the dot."""
    merged = FLAGS | {name.replace("__", "."): value for name, value in flags.items()}
    merged.setdefault("compilation_cache", str(workdir.parent / "compilation_cache"))
    merged.setdefault("data.data_dir", str(workdir.parent / "data"))
    overrides = [f"--config.{name}={value}" for name, value in merged.items()]
    train = [sys.executable, "-m", "vit_jax", "train", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    return [*train, *overrides, *arguments]


def start(workdir: pathlib.Path, *arguments: str, devices: int = 1, **flags: object) -> subprocess.Popen:
    """Starts a run with the given number of devices; stdout and stderr share one pipe, as text."""
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        command(workdir, *arguments, **flags),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for a run that must succeed, and returns its output."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def signal_at(process: subprocess.Popen, line: str, signum: int) -> tuple[int, str]:
    """Sends a signal when a line with these words is printed; returns the exit status and the output."""
    output = []
    for printed in process.stdout:
        output.append(printed)
        if line in " ".join(printed.split()):
            process.send_signal(signum)
            break
    rest, _ = process.communicate()
    return process.returncode, "".join(output) + rest


def rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the rows of `metrics.jsonl` without timings."""
    from vit_jax.workdir.metrics import TIMINGS

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMINGS} for line in lines]


def state(workdir: pathlib.Path, step: int) -> dict:
    """Returns the arrays of a checkpoint, flat."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore((workdir / "checkpoints" / str(step) / "state").absolute())
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
