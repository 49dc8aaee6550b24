"""Attention between the tokens of sentences: a Transformer's weights, and their rollout through its layers."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.analysis.attention.weights import attention, check_head, check_layers
from vit_jax.models.transformer import Transformer

PyTree = Any
METHODS = ("weights", "rollout")


def sentence_attention(
    model: Any,
    params: PyTree,
    *sentences: Int[Array, "batch tokens"],
    method: str = "weights",
    layer: int = -1,
    head: int | None = None,
) -> dict[str, Float[Array, "batch queries keys"]]:
    """Returns matrices from tokens to tokens: `encoder`, `decoder` and `cross`, those that the model has.

    - `weights`: the attention weights of one layer. The rows of each matrix sum to one.
    - `rollout`: Quantifying Attention Flow in Transformers (arXiv:2005.00928), section 3. An attention with its
      residual connection is (A + I) / 2. The encoder is the product of these over its layers. In the decoder,
      self-attention and cross-attention each count half, and cross-attention reads the encoder's rollout:

          t = (t + A_self t) / 2,   t = (t + A_cross encoder) / 2          for each layer

      so that `cross` is what a target token has read from the source tokens and `decoder` from the target tokens, each
      at the model's input. The rows of both together sum to one.

    The paper describes the encoder only.

    Args:
      sentences: Source and target token ids, as the model takes them; padding must come last.
      layer: The layer of `weights`, or the last layer of `rollout`; negative ones count from the last.
      head: With `weights`, one head in place of the mean over the heads.

    Raises:
      ValueError: The model takes no sentences, it has no such layer or head, the method is unknown, or `head` is given
        with `rollout`.
    """
    if not isinstance(model, Transformer):
        raise ValueError(f"{type(model).__name__} does not take sentences; use analysis.attention_map")
    if method not in METHODS:
        raise ValueError(
            f"method={method} does not apply to sentences, which have no class; use {' or '.join(METHODS)}"
        )
    if head is not None and method != "weights":
        raise ValueError(f"head={head} applies to method=weights; {method} averages the heads")
    check_head(model, head)
    (last,) = check_layers(model, (layer,))
    weights = attention(model, params, *sentences, layers=(last,) if method == "weights" else range(last + 1))
    reduced = {name: w.mean(axis=-3) if head is None else w[..., head, :, :] for name, w in weights.items()}
    if method == "weights":
        return {name: w[0] for name, w in reduced.items()}
    return _rollout(reduced)


def _rollout(weights: dict[str, Float[Array, "layers batch queries keys"]]) -> dict[str, Array]:
    found = {}
    if "encoder" in weights:
        found["encoder"] = jnp.eye(weights["encoder"].shape[-1])
        for own in weights["encoder"]:
            found["encoder"] = (own @ found["encoder"] + found["encoder"]) / 2
    if "decoder" in weights:
        found["decoder"] = jnp.eye(weights["decoder"].shape[-1])
        if "cross" in weights:
            found["cross"] = jnp.zeros(weights["cross"].shape[-2:])
        for layer, own in enumerate(weights["decoder"]):
            for kind in ("decoder", "cross"):
                if kind in found:
                    found[kind] = (own @ found[kind] + found[kind]) / 2
            if "cross" in found:
                found["cross"] = (weights["cross"][layer] @ found["encoder"] + found["cross"]) / 2
                found["decoder"] /= 2
    return found
