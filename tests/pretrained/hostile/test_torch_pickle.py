"""Reading torch files without torch: values are exact, and code in a file is refused by name and never run."""

import collections
import contextlib
import io
import os
import pathlib
import pickle
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.pretrained.files import torch_files
from vit_jax.pretrained.files.limits import open_archive
from vit_jax.pretrained.files.readers import read

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


def value(index, shape):
    """The numbers of `fixtures/make.py`."""
    return ((np.arange(np.prod(shape), dtype=np.float32) * 7 + index * 31) % 128 - 64).reshape(shape)


@pytest.mark.parametrize("name", ["dtypes.pth", "dtypes_legacy.pth"])
def test_dtypes_strides_and_offsets(name):
    tensors = read(FIXTURES / name).tensors
    grid = value(0, (4, 6))
    expected = {
        "transposed": grid.T,
        "cut": grid[1:, ::2],
        "parameter": value(1, (3,)),
        "scalar": np.int64(3),
        "empty": np.zeros((0, 3), np.float32),
        **{dtype: value(2, (2, 3)).astype(dtype) for dtype in ("float64", "float16", "int64", "int8", "complex64")},
        "bfloat16": value(2, (2, 3)).astype(ml_dtypes.bfloat16),
        "bool": np.array([True, False]),
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)


def test_the_weights_are_found_in_a_checkpoint_and_another_set_is_taken_when_asked_for():
    last, average = (read(FIXTURES / "vit_checkpoint.pth", entry).tensors for entry in (None, "model_ema"))
    np.testing.assert_array_equal(last["head.bias"], value(31, (5,)))
    np.testing.assert_array_equal(average["head.bias"], last["head.bias"] + 1)
    with pytest.raises(
        UserError, match=r"vit_checkpoint.pth: the file holds the weights 'model', 'model_ema'. Choose one with entry="
    ):
        read(FIXTURES / "vit_checkpoint.pth", "ema")


def test_bfloat16():
    assert read(FIXTURES / "vit_parallel.pth.tar").tensors["module.head.bias"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("name", ["dtypes.pth", "dtypes_legacy.pth", "vit_checkpoint.pth", "vit_parallel.pth.tar"])
def test_cut_short_anywhere(name, tmp_path):
    data = (FIXTURES / name).read_bytes()
    for size in sorted({10, 100, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 1}):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)


def test_damaged_bytes_give_an_error_or_other_numbers_but_never_a_crash(tmp_path):
    data = bytearray((FIXTURES / "vit_checkpoint.pth").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(100):
        place = int(rng.integers(len(data) // 2))
        damaged = bytes(data[:place]) + bytes([int(rng.integers(256))]) + bytes(data[place + 1 :])
        (tmp_path / "x.pth").write_bytes(damaged)
        with contextlib.suppress(UserError):  # some bytes are numbers, and do no harm
            read(tmp_path / "x.pth")


# ---- what would run ----


def archive(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, data in members.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", data)
    return path


class Runs:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_command_is_refused_by_name_and_not_run(layout, protocol, tmp_path):
    victim = tmp_path / "ran"
    saved = {"model": collections.OrderedDict(weight=Runs(os.system, f"touch {victim}"))}
    if layout == "zip":
        path = archive(tmp_path / "x.pth", pickle.dumps(saved, protocol))
    else:
        path = tmp_path / "x.pth"
        path.write_bytes(pickle.dumps(torch_files.MAGIC, 2) + pickle.dumps(1001, 2))
        with path.open("ab") as file:
            file.write(pickle.dumps({"little_endian": True}, 2) + pickle.dumps(saved, protocol))
    with pytest.raises(UserError, match=r"x.pth: refused: (posix|nt)\.system|refused: the pickle instruction"):
        read(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (Runs(eval, "1"), r"refused: \w+.eval, which is not a tensor, number, string or container"),
        (Runs(getattr, "a", "upper"), r"refused: \w+.getattr"),
        (Runs(shutil.rmtree, "/nowhere"), r"refused: shutil.rmtree"),
        (pathlib.PurePosixPath("a"), r"refused: pathlib"),
        (np.zeros(3), r"refused: numpy.*_reconstruct"),
        (np.dtype("O"), r"refused: numpy.dtype\('O8'\)"),
        (Runs(set, [1], state={"a": 1}), r"refused: a state for set"),
    ],
    ids=["eval", "getattr", "rmtree", "path", "array", "object", "state"],
)
def test_everything_but_data_is_refused_by_name(what, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "x.pth", pickle.dumps({"a": what}, 2)))


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"\x80\x02(cos\nsystem\n.", r"refused: os.system"),
        (b"\x80\x02(Vtouch x\nios\nsystem\n.", r"refused: the pickle instruction INST"),
        (b"\x80\x02(cos\nsystem\nVtouch x\no.", r"refused: the pickle instruction OBJ|refused: os.system"),
        (b"\x80\x02\x82\x01.", r"refused: the pickle instruction EXT1"),
        (b"\x80\x02K\x01)R.", r"refused: a call of a value of type int"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"refused: os.system"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.", r"refused: collections.OrderedDict.fromkeys"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", r"refused: a state for _Callable"),
        (b"\x80\x02Vevil\nQ.", r"damaged|refused"),
        (b"\x80\x02\xff.", r"refused: the pickle instruction 255"),
    ],
)
def test_instructions_that_data_do_not_need(instructions, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "x.pth", instructions))


