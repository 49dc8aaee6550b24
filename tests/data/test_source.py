import pickle

import numpy as np
import pytest

from vit_jax.config import default_config
from vit_jax.data import source as sources
from vit_jax.data.sets import prepare
from vit_jax.data.sets.tfds import TfdsSource
from vit_jax.data.source import InMemory, Subset, open_source, open_split
from vit_jax.errors import UserError


def read_all(source):
    return source.__getitems__(range(len(source)))


def error(*args, **options):
    with pytest.raises(UserError) as caught:
        open_source(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


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


# A split of a config


@pytest.fixture
def config(data_dir):
    config = default_config()
    config.data.name, config.data.data_dir = "digits", data_dir
    return config


def test_a_split_of_a_config(config, tmp_path, write_images):
    write_images(tmp_path / "images" / "a", 3)
    folder = str(tmp_path / "images")
    assert len(open_split(config, "test[:10]")) == 10
    assert len(open_split(config, "train", name="folder", path=folder)) == 3
    with pytest.raises(UserError, match=r"data set 'video' needs config\.data\.path"):
        open_split(config, "train", name="video")
    config.data.path, config.data.name, config.data.label = folder, "folder", "object"
    assert len(open_split(config, "train[:2]")) == 2
    assert len(open_split(config, "test", name="digits")) == 355  # neither path nor label apply to another set


def test_text_of_a_config(config, tmp_path):
    (tmp_path / "train.de").write_text("auf\n")
    (tmp_path / "train.en").write_text("open\n")
    config.data.name, config.data.languages = "text", ("de", "en")
    with pytest.raises(UserError, match=r"data set 'text' needs config.data.path: the folder with its splits"):
        open_split(config, "train")
    source = open_split(config, "train", path=str(tmp_path))
    assert (source.kind, source.labels, len(source)) == ("text", (), 1)
    assert source.__getitems__([0]) == [{"source": "auf", "target": "open", "id": 0}]
    assert source.all_labels().tolist() == []
    config.data.languages = ("de",)
    with pytest.raises(UserError, match=r"config\.data\.languages must name two languages, such as en,it, got 'de'"):
        open_split(config, "train", path=str(tmp_path))


def test_a_function_by_import_path_opens_a_split(config, tmp_path, monkeypatch):
    (tmp_path / "mydata.py").write_text(
        "from vit_jax.data.source import open_split as open_ours\n"
        "def open_split(config, split):\n"
        "    assert config.data.name == 'mydata:open_split'\n"
        "    return open_ours(config, split, name=config.data.path or 'digits')\n"
        "def nothing(config, split):\n"
        "    return [1, 2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(open_split(config, "test", name="mydata:open_split")) == 355
    assert config.data.name == "digits"
    config.data.name = "mydata:open_split"
    assert len(open_split(config, "test[:5]")) == 5
    with pytest.raises(UserError, match="unknown data set 'motoin'"):
        open_split(config, "test", path="motoin")
    with pytest.raises(UserError, match=r"returned a list without name, kind, split, labels, skipped, __getitems__"):
        open_split(config, "test", name="mydata:nothing")
