"""The formats of all families: which one a file is of, and which one a model is written in."""

import functools
import importlib
from collections.abc import Collection

import flax.linen as nn

from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.names import Config, Format, listed

FAMILIES = ("vit", "vit_google", "tnt", "timesformer")


@functools.cache
def formats() -> tuple[Format, ...]:
    modules = [importlib.import_module(f"vit_jax.pretrained.{family}") for family in FAMILIES]
    return tuple(format for module in modules for format in module.FORMATS)


def find_format(name: str, model: nn.Module) -> Format:
    """Returns the format of that name for this model's family.

    Raises:
      UserError: There is none; those there are are named.
    """
    ours = {format.name: format for format in formats() if isinstance(model, type(build_model(format.base)))}
    if name not in ours:
        raise UserError(f"{type(model).__name__} has no format {name!r}; it has {', '.join(ours) or 'none'}")
    return ours[name]


def recognise(names: Collection[str], config: Config, family: str | None = None) -> Format:
    """Returns the format that tensors of these names are of; `family`, as "vit", where names alone do not tell.

    Raises:
      UserError: There is none, or more than one.
    """
    known = [format for format in formats() if format.recognise(names, config)]
    found = [format for format in known if family in (None, format.base.partition(":")[0])]
    if len(found) == 1:
        return found[0]
    if found or known:
        described = ", ".join(f"{format.name} of {format.base.partition(':')[0]}" for format in found or known)
        raise UserError(f"looks like {described}: give the model's name, as name={known[0].base!r}")
    raise UserError(
        f"of no known format ({', '.join(sorted({format.name for format in formats()}))}); "
        f"it holds {listed(sorted(names))}"
    )
