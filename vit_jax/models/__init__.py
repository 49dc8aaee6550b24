"""Pure Linen modules, one file per family. They import nothing of the project but each other."""

import dataclasses
import difflib
import importlib
from typing import Any

import flax.linen as nn

FAMILIES = {family: f"vit_jax.models.{family}" for family in ("transformer", "vit", "tnt", "timesformer")}


def build_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a model from family and variant, `"vit:B/16"`; overrides are the module's own fields.

    Raises:
      ValueError: The family, the variant or a field is unknown.
    """
    family, _, variant = name.partition(":")
    if family not in FAMILIES:
        raise ValueError(f"unknown model family {family!r} in {name!r}; known: {', '.join(FAMILIES)}")
    module = importlib.import_module(FAMILIES[family])
    model = module.build(variant)
    fields = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    for field in overrides:
        if field not in fields:
            match = difflib.get_close_matches(field, fields, n=1)
            hint = f"did you mean {match[0]!r}?" if match else f"it has {', '.join(sorted(fields))}"
            raise ValueError(f"model {name!r} has no field {field!r}; {hint}")
    return module.build(variant, **overrides)
