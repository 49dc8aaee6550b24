"""What the transcriptions have in common."""

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


GELUS = {"exact": gelu_exact, "tanh": gelu_tanh}


def relu(x):
    return np.maximum(x, 0)


def mlp(p, x, activation):
    return dense(p["out"], activation(dense(p["in"], x)))
