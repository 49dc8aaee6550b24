"""Bounds on what reading a weight file may cost, and errors that name the file.

A weight file may be damaged, or made to harm. Whatever it holds, reading it takes memory of at most ten times its size
plus 256 MiB, and a number of steps that is bounded in the same way. The bounds that ensure this are the constants of
this module; each leaves ample room for the largest real file. A file that exceeds one of them is refused.
"""

import collections
import contextlib
import errno
import json
import math
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from vit_jax.errors import UserError

# The values of a file may take EXPANSION times its size plus ALLOWANCE bytes. Weights hardly compress (bfloat16 numbers
# stored as float32 do, by a factor of 2), but a small compressed file may consist of a head of zeros.
EXPANSION = 5
ALLOWANCE = 64 * 2**20
JSON_SIZE = 4 * 2**20  # in bytes; the config of a model with ImageNet-21k's 21,843 class names has 2 MB
DIRECTORY_SIZE = 4 * 2**20  # in bytes, of a zip archive's list of members; one of 1,000 tensors has 0.1 MB
PICKLE_STEPS = 1_000_000  # reads by a pickle's instructions, and items copied by its calls; a tensor takes about 60

_INTEGER_DIGITS = 40
_NAME_LENGTH = 500
_MESSAGE_LENGTH = 1000


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
    """Turns whatever an unexpected file can raise into a `UserError` of one line that starts with the path."""
    try:
        yield
    except KeyError as error:
        raise UserError(one_line(f"{path}: tensor {error} is missing")) from error
    except OSError as error:
        raise UserError(one_line(f"{path}: {error.strerror or error}")) from error
    except MemoryError as error:
        raise UserError(f"{path}: the weights do not fit into memory") from error
    except (UserError, ValueError) as error:
        raise UserError(one_line(f"{path}: {error}")) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise UserError(one_line(f"{path}: the config or a tensor is not as expected ({said})")) from error


@contextlib.contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turns whatever a parser can raise into a `UserError` that starts with `what`."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to nowhere
            raise
        raise UserError(one_line(f"{what} ({type(error).__name__}: {error})")) from error


def one_line(text: str) -> str:
    """Returns a message without line breaks and control characters, and cut to a readable length."""
    text = "".join(char if char.isprintable() else " " for char in text[: _MESSAGE_LENGTH + 1])
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}..."


def check_expansion(values: int, size: int) -> None:
    """Raises UserError if a file of `size` bytes may not hold `values` bytes of values."""
    if values > EXPANSION * size + ALLOWANCE:
        raise UserError(
            f"the file has {size:,} bytes, but its contents have {values:,}, more than {EXPANSION} times its size plus "
            f"{ALLOWANCE // 2**20} MiB. Save it uncompressed, and every tensor once"
        )


def check_name(name: Any) -> None:
    """Raises UserError if a tensor's name cannot be printed on one line."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise UserError(
            f"a tensor's name must be printable text of at most {_NAME_LENGTH} characters, got "
            f"{one_line(repr(name)[:80]) if isinstance(name, str) else type(name).__name__}"
        )


def open_archive(file: IO[bytes], size: int) -> zipfile.ZipFile:
    """Opens a zip archive whose members have different names and, as declared, an acceptable total size.

    Members must be read with `read_member`: `ZipFile.read` decompresses more than the declared size.

    Raises:
      UserError: The archive is damaged, encrypted, compressed otherwise than by deflate, or expands to too much.
    """
    end = zipfile._EndRecData(file)  # pyright: ignore[reportAttributeAccessIssue]
    if end is None:
        raise UserError("the archive is cut short: its end is missing")
    if end[zipfile._ECD_SIZE] > DIRECTORY_SIZE:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"the archive's list of members has more than {DIRECTORY_SIZE // 2**20} MiB")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names: set[str] = set()
    for member in members:
        if member.filename in names:
            raise UserError(f"the archive has two members {member.filename!r}")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{member.filename} is compressed by a method other than deflate")
        names.add(member.filename)
    check_expansion(sum(member.file_size for member in members), size)
    return archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Returns the contents of a member, of the declared size.

    Raises:
      UserError: The member is cut short.
    """
    with archive.open(member) as file:
        data = file.read(member.file_size)
    if len(data) != member.file_size:
        raise UserError(f"{member.filename} has {len(data)} bytes instead of {member.file_size}: it is cut short")
    return data


def parse_json(data: bytes) -> dict[str, Any]:
    """Parses a JSON object in UTF-8, in which every key occurs once and every number is finite.

    Raises:
      UserError: It is anything else; the message continues a sentence that starts with the file.
    """
    if len(data) > JSON_SIZE:
        raise UserError(f"has more than {JSON_SIZE // 2**20} MiB of JSON")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be parsed, but not written
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError("is not a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        repeated = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated!r} occurs twice")
    return value


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS:
        raise ValueError(f"the number {text[:_INTEGER_DIGITS]}... has {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:_INTEGER_DIGITS]} is not a finite number")
    return value
