import gzip
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import builders, folder, prepare, sources
from vit_jax.data.sources import InMemory, Subset, TfdsSource, example_name, open_source
from vit_jax.errors import UserError


def read_all(source):
    return source.__getitems__(range(len(source)))


def error(*args, **options):
    with pytest.raises(UserError) as caught:
        open_source(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Prepared sets


def test_digits_are_split_evenly_by_class(data_dir):
    train = open_source("digits", "train", data_dir=data_dir)
    test = open_source("digits", "test", data_dir=data_dir)
    assert (len(train), len(test)) == (1442, 355)
    assert train.labels == tuple("0123456789")
    counts = np.array([train.class_counts(), test.class_counts()])
    assert np.all(np.abs(counts[1] / counts.sum(0) - 0.2) < 0.01)
    assert test.all_labels().tolist() == [example["label"] for example in read_all(test)]


def test_a_subset_keeps_ids_and_order(digits):
    subset = Subset(digits, [30, 4, 11])
    assert [example["id"] for example in subset.__getitems__([0, 2])] == [30, 11]
    assert subset.all_labels().tolist() == [example["label"] for example in read_all(subset)]
    assert [example["id"] for example in read_all(pickle.loads(pickle.dumps(subset)))] == [30, 4, 11]


def test_digits_are_scikit_learns(data_dir):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    stored = read_all(open_source("digits", "train+test", data_dir=data_dir))
    known = sorted(
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(images, labels, strict=True)
    )
    assert sorted((example["image"].tobytes(), example["label"]) for example in stored) == known


def test_digits_are_prepared_on_first_use_in_the_default_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    assert len(open_source("digits", "test")) == 355
    assert [entry.name for entry in (tmp_path / "sets").iterdir()] == ["digits"]
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepare.data_root() == tmp_path / "home" / "tensorflow_datasets"


def test_a_set_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    assert "choose another data_dir" in error("digits", "train", data_dir=str(tmp_path / "file" / "below"))


def test_splits_are_sliced_as_in_tfds(data_dir):
    whole = open_source("digits", "test", data_dir=data_dir)
    part = open_source("digits", "test[10:20]", data_dir=data_dir)
    assert len(open_source("digits", "test[:99%]", data_dir=data_dir)) == 351
    for one, other in zip(part.__getitems__(range(10)), whole.__getitems__(range(10, 20)), strict=True):
        assert one["image"].tobytes() == other["image"].tobytes()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digits", "tset", "digits has no split 'tset'; did you mean 'test'?"),
        ("digits", "val", "digits has no split 'val'; known: test, train"),
        ("digits", "train[:x]", "cannot read split 'train[:x]'"),
        ("digits", "train+val", "known: train, test"),
        ("cifr10", "train", "unknown data set 'cifr10'; did you mean 'cifar10'?"),
        ("qqqqqqqq", "train", "unknown data set 'qqqqqqqq'; 'folder' reads your own images"),
        ("cifar10", "train", "tfds build cifar10 --file_format=array_record"),
        ("fashion_mnist", "train", "python -m vit_jax data prepare fashion_mnist --data_dir"),
        ("../digits", "train", "'../digits' is not the name of a data set"),
        ("digits:9.9.9", "train", "'digits:9.9.9' is not prepared"),
    ],
)
def test_what_is_not_there_is_named(data_dir, name, split, message):
    assert message in error(name, split, data_dir=data_dir)


def test_small_sets_stay_in_memory_and_travel_empty(data_dir):
    source = open_source("digits", "train", data_dir=data_dir)
    assert isinstance(source, InMemory)
    before = [
        (example["image"].tobytes(), example["label"], example["id"]) for example in source.__getitems__([5, 3, 5])
    ]
    again = [
        (example["image"].tobytes(), example["label"], example["id"]) for example in source.__getitems__([5, 3, 5])
    ]
    sent = pickle.dumps(source)
    there = [(e["image"].tobytes(), e["label"], e["id"]) for e in pickle.loads(sent).__getitems__([5, 3, 5])]
    assert before == again == there
    assert [row[2] for row in before] == [5, 3, 5]
    assert len(sent) < 2000


def test_large_sets_are_read_from_disk(data_dir, monkeypatch):
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 1000)
    source = open_source("digits", "train", data_dir=data_dir)
    assert isinstance(source, TfdsSource)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.__getitems__([7])[0]["image"].tobytes() == source.__getitems__([7])[0]["image"].tobytes()
    assert source.__getitems__([]) == []


# Fashion-MNIST


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
    monkeypatch.setattr(builders, "FASHION_MNIST_FILES", checksums)
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


# Other shapes of TFDS sets


