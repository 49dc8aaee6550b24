"""Attention weights of all families, by layer and head, and how they mix the tokens of a layer."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.blocks.timesformer import ATTENTIONS, split_sequences
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.transformer import Transformer

PyTree = Any
# What `capture` of a Transformer calls its attentions -> their names here
_OF_TEXT = {"encoder": "encoder/attention", "decoder": "decoder/attention", "cross": "decoder/cross_attention"}


def attention(
    model: Any, params: PyTree, *inputs: Array, layers: Sequence[int] | None = None
) -> dict[str, Float[Array, "layers batch *sequences heads queries keys"]]:
    """Returns the attention weights of the chosen layers, by the kind of attention.

    The function is pure; under `jax.jit`, `model` and `layers` must be static. Weights are computed for these layers
    only; the other ones use the model's kernel. They are what every kernel multiplies the values with, up to rounding.
    Every row sums to one.

    | model | kind | shape of a layer |
    |---|---|---|
    | ViT | `attention` | `(batch, heads, tokens, tokens)` |
    | TNT | `outer`, between sentences | `(batch, heads, tokens, tokens)` |
    | | `inner`, between the words of a patch | `(batch, patches, heads, num_words, num_words)` |
    | TimeSformer | those in `ATTENTIONS`, such as `temporal` | `(batch, sequences, heads, tokens, tokens)` |
    | Transformer | `encoder` | `(batch, heads, source, source)` |
    | | `decoder`, `cross` | `(batch, heads, target, target)`, `(batch, heads, target, source)` |

    Tokens before the patches come first. The sequences of a TimeSformer are those of `split_sequences`: one for each
    frame in `spatial`, for each patch of a frame in `temporal`. They include the class token if it takes part.

    Args:
      inputs: What the model is applied to: images, videos, or source and target token ids.
      layers: Indices of layers; negative ones count from the last. None for all. Kinds that a layer does not have, such
        as `inner` of a plain layer of TNT, are left out of its array.

    Raises:
      ValueError: The model has no such layer.
    """
    chosen = check_layers(model, layers)
    if isinstance(model, Transformer):
        names = {kind: prefix for kind, prefix in _OF_TEXT.items() if model.architecture in ("encoder_decoder", kind)}
        capture = tuple(f"{prefix}/{layer}" for prefix in names.values() for layer in chosen)
        captured: Any = model.apply({"params": params}, *inputs, train=False, capture=capture)[1]
        return {kind: jnp.stack([captured[f"{prefix}/{layer}"] for layer in chosen]) for kind, prefix in names.items()}
    capture = tuple(f"attention/{layer}" for layer in chosen)
    _, captured = model.apply({"params": params}, *inputs, train=False, capture=capture)
    by_layer = [named(captured[name]) for name in capture]
    kinds = dict.fromkeys(kind for weights in by_layer for kind in weights)
    return {kind: jnp.stack([weights[kind] for weights in by_layer if kind in weights]) for kind in kinds}


def named(captured: Any) -> dict[str, Array]:
    """Returns the attention weights of one layer of a vision model, as its `capture` returns them, by their kind."""
    return captured if isinstance(captured, dict) else {"attention": captured}


def check_layers(model: Any, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Returns indices of layers counted from the first.

    Raises:
      ValueError: The model has no such layer.
    """
    count = model.num_layers
    for layer in layers or ():
        if not -count <= layer < count:
            raise ValueError(f"layer={layer}: the model has layers 0 to {count - 1}, or -{count} to -1")
    return tuple(range(count)) if layers is None else tuple(layer % count for layer in layers)


def check_head(model: Any, head: int | None, kind: str = "") -> None:
    """Raises ValueError if the model has no such head, in this kind of attention."""
    count = model.inner_num_heads if kind == "inner" else model.num_heads
    if head is not None and not 0 <= head < count:
        raise ValueError(f"head={head}: the model has heads 0 to {count - 1}")


def groups(model: Any) -> tuple[tuple[str, ...], ...]:
    """Returns the kinds of attention between the tokens of a vision model's layer, in the order in which they run.

    Kinds in the same group see the same input (`divided_order="parallel"`). The words of a TNT are not tokens.
    """
    if isinstance(model, TimeSformer):
        kinds = ATTENTIONS[model.attention_type]
        if model.divided_order == "parallel":
            return (kinds,)
        return tuple((kind,) for kind in (reversed(kinds) if model.divided_order == "space_first" else kinds))
    return (("outer",),) if hasattr(model, "inner_hidden_dim") else (("attention",),)


def last_kind(model: Any) -> str:
    """Returns the attention of a vision model's layer that has the parameter names of an image ViT's.

    The class token takes part in it in every scheme of TimeSformer.
    """
    return ATTENTIONS[model.attention_type][-1] if isinstance(model, TimeSformer) else groups(model)[-1][-1]


def mix(
    model: Any,
    kind: str,
    weights: Float[Array, "batch *sequences queries keys"],
    tokens: Float[Array, "batch tokens channels"],
    *,
    are_shares: bool = False,
) -> Float[Array, "batch tokens channels"]:
    """Replaces every token by the sum of the tokens it attends to, multiplied by its attention weights.

    This is what a layer does to its values, in the order of the model's tokens: the matrix of an attention between all
    tokens, A, is `mix` of the identity, but need not be held in memory. With rows of weights that sum to one, so do the
    rows of A.

    In a TimeSformer, a token attends within its sequence. The class token is in all of them: each copy attends to one
    sequence, and its new value is the mean over the copies, as in the model. If it takes no part in an attention, it
    keeps its value. Tokens of `space_only` are those of all frames, one frame after the other, each with its class
    token.

    Args:
      are_shares: Whether the weights are shares of the new values, rather than weights of their mean. The class token
        is then the sum over its copies, and zero where it takes no part.
    """
    if not isinstance(model, TimeSformer):
        return weights @ tokens
    batch, _, channels = tokens.shape
    if model.attention_type == "space_only":
        by_frame = tokens.reshape(batch, model.num_frames, -1, channels)
        return (weights @ by_frame).reshape(tokens.shape)
    patches = tokens[:, 1:].reshape(batch, model.num_frames, *model.grid, channels)
    sequences, join = split_sequences(patches, kind)
    has_class_token = weights.shape[-1] > sequences.shape[2]
    if has_class_token:
        copies = jnp.broadcast_to(tokens[:, None, :1], (*sequences.shape[:2], 1, channels))
        sequences = jnp.concatenate([copies, sequences], axis=2)
    mixed = weights @ sequences
    patches = join(mixed[:, :, int(has_class_token) :]).reshape(batch, -1, channels)
    if has_class_token:
        class_token = mixed[:, :, :1].sum(axis=1) if are_shares else mixed[:, :, :1].mean(axis=1)
    else:
        class_token = jnp.zeros_like(tokens[:, :1]) if are_shares else tokens[:, :1]
    return jnp.concatenate([class_token, patches], axis=1)
