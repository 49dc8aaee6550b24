"""vit_jax: the transformers that carried attention from sentences to images to video, in JAX."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vit_jax.models import build_model as build_model

_LAZY = {"build_model": "vit_jax.models"}


def __getattr__(name: str):  # `import vit_jax` stays light: JAX is loaded by the first thing that needs it
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
