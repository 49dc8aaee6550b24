"""Reading weight files into names and arrays. The content of a file determines its kind, never its name."""

import json
import zipfile
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from vit_jax.errors import UserError
from vit_jax.pretrained import torch_pickle
from vit_jax.pretrained.names import listed

PREPROCESSORS = ("preprocessor_config", "video_preprocessor_config")  # names of files, without .json
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_STATES = ("model", "model_state", "state_dict")  # entries under which training scripts save the weights
_SAFETENSORS = {
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


class File(NamedTuple):
    """Tensors by name, and the folder's `config.json`, with its other configs under the names of `PREPROCESSORS`."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]


def read(path: epath.PathLike, entry: str | None = None, *, shapes_only: bool = False) -> File:
    """Reads an `.npz`, a safetensors or torch file, or a folder with a config.json and weights, whole or in shards.

    Args:
      entry: The set of weights to use if a torch file holds several, for example "model_ema".
      shapes_only: Reads only the headers. The tensors have their shapes and dtypes, but all values are zero, and they
        take no memory.

    Raises:
      UserError: The path does not exist, or the file is damaged, of another kind, or holds more than data.
    """
    path = epath.Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, entry, shapes_only)
        return File(_read_file(path, entry, shapes_only), {})
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _read_folder(path: epath.Path, entry: str | None, shapes_only: bool) -> File:
    config = _read_json(path / "config.json")
    for name in PREPROCESSORS:
        if (path / f"{name}.json").exists():
            config[name] = _read_json(path / f"{name}.json")
    for name in _WEIGHTS:
        if (path / name).exists():
            return File(_read_file(path / name, entry, shapes_only), config)
        if (index := path / f"{name}.index.json").exists():
            return File(_read_shards(index, entry, shapes_only), config)
    raise UserError(f"{path} has a config.json, but neither {' nor '.join(_WEIGHTS)}")


def _read_shards(index: epath.Path, entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} has no weight_map")
    tensors = {}
    for shard in sorted(set(places.values())):
        if "/" in shard or not (index.parent / shard).exists():
            raise UserError(f"{index} names the shard {shard!r}, which is not in the same folder")
        tensors |= _read_file(index.parent / shard, entry, shapes_only)
    if missing := sorted(places.keys() - tensors.keys()):
        raise UserError(f"{index} lists tensors that no shard has: {listed(missing)}")
    return tensors


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def _read_file(path: epath.Path, entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(9)
        try:
            if start.startswith(b"PK\x03\x04"):
                if not zipfile.is_zipfile(file):
                    raise UserError("the archive is cut short: its end is missing")
                members = zipfile.ZipFile(file).namelist()
                is_npz = all(name.endswith(".npy") for name in members)
                return _read_npz(file, shapes_only) if is_npz else _read_torch(file, entry, shapes_only)
            if start[8:] == b"{":
                return _read_safetensors(file, shapes_only)
            if start.startswith(b"\x80"):
                return _read_torch(file, entry, shapes_only)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    raise UserError(f"{path} is not a weight file: expected .npz, safetensors, or torch 0.4 or later")


def _read_npz(file: IO[bytes], shapes_only: bool) -> dict[str, np.ndarray]:
    file.seek(0)
    try:
        if shapes_only:
            return _npz_shapes(zipfile.ZipFile(file))
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged archive can fail with any exception
        raise UserError(f"damaged .npz ({type(error).__name__}: {error})") from error
    # NumPy does not know bfloat16 and writes it as two raw bytes
    return {name: x.view(ml_dtypes.bfloat16) if x.dtype == np.dtype("V2") else x for name, x in tensors.items()}


def _npz_shapes(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    tensors = {}
    for name in archive.namelist():
        with archive.open(name) as member:
            header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            tensor_shape, _, dtype = header[np.lib.format.read_magic(member)[0]](member)
            tensors[name.removesuffix(".npy")] = _zeros(tensor_shape, dtype)
    return tensors


def _read_safetensors(file: IO[bytes], shapes_only: bool) -> dict[str, np.ndarray]:
    file.seek(0)
    try:
        if shapes_only:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        else:
            entries = safetensors.deserialize(file.read())
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"damaged safetensors file ({error})") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS:
            raise UserError(f"tensor {name} has dtype {entry['dtype']}, which is not supported")
        dtype, tensor_shape = _SAFETENSORS[entry["dtype"]], entry["shape"]
        if shapes_only:
            tensors[name] = _zeros(tuple(tensor_shape), dtype)
        else:
            tensors[name] = np.frombuffer(entry["data"], dtype).reshape(tensor_shape)
    return tensors


def _read_torch(file: IO[bytes], entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    state = _find_state(torch_pickle.load(file), entry)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch_pickle.Tensor)}
    if shapes_only:
        return {name: _zeros(value.shape, value.storage.dtype) for name, value in tensors.items()}
    return {name: value.numpy() for name, value in tensors.items()}


def _find_state(saved: Any, entry: str | None) -> Mapping[str, Any]:
    """Returns the dict of tensors: the whole file or one of its entries, by default the latest weights."""

    def is_state(value):
        return isinstance(value, dict) and any(isinstance(v, torch_pickle.Tensor) for v in value.values())

    states = {name: value for name, value in saved.items() if is_state(value)} if isinstance(saved, dict) else {}
    wanted = [name for name in ((entry,) if entry else _STATES) if name in states]
    if len(wanted) == 1:
        return states[wanted[0]]
    if states:
        raise UserError(f"the file holds the weights {', '.join(map(repr, states))}. Choose one with entry=...")
    if is_state(saved) and entry is None:
        return saved
    raise UserError(f"the file holds {_describe(saved)}, not tensors by name")


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {listed([str(name) for name in value]) or 'nothing'}"
    return f"a {type(value).__name__}"


def _zeros(tensor_shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns a read-only array of zeros that shares one value."""
    return np.broadcast_to(np.zeros((), dtype), tensor_shape)
