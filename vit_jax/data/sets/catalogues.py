"""Compiled gettext catalogues (`.mo`): finding them in Debian packages or installed programs, and reading them."""

import dataclasses
import re
import site
import struct
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from vit_jax.errors import UserError

Progress = Callable[[str, int, int], None]  # what, done, total
Key = tuple[str, str, int]  # context, message, form: 0 singular, 1 plural

MOST_BYTES = 2**28  # of a catalogue in a package: 256 MiB, several times the largest

# packages with many English-Italian pairs for their size
PACKAGES = (
    "libreoffice-l10n-it", "krita-l10n", "claws-mail-i18n", "iso-codes", "aegisub-l10n", "kdevelop-l10n",
    "audacity-data", "libgphoto2-l10n", "kile-l10n", "grass-core", "cinnamon-l10n", "libc-l10n", "gnucash-common",
    "vlc-l10n", "gnupg-l10n", "tellico-data", "remmina-common", "ardour-data", "libgtk-3-common", "darktable", "gramps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """A catalogue as found: its package and file, the language it translates into, and its bytes."""

    package: str
    file: str
    language: str
    content: bytes


def find_catalogues(
    path: str | Path | None, languages: tuple[str, str] = ("en", "it"), progress: Progress | None = None
) -> Iterator[Catalogue]:
    """Yields every catalogue `*/LANGUAGE/LC_MESSAGES/*.mo` of the languages, sorted. English has no catalogues.

    It searches the folder `path` and the `.deb` files in it, or if there is no path, the installed Python packages. The
    package of a catalogue is the name of the `.deb`, or else of the catalogue itself.

    Raises:
      UserError: `path` is not a folder or contains no catalogues, a `.deb` cannot be read, or the languages are the
        same.
    """
    if languages[0] == languages[1]:
        raise UserError(f"the two languages must differ, got {languages[0]!r} twice")
    wanted = [language for language in languages if language != "en"]
    if path is None:
        where, debs = "the installed Python packages", []
        files = [file for language in wanted for file in installed_catalogues(language)]
    else:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder. {how_to_fetch(languages)}")
        where, debs = str(folder), sorted(folder.rglob("*.deb"))
        found = (file for language in wanted for file in folder.rglob(f"{language}/LC_MESSAGES/*.mo"))
        files = sorted(file for file in found if file.is_file())
    if not debs and not files:
        raise UserError(f"{where}: found no .deb and no */{wanted[0]}/LC_MESSAGES/*.mo. {how_to_fetch(languages)}")
    for done, file in enumerate([*debs, *files]):
        if progress:
            progress(file.name, done, len(debs) + len(files))
        if done < len(debs):
            yield from _in_deb(file, wanted)
        else:
            yield Catalogue(file.stem, str(file), file.parent.parent.name, file.read_bytes())
    if progress:
        progress("", len(debs) + len(files), len(debs) + len(files))


def installed_catalogues(language: str = "it") -> list[Path]:
    """Returns the catalogues in the Python packages of this environment, sorted."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")} | set(site.getsitepackages())
    found = (Path(folder).rglob(f"{language}/LC_MESSAGES/*.mo") for folder in folders)
    return sorted({file.resolve() for files in found for file in files})


def how_to_fetch(languages: tuple[str, str] = ("en", "it")) -> str:
    """Returns instructions for downloading packages with catalogues."""
    packages = " ".join(PACKAGES) if set(languages) == {"en", "it"} else "PACKAGE..."
    return (
        "Download packages of Debian or Ubuntu into a folder and pass it as path (nothing is installed): "
        f"mkdir debs && cd debs && apt-get download {packages}"
    )


def _in_deb(deb: Path, languages: list[str]) -> Iterator[Catalogue]:
    """Yields the catalogues in a `.deb` by streaming its files; nothing is unpacked to disk."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise UserError(
            f"{deb} cannot be opened, because dpkg-deb is not installed. On a machine that has it, run "
            "'dpkg-deb -x FILE tree' and pass the tree as path"
        ) from None
    with process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    parts = Path(member.name).parts[-3:]
                    wanted = parts[1:2] == ("LC_MESSAGES",) and parts[0] in languages and parts[2].endswith(".mo")
                    # a link would repeat another file
                    file = archive.extractfile(member) if wanted and member.isfile() else None
                    if file and member.size > MOST_BYTES:
                        raise tarfile.TarError(f"{member.name} has {member.size:,} bytes, more than a catalogue")
                    if file:
                        package = deb.name.split("_")[0]
                        yield Catalogue(package, f"{deb.name}: {member.name}", parts[0], file.read())
        except tarfile.TarError as error:
            _, message = process.communicate()
            reason = message.decode(errors="replace").strip().splitlines() or [str(error)]
            raise UserError(f"{deb} is not a complete Debian package ({reason[-1]}): download it again") from None


def read_mo(content: bytes) -> dict[Key, tuple[str, str]]:
    """Returns the messages of a catalogue: `{(context, message, form): (message or its plural, translation)}`.

    The plural message is paired with the last form of the translation. The standard library's reader is not used
    because it drops the plural message.

    Raises:
      ValueError: The content is not a catalogue, is truncated, has strings that overlap, or is not in the encoding that
        it names.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(content[:4])
    if order is None:
        raise ValueError("not a gettext catalogue")
    messages, encoding, left = {}, "utf-8", len(content)
    try:
        count, *tables = struct.unpack_from(f"{order}3I", content, 8)
        for i in range(count):
            places = (struct.unpack_from(f"{order}2I", content, table + 8 * i) for table in tables)
            message, translation = (_part(content, *place) for place in places)
            left -= len(message) + len(translation)
            if left < 0:  # otherwise a small file could take hours to read
                raise ValueError("overlapping strings")
            if not message:  # the header, which comes first
                charset = re.search(rb"charset=([\w-]+)", translation)
                encoding = charset[1].decode() if charset else encoding
                continue
            context, _, text = message.decode(encoding).rpartition("\4")
            forms, translated = text.split("\0"), translation.decode(encoding).split("\0")
            for form, pair in enumerate(zip(forms[:2], (translated[0], translated[-1]), strict=False)):
                messages[context, forms[0], form] = pair
    except (struct.error, ValueError, LookupError) as error:
        raise ValueError(f"a damaged gettext catalogue ({error})") from None
    return messages


def _part(content: bytes, length: int, start: int) -> bytes:
    if start + length > len(content):
        raise ValueError("truncated")
    return content[start : start + length]
