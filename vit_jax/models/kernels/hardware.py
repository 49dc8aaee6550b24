"""Which hardware computes: the kind of device, as far as the choice of a kernel depends on it."""

import jax

# (smallest compute capability, name), newest first: NVIDIA's CUDA programming guide, "Compute capabilities".
_NVIDIA = (
    ((12, 0), "blackwell_workstation"),
    ((10, 0), "blackwell"),
    ((9, 0), "hopper"),
    ((8, 9), "ada"),
    ((8, 0), "ampere"),
)
GENERATIONS = ("cpu", "tpu", "gpu", *(name for _, name in _NVIDIA))


def generation() -> str:
    """Return the generation of the default device, one of `GENERATIONS`.

    `blackwell` are the GPUs of data centers (B200, GB300), `blackwell_workstation` the others (RTX 50, RTX PRO 6000).
    `gpu` is any other GPU: an older one, or one of another maker.
    """
    backend = jax.default_backend()
    if backend in ("cpu", "tpu"):
        return backend
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return nvidia_generation(capability)


def nvidia_generation(capability: str) -> str:
    """Return the generation of a compute capability such as `9.0`; `gpu` for what is not one.

    AMD's GPUs report `gfx942` and the like.
    """
    parts = capability.split(".")
    if not all(part.isdigit() for part in parts):
        return "gpu"
    numbers = tuple(map(int, parts))
    return next((name for smallest, name in _NVIDIA if numbers >= smallest), "gpu")
