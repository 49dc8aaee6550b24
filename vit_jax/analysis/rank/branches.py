"""The residual branches of a model, one by one, in float64 on the host: to switch parts off, and to look inside.

A stack of blocks computes, step by step, x = x + f(LayerNorm(x)) (pre-norm) or x = LayerNorm(x + f(x)) (post-norm),
where f is an attention or an MLP. `open_stack` returns these steps with the model's own parameters, and the tokens that
enter the first of them; `run` repeats the forward pass without skip connections, MLPs or layer norms.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from vit_jax.errors import UserError
from vit_jax.models.blocks import BlockStack, EncoderBlock
from vit_jax.models.blocks.timesformer import ATTENTIONS, TimeSformerBlock, attention_mask, split_sequences
from vit_jax.models.blocks.transformer import Block, Stream
from vit_jax.models.layers import GELU

Tokens = Float[np.ndarray, "*batch tokens hidden_dim"]
Weights = Float[np.ndarray, "batch *sequences heads queries keys"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of the blocks that are switched on; attention always is. Their names are those of the figures.

    Attributes:
      skip: Whether the input of each attention and MLP is added to its output.
      mlp: Whether there are MLPs.
      norm: Whether there are layer norms.
    """

    skip: bool = True
    mlp: bool = True
    norm: bool = True

    def __str__(self) -> str:
        names = ["attention", *(["skip"] if self.skip else []), *(["MLP"] if self.mlp else [])]
        return " + ".join(names) + ("" if self.norm else ", no norm")


ALL, NO_MLP = Parts(), Parts(mlp=False)


@dataclasses.dataclass(frozen=True)
class Branch:
    """One residual branch f, with the layer norm before it (pre-norm) or after the sum (post-norm).

    Attributes:
      kind: `attention` or `mlp`.
      norm: `scale` and `bias` of the layer norm.
      epsilon: That of the layer norm.
      function: Called as `function(x, weights, heads)`; returns f(x) and the attention weights, None for an MLP.
        With `weights`, these are used in place of the softmax, which makes f affine. With `heads`, a list of indices,
        the other heads are left out.
      params: The parameters of the attention or of the MLP.
      num_heads: 0 for an MLP.
      leaves_class_token: Whether the class token takes no part, so that f is zero there.
      dense: Whether all tokens attend to each other in a single sequence (as far as they are not padding).
      scale: `LayerScale` after the branch, or None.
    """

    kind: str
    norm: dict[str, np.ndarray]
    epsilon: float
    function: Callable[[Tokens, Weights | None, Any], tuple[Tokens, Weights | None]]
    params: dict[str, Any]
    num_heads: int = 0
    leaves_class_token: bool = False
    dense: bool = False
    scale: Float[np.ndarray, " hidden_dim"] | None = None


@dataclasses.dataclass(frozen=True)
class Stack:
    """An opened stack of blocks.

    Attributes:
      blocks: For each block its steps, one after the other; a step is a tuple of branches with the same input, which
        has more than one in TimeSformer's parallel order only.
      tokens: Input of the first block, `(batch, tokens, hidden_dim)`, float64. In a TimeSformer with `space_only`, the
        frames are examples.
      real: True where a token is not padding, `(batch, tokens)`; None if there is no padding.
      post_norm: Whether the layer norms come after the sums.
    """

    blocks: tuple[tuple[tuple[Branch, ...], ...], ...]
    tokens: Tokens
    real: Bool[np.ndarray, "batch tokens"] | None
    post_norm: bool

    @property
    def steps(self) -> Iterator[tuple[Branch, ...]]:
        """The steps of all blocks, in order."""
        return (step for block in self.blocks for step in block)


def open_stack(model: nn.Module, params: PyTree, *inputs: Array) -> Stack:
    """Returns the branches of a ViT, a TimeSformer or a Transformer's encoder, and what enters them for `inputs`.

    The tokens, the parameters and all that is computed from them are NumPy arrays in float64.

    Raises:
      UserError: The blocks of the model are of another kind.
    """
    stack, entered = stack_input(model, params, *inputs)
    post_norm, real, tokens = False, None, entered
    if isinstance(entered, Stream):
        tokens, post_norm = entered.tokens, getattr(model, "norm", "") == "post"
        real = np.broadcast_to(np.asarray(entered.mask)[:, 0, 0], tokens.shape[:2])
    blocks = []
    for i, make in enumerate((stack.block,) * stack.num_layers if callable(stack.block) else stack.block):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"][f"block_{i}"])
        blocks.append(_steps(make(parent=None), wide, real))
    return Stack(tuple(blocks), np.asarray(tokens, np.float64), real, post_norm)


