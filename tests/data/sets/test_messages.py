"""Parallel text from gettext catalogues, which the tests write."""

import gettext
import io
import json
import shutil
import struct
import subprocess
import sysconfig

import pytest

from vit_jax.data.sets import parallel
from vit_jax.data.sets.catalogues import find_catalogues, installed_catalogues, read_mo
from vit_jax.data.sets.messages import build, clean_pair, split_key
from vit_jax.data.text.source import open_text
from vit_jax.errors import UserError


def catalogue(translations, charset="UTF-8", order="<"):
    """Returns the bytes of a `.mo` file, as msgfmt would write it."""
    texts = {"": f"Content-Type: text/plain; charset={charset}\n", **translations}
    pairs = sorted([text.encode(charset) for text in pair] for pair in texts.items())
    tables, strings = ([], []), b""
    start = 28 + 16 * len(pairs)
    for table, side in zip(tables, zip(*pairs, strict=True), strict=True):
        for text in side:
            table.append(struct.pack(f"{order}2I", len(text), start + len(strings)))
            strings += text + b"\0"
    numbers = (0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return struct.pack(f"{order}7I", *numbers) + b"".join(tables[0] + tables[1]) + strings


def write(folder, name, translations, language="it", **options):
    path = folder / "usr" / "share" / "locale" / language / "LC_MESSAGES" / f"{name}.mo"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(catalogue(translations, **options))
    return path


def rows(folder, split):
    path = folder / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def all_rows(folder):
    return [row for split in ("train", "validation", "test", "heldout") for row in rows(folder, split)]


def test_a_catalogue_whose_strings_overlap_is_refused():
    content = bytearray(catalogue({f"text {index}": "x" * 90 for index in range(20)}, charset="ISO-8859-1"))
    for index in range(1, 21):  # all translations are the last nine tenths of the file
        struct.pack_into("<2I", content, 28 + 8 * 21 + 8 * index, len(content) * 9 // 10, len(content) // 10)
    with pytest.raises(ValueError, match="overlapping strings"):
        read_mo(bytes(content))


@pytest.mark.parametrize(("charset", "order"), [("UTF-8", "<"), ("UTF-8", ">"), ("ISO-8859-1", "<")])
def test_a_catalogue_is_read_as_the_standard_library_does(charset, order):
    content = catalogue({"yes": "sì", "menu\4Open": "Apri", "one\ntwo": "è\n"}, charset, order)
    found = read_mo(content)
    assert found == {
        ("", "yes", 0): ("yes", "sì"),
        ("menu", "Open", 0): ("Open", "Apri"),
        ("", "one\ntwo", 0): ("one\ntwo", "è\n"),
    }
    reader = gettext.GNUTranslations(io.BytesIO(content))
    assert reader.gettext("yes") == "sì"
    assert reader.pgettext("menu", "Open") == "Apri"


def test_plurals_are_two_pairs():
    content = catalogue({"a file\0some files": "un file\0dei file"})
    assert read_mo(content) == {
        ("", "a file", 0): ("a file", "un file"),
        ("", "a file", 1): ("some files", "dei file"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a gettext catalogue"),
        (b"PK\3\4" * 20, "not a gettext catalogue"),
        (catalogue({"yes": "sì"})[:20], "damaged"),
        (catalogue({"yes": "sì"})[:-5], "truncated"),
        (catalogue({"yes": "s"}).replace(b"UTF-8", b"UTF-9"), "damaged.*UTF-9"),
        (catalogue({"yes": "sì"}).replace("ì".encode(), b"\xff\xff"), "damaged.*utf-8"),
    ],
)
def test_a_damaged_catalogue_says_so(content, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        read_mo(content)


@pytest.mark.parametrize(
    ("pair", "wanted"),
    [
        (("_Save as", "S_alva come"), ("Save as", "Salva come")),
        (("&Open", "&amp;Apri"), ("Open", "Apri")),
        (("~Help~", "Guida"), ("Help~", "Guida")),
        (("Cut && paste", "Taglia & incolla"), ("Cut & paste", "Taglia & incolla")),
        (("a_b c_d x", "uno"), "path or code"),
        (("  two\n words ", "due\tparole"), ("two words", "due parole")),
        (("yes indeed", "si\u0300 certo"), ("yes indeed", "sì certo")),
        (("&quot;hello&quot;", "«ciao»"), ('"hello"', "«ciao»")),
        (("%d files", "dei file"), "placeholder"),
        (("some {name}", "un nome"), "placeholder"),
        (("price", "costa $prezzo"), "placeholder"),
        (("<b>bold</b>", "grassetto"), "tag"),
        (("see http://a.example", "vedi"), "address"),
        (("mail me", "scrivi a io@posta.example"), "address"),
        (("in /usr/share", "nella cartella"), "path or code"),
        (("use --force now", "forza"), "path or code"),
        (("call it()", "chiama"), "path or code"),
        (("12", "dodici"), "no letters"),
        (("File", "file"), "equal sides"),
        (("a word", "parola " * 12), "lengths"),
        (("word " * 81, "parola " * 81), "too long"),
    ],
)
def test_pairs_are_cleaned_or_left_out_for_a_reason(pair, wanted):
    assert clean_pair(*pair) == wanted


def test_strings_alike_but_for_case_digits_and_punctuation_have_one_key():
    alike = ["Save file 12...", "save  FILE 3", "Save_file: 7!", "\uff33ave file \u0663"]
    assert {split_key(text) for text in alike} == {"save file 0"}
    assert len({split_key(text) for text in ["save file", "save files", "save file 0", "savefile", "safe file"]}) == 5


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def words(number):
    return " ".join(NUMBERS[int(digit)] for digit in str(number))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two programs and one to be held out, which repeats some strings of theirs in another shape."""
    folder = tmp_path_factory.mktemp("tree")
    write(folder, "alpha", {words(i): f"{words(i)[::-1]} a" for i in range(300)} | {"%s x": "y", "Same": "same"})
    write(folder, "beta", {words(i): f"{words(i)[::-1]} {'a' if i % 2 else 'b'}" for i in range(200, 500)})
    write(folder, "gramps", {words(i).upper() + "!": f"{words(i)} g" for i in range(480, 520)})
    (folder / "usr/share/locale/it/LC_MESSAGES/broken.mo").write_bytes(b"no catalogue")
    write(folder, "alpha", {"zero": "null"}, language="de")
    return folder


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("messages"), []
    counts = build(out, tree, progress=lambda *progress: said.append(progress))
    assert said[-1] == ("", 4, 4)
    return out, counts


def test_every_pair_is_there_once_with_the_first_package_that_has_it(built):
    out, counts = built
    found = {(row["source"], row["target"]): row["package"] for row in all_rows(out)}
    assert len(found) == len(all_rows(out))
    wanted = {(words(i), f"{words(i)[::-1]} a"): "alpha" for i in range(300)}
    for i in range(200, 500):
        wanted.setdefault((words(i), f"{words(i)[::-1]} {'a' if i % 2 else 'b'}"), "beta")
    wanted |= {(words(i).upper() + "!", f"{words(i)} g"): "gramps" for i in range(500, 520)}
    assert found == wanted
    assert counts["rejected"] == {"equal sides": 1, "placeholder": 1}
    assert [(file.rpartition("/")[2], why) for file, why in counts["unreadable"]] == [
        ("broken.mo", "not a gettext catalogue")
    ]


def test_no_string_is_in_two_splits_and_the_shares_are_about_right(built):
    out, counts = built
    keys = {split: {split_key(row["source"]) for row in rows(out, split)} for split in counts["pairs"]}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values()))
    assert len(keys["heldout"]) == 20
    assert {row["package"] for row in rows(out, "heldout")} == {"gramps"}
    assert 0.01 < len(keys["test"]) / 500 < 0.06
    assert 0.005 < len(keys["validation"]) / 500 < 0.05


def test_counts_add_up(built):
    out, counts = built
    assert json.loads((out / "counts.json").read_text()) == counts
    for split, count in counts["pairs"].items():
        assert count == len(rows(out, split)) == sum(package.get(split, 0) for package in counts["packages"].values())


def test_what_is_built_is_read_as_parallel_text(built):
    out, counts = built
    source = open_text(out, "train")
    assert len(source) == counts["pairs"]["train"]
    assert set(source.extra["package"]) == {"alpha", "beta"}


def test_a_split_does_not_depend_on_what_else_there_is(tree, built, tmp_path):
    write(tmp_path / "more", "alpha", {words(i): f"{words(i)[::-1]} a" for i in range(100)})
    build(tmp_path / "out", tmp_path / "more")
    place = {row["source"]: split for split in ("train", "validation", "test") for row in rows(built[0], split)}
    for split in ("train", "validation", "test"):
        assert all(place[row["source"]] == split for row in rows(tmp_path / "out", split))


def test_without_a_package_to_hold_out_all_is_split(tree, tmp_path):
    (tmp_path / "heldout.jsonl").write_text("of an earlier time")
    counts = build(tmp_path, tree, held_out=None)
    assert "heldout" not in counts["pairs"]
    assert not (tmp_path / "heldout.jsonl").exists()
    assert "gramps" in {row["package"] for row in all_rows(tmp_path)}


def test_two_languages_meet_in_a_message(tmp_path):
    write(tmp_path, "app", {"Open it": "Apri", "Close it": "Chiudi", "Exit now": ""})
    write(tmp_path, "app", {"Open it": "Öffnen", "Exit now": "Beenden"}, language="de")
    counts = build(tmp_path / "out", tmp_path, languages=("de", "it"), held_out=None)
    assert [(row["source"], row["target"]) for row in all_rows(tmp_path / "out")] == [("Öffnen", "Apri")]
    assert counts["languages"] == ["de", "it"]
    build(tmp_path / "back", tmp_path, languages=("it", "en"), held_out=None)
    assert {(row["source"], row["target"]) for row in all_rows(tmp_path / "back")} == {
        ("Apri", "Open it"),
        ("Chiudi", "Close it"),
    }


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_debian_package_is_read_without_unpacking(tmp_path):
    tree = tmp_path / "tree"
    path = write(tree, "app", {"Open it": "Apri"})
    (path.parent / "link.mo").symlink_to("app.mo")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: app-l10n\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    )
    debs = tmp_path / "debs"
    debs.mkdir()
    subprocess.run(["dpkg-deb", "-b", tree, debs / "app-l10n_1_all.deb"], check=True, capture_output=True)
    (found,) = find_catalogues(debs)
    assert (found.package, found.language) == ("app-l10n", "it")
    assert read_mo(found.content) == {("", "Open it", 0): ("Open it", "Apri")}
    (debs / "broken_1_all.deb").write_bytes((debs / "app-l10n_1_all.deb").read_bytes()[:300])
    with pytest.raises(UserError, match=r"broken_1_all.deb is not a complete Debian package \(.+\): download it again"):
        list(find_catalogues(debs))


def test_installed_packages_are_the_fallback(tmp_path, monkeypatch):
    write(tmp_path, "app", {"Open it": "Apri"})
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "app.mo" in [path.name for path in installed_catalogues()]
    assert build(tmp_path / "out", held_out=None)["packages"]["app"]


def test_real_catalogues_are_read_whole(tmp_path):
    if not installed_catalogues():
        pytest.skip("no installed package has Italian catalogues: pip install django")
    counts = build(tmp_path, held_out=None)
    assert not counts["unreadable"]
    assert sum(counts["pairs"].values()) == len(all_rows(tmp_path)) > 100
    pairs = [(row["source"], row["target"]) for row in all_rows(tmp_path)]
    assert [clean_pair(*pair) for pair in pairs] == pairs


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda folder: folder / "nowhere", {}, "nowhere is not a folder.*apt-get download libreoffice-l10n-it"),
        (lambda folder: folder, {}, r"found no .deb and no \*/it/LC_MESSAGES/\*.mo"),
        (lambda folder: folder, {"languages": ("en", "fr")}, r"no \*/fr/.*apt-get download PACKAGE"),
        (lambda folder: folder, {"languages": ("it", "it")}, "the two languages must differ, got 'it' twice"),
        (lambda folder: write(folder, "a", {"1": "2"}) and folder, {}, "no catalogue contains a pair of en-it"),
    ],
)
def test_nothing_to_build_from(tmp_path, make, options, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        build(tmp_path / "out", make(tmp_path), **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tree, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        build(tmp_path / "file" / "out", tree)


def test_half_a_build_does_not_look_whole(tree, tmp_path, monkeypatch):
    build(tmp_path, tree)
    monkeypatch.setattr(parallel, "_replace", lambda path, text: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        build(tmp_path, tree)
    assert not (tmp_path / "counts.json").exists()
