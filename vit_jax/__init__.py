"""vit_jax: Transformer, ViT, TnT and TimeSformer in JAX, with training, evaluation and conversion of weights."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vit_jax.load import load_run as load_run
    from vit_jax.models import build_model as build_model
    from vit_jax.weights import from_pretrained as from_pretrained
    from vit_jax.weights import load_pretrained as load_pretrained
    from vit_jax.weights import save_pretrained as save_pretrained

_LAZY = {
    "build_model": "vit_jax.models",
    "from_pretrained": "vit_jax.weights",
    "load_pretrained": "vit_jax.weights",
    "load_run": "vit_jax.load",
    "save_pretrained": "vit_jax.weights",
}


def __getattr__(name: str):  # keeps `import vit_jax` fast: the first name that needs JAX imports it
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
