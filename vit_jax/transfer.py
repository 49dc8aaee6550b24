"""Fine-tuning: parameters of one run as the start of another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.positions import resample

Params = dict[str, Any]
ON_A_GRID = ("pos_embed", "pos_embed_x", "pos_embed_y", "time_embed")


def transfer(
    source: Params, target: Params, *, source_labels: tuple[str, ...], target_labels: tuple[str, ...]
) -> tuple[Params, list[str]]:
    """Fills `target`, freshly initialised, from `source`; returns it with a report, a line for what was changed.

    Positions are resampled to the target's grid (ViT, section 3.2), but relative ones. The head is kept if the class
    names are the same, in the same order; otherwise the target's own stays, initialised anew, whatever its shape.

    Raises:
      UserError: Any other parameter is missing, extra or of another shape; it is named.
    """
    ours, theirs = _flatten(target), _flatten(source)
    same_classes = tuple(source_labels) == tuple(target_labels)
    report, loaded = [], {}
    for path, value in ours.items():
        is_head = path.startswith("head/")
        if is_head and not same_classes:
            loaded[path] = value
            if path == "head/kernel":
                counts = f"{len(source_labels)} classes -> {len(target_labels)} others"
                report.append(f"head replaced: {counts}, initialised anew")
            continue
        if path not in theirs:
            raise UserError(f"init_from has no parameter {path}; is its model the same?")
        given = np.asarray(theirs[path])
        grid, width = value.shape[:-1], value.shape[-1:]
        on_a_grid = path.rpartition("/")[2] in ON_A_GRID and given.ndim == value.ndim and given.shape[-1:] == width
        if on_a_grid and given.shape[:-1] != grid:
            old, new = ("x".join(map(str, sizes)) for sizes in (given.shape[:-1], grid))
            report.append(f"{path} resampled: {old} -> {new}")
            given = np.asarray(resample(jnp.asarray(given), grid))
        if given.shape != value.shape:
            raise UserError(f"init_from has {path} of shape {given.shape}; this model's is {tuple(value.shape)}")
        loaded[path] = given.astype(value.dtype)
    if extra := sorted(path for path in theirs.keys() - ours.keys() if not path.startswith("head/")):
        raise UserError(f"init_from has parameters this model lacks: {', '.join(extra[:5])}; is its model the same?")
    report.insert(0, f"{len(loaded) - (0 if same_classes else 2)} of {len(ours)} parameter arrays loaded")
    structure = jax.tree.structure(target)
    return jax.tree.unflatten(structure, [loaded[path] for path in ours]), report


def _flatten(tree: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
