"""Programs on simulated devices, each in a process of its own, which write what they found to an `.npz` file."""

import os
import socket
import subprocess
import sys

import numpy as np
import tiny


def start(program, out, devices, *arguments):
    environment = os.environ | {
        # the programs run for a second and would be optimised for a minute
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(out.parent / "compiled"),  # the cases share their initialisation
        "PYTHONPATH": str(tiny.ROOT),
    }
    command = [sys.executable, str(tiny.ROOT / "tests" / "devices" / program), str(out), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def results(out, *processes):
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return dict(np.load(out))


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
