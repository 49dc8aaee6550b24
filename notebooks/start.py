"""The first lines of each notebook: makes vit_jax importable, and a folder for figures."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "runs" / "notebooks" / "figures"


def begin() -> None:
    """Installs vit_jax from this checkout if the environment does not have it, and prints the devices of JAX.

    The installation includes JAX for GPUs if there is one. Figures go into `FIGURES`, which is created.

    Raises:
      CalledProcessError: pip failed; it has printed the reason.
    """
    try:
        importlib.metadata.version("vit_jax")
    except importlib.metadata.PackageNotFoundError:
        extras = "notebooks,cuda" if shutil.which("nvidia-smi") else "notebooks"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[{extras}]"], check=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    # cells that train start processes of their own, which need some of a GPU's memory too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.path.insert(0, str(ROOT))  # a running kernel does not see an editable installation
    import jax

    print(f"JAX {jax.__version__} on {jax.device_count()} x {jax.devices()[0].device_kind}")


def vit_jax(*arguments: str) -> None:
    """Runs `python -m vit_jax` with these arguments, and prints what it prints.

    Raises:
      SystemExit: The command failed.
    """
    command = [sys.executable, "-m", "vit_jax", *arguments]
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env={**plain, "TERM": "dumb"}, **pipe) as process:  # without a progress bar
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        sys.exit(process.returncode)
