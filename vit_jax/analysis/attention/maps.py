"""Attention maps: what the output of an image or video model reads from each patch, through one layer or all of them.

Three methods follow the attention weights from the pooled output back to the patches. None of them sees values, norms
or MLPs, so a map shows where information can come from, not what it does.

- `weights`: the weights of one layer.
- `rollout`: Quantifying Attention Flow in Transformers (arXiv:2005.00928), section 3, as in Figure 6 of the ViT paper.
- `gradient`: Generic Attention-model Explainability (arXiv:2103.15679), equations 5 and 6. Transformer Interpretability
  Beyond Attention Visualization (arXiv:2012.09838), of the same authors, weighs by a relevance propagated through all
  layers in place of the attention weights.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.analysis.attention.weights import attention, check_head, check_layers, groups, last_kind, mix, named
from vit_jax.models.timesformer import TimeSformer
from vit_jax.models.transformer import Transformer

PyTree = Any
METHODS = ("weights", "rollout", "gradient")
Layer = dict[str, Array]  # weights of one layer without heads, by the kind of attention


def attention_map(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    *,
    method: str = "rollout",
    layer: int = -1,
    head: int | None = None,
    query: Sequence[int] | None = None,
    classes: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch *frames grid_height grid_width"]:
    """Returns how much each patch contributes to the pooled output: one map for an image, one per frame for a clip.

    It is a row of the `attention_matrix`, computed without the matrix, or the mean of several rows: that of the class
    token; with a distillation token, the mean of both; with `space_only`, the mean over the frames' class tokens. A
    model that pools its patches has the mean over all patches; `pool="map"` too, whose own attention is not followed.

    With `weights` and `rollout`, a map sums to the share of attention on patches: the rest is on tokens before them.
    For TNT, patches are sentences. The function is pure; under `jax.jit`, everything but arrays must be static.

    Args:
      query: The grid position of a patch, (row, column) or (frame, row, column), whose row is returned instead.
      method, layer, head, classes: See `attention_matrix`.

    Raises:
      ValueError: See `attention_matrix`; or there is no such patch, or `query` is given for `gradient`.
    """
    if query is not None and method == "gradient":
        raise ValueError("query does not apply to method=gradient, which explains the output")
    layers = _layers(model, params, inputs, method, layer, head, classes)
    start = jnp.broadcast_to(
        _read_by_output(model) if query is None else _one_patch(model, query), (len(inputs), _count(model))
    )
    _, pull = jax.vjp(lambda tokens: _through(model, layers, method, tokens), jnp.zeros((*start.shape, 1), start.dtype))
    (row,) = pull(start[..., None])
    if method == "gradient":
        row -= start[..., None]  # what the output reads without any attention
    return _patches(model, row)


def attention_matrix(
    model: Any,
    params: PyTree,
    inputs: Float[Array, "batch *frames height width channels"],
    *,
    method: str = "rollout",
    layer: int = -1,
    head: int | None = None,
    classes: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch tokens tokens"]:
    """Returns the matrix from tokens, whose row i says what token i has read from all tokens.

    With A the matrix of an attention between all tokens, averaged over its heads (see `mix`), and I the identity:

    - `weights`: A of one layer. If a layer has several attentions, one after the other, it is their product: A_spatial
      A_temporal for divided attention. Entry (i, j) is then the weight of all ways from token j through the temporal
      attention of j's patch, and on through the spatial attention of i's frame.
    - `rollout`: the product over layers 0 to `layer` of (A + I) / 2, where I stands for the residual connection. The
      factor of a layer with several attentions is the product of theirs.
    - `gradient`: the product of I + G, where G is the mean over the heads of max(0, A * dlogit/dA), elementwise.

    The rows of the first two sum to one. In a divided TimeSformer the class token takes no part in temporal attention
    (unless `cls_in_temporal_attention`): its row of A_temporal is that of I. Its row of A_spatial is the mean over the
    frames, in each of which it attends to this frame. From the product, it reads patch p of frame f by

        A(cls, f p) = mean over frames g of A_spatial,g(cls, p) A_temporal,p(g, f):

    what it reads at p in any frame g, p has read in frame f before. The other schemes follow the same rule. With
    `divided_order="parallel"`, the attentions see the same input: `weights` is the mean of A_temporal and A_spatial,
    the factor of `rollout` is (A_temporal + A_spatial + I) / 3, and that of `gradient` is I + G_temporal + G_spatial.

    The order of the tokens is the model's; with `space_only` it is every frame's tokens, one frame after the other. The
    matrix is large for clips; `attention_map` does without.

    Args:
      layer: The layer of `weights`, or the last layer of the other two; negative ones count from the last.
      head: With `weights`, a single head in place of their mean. In a layer with several attentions, it is a head of
        the one in which the class token always takes part (the last one named), because the heads of the others are
        mixed by their output projection.
      classes: With `gradient`, the class whose logit is differentiated for each example; None for the most probable.

    Raises:
      ValueError: The model or the method is unknown, the model has no such layer, head or class, or an argument does
        not apply to the method.
    """
    layers = _layers(model, params, inputs, method, layer, head, classes)
    identity = jnp.broadcast_to(jnp.eye(_count(model)), (len(inputs), _count(model), _count(model)))
    return _through(model, layers, method, identity)


def _layers(
    model: Any, params: PyTree, inputs: Array, method: str, layer: int, head: int | None, classes: Any
) -> list[Layer]:
    """Returns the weights of the layers that a method follows, without heads, from the first to the last."""
    if isinstance(model, Transformer):
        raise ValueError("attention maps are of images and clips; use analysis.sentence_attention for sentences")
    if method not in METHODS:
        raise ValueError(f"method={method}: must be one of {', '.join(METHODS)}")
    if head is not None and method != "weights":
        raise ValueError(f"head={head} applies to method=weights; {method} averages the heads")
    if classes is not None and method != "gradient":
        raise ValueError(f"class applies to method=gradient; {method} does not depend on it")
    check_head(model, head)
    (last,) = check_layers(model, (layer,))
    chosen = (last,) if method == "weights" else tuple(range(last + 1))
    if method == "gradient":
        return gradient_shares(model, params, inputs, chosen, classes)
    weights = attention(model, params, inputs, layers=chosen)
    reduced = {
        kind: weights[kind].mean(axis=-3)
        if head is None or kind != last_kind(model)
        else weights[kind][..., head, :, :]
        for kind in itertools.chain(*groups(model))
    }
    return [{kind: values[i] for kind, values in reduced.items()} for i in range(len(chosen))]


def gradient_shares(
    model: Any, params: PyTree, inputs: Array, layers: Sequence[int], classes: Int[Array, " batch"] | None = None
) -> list[Layer]:
    """Returns the mean over the heads of max(0, A * dlogit/dA) of each layer: see `attention_matrix`.

    A * dlogit/dA is the part of the logit, to first order, that a weight carries.

    Raises:
      ValueError: The model has no logits.
    """
    if getattr(model, "num_classes", None) is None:
        raise ValueError("method=gradient needs a model with classes")
    capture = tuple(f"attention/{layer}" for layer in layers)
    apply = functools.partial(model.apply, train=False, capture=capture)

    def logit(perturbations):
        logits, captured = apply({"params": params, "perturbations": perturbations}, inputs)
        chosen = logits.argmax(axis=-1) if classes is None else classes
        return jnp.take_along_axis(logits, chosen[:, None], axis=-1).sum(), captured

    _, variables = jax.eval_shape(functools.partial(apply, mutable=["perturbations"]), {"params": params}, inputs)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables["perturbations"])
    gradients, captured = jax.grad(logit, has_aux=True)(zeros)

    shares = []
    for layer in layers:
        weights, own = named(captured[f"attention/{layer}"]), {}
        for kind in itertools.chain(*groups(model)):
            gradient = _of_kind(model, gradients["encoder"][f"block_{layer}"], kind)["weights"]
            product = weights[kind] * gradient.reshape(weights[kind].shape)
            own[kind] = jnp.maximum(product, 0).mean(axis=-3)
        shares.append(own)
    return shares


def _of_kind(model: Any, block: PyTree, kind: str) -> PyTree:
    """Returns the part of a block's variables that belongs to a kind of attention."""
    if kind == "outer":
        return block["outer"]["attention"]
    return block["attention" if kind == last_kind(model) else f"{kind}_attention"]


