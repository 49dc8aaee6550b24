import gzip
import json
import shutil
import struct

import numpy as np
import pytest
from test_source import error, read_all

from vit_jax.data.sets import fashion_mnist, prepare
from vit_jax.data.source import open_source
from vit_jax.errors import UserError


@pytest.fixture
def raw_fashion_mnist(tmp_path, monkeypatch):
    """Twelve and four made-up garments in the published format, with the checksums adapted."""
    import hashlib

    place = tmp_path / "raw"
    place.mkdir()
    checksums = {}
    for part, count in (("train", 12), ("t10k", 4)):
        images = np.arange(count * 784).astype(np.uint8).reshape(count, 28, 28)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8) % 10)):
            file = place / f"{part}-{kind}-ubyte.gz"
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            file.write_bytes(gzip.compress(header + array.tobytes()))
            checksums[file.name] = (hashlib.sha256(file.read_bytes()).hexdigest(),)
    monkeypatch.setattr(fashion_mnist, "FILES", checksums)
    monkeypatch.setattr(prepare, "FASHION_MNIST_DEBIAN", tmp_path / "no-debian")
    return place


def test_fashion_mnist_from_idx_files(raw_fashion_mnist, tmp_path):
    root = str(tmp_path / "sets")
    prepare.prepare("fashion_mnist", root, str(raw_fashion_mnist))
    train = open_source("fashion_mnist", "train", data_dir=root)
    assert (len(train), len(open_source("fashion_mnist", "test", data_dir=root))) == (12, 4)
    assert train.labels[0] == "T-shirt/top"
    images = {np.asarray(example["image"]).tobytes(): example["label"] for example in read_all(train)}
    assert images == {np.arange(i * 784, (i + 1) * 784).astype(np.uint8).tobytes(): i % 10 for i in range(12)}


def test_fashion_mnist_is_found_in_the_manual_folder(raw_fashion_mnist, tmp_path):
    shutil.copytree(raw_fashion_mnist, tmp_path / "sets" / "manual")
    assert prepare.prepare("fashion_mnist", str(tmp_path / "sets")).name == "3.0.1"


def test_fashion_mnist_elsewhere_says_where_to_get_it(raw_fashion_mnist, tmp_path):
    with pytest.raises(UserError, match=r"apt-get install dataset-fashion-mnist.*--path FOLDER"):
        prepare.prepare("fashion_mnist", str(tmp_path / "sets"))
    with pytest.raises(UserError, match=r"are not all in .*elsewhere"):
        prepare.prepare("fashion_mnist", str(tmp_path / "sets"), str(tmp_path / "elsewhere"))


def test_a_damaged_fashion_mnist_is_refused(raw_fashion_mnist, tmp_path):
    file = raw_fashion_mnist / "train-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz is not the published file"):
        prepare.prepare("fashion_mnist", str(tmp_path / "sets"), str(raw_fashion_mnist))


# TFRecords


def as_tfrecords(directory):
    """Rewrites a prepared set as an old TFDS would have left it."""
    from array_record.python.array_record_module import ArrayRecordReader

    info = json.loads((directory / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (directory / "dataset_info.json").write_text(json.dumps(info))
    for shard in directory.glob("*.array_record*"):
        reader = ArrayRecordReader(str(shard))
        frames = [struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0" for record in reader.read_all()]
        reader.close()
        shard.with_name(shard.name.replace("array_record", "tfrecord")).write_bytes(b"".join(frames))
        shard.unlink()


@pytest.fixture
def tfrecords(data_dir, tmp_path):
    root = tmp_path / "old"
    shutil.copytree(data_dir, root)
    directory = root / "digits" / "1.0.0"
    as_tfrecords(directory)
    return root, directory


def test_tfrecords_are_refused_with_the_command_that_helps(tfrecords):
    root, _ = tfrecords
    directory = root / "digits"
    directory.rename(root / "old_set")
    assert "data prepare old_set --data_dir" in error("old_set", "train", data_dir=str(root))


def test_tfrecords_become_array_records_and_stay(tfrecords, data_dir):
    root, directory = tfrecords
    before = {path.name: path.read_bytes() for path in directory.glob("*tfrecord*")}
    assert prepare.prepare("digits", str(root)) == directory
    assert {path.name: path.read_bytes() for path in directory.glob("*tfrecord*")} == before
    info = json.loads((directory / "dataset_info.json").read_text())
    assert (info["fileFormat"], info["alternativeFileFormats"]) == ("tfrecord", ["array_record"])
    old, new = (open_source("digits", "test[5:]", data_dir=place) for place in (data_dir, str(root)))
    assert len(old) == len(new)
    assert [e["image"].tobytes() for e in read_all(old)] == [e["image"].tobytes() for e in read_all(new)]


def test_a_truncated_tfrecord_leaves_the_set_as_it_was(tfrecords):
    root, directory = tfrecords
    shard = next(directory.glob("*test.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match=f"{shard.name} is truncated"):
        prepare.prepare("digits", str(root))
    assert not list(directory.glob("*test.array_record*"))
    assert "alternativeFileFormats" not in json.loads((directory / "dataset_info.json").read_text())


def test_a_tfrecord_that_lacks_records_is_refused(tfrecords):
    root, directory = tfrecords
    shard = next(directory.glob("*test.tfrecord*"))
    first = len(next(prepare.read_tfrecords(shard))) + 16
    shard.write_bytes(shard.read_bytes()[first:])
    with pytest.raises(UserError, match=r"has 354 records, its dataset_info\.json says 355"):
        prepare.prepare("digits", str(root))