def prepare_by_hand(root, name, features, examples):
    """Prepares a set of any features in ArrayRecord."""
    import tensorflow_datasets as tfds

    class HandMade(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features(tfds)))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(examples)

    HandMade.name = name
    HandMade(data_dir=root, file_format="array_record").download_and_prepare(download_dir=root / "downloads")


def test_features_are_found_by_type_and_several_labels_are_multi_hot(tmp_path):
    def features(tfds):
        return {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"])),
        }

    examples = [{"picture": Image.new("RGB", (3 + i, 4)), "tags": [0, 2][:i]} for i in range(3)]
    prepare_by_hand(tmp_path, "tagged", features, examples)
    source = open_source("tagged", "train", data_dir=str(tmp_path))
    assert isinstance(source, TfdsSource)
    by_width = {example["image"].width: example["label"].tolist() for example in read_all(source)}
    assert by_width == {3: [0, 0, 0], 4: [1, 0, 0], 5: [1, 0, 1]}
    assert source.class_counts() == [2, 0, 1]
    assert sorted(source.all_labels().sum(1)) == [0, 1, 2]


def test_the_feature_called_label_goes_before_others_and_stored_bytes_are_kept(tmp_path):
    jpeg = tmp_path / "a.jpg"
    Image.new("L", (5, 5), 77).save(jpeg)

    def features(tfds):
        return {
            "image": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
            "coarse_label": tfds.features.ClassLabel(num_classes=2),
            "label": tfds.features.ClassLabel(num_classes=3),
        }

    prepare_by_hand(tmp_path, "two", features, [{"image": str(jpeg), "coarse_label": 1, "label": 2}])
    source = open_source("two:1.2.3", "train", data_dir=str(tmp_path))
    example = source.__getitems__([0])[0]
    assert (example["label"], example["image"].mode, example["id"]) == (2, "L", 0)
    assert source.labels == ("0", "1", "2")


def test_a_set_without_class_labels_is_refused(tmp_path):
    def features(tfds):
        return {"image": tfds.features.Image(shape=(2, 2, 1)), "text": tfds.features.Text()}

    prepare_by_hand(tmp_path, "captions", features, [{"image": Image.new("L", (2, 2)), "text": "x"}])
    assert "data set 'captions' is not for classification" in error("captions", "train", data_dir=str(tmp_path))


# Folders


def test_a_folder_of_classes(tmp_path, write_images):
    write_images(tmp_path / "pets" / "dog", 3, first=100)
    write_images(tmp_path / "pets" / "cat" / "long", 2)
    (tmp_path / "pets" / "cat" / ".hidden").write_text("")
    source = open_source("folder", "train", path=str(tmp_path / "pets"))
    assert source.labels == ("cat", "dog")
    examples = read_all(source)
    assert [(example["label"], example["id"]) for example in examples] == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]
    assert examples[3]["image"].getpixel((0, 0)) == (101, 101, 101)
    assert example_name(source, 3) == os.path.join("dog", "001.png")
    assert isinstance(source, InMemory)
    assert source.class_counts() == [2, 3]
    assert source.all_labels().tolist() == [0, 0, 1, 1, 1]
    copy = pickle.loads(pickle.dumps(source))
    assert [example["label"] for example in read_all(copy)] == [0, 0, 1, 1, 1]


def test_other_sources_have_no_file_names(digits):
    assert example_name(digits, 0) is None


def test_slices_of_a_folder_share_nothing_and_mix_the_classes(tmp_path, write_images):
    write_images(tmp_path / "a", 50)
    write_images(tmp_path / "b", 50)
    first, rest = (open_source("folder", split, path=str(tmp_path)) for split in ("train[:80%]", "train[80%:]"))
    assert (len(first), len(rest)) == (80, 20)
    ids = [{example["id"] for example in read_all(source)} for source in (first, rest)]
    assert ids[0] | ids[1] == set(range(100))
    assert min(rest.class_counts()) >= 4
    joined = open_source("folder", "train[80%:]+train[:80%]", path=str(tmp_path))
    assert len(joined) == 100
    assert [len(open_source("folder", f"train[{s}]", path=str(tmp_path))) for s in ("10:30", "-5:", ":1%")] == [
        20,
        5,
        1,
    ]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_splits_may_be_folders(tmp_path, write_images, name):
    write_images(tmp_path / "train" / "a", 2)
    write_images(tmp_path / "train" / "b", 2)
    write_images(tmp_path / name / "b", 1)
    for split in ("val", "validation"):
        source = open_source("folder", split, path=str(tmp_path))
        assert source.labels == ("a", "b")
        assert [example["label"] for example in read_all(source)] == [1]
    assert folder.missing_classes(tmp_path) == {name: ["a"]}