def tensor_pickle(shape, strides, offset=0, size=6, storage="FloatStorage"):
    """A tensor as torch 1.6 and later pickle it, written by hand."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            return ("storage", Global("torch", storage), "0", "cpu", size) if isinstance(obj, Storage) else None

        def save(self, obj, save_persistent_id=True):
            if isinstance(obj, Global):
                self.write(f"c{obj.module}\n{obj.name}\n".encode())
            else:
                super().save(obj, save_persistent_id)

        def save_call(self, function, arguments):
            self.save(function)
            self.save(arguments)
            self.write(pickle.REDUCE)

    file = io.BytesIO()
    pickler = Pickler(file, 2)
    file.write(b"\x80\x02}")
    pickler.save("x")
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    pickler.save_call(rebuild, (Storage(), offset, shape, strides, False, None))
    file.write(b"s.")
    return file.getvalue()


class Global(collections.namedtuple("Global", "module name")):
    pass


SIX = np.arange(6, dtype=np.float32).tobytes()


def test_a_tensor_written_by_hand(tmp_path):
    path = archive(tmp_path / "x.pth", tensor_pickle((2, 2), (1, 3), offset=1), _0=SIX)
    np.testing.assert_array_equal(read(path).tensors["x"], [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (7,), "strides": (1,)}, r"shape \(7,\), .* does not fit into its storage of 6 values"),
        ({"shape": (2,), "strides": (6,)}, r"shape \(2,\), strides \(6,\) and offset 0 does not fit"),
        ({"shape": (1,), "strides": (1,), "offset": 6}, r"offset 6 does not fit"),
        ({"shape": (), "strides": (), "offset": -1}, r"offset -1 does not fit"),
        ({"shape": (2,), "strides": (-1,), "offset": 1}, r"strides \(-1,\)"),
        ({"shape": (10**12,), "strides": (0,)}, r"shape \(1000000000000,\)"),
        ({"shape": (2, 3), "strides": (1,)}, r"does not fit"),
        ({"shape": (6.0,), "strides": (1,)}, r"refused: a tensor whose shape, .* are not numbers of 64 bits"),
        (
            {"shape": (8,), "strides": (1,), "size": 8},
            r"a storage of 8 float32 values has 24 bytes: the file is cut short",
        ),
        ({"shape": (6,), "strides": (1,), "storage": "DoubleStorage"}, r"6 float64 values has 24 bytes"),
        ({"shape": (6,), "strides": (1,), "storage": "QUInt8Storage"}, r"refused: torch.QUInt8Storage"),
    ],
    ids=str,
)
def test_tensors_that_reach_out_of_the_file(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "x.pth", tensor_pickle(**fields), _0=SIX))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([1, 2], "the file holds a list, not tensors by name"),
        ({"epoch": 3, "args": {"lr": 1}}, "the file holds a dict of epoch, args, not tensors by name"),
        ({}, "a dict of nothing"),
    ],
)
def test_without_weights(saved, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(archive(tmp_path / "x.pth", pickle.dumps(saved, 2)))


def test_numbers_of_numpy_and_containers_pass(tmp_path):
    saved = {"best": np.float64(0.5), "steps": {1, 2}, "bytes": b"\xff", "none": (None, True, 2**70)}
    for protocol in (2, 4):
        path = archive(tmp_path / f"{protocol}.pth", pickle.dumps(saved, protocol))
        with path.open("rb") as file:
            assert torch_files.load_zip(open_archive(file, path.stat().st_size)) == saved


def test_compressed_archives_are_not_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", tensor_pickle((6,), (1,)))
        file.writestr("archive/data/0", SIX)
    with pytest.raises(UserError, match=r"archive/data\.pkl is compressed"):
        read(tmp_path / "x.pth")
