"""The Penn Treebank, in its format, with trees that the tests write."""

import argparse
import json

import pytest
from tiny_trees import write_treebank

from vit_jax.commands import data
from vit_jax.data.sets.treebank import LANGUAGES, build
from vit_jax.data.text.source import open_text
from vit_jax.data.text.trees import balance, tags
from vit_jax.errors import UserError


def run(*words):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args(words))


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    return write_treebank(tmp_path_factory.mktemp("treebank") / "parsed" / "mrg" / "wsj")


def test_sections_become_splits_that_the_text_source_reads(treebank, tmp_path):
    (treebank / "23" / "wsj_2399.mrg").write_text("( (S (NP (-NONE- *))))")
    counts = build(tmp_path / "out", treebank.parents[2])  # at any depth
    (treebank / "23" / "wsj_2399.mrg").unlink()
    assert counts["trees"] == {"train": 120, "validation": 12, "test": 12}
    assert counts["empty"] == {"train": 0, "validation": 0, "test": 1}
    assert (counts["files"], counts["unused"]) == ({"02": 2, "22": 2, "23": 3}, 2)
    assert counts["missing"] == [f"{section:02d}" for section in range(3, 22)]
    assert json.loads((tmp_path / "out" / "counts.json").read_text()) == counts
    for split, count in counts["trees"].items():
        source = open_text(tmp_path / "out", split, LANGUAGES)
        assert (len(source), source.skipped) == (count, [])
        assert sum(len(words.split()) for words in source.sources) == counts["words"][split]
        for words, symbols in zip(source.sources, source.targets, strict=True):
            assert balance(symbols.split()) == (symbols.split(), True)
            assert len(tags(symbols.split())) == len(words.split())
            assert not {"-NONE-", "NP-SBJ-1", "NP-SBJ"} & set(symbols.split())
        assert set(source.extra["file"]) <= {
            f"parsed/mrg/wsj/{s}/wsj_{s}0{n}.mrg" for s in ("02", "22", "23") for n in (0, 1)
        }


def test_prepare_says_what_it_read_and_does_it_once(treebank, tmp_path, capsys):
    arguments = ("prepare", "treebank", f"--path={treebank}", f"--data_dir={tmp_path}")
    assert run(*arguments) == 0
    printed = capsys.readouterr()
    place = tmp_path / "treebank"
    assert printed.out == (
        f"prepared: {place}: 120 train, 12 validation, 12 test trees. To use it: --config.data.path={place}\n"
    )
    assert "vit_jax: section 03, 04, " in printed.err
    assert "vit_jax: 2 files in no section that is used (02 to 23)" in printed.err
    assert run(*arguments) == 0
    assert capsys.readouterr().out == f"already prepared: {place}\n"
    assert run("info", "treebank", f"--data_dir={tmp_path}") == 0
    assert f"{place}: words to tree" in capsys.readouterr().out


def test_mistakes_say_which_folder_or_line(treebank, tmp_path):
    with pytest.raises(UserError, match=r"licensed .* data prepare treebank --path=DIR"):
        build(tmp_path / "out", None)
    with pytest.raises(UserError, match=r"nowhere is not a folder. Give the folder of the Wall Street Journal's"):
        build(tmp_path / "out", tmp_path / "nowhere")
    (tmp_path / "02").mkdir()
    (tmp_path / "02" / "a.mrg").write_text("( (NP (NN a)))")
    with pytest.raises(
        UserError, match=r"has no trees for the split validation: .* in section 22, such as 22/wsj_2201"
    ):
        build(tmp_path / "out", tmp_path)
    (tmp_path / "02" / "a.mrg").write_text("( (NP (NN a)))\n\n( (NP (NN a))\n")
    with pytest.raises(UserError, match=r"02/a.mrg, line 3: the bracket that is opened here is never closed"):
        build(tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match=r"To prepare it: python -m vit_jax data prepare treebank --path DIR"):
        run("info", "treebank", f"--data_dir={tmp_path}")
    assert not (tmp_path / "out").exists()