def test_a_class_that_training_lacks_is_refused(tmp_path, write_images):
    write_images(tmp_path / "train" / "a", 1)
    write_images(tmp_path / "val" / "z", 1)
    assert "has classes that" in error("folder", "val", path=str(tmp_path))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "has no split 'test': its classes are at the first level, so slice train"),
        ("train[:x]", "split 'train[:x]' is not of the form"),
        ("train+val", "ids count within one split"),
        ("train[:0]", "has no readable image"),
    ],
)
def test_wrong_splits_of_a_folder(tmp_path, write_images, split, message):
    write_images(tmp_path / "a", 2)
    assert message in error("folder", split, path=str(tmp_path))


def test_wrong_folders(tmp_path, write_images):
    assert "needs a path" in error("folder", "train")
    assert "only 'folder', 'video' and 'text' are read from a path, not 'digits'" in error(
        "digits", "train", path=str(tmp_path)
    )
    assert "is not a folder" in error("folder", "train", path=str(tmp_path / "nowhere"))
    assert "has no sub-folders: one per class is wanted" in error("folder", "train", path=str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert "has no images in its class folders empty" in error("folder", "train", path=str(tmp_path))
    (tmp_path / "split" / "train" / "a").mkdir(parents=True)
    assert "has no split 'tain'; did you mean 'train'?" in error("folder", "tain", path=str(tmp_path / "split"))


@pytest.fixture
def damaged(tmp_path, write_images):
    root = tmp_path / "damaged"
    write_images(root / "a", 4)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        whole = root / "a" / f"z.{suffix}"
        Image.fromarray(noise).save(whole)
        whole.write_bytes(whole.read_bytes()[:-1500])
    (root / "a" / "notes.txt").write_text("hello")
    (root / "a" / "nothing.png").write_text("")
    return root


def test_unreadable_files_are_skipped_and_listed(damaged):
    source = open_source("folder", "train", path=str(damaged))
    assert len(source) == 4
    reasons = dict(source.skipped)
    assert sorted(reasons) == [os.path.join("a", name) for name in ("notes.txt", "nothing.png", "z.jpg", "z.png")]
    assert reasons[os.path.join("a", "notes.txt")] == "not an image"
    assert "truncated" in reasons[os.path.join("a", "z.jpg")]


def test_ids_do_not_move_when_a_file_is_mended(damaged):
    before = [example_name(open_source("folder", "train", path=str(damaged)), 7)]
    Image.new("RGB", (6, 5)).save(damaged / "a" / "notes.txt", "PNG")
    source = open_source("folder", "train", path=str(damaged))
    assert before == [example_name(source, 7)]
    assert len(source) == 5


def test_strict_refuses_unreadable_files(damaged):
    assert "4 unreadable files, the first" in error("folder", "train", path=str(damaged), strict=True)


def test_the_scan_is_remembered_until_a_file_changes(damaged, monkeypatch):
    open_source("folder", "train", path=str(damaged))
    examined = []
    examine = folder.examine
    monkeypatch.setattr(folder, "examine", lambda path: examined.append(path.name) or examine(path))
    assert len(open_source("folder", "train", path=str(damaged)).skipped) == 4
    assert examined == []
    Image.new("RGB", (9, 9)).save(damaged / "a" / "000.png")
    open_source("folder", "train", path=str(damaged))
    assert examined == ["000.png"]


def test_a_cache_that_cannot_be_written_is_done_without(damaged, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(damaged / "a" / "notes.txt"))
    assert len(open_source("folder", "train", path=str(damaged))) == 4


def test_a_file_that_breaks_later_is_named(tmp_path, write_images):
    write_images(tmp_path / "a", 1)
    write_images(tmp_path / "b", 1, size=(9, 9))  # two sizes: not kept in memory
    source = open_source("folder", "train", path=str(tmp_path))
    (tmp_path / "a" / "000.png").write_text("gone")
    with pytest.raises(UserError, match=r"000.png was readable when the folder was opened"):
        source.__getitems__([0])


def test_a_folder_of_mixed_modes_feeds_the_pipeline(tmp_path):
    from vit_jax.data.pipeline import eval_batches
    from vit_jax.data.transforms import Preprocessing

    (tmp_path / "a").mkdir()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        Image.new(mode, (7, 9)).save(tmp_path / "a" / f"{mode.replace(';', '_')}.png")
    Image.new("CMYK", (5, 5)).save(tmp_path / "a" / "cmyk.jpg")
    source = open_source("folder", "train", path=str(tmp_path), strict=True)
    chain = Preprocessing((8, 8), 3, "resize|normalize(0.5, 0.5)")
    batches = list(eval_batches(source, chain, batch_size=4, num_threads=0))
    assert [batch["image"].shape for batch in batches] == [(4, 8, 8, 3)] * 2
