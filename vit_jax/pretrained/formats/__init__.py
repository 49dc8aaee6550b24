"""The file formats of all families: identifying a file's format, and finding a format by name."""

import functools
import importlib
from collections.abc import Callable, Collection

import flax.linen as nn

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Config, Format, listed

FAMILIES = ("vit_timm", "vit_huggingface", "dino", "vit_google", "tnt", "timesformer")  # modules of this package


@functools.cache
def formats() -> tuple[Format, ...]:
    """Returns every format of every family."""
    modules = [importlib.import_module(f"{__name__}.{family}") for family in FAMILIES]
    return tuple(format for module in modules for format in module.FORMATS)


def find_format(name: str, model: nn.Module) -> Format:
    """Returns the format with that name for this model's family.

    Raises:
      UserError: There is none; the message lists the formats of the family.
    """
    ours = {format.name: format for format in formats() if isinstance(model, format.model)}
    if name not in ours:
        raise UserError(f"{type(model).__name__} has no format {name!r}; it has {', '.join(ours) or 'none'}")
    return ours[name]


def recognise(
    names: Collection[str],
    config: Config,
    family: str | None = None,
    *,
    prefix: str = "",
    wanted: str | None = None,
    option: Callable[[str], str] = str,
) -> Format:
    """Identifies the format of a file from the names of its tensors and its config.

    Args:
      family: For example "vit", where names alone cannot tell.
      prefix: What `wrappers.unwrapped` removed from the names.
      wanted: The family that the caller's other arguments suggest. It decides only if the tensors fit it, see
        `Format.wrapper`.
      option: How messages call an argument.

    Raises:
      UserError: No format fits, or more than one does.
    """
    for format in formats():
        wrapper = format.wrapper if format.base.partition(":")[0] in (family, wanted) else None
        if wrapper and wrapper in prefix and format.recognise([wrapper + name for name in names], config):
            return format
    known = [format for format in formats() if format.recognise(names, config)]
    if not known and "architecture" in config and "model_type" not in config:
        raise UserError(
            f"timm's {config['architecture']!r} is not supported: its tensors are not those of a plain ViT, DeiT or TNT"
        )
    found = [format for format in known if family in (None, format.base.partition(":")[0])]
    if len(found) == 1:
        return found[0]
    if found or known:
        described = ", ".join(f"{format.name} ({format.base.partition(':')[0]})" for format in found or known)
        raise UserError(
            f"the tensors look like {described}. Give the model's name, for example {option('name')}={known[0].base!r}"
        )
    raise UserError(
        f"the format is not one of the known ones ({', '.join(sorted({format.name for format in formats()}))}); "
        f"the file holds {listed(sorted(names))}"
    )
