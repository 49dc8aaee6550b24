"""Reads both layouts of `torch.save`: the zip archive (torch 1.6 and later) and the older stream of pickles."""

import functools
import io
import zipfile
from typing import IO, Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.pretrained.files.limits import read_member
from vit_jax.pretrained.files.torch_pickle import Storage, unpickler

MAGIC = 0x1950A86A20F9469CFC6C  # what the older layout starts with


def load_zip(archive: zipfile.ZipFile) -> Any:
    """Returns what was saved, with tensors as `Tensor`, which read from the archive on demand, while it is open.

    Args:
      archive: As `limits.open_archive` returns it.

    Raises:
      UserError: The archive holds more than data; the message names what. If it is damaged, any exception is raised.
    """
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise UserError(f"the archive has {len(pickles)} files data.pkl: it was not written by torch.save")
    if compressed := [name for name, member in members.items() if member.compress_type != zipfile.ZIP_STORED]:
        raise UserError(f"{compressed[0]} is compressed; torch.save never compresses")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = members.get(f"{folder}byteorder")
    order = "<" if byteorder is None or read_member(archive, byteorder) == b"little" else ">"

    @functools.cache
    def read(key):
        if f"{folder}data/{key}" not in members:
            raise UserError(f"the archive has no storage {key!r}: it is damaged")
        return read_member(archive, members[f"{folder}data/{key}"])

    def storage(dtype, key, size, view=None):
        return Storage(dtype.newbyteorder(order), size, functools.partial(read, key))

    data = read_member(archive, members[pickles[0]])
    return unpickler(io.BytesIO(data), len(data))(storage)


def load_stream(file: IO[bytes], size: int) -> Any:
    """Returns what was saved before torch 1.6: see `load_zip`.

    The file consists of pickles of a magic number, version, machine, object and storage keys, and then the storages in
    that order.

    Args:
      size: Size of the file in bytes.
    """
    file.seek(0)
    places: dict[str, int] = {}
    known: dict[str, tuple[np.dtype, int]] = {}
    load = unpickler(file, size)

    def none(*_):
        raise UserError("refused: a storage in a pickle that must not have one")

    if load(none) != MAGIC:
        raise UserError("the file was not written by torch.save: it has no magic number")
    _, machine = load(none), load(none)
    order = "little" if machine["little_endian"] else "big"

    @functools.cache
    def read(key):
        dtype, count = known[key]
        file.seek(places[key])
        return file.read(count * dtype.itemsize)

    def storage(dtype, key, count, view=None):
        if view is not None:
            raise UserError("files written by torch before version 0.4 are not supported: a storage is a view")
        dtype = dtype.newbyteorder("<" if order == "little" else ">")
        if known.setdefault(key, (dtype, count)) != (dtype, count):
            raise UserError(f"the storage {key!r} has two types or sizes: the file is damaged")
        return Storage(dtype, count, functools.partial(read, key))

    saved = load(storage)
    keys = load(none)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != known.keys():
        raise UserError("the storages are not those of the tensors: the file is damaged")
    for key in keys:
        dtype, count = known[key]
        if int.from_bytes(file.read(8), order) != count:
            raise UserError(f"the storage {key!r} does not have {count} values: the file is damaged")
        places[key] = file.tell()
        if file.seek(count * dtype.itemsize, io.SEEK_CUR) > size:
            raise UserError("the file is cut short")
    return saved
