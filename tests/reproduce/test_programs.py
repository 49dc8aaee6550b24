"""Parallel text from programs on PyPI: downloaded once, and what happens if pip fails."""

import pathlib
import struct
import subprocess
import types

import pytest

from vit_jax.errors import RunError
from vit_jax.reproduce import programs


def catalogue(translations):
    """Returns a compiled gettext catalogue."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **translations}.items())
    tables, texts = [], b""
    for side in range(2):
        for pair in pairs:
            text = pair[side].encode()
            tables.append((len(text), 28 + 16 * len(pairs) + len(texts)))
            texts += text + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return header + b"".join(struct.pack("<2I", *place) for place in tables) + texts


@pytest.fixture
def pip(monkeypatch):
    """Stands for pip: writes a catalogue of 200 strings into the target folder, and returns `status`."""
    fake = types.SimpleNamespace(status=0, calls=[])

    def run(command):
        fake.calls.append(command)
        target = pathlib.Path(next(word for word in command if word.startswith("--target="))[len("--target=") :])
        folder = target / "gramps" / "it" / "LC_MESSAGES"
        folder.mkdir(parents=True)
        words = [first + second for first in "bcdfglmnrs" for second in "aeiou"]
        texts = {f"{a}{b} one": f"{b}{a} uno" for a in words[:20] for b in words[:10] if a != b}
        (folder / "gramps.mo").write_bytes(catalogue(texts))
        return types.SimpleNamespace(returncode=fake.status)

    monkeypatch.setattr(subprocess, "run", run)
    return fake


def test_the_programs_are_downloaded_once_and_no_program_is_held_out(pip, tmp_path):
    for _ in range(2):
        programs.prepare(tmp_path, ["gramps==6.0.8"], say=lambda line: None)
    (command,) = pip.calls
    assert command[1:4] == ("-m", "pip", "install")
    assert command[-1] == "gramps==6.0.8"
    assert "--no-deps" in command
    assert {path.stem for path in (tmp_path / "messages").glob("*.jsonl")} == {"train", "validation", "test"}
    programs.prepare(tmp_path, ["gramps==6.0.9"], say=lambda line: None)
    assert len(pip.calls) == 2


def test_a_download_that_fails_says_what_is_missing(pip, tmp_path):
    pip.status = 1
    with pytest.raises(RunError, match=r"pip ended with status 1; .* the catalogues of gramps==6\.0\.8"):
        programs.prepare(tmp_path, ["gramps==6.0.8"])
    assert not (tmp_path / "messages").exists()
