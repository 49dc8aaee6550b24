"""Trained models for programs without vit_jax: a StableHLO artefact that needs only JAX, or an ONNX file.

An artefact computes what `task.predict` computes for a batch of any size: logits, or the translation of token ids. The
last step of an image's preprocessing, `normalize`, is part of it, so that its input is what an image file holds: levels
from 0 to 255, as uint8, at the model's size. Resizing and cropping are done by Pillow before, and described in
`preprocessing.json`.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.data.image.values import Normalize
from vit_jax.data.modality import describe_encoder, get_modality
from vit_jax.errors import UserError, nearest
from vit_jax.export.model_card import write_labels
from vit_jax.pretrained.save import check_absent, unfinished

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # names of jax.export
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("stablehlo", "onnx")
ARTEFACT, WEIGHTS, ONNX_FILE = "model.stablehlo", "weights.npz", "model.onnx"
_PORTABLE = {"attention_kernel": "reference", "scan_layers": False, "remat": "none"}  # what every platform computes

Weights = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Served:
    """A trained model as a function of weights and a batch.

    Attributes:
      function: `function(weights, inputs)` returns an array with one row per input, or a dict of such arrays.
      weights: The parameters by path, such as `encoder/block_0/mlp/in/kernel`.
      name: What the inputs are: "image", "video" or "source".
      shape: Shape of one input.
      dtype: `uint8` levels if `normalizes`, otherwise what the model takes.
      normalizes: Whether the function includes the `normalize` of the preprocessing.
      output: What the function returns, for people.
    """

    function: Callable[[Weights, jax.Array], Any]
    weights: Weights
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    normalizes: bool
    output: str


def serve(model: Any, params: Any, task: Any, encoder: Any) -> Served:
    """Returns a trained model as one function, with `normalize` included if the preprocessing ends with it.

    Attention is computed by the plain formulation, which every platform has. Each example is computed by itself under
    `jax.vmap`, so that the batch size can be symbolic.

    Args:
      task: Its `predict` is what the function computes; a single result is returned without its name.
      encoder: The preprocessing; None if it is not known.
    """
    portable = {name: value for name, value in _PORTABLE.items() if hasattr(model, name)}
    model = model.clone(**portable)
    name = "image" if encoder is None else get_modality(encoder.key).input_name
    given, *_ = task.init_inputs(model)
    is_float = jnp.issubdtype(given.dtype, jnp.floating)
    steps = getattr(encoder, "steps", ())
    normalize = steps[-1] if steps and isinstance(steps[-1], Normalize) else None

    def predict(weights: Weights, example: jax.Array) -> Any:
        inputs = example if normalize is None else _normalized(normalize, example)
        rows = task.predict(model, unflatten_dict(weights, sep="/"), {name: inputs[None]})
        rows = {key: values[0] for key, values in rows.items()}
        return rows if len(rows) > 1 else next(iter(rows.values()))

    outputs = "logits" if hasattr(task, "num_classes") else "translation (token ids) and score"
    return Served(
        function=jax.vmap(predict, in_axes=(None, 0)),
        weights={path: _numpy(leaf) for path, leaf in flatten_dict(params, sep="/").items()},
        name=name,
        shape=given.shape[1:],
        dtype=np.dtype(np.uint8 if normalize else np.float32 if is_float else given.dtype),
        normalizes=normalize is not None,
        output="pooled features" if getattr(task, "num_classes", 0) is None else outputs,
    )


def _numpy(leaf: Any) -> np.ndarray:
    """Returns an array of a type that `.npz` files can hold: bfloat16 as float32, which has all of its values."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _normalized(normalize: Normalize, levels: jax.Array) -> jax.Array:
    """Returns (levels / 255 - mean) / std in float32, rounded as by `Normalize`."""
    mean, std = (np.asarray(numbers, np.float32) for numbers in (normalize.mean, normalize.std))
    return levels.astype(jnp.float32) * (1 / (255 * std)) - mean / std


