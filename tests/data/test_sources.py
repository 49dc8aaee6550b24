import pickle

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import sources
from vit_jax.data.sets import prepare
from vit_jax.data.sources import InMemory, Subset, TfdsSource, example_name, open_source
from vit_jax.data.video.clips import ClipPreprocessing
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


def test_clips_of_a_set_that_says_no_rate(tmp_path):
    def features(tfds):
        return {
            "video": tfds.features.Tensor(shape=(6, 8, 8, 3), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(num_classes=2),
        }

    prepare_by_hand(tmp_path, "moves", features, [{"video": np.zeros((6, 8, 8, 3), np.uint8), "label": 1}])
    video = open_source("moves", "train", data_dir=str(tmp_path)).__getitems__([0])[0]["video"]
    assert ClipPreprocessing(2, (8, 8), 3, "stride(frames=4)", "normalize(0.5, 0.5)").rows(video, None)
    for sampling in ("stride(frames=4, fps=30)", "stride(seconds=1)"):
        with pytest.raises(UserError, match=r"^moves train 0: how many frames make a second is not known"):
            ClipPreprocessing(2, (8, 8), 3, sampling, "normalize(0.5, 0.5)").rows(video, None)


def test_a_set_without_class_labels_is_refused(tmp_path):
    def features(tfds):
        return {"image": tfds.features.Image(shape=(2, 2, 1)), "text": tfds.features.Text()}

    prepare_by_hand(tmp_path, "captions", features, [{"image": Image.new("L", (2, 2)), "text": "x"}])
    assert "data set 'captions' is not for classification" in error("captions", "train", data_dir=str(tmp_path))


def test_other_sources_have_no_file_names(digits):
    assert example_name(digits, 0) is None
