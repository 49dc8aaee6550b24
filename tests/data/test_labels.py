"""Names of classes: read from files, and found in other lists."""

import json

import pytest

from vit_jax.data.labels import indices_of, places, read_labels
from vit_jax.errors import UserError

IMAGENET = ("n01440764 tench, Tinca tinca", "n01443537 goldfish", "n02012849 crane", "n03126707 crane")


def test_wordnet_numbers_find_their_classes_in_any_order():
    assert indices_of(("n03126707", "n01440764"), IMAGENET) == (3, 0)
    assert indices_of(("n01443537 Carassius auratus",), IMAGENET) == (1,)
    assert indices_of(("goldfish", "tench, Tinca tinca"), IMAGENET) == (1, 0)


def test_a_class_that_is_absent_or_that_two_may_mean_is_not_found():
    assert places(("crane", "goldfish", "shark"), IMAGENET) == [None, 1, None]
    assert indices_of(("crane", "goldfish"), IMAGENET) is None
    assert indices_of(("goldfish", "n01443537"), IMAGENET) is None  # one class twice


def test_a_text_file_has_a_name_per_line(tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(IMAGENET[:2]) + "\n")
    assert read_labels(str(tmp_path / "x.txt")) == IMAGENET[:2]


@pytest.mark.parametrize(
    "content",
    [["a", "b"], {"1": "b", "0": "a"}, {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}],
)
def test_a_json_file_lists_or_numbers_names(content, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(content))
    keras = ("n01440764 tench", "n01443537 goldfish")
    assert read_labels(str(tmp_path / "x.json")) == (keras if "goldfish" in str(content) else ("a", "b"))


def test_imagenet_needs_no_file():
    labels = read_labels("imagenet2012")
    assert (len(labels), labels[0], labels[999]) == (1000, "n01440764", "n15075141")
    assert list(labels) == sorted(labels)


def test_files_that_are_no_list_of_names(tmp_path):
    (tmp_path / "x.json").write_text('{"1": "b"}')
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00")
    for name, message in (("x.json", "must hold a JSON list"), ("x.bin", "not UTF-8"), ("no", "No such file")):
        with pytest.raises(UserError, match=message):
            read_labels(str(tmp_path / name))
