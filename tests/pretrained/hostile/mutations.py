"""Damaged weight files, made from good ones by a seeded generator that changes bytes and the structure of formats."""

import io
import itertools
import json
import pathlib
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from vit_jax.errors import UserError
from vit_jax.pretrained.files.readers import read

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
NASTY = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**63, 2**64, 10**39, -0.5, 1e308, "", "x", "\u2028", "__class__", "BF16", "F4"),
    *([], {}, [0], [-1, 2], [[]], {"a": 1}, [10**6, 10**6], [2**31, 2**31, 2**31], ["a", "b", "c"], {"0": {"0": 0}}),
)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)


def tensors(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """A ViT of one layer under timm's names: 8x12 pixels, patches of 4, width 8, 2 heads, 5 classes."""
    shapes = {
        "cls_token": (1, 1, 8), "pos_embed": (1, 7, 8), "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,), "blocks.0.norm1.weight": (8,), "blocks.0.norm1.bias": (8,),
        "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.qkv.bias": (24,), "blocks.0.attn.proj.weight": (8, 8),
        "blocks.0.attn.proj.bias": (8,), "blocks.0.norm2.weight": (8,), "blocks.0.norm2.bias": (8,),
        "blocks.0.mlp.fc1.weight": (12, 8), "blocks.0.mlp.fc1.bias": (12,), "blocks.0.mlp.fc2.weight": (8, 12),
        "blocks.0.mlp.fc2.bias": (8,), "norm.weight": (8,), "norm.bias": (8,), "head.weight": (5, 8), "head.bias": (5,),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


CONFIG = {
    "architecture": "vit_base_patch16_224",
    "num_classes": 5,
    "global_pool": "token",
    "pretrained_cfg": {
        "input_size": [3, 8, 12],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "model_args": {"img_size": [8, 12], "patch_size": [4, 4], "num_heads": 2, "embed_dim": 8},
    "label_names": ["a", "b", "c", "d", "e"],
}


def seeds() -> dict[str, bytes]:
    """Good files by name."""

    def npz(save, arrays):
        file = io.BytesIO()
        save(file, **arrays)
        return file.getvalue()

    return {
        "plain.npz": npz(np.savez, tensors()),
        "deflated.npz": npz(np.savez_compressed, tensors(np.float16)),
        "raw.npz": npz(np.savez, {"x": np.ones((3, 2), ml_dtypes.bfloat16), "y": np.asfortranarray(np.eye(3))}),
        "x.safetensors": safetensors.numpy.save(tensors(), {"format": "pt"}),
        **{path.name: path.read_bytes() for path in sorted(FIXTURES.iterdir()) if ".pth" in path.name},
        "config.json": json.dumps(CONFIG).encode(),
    }


def read_outcome(path: pathlib.Path, entry: str | None = None, shapes_only: bool = False) -> str | None:
    """Reads a file or folder; returns the message if it is refused, and asserts what every message must have."""
    message = None
    try:
        read(path, entry, shapes_only=shapes_only)
    except UserError as error:
        message = str(error)
    except Exception as error:  # a traceback would print the arguments, which can take forever
        raise AssertionError(f"{path}: {type(error).__name__}: {error}") from None
    if message is not None:
        assert message.startswith(str(path))
        assert message.isprintable()
        assert len(message) < 1200
    return message


def mutant(name: str, data: bytes, others: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """One to three changes of a file: of its bytes, or of its structure."""
    structured: list[Callable] = [_of_bytes]
    if name == "config.json":
        structured += [_of_json] * 3
    elif data.startswith(b"PK"):
        structured += [_of_member, _of_member, _of_directory]
    elif name.endswith(".safetensors"):
        structured += [_of_safetensors] * 3
    elif data.startswith(b"\x80"):
        structured += [_of_pickle] * 2
    for _ in range(rng.integers(1, 4)):
        change = structured[rng.integers(len(structured))]
        try:
            data = change(data, others, rng)
        except Exception:  # an earlier change destroyed the structure
            data = _of_bytes(data, others, rng)
    return data


def _of_bytes(data, others, rng):
    """Flips, overwrites, removes, repeats or cuts bytes, or takes a piece of another file."""
    if not data:
        return b"\x80"
    place, length = int(rng.integers(len(data))), int(2 ** rng.integers(8))
    before, piece, after = data[:place], data[place : place + length], data[place + length :]
    match rng.integers(7):
        case 0:
            return before + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        case 1:
            return before + rng.bytes(length) + after
        case 2:
            return before + after
        case 3:
            return before + piece * int(rng.integers(2, 5)) + after
        case 4:
            return before
        case 5:
            form = "<>"[rng.integers(2)] + "BHIQ"[rng.integers(4)]
            number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * struct.calcsize(form))
            return before + struct.pack(form, number) + data[place + struct.calcsize(form) :]
    other = list(others.values())[rng.integers(len(others))]
    start = int(rng.integers(len(other)))
    return before + other[start : start + length * 4] + after


def _of_json(data, others, rng):
    """Replaces, removes or repeats a value at any depth, or breaks the text."""
    value = json.loads(data)
    value = _of_tree(value, rng)
    text = json.dumps(value)
    match rng.integers(12):
        case 0:
            text = text.replace(":", f": {'[' * 5000}", 1)
        case 1:
            text = text.replace("{", '{"architecture": 1, "architecture": 2, ', 1)
        case 2:
            text = text.replace("0.5", ("NaN", "-Infinity", "1e999", "9" * 5000)[rng.integers(4)], 1)
        case 3:
            text = text.replace('"a"', r'"\ud800"')
    return text.encode()


def _of_tree(value, rng):
    nasty = NASTY[rng.integers(len(NASTY))]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = list(value)[rng.integers(len(value))]
        match rng.integers(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {(f"{k}{nasty}" if k == key else k): v for k, v in value.items()}
        return value | {key: _of_tree(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        place = int(rng.integers(len(value)))
        return [*value[:place], _of_tree(value[place], rng), *value[place + 1 :]]
    return nasty


def _of_safetensors(data, others, rng):
    """Changes the header and keeps its length right."""
    size = int.from_bytes(data[:8], "little")
    header = _of_json(data[8 : 8 + size], others, rng) if size else b"{}"
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _of_pickle(data, others, rng):
    """Removes, repeats, moves or replaces instructions of the first pickles of a file."""
    end = _end(data, int(rng.integers(1, 6)))
    places = [place for _, _, place in pickletools.genops(data[:end])] + [end]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    place = int(rng.integers(len(pieces)))
    run = int(2 ** rng.integers(4))
    new = (
        b"(", b"}", b"]", b")", b"t", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"0", b"1", b"2", b"Q",
        b"R", b"b", b"s", b"u", b"a", b"e", b"d", b"l", b"N", b"\x94", b"h\x00", b"h\x05", b"j\xff\xff\xff\xff",
        b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"X\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8,
        b"\x95" + b"\xff" * 7 + b"\x7f", b"L999999999999999999999999L\n", b"ctorch\nSize\n", b"\x93", b"\x81",
        b"c__builtin__\nset\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"I01\n", b"F1e999\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cos\nsystem\n",
    )  # fmt: skip
    match rng.integers(5):
        case 0:
            del pieces[place : place + run]
        case 1:
            pieces[place:place] = pieces[place : place + run] * int(rng.integers(1, 4))
        case 2:
            pieces[place] = new[rng.integers(len(new))]
        case 3:
            pieces.insert(place, new[rng.integers(len(new))])
        case 4:
            other = int(rng.integers(len(pieces)))
            pieces[place], pieces[other] = pieces[other], pieces[place]
    return b"".join(pieces) + data[end:]


def _end(data, count):
    end = 0
    for _ in range(count):
        *_, (_, _, last) = pickletools.genops(data[end:])
        end += last + 1
    return end


def _of_member(data, others, rng):
    """Changes a member of an archive, and keeps its checksum right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[rng.integers(len(members))]
    if "data.pkl" in " ".join(members) and rng.random() < 0.7:
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = _of_pickle(members[name], others, rng)
    elif name.endswith(".npy") and rng.random() < 0.7:
        members[name] = _of_array(members[name], rng)
    else:
        members[name] = _of_bytes(members[name], others, rng)
    if rng.random() < 0.1:
        del members[name]
    file = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], p=[0.8, 0.15, 0.05])
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _of_array(data, rng):
    """Changes the header of an array."""
    size = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + size].decode("latin1")
    shapes = (
        "(-1,)",
        "(-2, -4)",
        "()",
        "(0, 9223372036854775807)",
        "(4294967296, 4294967296)",
        "(1e3,)",
        "'a'",
        "(True,)",
    )
    descrs = (
        "'|O'",
        "'<U9'",
        "[('a', '<f4')]",
        "('<f4', (1000000, 1000000))",
        "'|V2'",
        "'<f99'",
        "'M8[s]'",
        "3",
        "'>c16'",
    )
    start, _, rest = header.partition("'shape': ")
    match rng.integers(4):
        case 0:
            header = f"{start}'shape': {shapes[rng.integers(len(shapes))]}, }}"
        case 1:
            header = f"{{'descr': {descrs[rng.integers(len(descrs))]}, 'fortran_order': False, 'shape': {rest}"
        case 2:
            header = header.replace("False", ("True", "None", "[" * 3000)[rng.integers(3)])
        case 3:
            header = header.replace("}", ", 'more': 1}")
    encoded = header.encode("latin1")
    version = bytes([int(rng.integers(0, 4)) if rng.random() < 0.1 else 1, 0])
    return data[:6] + version + len(encoded).to_bytes(2, "little") + encoded + data[10 + size :]


def _of_directory(data, others, rng):
    """Changes a field of the local headers, of the central directory or of its end."""
    signature = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x01\x02", b"PK\x05\x06")[rng.integers(4)]
    places = [match.start() for match in re.finditer(re.escape(signature), data)]
    place = places[rng.integers(len(places))] + 4 + int(rng.integers(42))
    form = "<" + "BHI"[rng.integers(3)]
    number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * struct.calcsize(form))
    return data[:place] + struct.pack(form, number) + data[place + struct.calcsize(form) :]
