import argparse
import json
import os
import re

import pytest
from tiny_clips import write_clip

from vit_jax.commands import data
from vit_jax.errors import UserError


def run(*words):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(words))


def test_prepare_says_where_and_does_it_once(tmp_path, capsys):
    root = str(tmp_path / "sets")
    assert run("prepare", "digits", "--data_dir", root) == 0
    assert capsys.readouterr().out == f"prepared: {root}/digits/1.0.0\n"
    assert run("prepare", "digits", "--data_dir", root) == 0
    assert capsys.readouterr().out == f"already prepared: {root}/digits/1.0.0\n"


def test_info_of_a_prepared_set(data_dir, capsys):
    run("info", "digits", "--data_dir", data_dir, "--json")
    info = json.loads(capsys.readouterr().out)
    assert info["num_classes"] == 10
    assert {name: split["examples"] for name, split in info["splits"].items()} == {"train": 1442, "test": 355}
    assert sum(info["splits"]["test"]["class_counts"]) == 355
    assert info["splits"]["test"]["images"] == {"8x8 L": 200}
    assert all(len(digest) == 64 for digest in info["sha256"].values())
    run("info", "digits", "--data_dir", data_dir)
    text = capsys.readouterr().out
    assert "10 classes" in text
    assert info["sha256"]["features.json"] in text


def test_info_of_a_large_set_reads_little(data_dir, capsys, monkeypatch):
    from vit_jax.data import describe

    monkeypatch.setattr(describe, "QUICK_BYTES", 10)
    run("info", "digits", "--data_dir", data_dir)
    assert "--full" in capsys.readouterr().out
    run("info", "digits", "--data_dir", data_dir, "--full")
    assert "143" in capsys.readouterr().out


def test_info_of_a_folder_lists_what_is_skipped_and_missing(tmp_path, write_images, capsys):
    write_images(tmp_path / "train" / "a", 2)
    write_images(tmp_path / "train" / "b", 1, size=(3, 3))
    write_images(tmp_path / "val" / "a", 1)
    (tmp_path / "train" / "b" / "notes.txt").write_text("x")
    run("info", "folder", "--path", str(tmp_path))
    text = capsys.readouterr().out
    assert "6x5 RGB (2), 3x3 RGB (1)" in text
    assert "skipped in train: b/notes.txt (not an image)" in text
    assert "val has no folder for b" in text


def test_names_that_are_not_utf8_are_printed(tmp_path, write_images, capsysbinary):
    write_images(tmp_path / "a", 1)
    with open(os.path.join(os.fsencode(tmp_path), b"a", b"caf\xe9\n.png"), "wb") as file:
        file.write(b"no image")
    run("info", "folder", "--path", str(tmp_path))
    assert b"skipped in train: a/caf\\xe9\\n.png (not an image)\n" in capsysbinary.readouterr().out


def test_check_counts_what_it_finds_and_fails_if_clips_are_broken(tmp_path, capsys):
    write_clip(tmp_path / "train" / "a" / "1.avi", 9)
    write_clip(tmp_path / "train" / "b" / "1.avi", 2)
    assert run("check", str(tmp_path), "--workers", "0") == 0
    text = capsys.readouterr().out
    assert f"{tmp_path}/manifest.csv: 2 clips, 2 of them decoded now" in text
    assert "ok                      1\nfew-frames              1\n\n2 can be used, 0 cannot" in text
    for index in range(22):
        (tmp_path / "train" / "b" / f"x{index:02d}.mp4").touch()
    assert run("check", str(tmp_path), "--workers", "0", "--min_frames", "2") == 1
    text = capsys.readouterr().out
    assert "24 clips, 23 of them decoded now" in text
    assert "2 can be used, 22 cannot\nempty: train/b/x00.mp4 (0 bytes)\n" in text
    assert text.endswith("empty: train/b/x19.mp4 (0 bytes)\n... and 2 more (--json lists all)\n")
    assert run("check", str(tmp_path), "--min_frames", "2", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["clips"], found["decoded"], found["usable"], found["counts"]) == (24, 0, 2, {"ok": 2, "empty": 22})
    assert found["broken"][21] == {"path": "train/b/x21.mp4", "status": "empty", "detail": "0 bytes"}


def test_an_interrupted_check_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    from vit_jax.data.video import check as video_check

    def interrupt(file, name, min_frames):
        raise KeyboardInterrupt

    write_clip(tmp_path / "a" / "1.avi", 9)
    with monkeypatch.context() as patch:
        patch.setattr(video_check, "examine", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("check", str(tmp_path), "--workers", "0")
    assert capsys.readouterr().err == "1 of 1 clip left to check; run the same command to continue\n"
    assert run("check", str(tmp_path), "--workers", "0") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prepare", "folder"), "a folder of images needs no preparation"),
        (("prepare", "cifar10"), "tfds build cifar10"),
        (("prepare", "cifar1"), "did you mean 'cifar10"),
        (("info", "folder"), "needs a path"),
        (("info", "folder", "--path", "/nowhere"), "/nowhere is not a folder"),
        (("info", "cifar10"), "is not prepared under"),
        (("prepare", "video"), "data check DIR"),
        (("info", "video", "--path", "clips"), "clips is not a folder"),
        (("check", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises(UserError) as caught:
        run(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_examples(capsys):
    assert "data info folder --path" in (data.__doc__ or "")
    with pytest.raises(SystemExit):
        run("prepare", "--help")
    assert "--data_dir" in capsys.readouterr().out


def test_info_of_text_counts_pairs_and_lists_what_is_skipped(tmp_path, capsys):
    (tmp_path / "train.tsv").write_text("open\tapri\nclose\t\nsave\tsalva\n")
    (tmp_path / "test.tsv").write_text("print\tstampa\n")
    assert run("info", "text", f"--path={tmp_path}") == 0
    printed = capsys.readouterr().out
    assert re.search(r"train +2 +1  8 and 9\n", printed)
    assert re.search(r"test +1 +0  5 and 6\n", printed)
    assert "skipped in train: train.tsv, line 2 (empty target)" in printed
    with pytest.raises(UserError, match="must name two languages"):
        run("info", "text", f"--path={tmp_path}", "--languages=en")
    with pytest.raises(UserError, match="data prepare messages"):
        run("info", "messages", f"--data_dir={tmp_path}")
