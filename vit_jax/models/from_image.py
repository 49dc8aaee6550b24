"""From an image ViT to a TimeSformer: the paper's video models all start so (arXiv:2102.05095, section 4.1)."""

from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.models.blocks.timesformer import ATTENTIONS
from vit_jax.models.positions import resample
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import ViT

_COPIES = {"norm": "attention_norm", "attention": "attention"}  # of an attention before the last: its part, the last's

Params = dict[str, Any]


def image_model(model: TimeSformer) -> ViT:
    """Returns the ViT from which a video model can start: that of one of its frames."""
    shared = ("num_classes", "image_size", "in_channels", "patch_size", "hidden_dim", "mlp_dim", "num_layers")
    shared += ("num_heads", "gelu", "qkv_bias", "norm_epsilon", "dtype", "param_dtype")
    pos_embed = "none" if model.pos_embed == "none" else "learned"
    return ViT(**{field: getattr(model, field) for field in shared}, pos_embed=pos_embed)


def from_image_params(
    image_params: Params, params: Params, model: TimeSformer, *, keep_head: bool = False, method: str = "nearest"
) -> Params:
    """The parameters of a video model, of the shapes of `params`, that start from an image ViT's.

    Attentions before the last start as copies of the image model's, with their norms (section 4.1); their output
    projections and the positions in time are zero. So, with identical frames, divided and space-only attention give
    the image model's logits; nothing is promised for the others. What is neither copied nor zero stays as in `params`.
    Deviation: positions are resampled on their grid; the authors' code interpolates the flattened sequence.

    Args:
      keep_head: Copies the head as well; otherwise it, and a representation layer before it, are left out.
      method: Of `positions.resample`, where the grids differ; the default is the authors'.

    Raises:
      ValueError: A parameter is missing, has no place in the video model or another shape; it is named.
    """
    given: dict[tuple[str, ...], Any] = flatten_dict(image_params)
    ours: dict[tuple[str, ...], Any] = flatten_dict(params)
    start, used = {}, set()
    for path, value in ours.items():
        name, origin = "/".join(path), tuple(origin_of("/".join(path), model).split("/"))
        if origin == ("",):
            start[path] = jnp.zeros(value.shape, value.dtype)
        elif path[0] == "head" and not keep_head:
            start[path] = value
        elif origin not in given:
            raise ValueError(f"the image model has no parameter {'/'.join(origin)}, from which {name} would start")
        else:
            used.add(origin)
            copied = jnp.asarray(given[origin], value.dtype)
            copied = resample(copied, model.grid, method) if name == "pos_embed" else copied
            if copied.shape != value.shape:
                raise ValueError(f"{name} is {copied.shape} in the image model, {value.shape} in the video model")
            start[path] = copied
    left_out = set() if keep_head else {"head", "representation"}
    left_out |= {"pos_embed", "cls_pos"} if model.pos_embed == "none" else set()
    if extra := sorted("/".join(path) for path in given.keys() - used if path[0] not in left_out):
        raise ValueError(f"the video model has no place for the image model's {', '.join(extra[:5])}")
    return unflatten_dict(start)


def origin_of(path: str, model: TimeSformer) -> str:
    """Returns the path of the image model's parameter from which one of the video model starts; "" if from zero."""
    before_last = ATTENTIONS[model.attention_type][:-1]
    renamed = {f"{name}_{part}": own for name in before_last for part, own in _COPIES.items()}
    zero = {"time_embed", *(f"{name}_out" for name in before_last)}
    parts = path.split("/")
    return "" if zero & set(parts) else "/".join(renamed.get(part, part) for part in parts)
