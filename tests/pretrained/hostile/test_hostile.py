"""Weight files that are damaged or made to harm: little time and memory, and one line that names file and fault."""

import collections
import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.pretrained.hostile import mutations
from vit_jax.pretrained.files import torch_files
from vit_jax.pretrained.files.limits import ALLOWANCE, EXPANSION, PICKLE_STEPS
from vit_jax.pretrained.files.readers import read

GOOD = mutations.seeds()


def refusal(path, entry=None):
    message = mutations.read_outcome(path, entry)
    assert message is not None
    assert mutations.read_outcome(path, entry, shapes_only=True) is not None
    return message.removeprefix(f"{path}").removeprefix(": ")


# ---- torch ----


@pytest.fixture
def torch_file(tmp_path):
    """Writes an archive with these instructions and one storage of 6 float32 values."""

    def write(instructions):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
            file.writestr("x/data.pkl", b"\x80\x04" + instructions + b".")
            file.writestr("x/data/0", np.arange(6, dtype=np.float32).tobytes())
        return tmp_path / "x.pth"

    return write


# a tuple that holds another twice, 50 times over: hashing, comparing or printing it takes 2**50 steps
NESTED = b"N" + b"\x94h\x00\x86" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(1, 50))
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
KEY = "refused: a tuple as the key of a dict or an item of a set"


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"}" + NESTED + b"Ns", KEY),
        (b"}(" + NESTED + b"Nu", KEY),
        (b"(" + NESTED + b"Nd", KEY),
        (b"\x8f(" + NESTED + b"\x90", KEY),
        (b"(" + NESTED + b"\x91", KEY),
        (b"c__builtin__\nset\n]" + NESTED + b"a\x85R", KEY),
        (b"c__builtin__\nfrozenset\n]" + NESTED + b"a\x85R", KEY),
        (b"ccollections\nOrderedDict\n]]" + NESTED + b"aNaa\x85R", KEY),
        (b"cargparse\nNamespace\n)R]" + NESTED + b"ab", "refused: a state for Namespace"),
        (NESTED + b"Q", "refused: a persistent id that is not a storage's"),
        (STORAGE.replace(b"X\x01\x00\x00\x000", NESTED), "refused: a storage with a tuple as key"),
        (STORAGE.replace(b"K\x06", NESTED), "refused: a tensor whose shape, strides, offset or size are not numbers"),
        (STORAGE.replace(b"ctorch\nFloatStorage\n", NESTED), "refused: a tuple as dtype"),
        (NESTED + b")R", "refused: a call of a value of type tuple"),
        (b"ctorch\nSize\n" + NESTED + b"\x85R", "the file holds a tuple, not tensors by name"),
        (b"cnumpy\ndtype\n" + NESTED + b"\x85R", "refused: numpy.dtype(tuple), which is not a type of numbers"),
        (b"cnumpy.core.multiarray\nscalar\n" + NESTED + b"N\x86R", "refused: a tuple as dtype"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00a" + NESTED + b"\x86R", "refused: _codecs.encode with an encoding"),
        (TENSOR + STORAGE + b"K\x00" + NESTED + b"K\x01\x85tR", "refused: a tensor whose shape"),
        (TENSOR + b"NK\x00))tR", "refused: a tensor without a storage"),
        (TENSOR + STORAGE + b"K\x00(" + b"K\x01" * 40 + b"t)tR", "refused: a tensor of 40 axes and 0 strides"),
        (b"N0" * PICKLE_STEPS, f"refused: a pickle of more than {PICKLE_STEPS:,} steps"),
        (b"X\xff\xff\xff\x7fabc", "the file is cut short"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fabc", "the file is cut short"),
        (b"\x95" + b"\xff" * 8 + b"N", "the file holds a NoneType"),
        (b"(" * 100_000, "the file is damaged or of another kind (IndexError"),
        (b"N" + b"\x85" * 100_000, "the file holds a tuple"),
        (b"L" + b"9" * 5000 + b"L\n", "the file is damaged or of another kind (ValueError"),
        (b"}X\x03\x00\x00\x00a\nb" + TENSOR + STORAGE + b"K\x00K\x06\x85K\x01\x85tRs", "a tensor's name must be print"),
        (b"}K\x01" + TENSOR + STORAGE + b"K\x00K\x06\x85K\x01\x85tRs", "a tensor's name must be print"),
    ],
)  # fmt: skip
def test_pickles_that_explode(instructions, message, torch_file):
    assert refusal(torch_file(instructions)).startswith(message)


