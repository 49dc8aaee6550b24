"""Parallel text: every sentence keeps its partner, and a mistake is reported with its line."""

import json

import pytest

from vit_jax.data.text.source import decode_lines, open_text, text_splits
from vit_jax.errors import UserError

PAIRS = [("Open the file", "Apri il file"), ("Close", "Chiudi"), ("  yes ", "sì"), ("one, two", "uno, due")]


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def as_jsonl(pairs):
    return "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs)


def as_tsv(pairs):
    return "".join(f"{source}\t{target}\n" for source, target in pairs)


def pairs_of(source):
    return list(zip(source.sources, source.targets, strict=True))


def test_three_forms_say_the_same(tmp_path):
    write(tmp_path / "a", "train.jsonl", as_jsonl(PAIRS))
    write(tmp_path / "b", "train.tsv", as_tsv(PAIRS))
    write(tmp_path / "c", "train.en", "".join(f"{source}\n" for source, _ in PAIRS))
    write(tmp_path / "c", "train.it", "\n".join(target for _, target in PAIRS))  # without an end of the last line
    for name in "abc":
        source = open_text(tmp_path / name, "train")
        assert pairs_of(source) == PAIRS
        assert (source.skipped, source.labels, source.kind, len(source)) == ([], (), "text", len(PAIRS))


def test_other_columns_are_kept_and_languages_are_names(tmp_path):
    rows = ['{"it": "ciao", "en": "hi", "from": "x"}', '{"en": "bye", "it": "addio"}']
    write(tmp_path, "train.jsonl", "\n".join(rows))
    write(tmp_path, "test.tsv", "note\tit\ten\nx\tciao\thi\n\taddio\tbye\n")
    for split, notes in (("train", {"from": ["x", None]}), ("test", {"note": ["x", ""]})):
        source = open_text(tmp_path, split)
        assert pairs_of(source) == [("hi", "ciao"), ("bye", "addio")]
        assert source.extra == notes
    assert pairs_of(open_text(tmp_path, "test", ("it", "en")))[0] == ("ciao", "hi")
    assert text_splits(tmp_path) == ["test", "train"]


def test_a_slice_is_taken_in_the_order_of_the_file(tmp_path):
    pairs = [(f"s{i}", f"t{i}") for i in range(10)]
    write(tmp_path, "train.tsv", as_tsv(pairs))
    for split, wanted in {
        "train[:30%]": pairs[:3],
        "train[30%:]": pairs[3:],
        "train[2:4]": pairs[2:4],
        "train[-2:]": pairs[-2:],
        "train[8:99]": pairs[8:],
        "train[5:5]": [],
    }.items():
        assert pairs_of(open_text(tmp_path, split)) == wanted, split


def test_pairs_with_an_empty_side_are_skipped_and_named(tmp_path):
    write(tmp_path, "train.tsv", as_tsv([("a", "b"), ("", "x"), ("c", " \u3000"), (" ", ""), ("d", "e")]))
    source = open_text(tmp_path, "train")
    assert pairs_of(source) == [("a", "b"), ("d", "e")]
    assert source.skipped == [
        ("train.tsv, line 2", "empty source"),
        ("train.tsv, line 3", "empty target"),
        ("train.tsv, line 4", "empty source and target"),
    ]


def test_only_a_line_feed_ends_a_line(tmp_path):
    odd = "a\u2028b\x85c\x0bd\re"
    write(tmp_path, "train.en", b"\xef\xbb\xbf" + f"{odd}\r\nsecond\r\n".encode())
    write(tmp_path, "train.it", "uno\ndue\n")
    assert pairs_of(open_text(tmp_path, "train")) == [(odd, "uno"), ("second", "due")]


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", []), (b"\n", [""]), (b"a", ["a"]), (b"a\r\n\r\nb\r", ["a", "", "b"]), (b"\xef\xbb\xbfa\n", ["a"])],
)
def test_bytes_from_anywhere_are_lines_alike(content, lines):
    assert decode_lines(content, "here") == lines
    with pytest.raises(UserError, match=rf"here, line {max(len(lines), 1)}: byte 0xff is not valid UTF-8"):
        decode_lines(content.removesuffix(b"\n") + b"\xff", "here")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.tsv": b"a\tb\n\xe9\tc\n"}, r"train.tsv, line 2: byte 0xe9 is not valid UTF-8.*iconv"),
        ({"train.it": b"a\n", "train.en": b"a\nb\xff\n"}, r"train.en, line 2: byte 0xff"),
        ({"train.en": "a\nb\nc\n", "train.it": "x\n"}, "train.en has 3 lines.*it 1: source without target from line 2"),
        ({"train.en": "a\n", "train.it": "x\ny\n"}, "target without source from line 2"),
        ({"train.en": "a\n"}, "train.en has no counterpart train.it"),
        ({"train.it": "a\n"}, "train.it has no counterpart train.en"),
        ({"train.tsv": "a\tb\nc\n"}, "line 2 must have two columns separated by tabs, not 1"),
        ({"train.tsv": "a\tb\tc\n"}, "must have two columns.*not 3.*first line must name them, en and it"),
        ({"train.tsv": "en\tit\tnote\na\tb\n"}, r"line 2 must have 3 \(en, it, note\) columns"),
        ({"train.jsonl": '{"en": "a", "it": "b"}\n{"en": "a"\n'}, "line 2 is not valid JSON"),
        ({"train.jsonl": '["a", "b"]\n'}, r"line 1 must be a JSON object, not \[\"a\""),
        ({"train.jsonl": '{"source": "a"}\n'}, "line 1 has source. It must have the keys source and target"),
        ({"train.jsonl": '{"en": "a", "it": null}\n'}, "line 1: a sentence must be a string, not None"),
        ({"train.jsonl": '{"en": "a", "it": "b\\ud800"}\n'}, "line 1 is not valid Unicode: character 2"),
        ({"train.tsv": "a\tb\n", "train.jsonl": "{}\n"}, "more than once: train.jsonl and train.tsv"),
        ({"training.tsv": "a\tb\n"}, "has no split 'train'; did you mean 'training'"),
        ({"readme.txt": "a"}, r"contains no parallel text of en and it \(config.data.languages\).*train.jsonl"),
    ],
)
def test_a_mistake_is_named(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        open_text(tmp_path, "train")


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder. It should contain train.jsonl"):
        open_text(tmp_path / "nowhere", "train")
