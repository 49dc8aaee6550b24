"""TFDS sets of other forms: features that are found by their types, several labels, clips."""

import numpy as np
import pytest
from PIL import Image
from test_source import error, read_all

from vit_jax.data.sets.tfds import TfdsSource
from vit_jax.data.source import open_source
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError


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
        with pytest.raises(UserError, match=r"^moves train 0: the frame rate is not known"):
            ClipPreprocessing(2, (8, 8), 3, sampling, "normalize(0.5, 0.5)").rows(video, None)


def test_a_set_without_class_labels_is_refused(tmp_path):
    def features(tfds):
        return {"image": tfds.features.Image(shape=(2, 2, 1)), "text": tfds.features.Text()}

    prepare_by_hand(tmp_path, "captions", features, [{"image": Image.new("L", (2, 2)), "text": "x"}])
    assert "data set 'captions' is not usable for classification: it has no class labels" in error(
        "captions", "train", data_dir=str(tmp_path)
    )


def test_imagenet_a_has_the_classes_that_occur(tmp_path):
    """TFDS declares all 1,000 classes of ImageNet for it, and scores are among those that it has."""

    def features(tfds):
        return {
            "image": tfds.features.Image(shape=(2, 2, 1)),
            "label": tfds.features.ClassLabel(names=["n0", "n1", "n2", "n3"]),
        }

    examples = [{"image": Image.new("L", (2, 2), 10 * i), "label": 3 - 2 * (i % 2)} for i in range(4)]
    for name, expected in (("imagenet_a", ("n1", "n3")), ("imagenet_b", ("n0", "n1", "n2", "n3"))):
        prepare_by_hand(tmp_path, name, features, examples)
        for split in ("train", "train[:25%]"):
            source = open_source(name, split, data_dir=str(tmp_path))
            assert source.labels == expected
            for example in read_all(source):
                shade = np.asarray(example["image"])[0, 0]
                assert source.labels[example["label"]] == ("n1" if shade % 20 else "n3")
    source = open_source("imagenet_a", "train", data_dir=str(tmp_path))
    assert source.class_counts() == [2, 2]
    assert sorted(source.all_labels().tolist()) == [0, 0, 1, 1]
