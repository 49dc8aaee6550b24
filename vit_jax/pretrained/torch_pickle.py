"""Reads files written by `torch.save`, without torch and without executing anything they contain.

A pickle is a program. The interpreter here knows only the instructions for plain data. It may call only what `_ALLOWED`
lists, which creates tensors and containers of ours, and it refuses everything else by name. It reads both layouts: the
zip archive (torch 1.6 and later) and the older stream of pickles.
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from vit_jax.errors import UserError

DTYPES = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "bool", "complex64", "complex128")},
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}
_STORAGES = {
    "Half": "float16",
    "Float": "float32",
    "Double": "float64",
    "BFloat16": "bfloat16",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)


class Storage(NamedTuple):
    """`size` values of a dtype, which `read` reads on demand."""

    dtype: np.dtype
    size: int
    read: Callable[[], bytes]


class Tensor(NamedTuple):
    """A view of a storage; `numpy` reads the values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """Returns a contiguous copy.

        Raises:
          UserError: The view reaches beyond its storage, or the storage is cut short.
        """
        dtype, size, read = self.storage
        numbers = (self.offset, size, *self.shape, *self.strides)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=False))
        count = math.prod(self.shape)
        if (
            any(type(n) is not int or n < 0 for n in numbers)
            or len(self.shape) != len(self.strides)
            or count > size  # a stride of 0 repeats values: weights never do, but an attack on memory might
            or (count and last >= size)
        ):
            raise UserError(
                f"a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset} does not fit into "
                f"its storage of {size} values"
            )
        data = read()
        if len(data) != size * dtype.itemsize:
            raise UserError(f"a storage of {size} {dtype.name} values has {len(data)} bytes: the file is cut short")
        if not count:
            return np.zeros(self.shape, dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        values = np.frombuffer(data, dtype)[self.offset :]
        return np.lib.stride_tricks.as_strided(values, self.shape, strides).copy()


class Namespace(dict):
    """Replaces `argparse.Namespace`, in which training scripts save their arguments; attributes become items."""


class _Callable(NamedTuple):
    """A function that a pickle may call."""

    call: Callable[..., Any]


def _tensor(storage, offset, shape, strides, *_):  # what follows: requires_grad, hooks, metadata
    return Tensor(Storage(*storage), offset, tuple(shape), tuple(strides))


def _tensor_of_dtype(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):  # the storage holds bytes
    typed = Storage(dtype, storage.size // dtype.itemsize, storage.read)
    return _tensor(typed, offset, shape, strides)


def _numpy_dtype(code, *_):
    if not re.fullmatch(r"b1|[iufc]\d+", code):
        raise UserError(f"refused: numpy.dtype({code!r}), which is not a type of numbers")
    return np.dtype(code)


def _numpy_scalar(dtype, data):
    return np.frombuffer(data, dtype)[0].item()


def _encode(text, encoding):  # how protocol 2 writes bytes
    return text.encode({"latin1": "latin1"}[encoding])


_ALLOWED = {
    "torch._utils._rebuild_tensor": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v2": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v3": _Callable(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": _Callable(lambda tensor, *_: tensor),
    "torch.Size": _Callable(tuple),
    "collections.OrderedDict": _Callable(dict),
    "argparse.Namespace": _Callable(Namespace),
    "numpy.dtype": _Callable(_numpy_dtype),
    "numpy.core.multiarray.scalar": _Callable(_numpy_scalar),
    "numpy._core.multiarray.scalar": _Callable(_numpy_scalar),
    "_codecs.encode": _Callable(_encode),
    **{f"{module}.set": _Callable(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _Callable(frozenset) for module in ("builtins", "__builtin__")},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}Storage": DTYPES[dtype] for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": DTYPES["uint8"],
}


class _Instructions(dict):
    def __missing__(self, code: int):
        names = {getattr(pickle, name)[0]: name for name in dir(pickle) if isinstance(getattr(pickle, name), bytes)}
        raise UserError(f"refused: the pickle instruction {names.get(code, code)}")


class _Unpickler(pickle._Unpickler):
    """Python's own interpreter, reduced to plain data; `storage` returns the Storage for a persistent id."""

    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, n)[0] for n in _OPCODES)}
    )

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: Any, storage: Callable[..., Storage]):
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known = _ALLOWED.get(f"{module}.{name}")
        if known is None:
            raise UserError(f"refused: {module}.{name}, which is not a tensor, number, string or container")
        return known

    def persistent_load(self, pid: Any) -> Storage:
        kind, *rest = pid
        if kind != "storage":
            raise UserError(f"refused: a persistent id of kind {kind!r}")
        return self._storage(*rest)

    def _call(self):
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Callable):
            raise UserError(f"refused: a call of {function!r}")
        self.append(function.call(*args))

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Namespace):
            target.update(state)
        elif isinstance(target, np.dtype) and state[1] in "<|=":
            pass  # sets the byte order, which is known already
        elif type(target) is not dict:  # state dicts carry versions of their modules, which are not needed
            raise UserError(f"refused: a state for {type(target).__name__}")

    for _name, _method in (("REDUCE", _call), ("NEWOBJ", _call), ("BUILD", _build)):
        dispatch[getattr(pickle, _name)[0]] = _method


def load(file: IO[bytes]) -> Any:
    """Returns what was saved, with tensors as `Tensor`, which read from the file on demand, while it is open.

    Raises:
      UserError: The file is damaged or cut short, or holds more than data; the message names what.
    """
    try:
        return _load_zip(file) if zipfile.is_zipfile(file) else _load_legacy(file)
    except (UserError, OSError):
        raise
    except Exception as error:  # the instructions of a damaged pickle can fail with any exception
        raise UserError(
            f"the file is damaged or was not written by torch.save ({type(error).__name__}: {error})"
        ) from error


def _load_zip(file: IO[bytes]) -> Any:
    archive = zipfile.ZipFile(file)
    (entry,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
    folder = entry.removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"

    def storage(dtype, key, location, size):
        info = archive.getinfo(f"{folder}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{info.filename} is compressed; torch.save never compresses")
        return Storage(dtype.newbyteorder("<" if order == b"little" else ">"), size, lambda: archive.read(info))

    return _Unpickler(io.BytesIO(archive.read(entry)), storage).load()


def _load_legacy(file: IO[bytes]) -> Any:
    """Reads pickles of magic number, version, machine, object and storage keys, then the storages in that order."""
    file.seek(0)
    places: dict[str, int] = {}
    dtypes: dict[str, np.dtype] = {}

    def none(*_):
        raise UserError("refused: a storage in a pickle that must not have one")

    if _Unpickler(file, none).load() != _LEGACY_MAGIC:
        raise UserError("the file was not written by torch.save: it has no magic number")
    _, machine = _Unpickler(file, none).load(), _Unpickler(file, none).load()

    def storage(dtype, key, location, size, view):
        if view is not None:
            raise UserError("files written by torch before version 0.4 are not supported: a storage is a view")
        dtypes[key] = dtype.newbyteorder("<" if machine["little_endian"] else ">")

        def read():
            file.seek(places[key])
            return file.read(size * dtype.itemsize)

        return Storage(dtypes[key], size, read)

    saved = _Unpickler(file, storage).load()
    for key in _Unpickler(file, none).load():
        size = int.from_bytes(file.read(8), "little" if machine["little_endian"] else "big")
        places[key] = file.tell()
        end = file.seek(size * dtypes[key].itemsize, io.SEEK_CUR)
        if end > file.seek(0, io.SEEK_END):
            raise UserError("the file is cut short")
        file.seek(end)
    return saved