def stack_input(model: nn.Module, params: PyTree, *inputs: Array) -> tuple[BlockStack, Any]:
    """Returns the model's stack of blocks, and its input for `inputs`; the decoder of a Transformer is not looked at.

    Raises:
      UserError: The model has no encoder.
    """

    def look(call, args, kwargs, context):
        if isinstance(context.module, BlockStack) and context.module.name == "encoder":
            raise _Reached(context.module.clone(parent=None), args[0])
        return call(*args, **kwargs)

    try:
        with nn.intercept_methods(look):
            model.apply({"params": params}, *inputs, train=False)
    except _Reached as reached:
        return reached.args
    raise UserError(f"{type(model).__name__} has no encoder whose branches could be looked at")


class _Reached(Exception):
    """Ends a forward pass at the stack of blocks; its arguments are the stack and its input."""


def outputs_from(model: nn.Module, params: PyTree, tokens: Tokens, *inputs: Array) -> Any:
    """Returns the model's outputs for `inputs` if its stack of blocks had returned `tokens`."""

    def replace(call, args, kwargs, context):
        if isinstance(context.module, BlockStack) and context.module.name == "encoder":
            entered = args[0]
            given = jnp.asarray(tokens, jax.tree.leaves(entered)[0].dtype)
            return (entered._replace(tokens=given) if isinstance(entered, Stream) else given), {}
        return call(*args, **kwargs)

    with nn.intercept_methods(replace):
        return model.apply({"params": params}, *inputs, train=False)


def run(stack: Stack, parts: Parts) -> list[Tokens]:
    """Returns the tokens before the first block and after each block, with some parts switched off.

    Without skip connections, a step returns f(x) in place of x + f(x). A class token that takes no part in an attention
    (TimeSformer) keeps its value then.
    """
    x, after = stack.tokens, [stack.tokens]
    for block in stack.blocks:
        for step in block:
            if step[0].kind == "attention" or parts.mlp:
                x = take_step(stack, step, x, parts)
        after.append(x)
    return after


def take_step(stack: Stack, step: tuple[Branch, ...], x: Tokens, parts: Parts) -> Tokens:
    """Returns the tokens after one step."""
    pre_norm = parts.norm and not stack.post_norm
    y = np.sum([branch.function(layer_norm(branch, x) if pre_norm else x, None, None)[0] for branch in step], axis=0)
    x = x + y if parts.skip else with_class_token(step, y, x)
    return layer_norm(step[0], x) if parts.norm and stack.post_norm else x


def with_class_token(step: tuple[Branch, ...], y: Tokens, x: Tokens) -> Tokens:
    """Returns `y` with the class token of `x`, if no branch of the step computes one."""
    if not all(branch.leaves_class_token for branch in step):
        return y
    return np.concatenate([x[..., :1, :], y[..., 1:, :]], axis=-2)


def layer_norm(branch: Branch, x: Tokens) -> Tokens:
    """Returns LayerNorm(x) of a branch."""
    centred = (x - x.mean(axis=-1, keepdims=True)) / deviation(branch, x)
    return centred * branch.norm["scale"] + branch.norm["bias"]


def deviation(branch: Branch, x: Tokens) -> Float[np.ndarray, "*batch tokens 1"]:
    """Returns sqrt(variance + epsilon) of each token."""
    return np.sqrt(x.var(axis=-1, keepdims=True) + branch.epsilon)


@functools.singledispatch
def _steps(block: Any, params: dict[str, Any], real: Any) -> tuple[tuple[Branch, ...], ...]:
    """Returns the steps of a block: see `Stack`."""
    raise _unsupported(block)


def _unsupported(block: Any) -> UserError:
    return UserError(
        f"cannot look inside blocks of type {type(block).__name__}. Use a ViT with positions at the stem, a "
        "TimeSformer or a Transformer with an encoder."
    )


@_steps.register
def _(block: EncoderBlock, params, real):
    if type(block) is not EncoderBlock or block.mlp_gate is not None:
        raise _unsupported(block)
    scales = [params.get(name, {}).get("scale") for name in ("attention_scale", "mlp_scale")]
    attend = functools.partial(_attend, params["attention"], scale=scales[0])
    fields = {"num_heads": block.num_heads, "dense": True, "scale": scales[0]}
    attention = _attention_branch(block, params, "attention", attend, **fields)
    return (attention,), (_mlp_branch(block, params, GELU[block.gelu], scales[1]),)


@_steps.register
def _(block: Block, params, real):
    attend = functools.partial(_attend, params["attention"], mask=None if real is None else real[:, None, None, :])
    attention = _attention_branch(block, params, "attention", attend, num_heads=block.num_heads, dense=True)
    return (attention,), (_mlp_branch(block, params, nn.relu),)


