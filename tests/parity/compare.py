"""Our models with the weights of a peer, loaded by `vit_jax.pretrained`: logits and the gradient of the loss."""

import zlib

import jax
import numpy as np
import optax

from tests.parity.peers import Case, Tensors, random_inputs, random_tensors
from vit_jax import build_model
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.names import to_params, to_tensors

DIRECTIONS = 3


def ours(case: Case, shapes: dict[str, tuple[int, ...]]) -> tuple[np.ndarray, Tensors]:
    """Returns the logits, and the gradient of their mean cross-entropy, by the names of the format's files."""
    model = build_model(case.name, **case.fields)
    file_format = find_format(case.format, model)
    params = to_params(file_format, model, random_tensors(shapes))
    inputs, labels = random_inputs(case, model.input_shape, model.num_classes)

    @jax.jit
    def run(params, inputs):
        def loss(params):
            logits = model.apply({"params": params}, inputs, train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, gradients

    logits, gradients = run(params, inputs)
    return np.asarray(logits), to_tensors(file_format, model, jax.device_get(gradients))


def theirs(case: Case) -> tuple[dict[str, tuple[int, ...]], np.ndarray, Tensors]:
    """Returns the shapes of the peer's tensors, its logits and gradient, by the names of the format's files."""
    model, peer = build_model(case.name, **case.fields), case.peer()
    inputs, labels = random_inputs(case, model.input_shape, model.num_classes)
    logits, gradients = peer.run(random_tensors(peer.shapes), inputs, labels)
    return peer.shapes, logits, find_format(case.format, model).normalise(gradients)


def projections(gradients: Tensors, names: list[str]) -> np.ndarray:
    """Returns products of each gradient with fixed random directions of unit length: a few numbers for a tensor."""

    def project(name, gradient):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        directions = rng.standard_normal((DIRECTIONS, gradient.size))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return directions @ gradient.reshape(-1).astype(np.float64)

    return np.stack([project(name, gradients[name]) for name in names])


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    got, expected = np.float64(got), np.float64(expected)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
