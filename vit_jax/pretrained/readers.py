"""From the bytes of a weight file to names and arrays; what a file is, its content tells, never its name."""

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

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_STATES = ("model", "model_state", "state_dict")  # where training scripts keep the weights
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
    """Tensors by name, and what stands beside them: `config.json`, with `preprocessor_config` if there is that too."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]


def read(path: epath.PathLike, entry: str | None = None) -> File:
    """Reads an `.npz`, a safetensors or torch file, or a folder with a config.json and weights, whole or in shards.

    Args:
      entry: Where a torch file holds several sets of weights, the one to take, as "model_ema".

    Raises:
      UserError: It is not there, damaged, of another kind, or holds something that is no data.
    """
    path = epath.Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, entry)
        return File(_read_file(path, entry), {})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _read_folder(path: epath.Path, entry: str | None) -> File:
    config = _read_json(path / "config.json")
    if (path / "preprocessor_config.json").exists():
        config["preprocessor_config"] = _read_json(path / "preprocessor_config.json")
    for name in _WEIGHTS:
        if (path / name).exists():
            return File(_read_file(path / name, entry), config)
        if (index := path / f"{name}.index.json").exists():
            return File(_read_shards(index, entry), config)
    raise UserError(f"{path} has a config.json, but neither {' nor '.join(_WEIGHTS)}")


def _read_shards(index: epath.Path, entry: str | None) -> dict[str, np.ndarray]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} has no weight_map")
    tensors = {}
    for shard in sorted(set(places.values())):
        if "/" in shard or not (index.parent / shard).exists():
            raise UserError(f"{index} names the shard {shard!r}, which is not beside it")
        tensors |= _read_file(index.parent / shard, entry)
    if missing := sorted(places.keys() - tensors.keys()):
        raise UserError(f"{index} promises tensors that no shard has: {listed(missing)}")
    return tensors


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"no {path.name} in {path.parent}")
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object")
    return value


def _read_file(path: epath.Path, entry: str | None) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(9)
        try:
            if start.startswith(b"PK\x03\x04"):
                if not zipfile.is_zipfile(file):
                    raise UserError("cut short: an archive without its end")
                members = zipfile.ZipFile(file).namelist()
                is_npz = all(name.endswith(".npy") for name in members)
                return _read_npz(file) if is_npz else _read_torch(file, entry)
            if start[8:] == b"{":
                return _read_safetensors(file)
            if start.startswith(b"\x80"):
                return _read_torch(file, entry)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    raise UserError(f"{path} is no weight file: neither .npz, nor safetensors, nor of torch 0.4 or later")


def _read_npz(file: IO[bytes]) -> dict[str, np.ndarray]:
    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged archives fail in every way
        raise UserError(f"damaged .npz ({type(error).__name__}: {error})") from error
    # NumPy writes bfloat16, which it does not know, as two raw bytes
    return {name: x.view(ml_dtypes.bfloat16) if x.dtype == np.dtype("V2") else x for name, x in tensors.items()}


def _read_safetensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    file.seek(0)
    try:
        entries = safetensors.deserialize(file.read())
    except safetensors.SafetensorError as error:
        raise UserError(f"damaged safetensors file ({error})") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS:
            raise UserError(f"tensor {name} has dtype {entry['dtype']}, which is not known here")
        tensors[name] = np.frombuffer(entry["data"], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _read_torch(file: IO[bytes], entry: str | None) -> dict[str, np.ndarray]:
    state = _find_state(torch_pickle.load(file), entry)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch_pickle.Tensor)}
    for prefix in ("module.", "_orig_mod."):  # of torch's DataParallel and compile
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value.numpy() for name, value in tensors.items()}


def _find_state(saved: Any, entry: str | None) -> Mapping[str, Any]:
    """Returns the dict of tensors: the whole, or one of its entries, that of the last weights unless told otherwise."""

    def is_state(value):
        return isinstance(value, dict) and any(isinstance(v, torch_pickle.Tensor) for v in value.values())

    states = {name: value for name, value in saved.items() if is_state(value)} if isinstance(saved, dict) else {}
    wanted = [name for name in ((entry,) if entry else _STATES) if name in states]
    if len(wanted) == 1:
        return states[wanted[0]]
    if states:
        raise UserError(f"holds the weights {', '.join(map(repr, states))}: choose with entry=")
    if is_state(saved) and entry is None:
        return saved
    raise UserError(f"holds no tensors by name, but {_describe(saved)}")


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict of {listed([str(name) for name in value]) or 'nothing'}"
    return f"a {type(value).__name__}"
