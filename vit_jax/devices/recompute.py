"""Makes XLA compute again on CPUs what `jax.checkpoint` does not keep.

JAX puts a barrier between the forward pass and what the backward pass computes again. XLA's CPU compiler of JAX 0.10
removes it, and then finds that the same values exist already: they are kept, and `config.model.remat` has no effect. A
pass that is disabled keeps the barrier. Other devices and later versions need nothing.

This module does not import JAX, because XLA reads its flags when JAX starts.
"""

import os
from typing import Any

_PASSES, _BARRIER = "xla_disable_hlo_passes", "cse_barrier_expander"


def recomputes(config: Any) -> bool:
    """Returns whether the training step of a config computes something again in its backward pass."""
    return config.model.remat not in (None, "none")


def keep_barriers(config: Any) -> None:
    """Sets the flag for the process, if the config needs it. Call this before JAX starts."""
    flags = os.environ.get("XLA_FLAGS", "")
    if recomputes(config) and _PASSES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_PASSES}={_BARRIER}".strip()


def compiler_options(config: Any, platform: str) -> dict[str, str]:
    """Returns the same as options of a single compilation on a platform, for processes that have started JAX."""
    return {_PASSES: _BARRIER} if platform == "cpu" and recomputes(config) else {}
