"""Reading weight files into names and arrays. The content of a file determines its kind, never its name."""

import io
import json
import math
import stat
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from vit_jax.errors import UserError
from vit_jax.pretrained.files import torch_files, torch_pickle
from vit_jax.pretrained.files.limits import (
    JSON_SIZE,
    check_expansion,
    check_name,
    damaged,
    naming,
    one_line,
    open_archive,
    parse_json,
)
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
_RAW_BFLOAT16 = np.dtype("V2")  # NumPy does not know bfloat16 and writes it as two raw bytes
_TYPES = {  # of what config.json says, by the name of the type; each key may also be missing or null
    "text": (
        *("architecture", "model_type", "hidden_act", "attention_type", "global_pool"),
        *("model_args.global_pool", "model_args.act_layer"),
    ),
    "a number": ("layer_norm_eps", "model_args.init_values"),
    "a whole number": ("num_attention_heads", "num_frames", "model_args.num_heads"),
    "a list": ("label_names", "pretrained_cfg.input_size"),
    "an object": ("id2label", "model_args", "pretrained_cfg"),
}
_IS_TYPE: dict[str, Callable[[Any], bool]] = {
    "text": lambda x: isinstance(x, str),
    "a number": lambda x: type(x) in (int, float),
    "a whole number": lambda x: type(x) is int,
    "a list": lambda x: isinstance(x, list),
    "an object": lambda x: isinstance(x, dict),
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
    _check_types(path / "config.json", config)
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
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise UserError(f"{index} has no weight_map of tensors to files")
    tensors = {}
    for shard in sorted(set(places.values())):
        is_name = shard and shard.isprintable() and epath.Path(shard).name == shard
        if not is_name or not (index.parent / shard).exists():
            raise UserError(f"{index} names the shard {shard[:100]!r}, which is not in the same folder")
        found = _read_file(index.parent / shard, entry, shapes_only)
        if repeated := sorted(found.keys() & tensors.keys()):
            raise UserError(f"{index} names two shards that both have {listed(repeated)}")
        tensors |= found
    if missing := sorted(places.keys() - tensors.keys()):
        raise UserError(one_line(f"{index} lists tensors that no shard has: {listed(missing)}"))
    return tensors


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}")
    with _open(path) as file:
        data = file.read(JSON_SIZE + 1)
    try:
        return parse_json(data)
    except UserError as error:
        raise UserError(one_line(f"{path} {error}")) from error


def _check_types(path: epath.Path, config: dict[str, Any]) -> None:
    for kind, keys in _TYPES.items():
        for key in keys:
            section, _, option = key.rpartition(".")
            values = config.get(section) if section else config
            value = values.get(option) if isinstance(values, dict) else None
            if value is not None and not _IS_TYPE[kind](value):
                raise UserError(one_line(f"{path}: {key} must be {kind}, got {json.dumps(value)[:80]}"))


def _open(path: epath.Path) -> IO[bytes]:
    mode = path.stat().mode  # None in an object store
    if mode is not None and not stat.S_ISREG(mode):
        raise UserError(f"{path} is not a regular file")
    return path.open("rb")


def _read_file(path: epath.Path, entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    with _open(path) as file, naming(path), damaged("the file is damaged or of another kind"):
        size = file.seek(0, io.SEEK_END)
        tensors = _read_tensors(file, size, entry, shapes_only)
        for name in tensors:
            check_name(name)
        return tensors


def _read_tensors(file: IO[bytes], size: int, entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    file.seek(0)
    start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        archive = open_archive(file, size)
        members = archive.infolist()
        if all(member.filename.endswith(".npy") for member in members):
            return dict(_npz_array(archive, member, shapes_only) for member in members)
        return _read_torch(torch_files.load_zip(archive), size, entry, shapes_only)
    if start[8:] == b"{":
        return _read_safetensors(file, size, shapes_only)
    if start.startswith(b"\x80"):
        return _read_torch(torch_files.load_stream(file, size), size, entry, shapes_only)
    raise UserError("not a weight file: expected .npz, safetensors, or torch 0.4 or later")


def _npz_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shapes_only: bool) -> tuple[str, np.ndarray]:
    """Returns name and values of an array, after its header was found to agree with the size of the member."""
    with archive.open(member) as file:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        tensor_shape, _, dtype = read_header(file)
        if dtype.kind not in "biufc" and dtype != _RAW_BFLOAT16:
            raise UserError(f"array {member.filename} has dtype {dtype}, which is not a type of numbers")
        if min(tensor_shape, default=0) < 0 or file.tell() + _bytes(tensor_shape, dtype) != member.file_size:
            raise UserError(f"array {member.filename} of shape {tensor_shape} and {dtype} does not fit its member")
    if shapes_only:
        array = _zeros(tensor_shape, dtype)
    else:
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    return member.filename.removesuffix(".npy"), array.view(ml_dtypes.bfloat16) if dtype == _RAW_BFLOAT16 else array


def _read_safetensors(file: IO[bytes], size: int, shapes_only: bool) -> dict[str, np.ndarray]:
    file.seek(0)
    header_size = int.from_bytes(file.read(8), "little")
    if header_size > min(size - 8, JSON_SIZE):
        raise UserError(f"damaged safetensors file: its header cannot have {header_size} bytes")
    try:
        header = parse_json(file.read(header_size))
    except UserError as error:
        raise UserError(f"damaged safetensors file: its header {error}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        dtype, tensor_shape, (start, end) = _SAFETENSORS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise UserError(f"tensor {name} has dtype {entry['dtype']}, which is not supported")
        if any(type(n) is not int or n < 0 for n in (*tensor_shape, start, end)):
            raise UserError(f"tensor {name}: shape and data_offsets must be whole numbers of at least 0")
        if end - start != _bytes(tensor_shape, dtype) or 8 + header_size + end > size:
            raise UserError(f"tensor {name} of shape {tensor_shape} does not fit its place in the file")
        tensors[name] = _zeros(tensor_shape, dtype)
    if shapes_only:
        return tensors
    file.seek(0)
    values = dict(safetensors.deserialize(file.read(size)))
    return {name: np.frombuffer(values[name]["data"], x.dtype).reshape(x.shape) for name, x in tensors.items()}


def _read_torch(saved: Any, size: int, entry: str | None, shapes_only: bool) -> dict[str, np.ndarray]:
    state = _find_state(saved, entry)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch_pickle.Tensor)}
    for name, value in tensors.items():
        check_name(name)
        value.check()
    check_expansion(sum(_bytes(value.shape, value.storage.dtype) for value in tensors.values()), size)
    if shapes_only:
        return {name: _zeros(value.shape, value.storage.dtype) for name, value in tensors.items()}
    return {name: value.numpy() for name, value in tensors.items()}


def _find_state(saved: Any, entry: str | None) -> Mapping[str, Any]:
    """Returns the dict of tensors: the whole file or one of its entries, by default the latest weights."""

    def is_state(value):
        return isinstance(value, dict) and any(isinstance(v, torch_pickle.Tensor) for v in value.values())

    entries = saved if isinstance(saved, dict) else {}
    distinct = {id(value): is_state(value) for value in {id(value): value for value in entries.values()}.values()}
    states = {name: value for name, value in entries.items() if distinct[id(value)]}
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


def _bytes(tensor_shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(tensor_shape) * dtype.itemsize
