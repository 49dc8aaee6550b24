"""The layout of a folder of images or clips: which folders are its splits, and which are its classes."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vit_jax.errors import UserError, nearest

# The usual names of splits, in any case. A folder is asked for by its own name, or by any name of the same split.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
_LOOKS_LIKE_SPLIT = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, reverse=True))}|eval|evaluation|holdout)(?![a-z])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_NAMED = 10


def split_of(name: str) -> str:
    """Returns the key of `SPLITS` that a name stands for, or "" if it is not a usual name.

    A usual name may be followed by anything that does not begin with a letter: `train_mini`, `val2017`.
    """
    match = _LOOKS_LIKE_SPLIT.match(name.lower())
    return _SPLIT_OF.get(match[1], "") if match else ""


def candidates(split: str, names: Iterable[str]) -> list[str]:
    """Returns the names that may stand for `split`: itself, else the usual ones, else longer ones such as `val2017`."""
    names = list(names)
    if split in names:
        return [split]
    same = [name for name in names if split_of(name) == split_of(split) != ""]
    return [name for name in same if name.lower() in _SPLIT_OF] or same


def split_folders(path: Path) -> dict[str, Path]:
    """Returns the folders of the splits by name; `{"train": path}` if the class folders are directly in `path`.

    The folders in `path` are splits if all their names look like splits, or if `train` is among them (in another case
    or spelling, only if it has sub-folders itself). In the latter case, other folders are ignored.
    """
    folders = {entry.name: entry for entry in subfolders(path)}
    if folders and all(_LOOKS_LIKE_SPLIT.match(name.lower()) for name in folders):
        return folders
    usual = {name: folder for name, folder in folders.items() if name.lower() in _SPLIT_OF}
    if "train" in usual or any(split_of(name) == "train" and subfolders(folder) for name, folder in usual.items()):
        return usual
    return {"train": path}


def folder_of(path: Path, split: str, folders: dict[str, Path]) -> Path:
    """Returns the folder of a split, one of `split_folders(path)`.

    Raises:
      UserError: There is no such split, or several folders may be meant.
    """
    found = candidates(split, folders)
    if len(found) == 1:
        return folders[found[0]]
    if found:
        raise UserError(f"{path} has several folders for split {split!r}: {', '.join(found)}. Ask for one by its name")
    if folders == {"train": path}:
        raise UserError(
            f"{path} has no split {split!r}: its class folders are at the first level, so that all of it is the split "
            "'train'. Divide it into disjoint slices: --config.data.train_split='train[:80%]' "
            "--config.data.eval_split='train[80%:]'"
        )
    raise UserError(f"{path} has no split {split!r}{nearest(split, folders)}")


def recognised(path: Path, split: str, folder: Path) -> str:
    """Returns a sentence that says which folder a split was found in, or "" if that goes without saying."""
    return "" if folder in (path, path / split) else f"split {split!r} was found in {folder}"


def class_names(folders: dict[str, Path], folder: Path) -> tuple[str, ...]:
    """Returns the names of the class folders, in the order of their numbers, for reading the split in `folder`.

    They are those of `train` if there is one, else those of all splits together. A split may lack classes of `train`;
    their numbers do not change. For the order, see `sorted_classes`.

    Raises:
      UserError: A class folder has a name that is not UTF-8, or `folder` or `train` has no class folders, or `folder`
        has a class that `train` lacks, which training could not learn.
    """
    train = _train_folders(folders, folder)
    for split in dict.fromkeys([*train, folder]):
        if not subfolders(split):
            raise UserError(
                f"{split} has no sub-folders. Put the files of each class in a folder, such as "
                f"{split / 'cat' / 'a.jpg'}"
            )
    known = set().union(*map(_names, train or folders.values()))
    if extra := sorted(_names(folder) - known):
        raise UserError(f"{folder} has classes that {train[0]} lacks: {named(extra)}")
    return sorted_classes(known)


def _train_folders(folders: dict[str, Path], folder: Path) -> list[Path]:
    """Returns the folders whose classes count: `folder` itself if it is one of training, else those of training."""
    if any(found == folder and split_of(name) == "train" for name, found in folders.items()):
        return [folder]
    return [folders[name] for name in candidates("train", folders)]


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts class names: by value if all are integers, such as ImageNet-V2's folders `0` to `999`, else by name."""
    names = sorted(names)
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        names = sorted(names, key=int)
    return tuple(names)


def missing_classes(path: str | Path) -> dict[str, list[str]]:
    """Returns the classes that each split lacks, for the splits that have class folders and lack any."""
    folders = {split: folder for split, folder in split_folders(Path(path).expanduser()).items() if subfolders(folder)}
    lacks = {
        split: [name for name in class_names(folders, folder) if name not in _names(folder)]
        for split, folder in folders.items()
    }
    return {split: names for split, names in lacks.items() if names}


def files_outside(folder: Path, suffixes: Iterable[str]) -> list[str]:
    """Returns the files next to the class folders of a split, which are not read, if they have one of the suffixes."""
    suffixes = tuple(suffixes)
    return [entry.name for entry in _entries(folder) if entry.name.lower().endswith(suffixes) and not entry.is_dir()]


def dangling_links(folder: Path) -> list[str]:
    """Returns the links next to the class folders of a split that lead nowhere: classes that may have been meant."""
    return [entry.name for entry in _entries(folder) if entry.is_symlink() and not entry.exists()]


def subfolders(path: Path) -> list[Path]:
    """Returns the folders in `path`, sorted by name, without hidden ones."""
    return [entry for entry in _entries(path) if entry.is_dir()]


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _names(folder: Path) -> set[str]:
    """Returns the names of the class folders of a split."""
    names = {entry.name for entry in subfolders(folder)}
    for name in names:
        if printable(name) != name:
            raise UserError(
                f"{printable(folder)}: the class folder '{printable(name)}' has a name that is not valid UTF-8, or has "
                "a control character. Rename it"
            )
    return names


def printable(name: str | os.PathLike[str]) -> str:
    """Returns the name of a file with control characters, and bytes that are not UTF-8, escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def named(items: Iterable[str]) -> str:
    """Joins the first ten items and counts the rest."""
    items = list(items)
    more = len(items) - _MOST_NAMED
    return ", ".join(items[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
