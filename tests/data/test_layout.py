"""Which folders are splits and which are classes: usual names in any case, and what is refused."""

import os
from pathlib import Path

import pytest
from PIL import Image

from vit_jax.data import layout
from vit_jax.data.image.folder import FolderSource
from vit_jax.data.scan import walk
from vit_jax.data.source import in_order_of, open_source
from vit_jax.data.video.source import VideoSource, list_clips, split_names
from vit_jax.errors import UserError


@pytest.fixture
def make(tmp_path):
    """Makes empty files, given by their paths; a path that ends in "/" is a folder."""

    def write(*paths):
        for path in paths:
            file = tmp_path / path
            (file if path.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
            if not path.endswith("/"):
                file.write_text("x")
        return tmp_path

    return write


def folders_of(root):
    return sorted(layout.split_folders(root))


@pytest.mark.parametrize(
    ("folders", "asked"),
    [
        (("training", "validation"), {"train": "training", "val": "validation", "valid": "validation"}),
        (("Train", "Test"), {"train": "Train", "test": "Test", "testing": "Test", "Train": "Train"}),
        (("TRAIN", "DEV"), {"training": "TRAIN", "val": "DEV", "dev": "DEV"}),
        (("train", "valid", "testing"), {"validation": "valid", "test": "testing"}),
        (("train_mini", "val"), {"train": "train_mini", "train_mini": "train_mini"}),
        (("train", "train_mini", "val"), {"train": "train", "train_mini": "train_mini"}),
        (("train2017", "val2017"), {"train": "train2017", "val": "val2017"}),
        (("training_set", "test_set"), {"train": "training_set", "test": "test_set"}),
        (("val", "validation"), {"val": "val", "validation": "validation"}),
        (("train", "evaluation"), {"evaluation": "evaluation"}),
    ],
)
def test_usual_names_are_splits_in_any_case(make, folders, asked):
    root = make(*(f"{name}/{label}/1.mp4" for name in folders for label in ("cat", "dog")))
    assert folders_of(root) == sorted(folders)
    for split, folder in asked.items():
        listing = list_clips(root, split)
        assert (listing.root, listing.labels) == (root / folder, ("cat", "dog"))


@pytest.mark.parametrize(
    ("folders", "split", "message"),
    [
        (("Train", "Test"), "val", r"has no split 'val'; known: Test, Train"),
        (("train_a", "train_b"), "train", r"several folders for split 'train': train_a, train_b. Ask for one by its"),
        (("val", "validation"), "dev", r"several folders for split 'dev': val, validation"),
        (("holdout", "test"), "train", r"has no split 'train'; known: holdout, test"),
    ],
)
@pytest.mark.parametrize("name", ["folder", "video"])
def test_splits_never_become_classes(make, name, folders, split, message):
    root = make(*(f"{folder}/cat/1.{suffix}" for folder in folders for suffix in ("mp4", "png")))
    with pytest.raises(UserError, match=message):
        open_source(name, split, path=str(root))


def test_classes_that_begin_like_splits_are_classes(make):
    root = make("testicle/1.mp4", "trainer/1.mp4", "valley/1.mp4")
    assert list_clips(root, "train").labels == ("testicle", "trainer", "valley")
    root = make("bus/1.mp4", "Train/1.mp4")
    assert "Train" in list_clips(root, "train").labels
    root = make("control/1.mp4", "test/deep/1.mp4")
    assert "control" in list_clips(root, "train").labels


def test_folders_next_to_train_are_ignored(make):
    root = make("Train/cat/1.mp4", "test/cat/1.mp4", "annotations/notes.txt")
    assert folders_of(root) == ["Train", "test"]


def test_a_flat_split_that_is_not_asked_for_does_no_harm(make, write_images):
    root = make("test/1.png", "test/2.png")
    write_images(root / "train" / "a", 2)
    assert len(FolderSource(root, "train")) == 2
    with pytest.raises(UserError, match=r"test has no sub-folders\. Put the files of each class in a folder"):
        FolderSource(root, "test")
    assert layout.missing_classes(root) == {}


def test_classes_are_those_of_the_training_split_that_is_asked_for(make):
    root = make("train/a/1.mp4", "train/b/1.mp4", "train_mini/a/1.mp4", "val/b/1.mp4", "val_mini/c/1.mp4")
    assert list_clips(root, "train_mini").labels == ("a",)
    assert list_clips(root, "val").labels == ("a", "b")
    with pytest.raises(UserError, match=r"val_mini has classes that .*/train lacks: c"):
        list_clips(root, "val_mini")


def test_the_folder_of_a_split_is_said_if_it_has_another_name(make, write_images):
    root = make("train_mini/a/1.mp4", "val/a/1.mp4")
    write_images(root / "train_mini" / "a", 1)
    for kind in (FolderSource, VideoSource):
        assert kind(root, "train[:100%]").recognised == f"split 'train' was found in {root}/train_mini"
        assert kind(root, "train_mini").recognised == ""
        assert kind(root / "val" / ".." / "train_mini", "train").recognised == ""


def test_numeric_classes_are_in_numeric_order(make):
    root = make(*(f"{number}/1.mp4" for number in range(12)))
    listing = list_clips(root, "train")
    assert listing.labels == tuple(map(str, range(12)))
    assert [clip.file for clip in listing.clips] == sorted(f"{number}/1.mp4" for number in range(12))  # as the ids
    assert all(clip.file == f"{clip.label}/1.mp4" for clip in listing.clips)
    assert layout.sorted_classes(["10", "9", "-1", "01", "1"]) == ("-1", "01", "1", "9", "10")
    assert layout.sorted_classes(["10", "9", "x"]) == ("10", "9", "x")


def test_a_checkpoint_keeps_its_order_of_numeric_classes(tmp_path, write_images):
    for number in range(11):
        write_images(tmp_path / str(number), 1, first=number)
    source = open_source("folder", "train", path=str(tmp_path))
    old = tuple(sorted(source.labels))
    same = in_order_of(old, source)
    assert same.labels == old
    for example in same.__getitems__(range(11)):
        assert old[example["label"]] == str(example["image"].getpixel((0, 0))[0])
    assert [old[number] for number in same.all_labels()] == list(old)
    assert source.all_labels().tolist() == [int(name) for name in old]
    assert same.class_counts() == [1] * 11
    assert same.files == source.files
    for labels in (source.labels, ("a", "b"), tuple(reversed(old))):
        assert in_order_of(labels, source) is source


def test_names_of_classes_that_cannot_be_written_are_refused(make, tmp_path):
    make("good/1.mp4")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"the class folder 'caf\\xe9' has a name that is not valid UTF-8"):
        list_clips(tmp_path, "train")
    assert layout.printable(b"caf\xe9\n".decode("utf-8", "surrogateescape")) == r"caf\xe9\n"
    assert layout.printable("東京\u3000ß") == "東京\u3000ß"


