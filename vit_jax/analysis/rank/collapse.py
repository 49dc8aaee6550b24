"""Rank collapse: how fast the tokens of a network become equal with depth.

"Attention is not all you need: pure attention loses rank doubly exponentially with depth" (arXiv:2103.03404).

**Residual.** res(X) = X - 1 x^T for the tokens X, (tokens, hidden_dim), is what remains after one common token x is
subtracted; it is zero if and only if all tokens are equal, which is a matrix of rank one. The paper takes the x that
minimises the norm of the residual. Here x is the mean of the tokens, as in the authors' code for their figures, which
is the minimum for the Frobenius norm and at most twice the minimum for the other.

**Norms.** `composite` is the paper's ||X||_{1,inf} = sqrt(||X||_1 ||X||_inf), where ||X||_1 is the largest sum of
absolute values in a column and ||X||_inf that in a row; it is not a norm in the strict sense, because it need not obey
the triangle inequality. `frobenius` is the square root of the sum of squares.

**Bound** (theorems 2.2 and 2.3). For a network of attention alone, with L layers and H heads,

    ||res(SAN(X))|| <= (4 gamma beta H / sqrt(d))^((3^L - 1) / 2) ||res(X)||^(3^L)              in the composite norm

with the width d of queries and keys and a beta that bounds ||W_QK||_1 ||W_VO||_{1,inf} for every head. gamma depends on
the attention weights (version 2 of the paper; version 1 has none). The bound is a recursion of one inequality per
layer, which is what this module computes:

    ||res(X_{l+1})|| <= c_l ||res(X_l)||^3,   c_l = 4 gamma_l beta_l H / sqrt(d)

Deviations: we prove the inequality with gamma_l = max_h sqrt(n max_j s_hj) for n tokens, where s_h is the softmax of
the part of the logits that is the same for all queries, and with
beta_l = max_h ||W_QK||_1 sqrt(max_h ||W_VO||_1 max_h ||W_VO||_inf). It holds if the logits of no query, without that
part, differ by more than 1.256 (the condition of the paper's lemma); `Decay.holds` says where.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PyTree
from scipy.special import logsumexp

from vit_jax.analysis.rank.branches import Branch, Parts, Tokens, open_stack, run, softmax
from vit_jax.errors import UserError

VARIANTS = tuple(Parts(skip, mlp) for skip in (False, True) for mlp in (False, True))  # those of Figure 2
SPREAD = 1.256  # largest difference of logits for which exp(x) <= 1 + 2 x is used


def composite_norm(x: Tokens) -> Float[np.ndarray, "*batch"]:
    """Returns sqrt(||X||_1 ||X||_inf) of each matrix."""
    size = np.abs(x)  # the product of the two could underflow
    return np.sqrt(size.sum(axis=-2).max(axis=-1)) * np.sqrt(size.sum(axis=-1).max(axis=-1))


def frobenius_norm(x: Tokens) -> Float[np.ndarray, "*batch"]:
    """Returns the square root of the sum of squares of each matrix."""
    largest = np.abs(x).max(axis=(-2, -1), keepdims=True)  # squares of small numbers could underflow
    scaled = np.divide(x, largest, out=np.zeros_like(x), where=largest > 0)
    return largest[..., 0, 0] * np.sqrt((scaled**2).sum(axis=(-2, -1)))


NORMS: dict[str, Callable[[Any], Any]] = {"composite": composite_norm, "frobenius": frobenius_norm}


def residual(x: Tokens, real: Bool[np.ndarray, "*batch tokens"] | None = None) -> Tokens:
    """Returns the tokens minus their mean.

    Args:
      real: False for padding, which does not count in the mean and has a residual of zero.
    """
    if real is None:
        return x - x.mean(axis=-2, keepdims=True)
    counted = real[..., None].astype(x.dtype)
    return (x - (x * counted).sum(axis=-2, keepdims=True) / counted.sum(axis=-2, keepdims=True)) * counted


def relative_residual(
    x: Tokens, real: Bool[np.ndarray, "*batch tokens"] | None = None, norm: str = "composite"
) -> Float[np.ndarray, "*batch"]:
    """Returns ||res(X)|| / ||X||: 0 for equal tokens; see the module for the norms."""
    present = x if real is None else x * real[..., None].astype(x.dtype)
    return NORMS[norm](residual(x, real)) / NORMS[norm](present)


def residuals_by_depth(
    model: Any, params: PyTree, *inputs: Any, variants: Sequence[Parts] = VARIANTS, norm: str = "composite"
) -> dict[Parts, Float[np.ndarray, "examples depths"]]:
    """Returns the relative residual of the tokens before the first block and after each block (the paper's Figure 2).

    Computed in float64 from the model's own parameters, with parts of the blocks switched off. As in the paper's
    figure, layer norms stay in place unless a variant says otherwise.

    Raises:
      UserError: See `open_stack`.
    """
    stack = open_stack(model, params, *inputs)
    return {
        parts: np.stack([relative_residual(x, stack.real, norm) for x in run(stack, parts)], axis=1)
        for parts in variants
    }


@dataclasses.dataclass(frozen=True)
class Decay:
    """How the residual of pure attention decays, next to the bound; logarithms to base 10 of composite norms.

    Arrays have the shape (examples, layers + 1); entry l is after l layers.

    Attributes:
      residual: log10 ||res(X_l)||. -inf below about 10^-308, the smallest number of float64.
      step_bound: The bound of one layer, from the measured residual before it: log10(c_l ||res(X_l)||^3). NaN at 0.
      bound: The bound of all layers: the recursion b_{l+1} = c_l b_l^3. It starts with the residual before the first
        layer where the condition holds and c_l ||res(X_l)||^2 < 1, and is NaN before that. The theorem starts at the
        input, whose residual is too large in the models here.
      holds: Whether the condition on the logits holds in the layer before; True at 0.
    """

    residual: np.ndarray
    step_bound: np.ndarray
    bound: np.ndarray
    holds: np.ndarray


def decay(model: Any, params: PyTree, *inputs: Any) -> Decay:
    """Measures how the residual of pure attention decays: without skip connections, MLPs and layer norms.

    Subtracting the mean from tokens that are nearly equal would leave nothing but rounding errors. The common token x
    and the residual R are therefore computed side by side: the weights of a head are P = 1 s^T + D with

        E = R W_QK R^T / sqrt(d),   s = softmax of the part of the logits that is the same for all queries,
        D_ij = s_j (exp(E_ij - log sum_k s_k exp(E_ik)) - 1)

    and the new residual is the sum over heads of D R W_VO. With `expm1` and `log1p`, it has full relative precision
    down to the smallest number of float64.

    Raises:
      UserError: An attention is split into several sequences, so that the theorem does not apply; or see `open_stack`.
    """
    stack = open_stack(model, params, *inputs)
    if not all(branch.dense for step in stack.steps for branch in step if branch.kind == "attention"):
        raise UserError(
            f"the bound needs attention among all tokens; {type(model).__name__} with "
            f"attention_type={getattr(model, 'attention_type', None)!r} attends within parts of them. Use "
            "joint_space_time or space_only, or compare residuals by depth."
        )
    real = np.ones(stack.tokens.shape[:2], bool) if stack.real is None else stack.real
    remaining = residual(stack.tokens, real)
    common = (stack.tokens - remaining)[:, :1]
    found = [np.log10(composite_norm(remaining))]
    step_bounds, bounds, holds = [np.full_like(found[0], np.nan)], [], [np.ones(len(real), bool)]
    bound = np.full_like(found[0], np.nan)
    for (branch,) in stack.steps:
        if branch.kind != "attention":
            continue
        common, remaining, coefficient, spread = _collapse(branch, common, remaining, real)
        last, cubic = found[-1], np.log10(coefficient)
        may_start = np.isnan(bound) & (spread <= SPREAD) & (cubic + 2 * last < 0)
        bounds.append(bound := np.where(may_start, last, bound))
        bound = cubic + 3 * bound
        step_bounds.append(cubic + 3 * last)
        holds.append(np.asarray(spread <= SPREAD))
        with np.errstate(divide="ignore"):
            found.append(np.log10(composite_norm(remaining)))
    bounds.append(bound)
    return Decay(*(np.stack(values, axis=1) for values in (found, step_bounds, bounds, holds)))


def _collapse(branch: Branch, common: Any, remaining: Any, real: Any) -> tuple[Any, Any, Any, Any]:
    """Returns the common token and the residual after an attention, its coefficient c_l, and the spread of logits."""
    params = branch.params
    query, key, value, out = (params[name]["kernel"] for name in ("query", "key", "value", "out"))
    out = out if branch.scale is None else out * branch.scale
    width, heads = query.shape[-1], range(query.shape[1])
    w_qk = np.stack([query[:, h] @ key[:, h].T for h in heads])
    w_vo = np.stack([value[:, h] @ out[h] for h in heads])

    query_bias = params["query"].get("bias", np.zeros(query.shape[1:]))
    of_bias = np.stack([key[:, h] @ query_bias[h] for h in heads])[:, None]
    of_common = common[:, None] @ w_qk + of_bias  # (batch, heads, 1, hidden_dim)
    shared = (of_common @ remaining[:, None].swapaxes(-1, -2))[:, :, 0] / np.sqrt(width)
    shared = softmax(np.where(real[:, None], shared, -np.inf))
    logits = remaining[:, None] @ w_qk @ remaining[:, None].swapaxes(-1, -2) / np.sqrt(width)
    differs = _difference(shared[:, :, None], logits) * real[:, None, :, None]

    new = (differs @ remaining[:, None] @ w_vo).sum(axis=1)
    averaged = common[:, None] + shared[:, :, None] @ remaining[:, None]
    bias = sum(params["value"]["bias"][h] @ out[h] for h in heads) if "bias" in params["value"] else 0.0
    bias = bias + params["out"].get("bias", 0.0) * (1.0 if branch.scale is None else branch.scale)
    centred = residual(new, real)
    new_common = (averaged @ w_vo).sum(axis=1) + bias + (new - centred)[:, :1]

    ones, most = (np.abs(w_vo).sum(axis=axis).max() for axis in (1, 2))
    beta = np.abs(w_qk).sum(axis=1).max() * np.sqrt(ones * most)
    gamma = np.sqrt(real.sum(axis=-1) * shared.max(axis=(1, 2)))
    pairs = real[:, None, :, None] & real[:, None, None, :]
    low, high = np.where(pairs, logits, np.inf).min(axis=-1), np.where(pairs, logits, -np.inf).max(axis=-1)
    spread = np.where(real[:, None], high - low, 0.0).max(axis=(1, 2))
    return new_common, centred, 4 * gamma * beta * len(w_qk) / np.sqrt(width), spread


def _difference(shared: Any, logits: Any) -> Any:
    """Returns the softmax of log(shared) + logits, minus shared: with full precision where logits are small."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # of the branch that is not taken
        log_shared = np.log(shared)
        small = np.abs(logits).max(axis=-1, keepdims=True) < 1
        total = np.where(
            small,
            np.log1p((np.expm1(logits) * shared).sum(axis=-1, keepdims=True)),
            np.asarray(logsumexp(log_shared + logits, axis=-1, keepdims=True)),
        )
        gap = logits - total
        return np.where(small, shared * np.expm1(gap), np.exp(log_shared + gap) - shared)
