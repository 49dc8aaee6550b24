"""Paths through the heads of a network (arXiv:2103.03404, section 2 and the experiments with paths).

With its attention weights P and the statistics of its layer norms held fixed, a network of attentions and skip
connections is linear in its input. Its output is then a sum over paths, each of which passes through one head or the
skip connection of every attention:

    output = sum over paths of P_path X W_path + bias,     P_path = P^L_{h_L} ... P^1_{h_1}

The length of a path is the number of heads that it passes. There are binomial(L, k) H^k paths of length k. `bias`
collects the paths that start at a bias or at the bias of a layer norm; without layer norms it is the same for all
tokens. With MLPs, which are not linear, paths also start at the output of an MLP, so that the sum remains that of the
network; a path that starts at the last MLP has length 0.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, PyTree

from vit_jax.analysis.rank.branches import (
    ALL,
    NO_MLP,
    Branch,
    Parts,
    Stack,
    Tokens,
    deviation,
    layer_norm,
    open_stack,
    outputs_from,
    take_step,
    with_class_token,
)
from vit_jax.analysis.rank.collapse import NORMS, relative_residual, residual
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Paths:
    """The output of a stack of blocks, by length of path.

    Attributes:
      terms: `(lengths, batch, tokens, hidden_dim)`: the sum of all paths of length 0, 1, ...
      bias: `(batch, tokens, hidden_dim)`.
    """

    terms: Float[np.ndarray, "lengths batch tokens hidden_dim"]
    bias: Tokens

    @property
    def output(self) -> Tokens:
        """The sum of all, which is the output of the last block."""
        return self.terms.sum(axis=0) + self.bias


@dataclasses.dataclass(frozen=True)
class _Frozen:
    """A step of a stack with what is held fixed: for each branch its attention weights and its norm's deviations."""

    step: tuple[Branch, ...]
    weights: tuple[Any, ...]
    deviations: tuple[Any, ...]  # of the norms before the branches (pre-norm)
    after: Any  # deviation of the norm after the sum (post-norm), or None
    output: Tokens  # of an MLP


def paths_by_length(stack: Stack, parts: Parts = NO_MLP) -> Paths:
    """Returns the sum of all paths of each length; all paths are counted, none is sampled.

    The sums follow from one another: with the operator A of an attention, Y_k becomes Y_k + A Y_{k-1}.

    Raises:
      ValueError: MLPs without skip connections, which leave no path.
    """
    if parts.mlp and not parts.skip:
        raise ValueError("paths end at an MLP without a skip connection: use Parts(skip=True) or Parts(mlp=False)")
    frozen = _freeze(stack, parts)
    attentions = sum(step.step[0].kind == "attention" for step in frozen)
    terms = np.zeros((attentions + 1, *stack.tokens.shape))
    terms[0], bias = stack.tokens, np.zeros_like(stack.tokens)
    for each in frozen:
        if each.step[0].kind == "mlp":
            terms[0] += each.output
        else:
            passed = np.stack([np.zeros_like(bias), *(_linear(each, y) for y in terms[:-1])])
            new = _affine(each, bias)
            if parts.skip:
                terms, bias = terms + passed, bias + new
            else:
                terms, bias = with_class_token(each.step, passed, terms), with_class_token(each.step, new, bias)
        if each.after is not None:
            terms, bias = _norm(each.step[0], each.after, terms, bias=False), _norm(each.step[0], each.after, bias)
    return Paths(terms, bias)


def terms_of(
    stack: Stack, paths: Int[np.ndarray, "paths attentions"], parts: Parts = NO_MLP
) -> Float[np.ndarray, "paths batch tokens hidden_dim"]:
    """Returns P_path X W_path for each path, which starts at the input of the first block.

    Args:
      paths: For each attention the index of a head, or -1 for its skip connection; see `sample_paths`.
    """
    frozen, terms = _freeze(stack, parts), []
    for path in np.asarray(paths):
        y, heads = stack.tokens, iter(path.tolist())
        for each in frozen:
            if each.step[0].kind == "attention" and (head := next(heads)) >= 0:
                index, own = divmod(head, each.step[0].num_heads)
                y = _linear(each, y, index, [own])
            if each.after is not None:
                y = _norm(each.step[0], each.after, y, bias=False)
        terms.append(y)
    return np.stack(terms)


def heads_of(stack: Stack) -> list[int]:
    """Returns the number of heads of each attention, in order."""
    return [sum(branch.num_heads for branch in step) for step in stack.steps if step[0].kind == "attention"]


def sample_paths(heads: Sequence[int], length: int, count: int, seed: int = 0) -> Int[np.ndarray, "count attentions"]:
    """Draws paths of one length uniformly, with replacement: which attentions they pass, and which head of each.

    Args:
      heads: Number of heads of each attention, see `heads_of`.

    Raises:
      UserError: No path has this length.
    """
    if not 0 <= length <= len(heads):
        raise UserError(
            f"no path has length {length}: the network has {len(heads)} attentions, so use 0 to {len(heads)}"
        )
    rng = np.random.default_rng(seed)
    paths = np.full((count, len(heads)), -1)
    for path in paths:
        passed = rng.permutation(len(heads))[:length]
        path[passed] = rng.integers(np.asarray(heads)[passed])
    return paths


