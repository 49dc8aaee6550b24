"""Folders, configs and safetensors files that are damaged or made to harm; seeded mutations of every format."""

import json
import os
import re
import sys

import numpy as np
import pytest
import safetensors.numpy

from tests.pretrained.hostile import mutations
from vit_jax.errors import UserError
from vit_jax.pretrained.files.limits import JSON_SIZE
from vit_jax.pretrained.files.readers import read
from vit_jax.pretrained.names import MOST_LAYERS, count
from vit_jax.weights import from_pretrained

GOOD = mutations.seeds()
TENSORS = mutations.tensors()


def refusal(path):
    message = mutations.read_outcome(path)
    assert message is not None
    assert mutations.read_outcome(path, shapes_only=True) is not None
    return message.removeprefix(f"{path}")


@pytest.fixture
def folder(tmp_path):
    """A folder with a good config.json and model.safetensors."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "model.safetensors").write_bytes(GOOD["x.safetensors"])
    (path / "config.json").write_bytes(GOOD["config.json"])
    return path


# ---- JSON ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON: 'utf-8' codec can't decode byte"),
        (b"[1]", "is not a JSON object"),
        (b"3", "is not a JSON object"),
        (b'{"a": NaN}', "is not valid JSON: NaN is not a finite number"),
        (b'{"a": -Infinity}', "is not valid JSON: -Infinity is not a finite number"),
        (b'{"a": 1e999}', "is not valid JSON: 1e999 is not a finite number"),
        (b'{"a": 1' + b"0" * 5000 + b"}", r"is not valid JSON: the number 10*\.\.\. has 5001 digits"),
        (b'{"a": {"b": 1, "b": 2}}', "is not valid JSON: the key 'b' occurs twice"),
        (b'{"a": ' * 50_000, "is not valid JSON: maximum recursion depth exceeded"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not valid JSON: maximum recursion depth exceeded"),
        (rb'{"a": "\ud800"}', r"is not valid JSON: 'utf-8' codec can't encode character '\\ud800'"),
        (b'{"a": "' + b"b" * JSON_SIZE + b'"}', "has more than 4 MiB of JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_json(content, message, folder):
    (folder / "config.json").write_bytes(content)
    assert re.match(f"/config.json {message}", refusal(folder))
    size = len(content).to_bytes(8, "little")
    (folder / "x").write_bytes(size + (content if content.startswith(b"{") else b"{" + content))
    assert refusal(folder / "x").startswith(": damaged safetensors file: its header ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": 3}, "id2label must be an object, got 3"),
        ({"model_args": [1]}, "model_args must be an object, got [1]"),
        ({"model_args": []}, "model_args must be an object, got []"),
        ({"pretrained_cfg": "x"}, 'pretrained_cfg must be an object, got "x"'),
        ({"pretrained_cfg": {"input_size": 224}}, "pretrained_cfg.input_size must be a list, got 224"),
        ({"architecture": {"a": 1}}, 'architecture must be text, got {"a": 1}'),
        ({"model_type": True}, "model_type must be text, got true"),
        ({"label_names": "abcde"}, 'label_names must be a list, got "abcde"'),
        ({"num_attention_heads": "2"}, 'num_attention_heads must be a whole number, got "2"'),
        ({"model_args": {"num_heads": True}}, "model_args.num_heads must be a whole number, got true"),
        ({"layer_norm_eps": "tiny"}, 'layer_norm_eps must be a number, got "tiny"'),
    ],
)
def test_values_of_another_type(changes, message, folder):
    (folder / "config.json").write_text(json.dumps(mutations.CONFIG | changes))
    assert refusal(folder) == f"/config.json: {message}"


def test_null_is_as_good_as_missing(folder):
    (folder / "config.json").write_text(json.dumps(mutations.CONFIG | {"id2label": None, "model_type": None}))
    assert mutations.read_outcome(folder) is None


def test_text_in_place_of_numbers_never_becomes_code(folder):
    text = "0.5, std=0.5)|this.Zen()|normalize(mean=0.5"
    for key in ("mean", "std"):
        fields = mutations.CONFIG["pretrained_cfg"] | {key: [text]}
        (folder / "config.json").write_text(json.dumps(mutations.CONFIG | {"pretrained_cfg": fields}))
        with pytest.raises(UserError, match="folder: "):
            from_pretrained(folder)
    assert "this" not in sys.modules


# ---- safetensors ----


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, "tensor x has dtype F4, which is not supported"),
        ({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}, "tensor x: shape and data_offsets must"),
        ({"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, "tensor x: shape and data_offsets must be"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "tensor x of shape [2] does not fit its place"),
        ({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "tensor x of shape [3] does not fit"),
        ({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, "tensor x of shape [1099511627776"),
        ({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, "the file is damaged or of another kind (T"),
        ({"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "the file is damaged or of another kind (T"),
        ({"x": {"shape": [2], "data_offsets": [0, 8]}}, "the file is damaged or of another kind (KeyError: 'dtype'"),
        ({"x": [1, 2]}, "the file is damaged or of another kind (TypeError"),
        ({"\x1b[2Jx": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "a tensor's name must be printable"),
        ({"x" * 501: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "a tensor's name must be printable"),
    ],
)  # fmt: skip
def test_headers(header, message, tmp_path):
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert refusal(tmp_path / "x").removeprefix(": ").startswith(message)


def test_tensors_that_share_their_bytes(tmp_path):
    text = json.dumps({f"{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(9)}).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert "SafetensorError" in mutations.read_outcome(tmp_path / "x")


@pytest.mark.parametrize("size", [2**20, 2**40, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file(size, tmp_path):
    (tmp_path / "x").write_bytes(size.to_bytes(8, "little") + b"{}")
    assert f"damaged safetensors file: its header cannot have {size} bytes" in refusal(tmp_path / "x")


# ---- files that are not files, and shards elsewhere ----


def test_only_regular_files_are_opened(folder):
    fifo = folder.parent / "fifo"
    os.mkfifo(fifo)
    assert refusal(fifo) == " is not a regular file"
    assert mutations.read_outcome(folder.parent / "fifo") is not None
    with pytest.raises(UserError, match="/dev/zero is not a regular file"):
        read("/dev/zero")
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        for make in (os.mkfifo, os.mkdir):
            make(folder / name)
            assert refusal(folder) == f"/{name} is not a regular file"
            (os.rmdir if make is os.mkdir else os.unlink)(folder / name)
        (folder / name).symlink_to(fifo)
        assert refusal(folder) == f"/{name} is not a regular file"
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder / "loop")
    assert "Too many levels of symbolic links" in refusal(folder / "loop")


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        *((name, "which is not in the same folder") for name in ("../../etc/passwd", "/etc/passwd", "a/b", "", "gone")),
        *((name, "is not a regular file") for name in ("..", "sub", "fifo")),
        *((name, "has no weight_map of tensors to files") for name in (3, None, ["a"], {})),
        ("a\nb", "which is not in the same folder"),
        ("a\0b", "which is not in the same folder"),
        ("config.json", "not a weight file: expected"),
    ],
)
def test_shards_are_files_of_the_folder(shard, message, folder):
    (folder / "sub").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"norm.bias": shard}}))
    assert message in refusal(folder)


def test_a_tensor_in_two_shards_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "a")
    safetensors.numpy.save_file({"norm.bias": np.zeros(8)}, folder / "b")
    places = dict.fromkeys(TENSORS, "a") | {"norm.bias": "b"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "names two shards that both have norm.bias" in refusal(folder)


# ---- tensors under the right names ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.999999999.norm1.weight": np.ones(8)}, "tensors of 2 layers, numbered up to 999999999: layers"),
        ({f"blocks.{i}.norm1.weight": np.ones(8) for i in range(MOST_LAYERS + 1)}, "numbered up to 256"),
        ({"blocks.0.attn.qkv.weight": np.ones((24, 8), np.int32)}, "has dtype int32, but weights are floating-point"),
        ({"norm.bias": np.ones(8, bool)}, "tensor norm.bias has dtype bool, but weights are floating-point numbers"),
        ({"patch_embed.proj.weight": np.ones(8, np.float32)}, r"has shape \(8,\), expected 4 axes"),
        (
            {
                "patch_embed.proj.weight": np.ones((2**16, 3, 4, 4), np.float16),
                "patch_embed.proj.bias": np.ones(2**16, np.float16),
                "cls_token": np.ones((1, 1, 2**16), np.float16),
                "pos_embed": np.ones((1, 7, 2**16), np.float16),
                **{f"{name}.{part}": np.ones(2**16, np.float16) for name in ("norm", "blocks.0.norm1", "blocks.0.norm2")
                   for part in ("weight", "bias")},
                "head.weight": np.ones((5, 2**16), np.float16),
            },
            r"the file's blocks.0.attn.qkv.weight has far fewer values than encoder/block_0/attention/query/kernel and",
        ),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_tensors_that_make_absurd_models(changes, message, folder):
    safetensors.numpy.save_file(TENSORS | changes, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"^{folder}: .*{message}"):
        from_pretrained(folder)


def test_layers_are_counted_by_distinct_numbers():
    assert count(["block1/a", "block2/b", "block2/c"], r"block(\d+)/") == 3
    assert count([], r"block(\d+)/") == 0
    with pytest.raises(UserError, match="tensors of 1 layers, numbered up to 2"):
        count(["block2/a"], r"block(\d+)/")


# ---- mutations ----


@pytest.mark.parametrize("name", GOOD)
def test_mutations_are_read_or_refused_in_one_line(name, folder):
    path = folder / "config.json" if name == "config.json" else folder.parent / name
    refused = 0
    for seed in range(40):
        path.write_bytes(mutations.mutant(name, GOOD[name], GOOD, np.random.default_rng(seed)))
        refused += mutations.read_outcome(folder if name == "config.json" else path) is not None
    assert refused