def test_calls_that_copy_what_was_copied_before_count_each_item(torch_file):
    text = b"X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    copy = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0"
    assert f"more than {PICKLE_STEPS:,} steps" in refusal(torch_file(text + b"\x94" + copy * 101))
    items = b"(" + b"N" * 10_000 + b"t\x94"
    assert f"more than {PICKLE_STEPS:,} steps" in refusal(torch_file(items + b"ctorch\nSize\nh\x00\x85R0" * 101))
    fill = b"cargparse\nNamespace\n)Rh\x00b0"
    state = b"}\x94(" + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(10_000)) + b"u"
    assert f"more than {PICKLE_STEPS:,} steps" in refusal(torch_file(state + fill * 101))


def test_a_dict_that_many_names_share_is_searched_once(torch_file, monkeypatch):
    visits = collections.Counter()

    class Shared(dict):
        def values(self):
            visits["values"] += 1
            return super().values()

    monkeypatch.setattr(torch_files, "unpickler", lambda *_: lambda _: dict.fromkeys("abcdef", Shared(a=1)))
    assert "a dict of a, b, c, d, e and 1 more, not tensors by name" in refusal(torch_file(b"N"))
    assert visits["values"] == 2  # once with the values, once for shapes only


def saved_views(path, views, size=2**20):
    """Writes tensors that share one storage of float32 values; a view is offset, shape and strides."""
    pid = STORAGE.replace(b"K\x06", b"J" + size.to_bytes(4, "little"))
    pickled = b"\x80\x04}" + pid + b"\x940"
    for i, (offset, shape, strides) in enumerate(views):
        numbers = [b"(" + b"".join(b"J" + n.to_bytes(4, "little") for n in ns) + b"t" for ns in (shape, strides)]
        name = f"{i}".encode()
        pickled += b"X" + len(name).to_bytes(4, "little") + name + TENSOR + b"h\x00J" + offset.to_bytes(4, "little")
        pickled += b"".join(numbers) + b"\x89NtRs"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickled + b".")
        file.writestr("x/data/0", np.arange(size, dtype=np.float32).tobytes())
    return path


def test_a_storage_is_read_once_and_its_views_take_no_memory(tmp_path, monkeypatch):
    reads = collections.Counter()
    read_member = torch_files.read_member

    def counting(archive, member):
        reads[member.filename] += 1
        return read_member(archive, member)

    monkeypatch.setattr(torch_files, "read_member", counting)
    views = [(1000 * i, (10, 100), (100, 1)) for i in range(500)]
    path = saved_views(tmp_path / "x.pth", [*views, (0, (1024, 1024), (1024, 1)), (0, (1024, 1024), (1, 1024))])
    tracemalloc.start()
    tensors = read(path).tensors
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reads["x/data/0"] == 1
    assert peak < 4 * path.stat().st_size
    np.testing.assert_array_equal(tensors["7"].reshape(-1), np.arange(7000, 8000))
    np.testing.assert_array_equal(tensors["501"], tensors["500"].T)


def test_tensors_that_repeat_the_same_memory_are_refused(tmp_path):
    path = saved_views(tmp_path / "x.pth", [(0, (2**20,), (1,))] * 60)
    assert "its contents have 251,658,240, more than 5 times its size plus 64 MiB" in refusal(path)
    path = saved_views(tmp_path / "x.pth", [(0, (2**30, 2), (0, 1))], 4)
    assert "does not fit into its storage of 4 values" in refusal(path)


def test_a_stream_whose_storages_are_not_those_of_its_tensors(tmp_path):
    path, data = tmp_path / "x.pth", GOOD["dtypes_legacy.pth"]
    end = mutations._end(data, 4)
    keys = pickle.loads(data[end:])
    for other in ([*keys, "more"], keys[1:], [("a",), *keys], 3, [[]]):
        path.write_bytes(data[:end] + pickle.dumps(other, 2) + data[mutations._end(data, 5) :])
        assert "the storages are not those of the tensors" in refusal(path)
    place = mutations._end(data, 5)
    path.write_bytes(data[:place] + (2**62).to_bytes(8, "little") + data[place + 8 :])
    assert "values: the file is damaged" in refusal(path)