@_steps.register
def _(block: TimeSformerBlock, params, real):
    names = ATTENTIONS[block.attention_type]
    branches = []
    for name in reversed(names) if block.divided_order == "space_first" else names:
        is_last = name == names[-1]
        has_cls = is_last or block.cls_in_temporal_attention
        prefix = "" if is_last else f"{name}_"
        mask = attention_mask(block.grid, name, has_cls)
        attend = functools.partial(
            _attend_within,
            _places(block.grid, name),
            has_cls,
            None if mask is None else np.asarray(mask),
            params[f"{prefix}attention"],
            params.get(f"{prefix}out"),
        )
        dense = len(names) == 1 and mask is None  # joint attention, and that of the frames of `space_only`
        fields = {"num_heads": block.num_heads, "leaves_class_token": not has_cls, "dense": dense}
        branches.append(_attention_branch(block, params, f"{prefix}attention", attend, prefix, **fields))
    mlp = (_mlp_branch(block, params, GELU[block.gelu]),)
    return (tuple(branches), mlp) if block.divided_order == "parallel" else (*((one,) for one in branches), mlp)


def _attention_branch(block, params, name, attend, prefix="", **fields):
    norm = params[f"{prefix or 'attention_'}norm"]
    return Branch("attention", norm, block.norm_epsilon, attend, params[name], **fields)


def _mlp_branch(block: Any, params: dict[str, Any], activation: Callable, scale: Any = None) -> Branch:
    def mlp(x, weights, heads):
        hidden = x @ params["mlp"]["in"]["kernel"] + params["mlp"]["in"]["bias"]
        with jax.enable_x64(True):
            hidden = np.asarray(activation(jnp.asarray(hidden)))
        y = hidden @ params["mlp"]["out"]["kernel"] + params["mlp"]["out"]["bias"]
        return (y if scale is None else y * scale), None

    return Branch("mlp", params["mlp_norm"], block.norm_epsilon, mlp, params["mlp"], scale=scale)


def _attend(params, x, weights=None, heads=None, *, mask=None, scale=None):
    """Returns multi-head attention within the last axis of tokens, and its weights."""
    if weights is None:
        query, key = (_project(params[name], x) for name in ("query", "key"))
        logits = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
        weights = softmax(logits if mask is None else np.where(mask, logits, -np.inf))
    found, kernel = weights @ _project(params["value"], x), params["out"]["kernel"]
    if heads is not None:
        found, kernel = found[..., heads, :, :], kernel[heads]
    y = found.swapaxes(-2, -3).reshape(*x.shape[:-1], -1) @ kernel.reshape(-1, kernel.shape[-1])
    y = y + params["out"].get("bias", 0.0)
    return (y if scale is None else y * scale), weights


def softmax(logits: Float[np.ndarray, "*batch keys"]) -> Float[np.ndarray, "*batch keys"]:
    """Returns exp(x) / sum(exp(x)) over the last axis; -inf gives 0."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _attend_within(places, has_cls, mask, params, out, x, weights=None, heads=None):
    """Returns one attention of a TimeSformer, as `TimeSformerBlock` computes it, and its weights."""
    y = np.concatenate([np.zeros_like(x[:, :1]), x[:, 1:]], axis=1)[:, places]  # place 0 is padding
    if has_cls:
        cls = np.broadcast_to(x[:, None, :1], (*y.shape[:2], 1, y.shape[-1]))
        y = np.concatenate([cls, y], axis=2)
    y, weights = _attend(params, y, weights, heads, mask=mask)
    if out is not None:
        y = y @ out["kernel"] + out["bias"]
    joined = np.zeros_like(x)
    joined[:, places] = y[:, :, 1:] if has_cls else y
    joined[:, 0] = y[:, :, 0].mean(axis=1) if has_cls else 0
    return joined, weights


def _places(grid: tuple[int, int, int], attention: str) -> np.ndarray:
    """Returns the index of the token in each place of each sequence, `(sequences, tokens)`; 0 for padding."""
    tokens = 1 + np.arange(np.prod(grid), dtype=np.float32).reshape(1, *grid, 1)
    return np.asarray(split_sequences(jnp.asarray(tokens), attention)[0])[0, :, :, 0].astype(int)


def _project(params, x):
    """Returns queries, keys or values, `(..., heads, tokens, head_dim)`."""
    kernel = params["kernel"]
    y = (x @ kernel.reshape(len(kernel), -1)).reshape(*x.shape[:-1], *kernel.shape[1:])
    return (y + params.get("bias", 0.0)).swapaxes(-2, -3)