def share_of_lengths(attentions: int, heads: int) -> Float[np.ndarray, " lengths"]:
    """Returns the share of all paths that have length 0, 1, ...: binomial(L, k) H^k / (1 + H)^L."""
    counts = [math.comb(attentions, k) * heads**k for k in range(attentions + 1)]
    return np.asarray([count / (1 + heads) ** attentions for count in counts])


def summary(paths: Paths, real: Any = None, norm: str = "composite") -> dict[str, Float[np.ndarray, "lengths batch"]]:
    """Returns two numbers for the paths of each length.

    - `residual`: the relative residual of their sum, ||res(Y_k)|| / ||Y_k||.
    - `share`: the size of their residual next to that of the output, ||res(Y_k)|| / ||res(output)||.
    """
    whole = NORMS[norm](residual(paths.output, real))
    return {
        "residual": np.stack([relative_residual(y, real, norm) for y in paths.terms]),
        "share": np.stack([NORMS[norm](residual(y, real)) / whole for y in paths.terms]),
    }


def single_heads(stack: Stack, norm: str = "composite") -> Float[np.ndarray, "attentions heads"]:
    """Returns, for the path through one head alone, ||res(Y)|| / ||res(output)||, averaged over the batch.

    Computed in the network without MLPs. NaN where an attention has fewer heads than another.
    """
    heads = heads_of(stack)
    output = NORMS[norm](residual(paths_by_length(stack).output, stack.real))
    share = np.full((len(heads), max(heads)), np.nan)
    for attention, count in enumerate(heads):
        paths = np.full((count, len(heads)), -1)
        paths[:, attention] = np.arange(count)
        terms = terms_of(stack, paths)
        share[attention, :count] = [(NORMS[norm](residual(y, stack.real)) / output).mean() for y in terms]
    return share


def strongest_path(share: Float[np.ndarray, "attentions heads"], length: int) -> Int[np.ndarray, " attentions"]:
    """Returns the path through the strongest head of the `length` attentions in which that head is strongest."""
    best = np.nanargmax(share, axis=1)
    passed = np.argsort(-np.nanmax(share, axis=1), kind="stable")[:length]
    path = np.full(len(share), -1)
    path[passed] = best[passed]
    return path


def outputs_by_length(
    model: Any, params: PyTree, *inputs: Any, parts: Parts = ALL
) -> Float[np.ndarray, "lengths batch outputs"]:
    """Returns the model's outputs, such as logits, from the paths up to length 0, 1, ... alone.

    The last entry is the output of the whole model, if all parts are switched on. The model's own last norm and head
    compute the outputs.
    """
    paths = paths_by_length(open_stack(model, params, *inputs), parts)
    sums = np.cumsum(paths.terms, axis=0) + paths.bias
    return np.stack([outputs_from(model, params, tokens, *inputs) for tokens in sums])


def _freeze(stack: Stack, parts: Parts) -> list[_Frozen]:
    """Runs the network once; returns what each step computed with."""
    x, frozen = stack.tokens, []
    pre_norm = parts.norm and not stack.post_norm
    for step in stack.steps:
        if step[0].kind == "mlp" and not parts.mlp:
            continue
        found = [branch.function(layer_norm(branch, x) if pre_norm else x, None, None) for branch in step]
        deviations = tuple(deviation(branch, x) for branch in step) if pre_norm else ()
        after = None
        if parts.norm and stack.post_norm:
            output = np.sum([y for y, _ in found], axis=0)
            after = deviation(step[0], x + output if parts.skip else with_class_token(step, output, x))
        frozen.append(_Frozen(step, tuple(weights for _, weights in found), deviations, after, found[0][0]))
        x = take_step(stack, step, x, parts)
    return frozen


def _norm(branch: Branch, fixed: Any, y: Tokens, bias: bool = True) -> Tokens:
    """Returns the layer norm of `y` with fixed deviations, which is linear but for its bias."""
    normed = (y - y.mean(axis=-1, keepdims=True)) / fixed * branch.norm["scale"]
    return normed + branch.norm["bias"] if bias else normed


def _affine(frozen: _Frozen, y: Tokens) -> Tokens:
    """Returns what a frozen step computes from `y`, with its biases."""
    total = np.zeros_like(y)
    for i, branch in enumerate(frozen.step):
        entered = _norm(branch, frozen.deviations[i], y) if frozen.deviations else y
        total += branch.function(entered, frozen.weights[i], None)[0]
    return total


def _linear(frozen: _Frozen, y: Tokens, index: int | None = None, heads: Any = None) -> Tokens:
    """Returns what a frozen step computes from `y` without its biases; of one branch and some heads only if given."""
    total = np.zeros_like(y)
    for i, branch in enumerate(frozen.step):
        if index in (None, i):
            entered = _norm(branch, frozen.deviations[i], y, bias=False) if frozen.deviations else y
            both = [branch.function(each, frozen.weights[i], heads)[0] for each in (entered, np.zeros_like(y))]
            total += both[0] - both[1]
    return total
