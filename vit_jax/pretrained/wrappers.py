"""Names of tensors without what training code wraps around a model.

PyTorch puts the attribute that holds a module before the names of its tensors: `module.` (DataParallel, averages of
weights), `_orig_mod.` (compiled), `model.`, `backbone.` or `encoder.` (Lightning and scripts), in any order and number.
"""

import re

from vit_jax.errors import UserError
from vit_jax.pretrained.names import Tensors

# inserted by torch at any depth, for example around each block
_BY_TORCH = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def unwrapped(tensors: Tensors) -> tuple[Tensors, str]:
    """Returns the tensors by their names within the model, and the prefix that was removed.

    An attribute is removed if all names start with it: the names within a model start with those of several layers.
    What torch itself inserts is removed at any depth.

    Raises:
      UserError: Two tensors would have the same name.
    """
    renamed = {name: _BY_TORCH.sub("", name) for name in tensors}
    by_new = {new: old for old, new in renamed.items()}
    for old, new in renamed.items():
        if by_new[new] != old:
            raise UserError(f"the file holds the same tensor as {old} and as {by_new[new]}")
    prefix = ""
    while len(renamed) > 1 and len(firsts := {name[len(prefix) :].partition(".")[0] for name in renamed.values()}) == 1:
        (first,) = firsts
        if not all(name.startswith(f"{prefix}{first}.") for name in renamed.values()):
            break
        prefix += f"{first}."
    return {new.removeprefix(prefix): tensors[old] for old, new in renamed.items()}, prefix
