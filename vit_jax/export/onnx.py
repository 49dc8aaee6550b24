"""ONNX files of trained models, through jax2onnx (extra `onnx`).

The model is traced by JAX first, and jax2onnx converts the primitives: its own layers for Flax do not all have batching
rules. The batch size of a file is symbolic where jax2onnx converts all primitives with a symbolic size, which it does
for ViT; otherwise the file takes one example at a time. Every file is run by onnxruntime and compared with JAX before
it is written.
"""

import contextlib
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.export.stablehlo import Served, explained, require

TOLERANCE = 1e-4  # of outputs, relative to the largest one if this is above 1
MOST_BYTES = 2**31 - 2**20  # of the weights: a protobuf message, and so a file without further files, is below 2 GiB


def to_onnx(served: Served) -> tuple[bytes, bool]:
    """Returns the content of an ONNX file with the weights in it, and whether its batch size is symbolic.

    Input and output are called `served.name` and "logits".

    Raises:
      UserError: jax2onnx is not installed, the weights are 2 GiB or more, the function returns several arrays as the
        search of a translation does, or jax2onnx cannot convert it to what computes the same.
    """
    require("jax2onnx", "onnx")
    single = jax.ShapeDtypeStruct((1, *served.shape), served.dtype)
    if not hasattr(jax.eval_shape(served.function, served.weights, single), "shape"):
        raise UserError("ONNX files hold classifiers; the search of a translation does not convert. Use stablehlo")
    if sum(leaf.nbytes for leaf in served.weights.values()) > MOST_BYTES:
        raise UserError("the weights are 2 GiB or more, the limit of an ONNX file. Use stablehlo")
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    several = jax.ShapeDtypeStruct((batch, *served.shape), served.dtype)
    with contextlib.suppress(Exception), _quiet():  # of many kinds, from any of jax2onnx's converters
        return _converted(served, several), True
    with explained("ONNX"), _quiet():
        return _converted(served, single), False


def _converted(served: Served, inputs: jax.ShapeDtypeStruct) -> bytes:
    import jax2onnx  # pyright: ignore[reportMissingImports]
    from jax.extend.core import jaxpr_as_fun

    weights = jax.tree.map(jnp.asarray, served.weights)
    traced = jax.make_jaxpr(lambda batch: served.function(weights, batch))(inputs)
    model: Any = jax2onnx.to_onnx(
        jaxpr_as_fun(traced),
        [inputs],
        model_name="vit_jax",
        input_names=[served.name],
        output_names=["logits"],
    )
    content = model.SerializeToString()
    _check(content, served, 1 if isinstance(inputs.shape[0], int) else 2)
    return content


def _check(content: bytes, served: Served, rows: int) -> None:
    """Raises ValueError unless onnxruntime computes what JAX computes, for random inputs."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    shape = (rows, *served.shape)
    levels = rng.integers(0, 256, shape) if served.normalizes else rng.standard_normal(shape)
    inputs = np.asarray(levels, served.dtype)
    weights = jax.tree.map(jnp.asarray, served.weights)
    expected = np.asarray(served.function(weights, jnp.asarray(inputs)), np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, {served.name: inputs})[0])
    error = float(np.abs(found - expected).max())
    if not error <= TOLERANCE * max(float(np.abs(expected).max()), 1.0):
        raise ValueError(f"onnxruntime's outputs differ from JAX's by {error:.2g}")


@contextlib.contextmanager
def _quiet():
    """Leaves out the warnings of onnx_ir about types that it does not know, one per intermediate value."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
