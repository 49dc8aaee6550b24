import os
import pickle

import numpy as np
import pytest
from PIL import Image
from test_source import error, read_all

from vit_jax.data.image import folder
from vit_jax.data.layout import missing_classes
from vit_jax.data.source import InMemory, open_source
from vit_jax.errors import UserError


def test_a_folder_of_classes(tmp_path, write_images):
    write_images(tmp_path / "pets" / "dog", 3, first=100)
    write_images(tmp_path / "pets" / "cat" / "long", 2)
    (tmp_path / "pets" / "cat" / ".hidden").write_text("")
    source = open_source("folder", "train", path=str(tmp_path / "pets"))
    assert source.labels == ("cat", "dog")
    examples = read_all(source)
    assert [(example["label"], example["id"]) for example in examples] == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]
    assert examples[3]["image"].getpixel((0, 0)) == (101, 101, 101)
    assert source.files[3] == os.path.join("dog", "001.png")
    assert isinstance(source, InMemory)
    assert source.class_counts() == [2, 3]
    assert source.all_labels().tolist() == [0, 0, 1, 1, 1]
    copy = pickle.loads(pickle.dumps(source))
    assert [example["label"] for example in read_all(copy)] == [0, 0, 1, 1, 1]


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
    assert missing_classes(tmp_path) == {name: ["a"]}


def test_a_class_that_training_lacks_is_refused(tmp_path, write_images):
    write_images(tmp_path / "train" / "a", 1)
    write_images(tmp_path / "val" / "z", 1)
    assert "has classes that" in error("folder", "val", path=str(tmp_path))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "has no split 'test': its class folders are at the first level, so that all of it is the split"),
        ("train[:x]", "split 'train[:x]' is not of the form"),
        ("train+val", "ids count within one split"),
        ("train[:0]", "has no readable images"),
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
    assert "has no sub-folders. Put the files of each class in a folder" in error("folder", "train", path=str(tmp_path))
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


def test_a_named_pipe_in_a_folder_is_skipped(tmp_path, write_images):
    write_images(tmp_path / "a", 2)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    for _ in range(2):  # scanned, and from the cache
        source = open_source("folder", "train", path=str(tmp_path))
        assert (len(source), source.skipped) == (2, [("a/pipe.png", "not a regular file")])


def test_unreadable_files_are_skipped_and_listed(damaged):
    source = open_source("folder", "train", path=str(damaged))
    assert len(source) == 4
    reasons = dict(source.skipped)
    assert sorted(reasons) == [os.path.join("a", name) for name in ("notes.txt", "nothing.png", "z.jpg", "z.png")]
    assert reasons[os.path.join("a", "notes.txt")] == "not an image"
    assert "truncated" in reasons[os.path.join("a", "z.jpg")]


def test_ids_do_not_move_when_a_file_is_mended(damaged):
    before = [open_source("folder", "train", path=str(damaged)).files[7]]
    Image.new("RGB", (6, 5)).save(damaged / "a" / "notes.txt", "PNG")
    source = open_source("folder", "train", path=str(damaged))
    assert before == [source.files[7]]
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
    from vit_jax.data.image.transforms import Preprocessing
    from vit_jax.data.loading.pipeline import eval_batches

    (tmp_path / "a").mkdir()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        Image.new(mode, (7, 9)).save(tmp_path / "a" / f"{mode.replace(';', '_')}.png")
    Image.new("CMYK", (5, 5)).save(tmp_path / "a" / "cmyk.jpg")
    source = open_source("folder", "train", path=str(tmp_path), strict=True)
    chain = Preprocessing((8, 8), 3, "resize|normalize(0.5, 0.5)")
    batches = list(eval_batches(source, chain, batch_size=4))
    assert [np.shape(batch["image"]) for batch in batches] == [(4, 8, 8, 3)] * 2
