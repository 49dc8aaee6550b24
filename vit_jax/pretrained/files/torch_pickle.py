"""Reads pickles written by `torch.save`, without torch and without executing anything they contain.

A pickle is a program. The interpreter here knows only the instructions for plain data. It may call only what `_ALLOWED`
lists, which creates tensors and containers of ours, and it refuses everything else by name.

A pickle has no loops, so its cost is bounded by the number of its steps (`limits.PICKLE_STEPS`), as long as no step
visits a whole structure: one tuple that holds another twice, 60 times over, takes forever to hash, compare or print.
Only strings and numbers can therefore be keys, calls count the items they copy, and no message shows a container.
"""

import math
import pickle
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from vit_jax.errors import UserError
from vit_jax.pretrained.files.limits import PICKLE_STEPS

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
_SIZED = (str, bytes, list, tuple, dict, set, frozenset)
_KEYS = (str, bytes, float, bool, type(None))
_MOST_AXES = 32
_MOST_ARGUMENTS = 16
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

_HASHING = {  # instructions that hash items of the stack: which ones
    "SETITEM": slice(-2, -1),
    **dict.fromkeys(("SETITEMS", "DICT"), slice(None, None, 2)),
    **dict.fromkeys(("ADDITEMS", "FROZENSET"), slice(None)),
}


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

    def check(self) -> None:
        """Raises UserError if the view reaches beyond its storage."""
        size = self.storage.size
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=False))
        count = math.prod(self.shape)
        if (
            min(self.offset, size, *self.shape, *self.strides) < 0
            or len(self.shape) != len(self.strides)
            or count > size  # a stride of 0 repeats values: weights never do, but an attack on memory might
            or (count and last >= size)
        ):
            raise UserError(
                f"a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset} does not fit into "
                f"its storage of {size} values"
            )

    def numpy(self) -> np.ndarray:
        """Returns a contiguous array, which shares the memory of the storage if the view is contiguous.

        Raises:
          UserError: The view reaches beyond its storage, or the storage is cut short.
        """
        self.check()
        dtype, size, read = self.storage
        data = read()
        if len(data) != size * dtype.itemsize:
            raise UserError(f"a storage of {size} {dtype.name} values has {len(data)} bytes: the file is cut short")
        if not math.prod(self.shape):
            return np.zeros(self.shape, dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        values = np.frombuffer(data, dtype)[self.offset :]
        return np.asarray(np.lib.stride_tricks.as_strided(values, self.shape, strides), order="C")


class Namespace(dict):
    """Replaces `argparse.Namespace`, in which training scripts save their arguments; attributes become items."""


class _Callable(NamedTuple):
    """A function that a pickle may call."""

    call: Callable[..., Any]


def _tensor(storage, offset, shape, strides, *_):  # what follows: requires_grad, hooks, metadata
    if not isinstance(storage, Storage) or not all(isinstance(x, (tuple, list)) for x in (shape, strides)):
        raise UserError("refused: a tensor without a storage, shape or strides")
    if max(len(shape), len(strides)) > _MOST_AXES:
        raise UserError(f"refused: a tensor of {len(shape)} axes and {len(strides)} strides, more than {_MOST_AXES}")
    for number in (offset, *shape, *strides):
        _check_number(number)
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _tensor_of_dtype(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):  # the storage holds bytes
    typed = Storage(_dtype(dtype), storage.size // dtype.itemsize, storage.read)
    return _tensor(typed, offset, shape, strides)


def _check_number(value):
    if type(value) is not int or abs(value) >= 2**63:
        raise UserError("refused: a tensor whose shape, strides, offset or size are not numbers of 64 bits")


def _dtype(value):
    if not isinstance(value, np.dtype):
        raise UserError(f"refused: a {type(value).__name__} as dtype")
    return value


def _numpy_dtype(code, *_):
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iufc]\d+", code):
        said = repr(code[:20]) if isinstance(code, str) else type(code).__name__
        raise UserError(f"refused: numpy.dtype({said}), which is not a type of numbers")
    return np.dtype(code)


def _numpy_scalar(dtype, data):
    return np.frombuffer(data, _dtype(dtype))[0].item()


def _encode(text, encoding):  # how protocol 2 writes bytes
    if encoding != "latin1":
        raise UserError("refused: _codecs.encode with an encoding other than latin1")
    return text.encode("latin1")


def _dict(pairs=()):
    _check_keys([key for key, _ in pairs])
    return dict(pairs)


def _set(items=()):
    _check_keys(items)
    return set(items)


def _frozenset(items=()):
    return frozenset(_set(items))


def _check_keys(keys):
    """Refuses what takes long to hash: tuples that hold each other, and numbers of a million digits."""
    for key in keys:
        if not isinstance(key, _KEYS) and not (type(key) is int and abs(key) < 2**64):
            raise UserError(f"refused: a {type(key).__name__} as the key of a dict or an item of a set")


_ALLOWED = {
    "torch._utils._rebuild_tensor": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v2": _Callable(_tensor),
    "torch._utils._rebuild_tensor_v3": _Callable(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": _Callable(lambda tensor, *_: tensor),
    "torch.Size": _Callable(tuple),
    "collections.OrderedDict": _Callable(_dict),
    "argparse.Namespace": _Callable(Namespace),
    "numpy.dtype": _Callable(_numpy_dtype),
    "numpy.core.multiarray.scalar": _Callable(_numpy_scalar),
    "numpy._core.multiarray.scalar": _Callable(_numpy_scalar),
    "_codecs.encode": _Callable(_encode),
    **{f"{module}.set": _Callable(_set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _Callable(_frozenset) for module in ("builtins", "__builtin__")},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}Storage": DTYPES[dtype] for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": DTYPES["uint8"],
}


class _Instructions(dict):
    def __missing__(self, code: int):
        names = {getattr(pickle, name)[0]: name for name in dir(pickle) if isinstance(getattr(pickle, name), bytes)}
        raise UserError(f"refused: the pickle instruction {names.get(code, code)}")


def _checked(code: int, keys: slice) -> Callable[[pickle._Unpickler], None]:
    """Returns the instruction that first checks the keys among the items on the stack."""
    run = pickle._Unpickler.dispatch[code]

    def instruction(unpickler):
        _check_keys(unpickler.stack[keys])
        run(unpickler)

    return instruction


class _Steps:
    """A file that counts what a pickle costs: every read is a step, and so is every item that a call copies."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size, self._left = file, size, PICKLE_STEPS

    def take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise UserError(f"refused: a pickle of more than {PICKLE_STEPS:,} steps")

    def read(self, size: int) -> bytes:
        self.take(1)
        if size > self._size:  # Python would allocate the bytes before it finds that there are fewer
            raise UserError("the file is cut short")
        return self._file.read(size)

    def readline(self) -> bytes:
        self.take(1)
        return self._file.readline()


class _Unpickler(pickle._Unpickler):
    """Python's own interpreter, reduced to plain data; `storage` returns the Storage for a persistent id."""

    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, n)[0] for n in _OPCODES)}
    )

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: _Steps, storage: Callable[..., Storage]):
        super().__init__(file, encoding="latin1")
        self._steps = file
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known = _ALLOWED.get(f"{module}.{name}")
        if known is None:
            raise UserError(f"refused: {module}.{name}, which is not a tensor, number, string or container")
        return known

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
            raise UserError("refused: a persistent id that is not a storage's")
        _, dtype, key, _, size, *view = pid
        if not isinstance(key, str):
            raise UserError(f"refused: a storage with a {type(key).__name__} as key")
        _check_number(size)
        return self._storage(_dtype(dtype), key, size, *view)

    def _frame(self):
        self.read(8)  # frames only speed up reading

    def _call(self):
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Callable):
            raise UserError(f"refused: a call of a value of type {type(function).__name__}")
        if type(args) is not tuple or len(args) > _MOST_ARGUMENTS:
            raise UserError(f"refused: a call with more than {_MOST_ARGUMENTS} arguments")
        self._steps.take(sum(len(x) for x in args if isinstance(x, _SIZED)))
        self.append(function.call(*args))

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Namespace) and type(state) is dict:
            self._steps.take(len(state))
            target.update(state)
        elif isinstance(target, np.dtype) and state[1] in "<|=":
            pass  # sets the byte order, which is known already
        elif type(target) is not dict:  # state dicts carry versions of their modules, which are not needed
            raise UserError(f"refused: a state for {type(target).__name__}")

    for _name, _method in (("FRAME", _frame), ("REDUCE", _call), ("NEWOBJ", _call), ("BUILD", _build)):
        dispatch[getattr(pickle, _name)[0]] = _method
    for _name, _keys in _HASHING.items():
        dispatch[getattr(pickle, _name)[0]] = _checked(getattr(pickle, _name)[0], _keys)


def unpickler(file: IO[bytes], size: int) -> Callable[[Callable[..., Storage]], Any]:
    """Returns a function that reads the next pickle of a file of `size` bytes.

    The argument of the function returns the `Storage` for a dtype, a key and a number of values. All pickles of the
    file together may take `limits.PICKLE_STEPS`.
    """
    steps = _Steps(file, size)
    return lambda storage: _Unpickler(steps, storage).load()
