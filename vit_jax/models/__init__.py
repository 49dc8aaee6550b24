"""The models: pure Linen modules, one file per family, built by name."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vit_jax.config.extensions import accepted, check_fields, construct, is_import_path, load_object
from vit_jax.config.families import FAMILIES, module_fields
from vit_jax.config.model_keys import field_forms


def build_model(name: str, offered: Mapping[str, Any] | None = None, **overrides: Any) -> nn.Module:
    """Builds a model from family and variant, `"vit:B/16"`, or from an import path, `"mylab.nets:MyViT"`.

    Args:
      name: See `FAMILIES`; an import path names a class, or a function that returns a module.
      offered: Fields that the data determine, such as `num_classes` and `image_size`. An imported class receives
        those that it has; a model of ours must have all of them.
      overrides: The module's own fields. They take precedence over `offered`.

    Raises:
      ValueError: The family, the variant or a field is unknown, or a field has a value that it cannot have.
      UserError: The import path, or a field of the imported class, is at fault.
    """
    offered = offered or {}
    if is_import_path(name):
        target = load_object(name, "model.name")
        check_fields(target, overrides, "model", name=name)
        return construct(target, {**accepted(target, offered), **overrides}, "model", name)
    family, _, variant = name.partition(":")
    if family not in FAMILIES:
        raise ValueError(f"unknown model family {family!r} in {name!r}; known: {', '.join(FAMILIES)}")
    values = {**offered, **overrides}
    fields, forms = module_fields(family), field_forms()
    for field in values:
        if field not in fields:
            match = difflib.get_close_matches(field, fields, n=1)
            hint = f"did you mean {match[0]!r}?" if match else f"it has {', '.join(sorted(fields))}"
            raise ValueError(f"model {name!r} has no field {field!r}; {hint}")
        form = forms.get(field)
        if values[field] is not None and form is not None and not form.accepts(values[field]):
            raise ValueError(f"{field} must be {form}, got {values[field]!r}")
    return importlib.import_module(FAMILIES[family]).build(variant, **values)
