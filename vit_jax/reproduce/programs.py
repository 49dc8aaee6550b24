"""Parallel text for comparisons: the strings of programs on PyPI that come with Italian catalogues."""

import hashlib
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from vit_jax.errors import RunError

# Their strings are under the licences of the programs, so the project contains none of them.
PROGRAMS = (
    "gramps==6.0.8", "plone.app.locales==7.0.4", "django-oscar==4.2.1", "wagtail==8.0.1", "trac==1.6", "ckan==2.12.0",
    "django==5.2.9",
)  # fmt: skip


def prepare(folder: pathlib.Path, programs: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Writes the pairs of the catalogues of `programs` to `folder/messages`, unless they are there.

    pip downloads the programs into a folder; they are not installed. No program is held out. The releases are pinned,
    so that the pairs are the same everywhere.

    Raises:
      RunError: pip cannot download a program.
      UserError: The catalogues contain no pairs.
    """
    from vit_jax.data.sets.messages import build

    out, stamp = folder / "messages", folder / "messages" / "programs.txt"
    wanted = "\n".join(sorted(programs)) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    catalogues = folder / f"catalogues-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    say(f"downloading {len(programs)} programs from PyPI for their catalogues")
    options = ("--no-deps", "--no-compile", "--only-binary=:all:", "--upgrade", f"--target={catalogues}")
    command = (sys.executable, "-m", "pip", "install", "--quiet", *options, *programs)
    if status := subprocess.run(command).returncode:
        raise RunError(f"pip ended with status {status}; the comparison needs the catalogues of {', '.join(programs)}")
    counts = build(out, catalogues, held_out=None)
    stamp.write_text(wanted)
    say(", ".join(f"{count:,} {split}" for split, count in counts["pairs"].items()) + f" pairs in {out}")