def _through(model: Any, layers: Sequence[Layer], method: str, tokens: Array) -> Array:
    """Sends tokens through the layers, as their weights and the method do."""
    for weights in layers:
        for group in groups(model):
            each = [mix(model, kind, weights[kind], tokens, are_shares=method == "gradient") for kind in group]
            mixed = functools.reduce(jnp.add, each)
            if method == "weights":
                tokens = mixed / len(group)
            else:
                tokens = (tokens + mixed) / (1 if method == "gradient" else 1 + len(group))
    return tokens


def _count(model: Any) -> int:
    """Returns the number of tokens of a vision model; with `space_only`, of all frames."""
    patches = model.grid[0] * model.grid[1]
    if not isinstance(model, TimeSformer):
        return model.num_prefix_tokens + patches
    by_frame = model.attention_type == "space_only"
    return model.num_frames * (1 + patches) if by_frame else 1 + model.num_frames * patches


def _read_by_output(model: Any) -> Float[Array, " tokens"]:
    """Returns the weights with which the pooled output reads the tokens of the last layer."""
    weights = jnp.zeros(_count(model))
    if isinstance(model, TimeSformer):
        first = slice(None, None, 1 + model.grid[0] * model.grid[1]) if model.attention_type == "space_only" else [0]
    elif getattr(model, "pool", "cls") != "cls":
        first = slice(model.num_prefix_tokens, None)
    else:
        first = slice(0, 2 if getattr(model, "distillation_token", False) else 1)
    weights = weights.at[jnp.asarray(first) if isinstance(first, list) else first].set(1.0)
    return weights / weights.sum()


def _one_patch(model: Any, query: Sequence[int]) -> Float[Array, " tokens"]:
    """Returns 1 at the token of a patch, and 0 elsewhere."""
    shape = (model.num_frames, *model.grid) if isinstance(model, TimeSformer) else model.grid
    if len(query) != len(shape) or not all(0 <= at < size for at, size in zip(query, shape, strict=True)):
        sizes = " x ".join(map(str, shape))
        raise ValueError(f"query={','.join(map(str, query))}: the patches are a grid of {sizes}, counted from 0")
    numbers = jnp.arange(_count(model), dtype=jnp.float32)
    place = _patches(model, numbers[None, :, None])[(0, *query)]
    return (numbers == place).astype(jnp.float32)


def _patches(
    model: Any, tokens: Float[Array, "batch tokens 1"]
) -> Float[Array, "batch *frames grid_height grid_width"]:
    if isinstance(model, TimeSformer) and model.attention_type == "space_only":
        tokens = tokens.reshape(len(tokens), model.num_frames, -1, 1)
    return model.split_tokens(tokens)[1][..., 0]
