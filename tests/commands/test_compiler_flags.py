"""What a command sets before JAX starts."""

import os
import subprocess
import sys

import pytest

from vit_jax.commands.shared import common


@pytest.mark.parametrize("on_cpu", [False, True])
def test_flags_for_a_gpu_leave_those_given_as_they_are(monkeypatch, on_cpu):
    given = "--xla_gpu_enable_triton_gemm=true"
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(common, "computes_on_cpu", lambda: on_cpu)
    common.use_gpu_flags()
    assert os.environ["XLA_FLAGS"] == (given if on_cpu else f"{given} --xla_gpu_dot_merger_threshold_mb=0")


def test_this_jax_knows_the_flags():
    """An unknown flag ends the process."""
    flags = " ".join(f"--{name}={value}" for name, value in common.GPU_FLAGS.items())
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=env, check=True, capture_output=True)