def to_stablehlo(served: Served, platforms: Sequence[str] = DEFAULT_PLATFORMS) -> bytes:
    """Returns the serialised `jax.export.Exported` of a function, with a symbolic batch size.

    Raises:
      UserError: A platform is unknown, flatbuffers is not installed, or the model cannot be lowered.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise UserError(f"unknown platform {platform!r}; known: {', '.join(PLATFORMS)}")
    require("flatbuffers", "export")
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in served.weights.items()}
    inputs = jax.ShapeDtypeStruct((batch, *served.shape), served.dtype)
    with explained("StableHLO"):
        exported = export.export(jax.jit(served.function), platforms=tuple(platforms))(shapes, inputs)
    return bytes(exported.serialize())


def export_run(
    path: epath.PathLike,
    served: Served,
    format: str,
    card: Callable[[str], str],
    *,
    labels: Sequence[str] = (),
    encoder: Any = None,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
) -> None:
    """Writes a folder with the artefact, labels, preprocessing and model card.

    Args:
      format: One of `FORMATS`.
      card: Returns the text of the model card, given the section that shows how to load the artefact.
      encoder: The preprocessing; None if it is not known.

    Raises:
      UserError: The format is unknown, `path` exists or cannot be written, or see `to_stablehlo` and
        `onnx.to_onnx`.
    """
    if format not in FORMATS:
        raise UserError(f"unknown export format {format!r}{nearest(format, FORMATS)}")
    check_absent(path)
    if format == "onnx":
        from vit_jax.export.onnx import to_onnx

        content, is_symbolic = to_onnx(served)
        files, batch = {ONNX_FILE: content}, "batch" if is_symbolic else 1
    else:
        files, batch = {ARTEFACT: to_stablehlo(served, platforms)}, "batch"
    try:
        with unfinished(epath.Path(path)) as folder:
            folder.mkdir()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            if format == "stablehlo":
                with (folder / WEIGHTS).open("wb") as file:
                    np.savez(file, **served.weights)  # pyright: ignore[reportArgumentType]
            (folder / "README.md").write_text(card(_loading(served, format, batch)))
            (folder / "preprocessing.json").write_text(json.dumps(_described(served, encoder, batch), indent=2) + "\n")
            if labels:
                write_labels(folder / "labels.json", labels)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _described(served: Served, encoder: Any, batch: str | int) -> dict[str, Any]:
    """Describes the input of an artefact, and what has to be done before it."""
    steps = [str(step) for step in getattr(encoder, "steps", ())]
    return {
        "input": {"name": served.name, "shape": [batch, *served.shape], "dtype": str(served.dtype)},
        "before": steps[:-1] if served.normalizes else steps,
        "included": steps[-1:] if served.normalizes else [],
        "encoder": None if encoder is None else describe_encoder(encoder),
    }


def _loading(served: Served, format: str, batch: str | int) -> str:
    shape = ", ".join(map(str, [batch, *served.shape]))
    stated = f"The input is `{served.dtype} ({shape})`, the output {served.output}."
    if served.normalizes:
        stated += (
            " The input holds levels from 0 to 255 after the steps of `preprocessing.json` that come before the model; "
            "`normalize` is included."
        )
    lines = {
        "stablehlo": [
            "import jax, numpy as np  # pip install jax flatbuffers",
            "",
            f'model = jax.export.deserialize(bytearray(open("{ARTEFACT}", "rb").read()))',
            f'weights = dict(np.load("{WEIGHTS}"))',
            "outputs = model.call(weights, inputs)",
        ],
        "onnx": [
            "import onnxruntime  # pip install onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{ONNX_FILE}")',
            f'(outputs,) = session.run(None, {{"{served.name}": inputs}})',
        ],
    }[format]
    version = importlib.metadata.version("jax")
    compatible = (
        f"\n\nWritten by JAX {version}. JAX reads artefacts of earlier versions for six months (see the page on export "
        "in its documentation)."
        if format == "stablehlo"
        else ""
    )
    return "\n".join(["```python", *lines, "```", "", stated]) + compatible


def require(package: str, extra: str) -> None:
    """Raises UserError unless a package is installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"this export needs the package {package}: pip install 'vit_jax[{extra}]'")


@contextlib.contextmanager
def explained(target: str):
    """Turns a failure to lower or convert a model into a UserError that says why, in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"this model cannot be exported to {target}: {type(error).__name__}: {reason[:300]}") from error
