"""Start a TimeSformer from an image ViT (arXiv:2102.05095, section 4.1).

All video models of the paper start so.
"""

from typing import Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.models.blocks.timesformer import ATTENTIONS
from vit_jax.models.positions import resample
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.vit import ViT

# What the parts of an attention before the last start from: parts of the image model's attention.
_COPIES = {"norm": "attention_norm", "attention": "attention"}

Params = dict[str, Any]


def image_model(model: TimeSformer) -> ViT:
    """Return the ViT from which a video model can start: it has the same sizes."""
    shared = ("num_classes", "image_size", "in_channels", "patch_size", "hidden_dim", "mlp_dim", "num_layers")
    shared += ("num_heads", "gelu", "qkv_bias", "norm_epsilon", "dtype", "param_dtype")
    pos_embed = "none" if model.pos_embed == "none" else "learned"
    return ViT(**{field: getattr(model, field) for field in shared}, pos_embed=pos_embed)


def from_image_params(
    image_params: Params, params: Params, model: TimeSformer, *, keep_head: bool = False, method: str = "nearest"
) -> Params:
    """Return parameters of a video model that start from those of an image ViT.

    Each attention before the last starts as a copy of the image model's attention and norm (section 4.1). Its output
    projection and the positions in time start at zero. If all frames are identical, divided and space-only attention
    then give the image model's logits; the other schemes do not promise this.
    Deviation: positions are resampled on their grid. The authors' code interpolates the flattened sequence.

    Args:
      image_params: Parameters of `image_model(model)`, or of one with another image size.
      params: Parameters of the video model. They give the shapes, and the values of the head unless `keep_head` is set.
      keep_head: Whether to copy the head. Otherwise the image model's head, and a representation layer before it, are
        left out.
      method: How to resample positions if the grids differ, see `positions.resample`. The default is the authors'.

    Raises:
      ValueError: The image model lacks a parameter, has one that the video model does not have, or has one of another
        shape. The message names it.
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
    """Return the path of the image model's parameter from which `path` starts; "" for zeros."""
    before_last = ATTENTIONS[model.attention_type][:-1]
    renamed = {f"{name}_{part}": own for name in before_last for part, own in _COPIES.items()}
    zero = {"time_embed", *(f"{name}_out" for name in before_last)}
    parts = path.split("/")
    return "" if zero & set(parts) else "/".join(renamed.get(part, part) for part in parts)