# ---- archives ----


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("name", ["x.npy", "x/data.pkl"])
def test_an_archive_that_expands_is_refused_before_it_does(name, tmp_path):
    path = zipped(tmp_path / "x", {name: npy(np.zeros(2**25, np.int8)), f"more/{name}": bytes(2**26)})
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than 5 times its size plus 64 MiB. Save it uncompressed" in message
    assert peak < 2**20


def test_a_member_never_expands_beyond_the_size_it_declares(tmp_path):
    path = zipped(tmp_path / "x", {"x.npy": header((16,)) + bytes(2**26)})
    data = path.read_bytes()
    path.write_bytes(data.replace((2**26 + 128).to_bytes(4, "little"), (192).to_bytes(4, "little")))
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "BadZipFile: Bad CRC-32 for file 'x.npy'" in message or "Overlapped entries" in message
    assert peak < 2**22


def test_members_that_share_their_bytes_count_each(tmp_path):
    data = zipped(tmp_path / "x", {"x00.npy": npy(np.zeros(2**20, np.int8))}, zipfile.ZIP_STORED).read_bytes()
    place = data.index(b"PK\x01\x02")
    entry, end = data[place : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    entries = b"".join(entry.replace(b"x00", f"x{i:02}".encode()) for i in range(80))
    end = end[:8] + (80).to_bytes(2, "little") * 2 + len(entries).to_bytes(4, "little") + end[16:]
    (tmp_path / "x").write_bytes(data[:place] + entries + end)
    assert "its contents have 83,896,320, more than 5 times" in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12,)), "array x.npy of shape (1000000000000,) and float32 does not fit its member"),
        (header((-2, -2)) + bytes(16), "array x.npy of shape (-2, -2) and float32 does not fit its member"),
        (header((2,)) + bytes(9), "array x.npy of shape (2,) and float32 does not fit its member"),
        (header((2,), "<U2") + bytes(16), "array x.npy has dtype <U2, which is not a type of numbers"),
        (header((2,), "|O") + bytes(16), "array x.npy has dtype object, which is not a type of numbers"),
        (header((1,), [("a", "<f4")]) + bytes(4), "array x.npy has dtype [('a', '<f4')], which is not a type of"),
        (header((2,)).replace(b"NUMPY\x01", b"NUMPY\x07"), "the file is damaged or of another kind (KeyError: (7, 0))"),
        (b"", "the file is damaged or of another kind (ValueError"),
    ],
)
def test_arrays_that_are_not_what_they_say(content, message, tmp_path):
    assert refusal(zipped(tmp_path / "x", {"x.npy": content})).startswith(message)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_archives(tmp_path):
    assert "x.npy is compressed by a method other" in refusal(zipped(tmp_path / "x", {"x.npy": b""}, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(tmp_path / "x", "w") as file:
        file.writestr("x.npy", npy(np.ones(3)))
        file.writestr("x.npy", npy(np.ones(3)))
    assert "the archive has two members 'x.npy'" in refusal(tmp_path / "x")
    assert "the archive has 0 files data.pkl" in refusal(zipped(tmp_path / "x", {"readme": b""}))
    path = zipped(tmp_path / "x", {f"{i:05000x}.npy": b"" for i in range(900)}, zipfile.ZIP_STORED)
    assert "the archive's list of members has more than 4 MiB" in refusal(path)


def test_a_compressed_file_with_a_head_of_zeros_is_read(tmp_path):
    weights, head = np.random.default_rng(0).standard_normal(2**16), np.zeros((1000, 4000), np.float32)
    np.savez_compressed(tmp_path / "x.npz", weights=weights, head=head)
    size = (tmp_path / "x.npz").stat().st_size
    assert EXPANSION * size < head.nbytes < ALLOWANCE
    np.testing.assert_array_equal(read(tmp_path / "x.npz").tensors["head"], head)