def test_links_that_lead_nowhere_are_listed(make, tmp_path, write_images):
    write_images(tmp_path / "images" / "a", 2)
    (tmp_path / "images" / "a" / "gone.png").symlink_to("/nowhere.png")
    (tmp_path / "images" / "b").symlink_to("/nowhere")
    make("clips/a/1.mp4")
    (tmp_path / "clips" / "b").symlink_to("/nowhere")
    reason = "a link to a file that does not exist"
    images = FolderSource(tmp_path / "images", "train")
    assert (len(images), images.skipped) == (2, [("a/gone.png", reason), ("b", reason)])
    assert VideoSource(tmp_path / "clips", "train").skipped == [("b", reason)]
    with pytest.raises(UserError, match=r"a/gone\.png \(a link to a file that does not exist\)"):
        FolderSource(tmp_path / "images", "train", strict=True)


def test_a_link_to_a_folder_that_contains_it_is_refused(make, tmp_path):
    make("a/1.mp4", "b/1.mp4")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    assert len(list_clips(tmp_path, "train").clips) == 3
    (tmp_path / "b" / "back").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match=r"back is a link to .*, which contains it: remove the link"):
        list(walk(tmp_path / "a"))


def test_a_folder_that_may_not_be_read_is_named(make, monkeypatch):
    root = make("a/1.mp4")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(UserError, match=r"/a cannot be read \(Permission denied\)"):
            list(walk(root / "a"))
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
            split_names(root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
            layout.subfolders(root)


def test_images_next_to_the_class_folders_are_counted(make, tmp_path, write_images):
    from vit_jax.data.describe import report

    write_images(tmp_path / "train" / "a", 1)
    for name in ("1.png", "2.jpg", "notes.md"):
        make(f"train/{name}")
    make("test/1.png", "extra/a/1.png")
    info, lines = report("folder", path=str(tmp_path))
    assert info["not_read"] == [
        f"{tmp_path}/extra is not read: its name is not that of a split",
        f"{tmp_path}/test is not read: it has no class folders",
        f"2 image(s) directly in {tmp_path}/train are not read: they are in no class folder",
    ]
    assert set(info["not_read"]) < set(lines)


def test_info_says_what_is_unusual(tmp_path):
    from vit_jax.data.describe import report

    folder = tmp_path / "a"
    folder.mkdir()
    Image.new("I;16", (3, 2), 4095).save(folder / "deep.png")
    Image.new("RGBA", (3, 2), (9, 200, 9, 0)).save(folder / "clear.png")
    pages = [Image.new("L", (3, 2), 99 + page) for page in range(2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    pages[0].save(folder / "turned.jpg", exif=exif)
    pages[0].save(folder / "usual.png")
    (folder / "broken.png").write_text("x")
    info, lines = report("folder", path=str(tmp_path))
    assert (info["splits"]["train"]["looked_at"], len(info["splits"]["train"]["notices"])) == (5, 4)
    for begins in ("nearly black: no level reaches 16", "transparent everywhere", "animations or", "rotated by"):
        assert any(line.startswith(f"train, 1 of the 5 images looked at: {begins}") for line in lines)
