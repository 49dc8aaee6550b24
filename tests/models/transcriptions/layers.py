"""Layers that the transcriptions share."""

import numpy as np
from scipy.special import erf


def layer_norm(p, x, epsilon=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    return x / 2 * (1 + erf(x / np.sqrt(2)))


def gelu_quick(x):
    return x / (1 + np.exp(-1.702 * x))


GELUS = {"exact": gelu_exact, "tanh": gelu_tanh, "quick": gelu_quick}


def relu(x):
    return np.maximum(x, 0)


def mlp(p, x, activation):
    return dense(p["out"], activation(dense(p["in"], x)))


def attention(p, x, y, *, mask=True, relative=None):
    """Of queries from `x` (..., queries, dim) to keys from `y`: the output, and weights (..., heads, queries, keys).

    `mask` (batch, queries, keys); a query that may see nothing sees everything alike. `relative` (distances, head_dim).
    """
    out, weights = p["out"].get("bias", 0), []
    for head in range(p["query"]["kernel"].shape[1]):
        query, key, value = (
            tokens @ p[name]["kernel"][:, head] + (p[name]["bias"][head] if "bias" in p[name] else 0)
            for name, tokens in (("query", x), ("key", y), ("value", y))
        )
        logits = query @ key.swapaxes(-1, -2)
        if relative is not None:
            for q, k in np.ndindex(logits.shape[-2:]):
                logits[..., q, k] += query[..., q, :] @ relative[q - k + logits.shape[-1] - 1]
        logits = np.where(mask, logits / np.sqrt(query.shape[-1]), -1e30)
        weight = np.exp(logits - logits.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        out = out + weight @ value @ p["out"]["kernel"][head]
        weights.append(weight)
    return out, np.stack(weights, axis=-3)
