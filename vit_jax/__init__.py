"""vit_jax: the transformers that carried attention from sentences to images to video, in JAX."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vit_jax.models import build_model as build_model
    from vit_jax.pretrained import from_pretrained as from_pretrained
    from vit_jax.pretrained import load_pretrained as load_pretrained
    from vit_jax.pretrained import save_pretrained as save_pretrained

_LAZY = {
    "build_model": "vit_jax.models",
    "from_pretrained": "vit_jax.pretrained",
    "load_pretrained": "vit_jax.pretrained",
    "save_pretrained": "vit_jax.pretrained",
}


def __getattr__(name: str):  # `import vit_jax` stays light: JAX is loaded by the first thing that needs it
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
