"""What a data set contains: splits, classes, image sizes, files. Behind `python -m vit_jax data info`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax.data import layout, source
from vit_jax.data.image.notices import notices_of, notices_of_files
from vit_jax.data.image.reading import suffixes
from vit_jax.data.scan import MANIFEST
from vit_jax.data.sets import tfds, treebank
from vit_jax.data.sets.prepare import data_root
from vit_jax.data.source import Source
from vit_jax.data.text import source as text
from vit_jax.data.video import lists
from vit_jax.data.video.decode import VIDEO_SUFFIXES, Video
from vit_jax.errors import UserError, counted

Info = dict[str, Any]

QUICK_BYTES = 2**30  # larger sets are read in full only on request
SAMPLE = 200
CLIPS = 20  # as SAMPLE, for video files, which take longer to decode
_PREPARED_TEXT = {"messages": "DEBS", "treebank": "DIR"}  # sets of parallel text, and the path that each is made from


def report(
    name: str,
    *,
    path: str | None = None,
    data_dir: str | None = None,
    languages: Sequence[str] = ("en", "it"),
    full: bool = False,
) -> tuple[Info, list[str]]:
    """Returns what is known about a data set, as JSON-compatible values and as lines to print.

    Args:
      languages: Source and target language of "text" and "messages".
      full: See `describe`.

    Raises:
      UserError: The set does not exist, or nothing can be said about it.
    """
    if name == "text" or name in _PREPARED_TEXT:
        languages = treebank.LANGUAGES if name == "treebank" else languages
        info = describe_text(_text_folder(name, path, data_dir), languages)
        return info, _text_lines(info)
    info = describe(name, path=path, data_dir=data_dir, full=full)
    return info, _lines(info)


def describe(name: str, *, path: str | None = None, data_dir: str | None = None, full: bool = False) -> Info:
    """Returns what is known about a set of images or clips, as JSON-compatible values.

    Class counts and checksums need to read the whole set; above 1 GiB they are left out (None, and an empty dict)
    unless `full`. The sizes of the images are those of the first 200 examples, or of all images of a folder, or of the
    first 20 clips. Up to 200 images of a split, spread evenly, are looked at for what is unusual: see `image.notices`.
    """
    names, root = _splits(name, path, data_dir)
    is_own = name in ("folder", "video")
    opened = {split: source.open_source(name, split, path=path, data_dir=data_dir) for split in names}
    labels = next(iter(opened.values())).labels
    files = [] if is_own else sorted(entry for entry in root.iterdir() if entry.is_file())
    size = sum(file.stat().st_size for file in files)
    read_all = full or size <= QUICK_BYTES
    return {
        "name": name,
        "path": str(root),
        "num_classes": len(labels),
        "classes": list(labels),
        "bytes": size if files else None,
        "splits": {split: _describe_split(found, read_all) for split, found in opened.items()},
        "missing_classes": layout.missing_classes(root)
        if is_own and not (name == "video" and lists.list_splits(root))
        else {},
        "not_read": _not_read(name, root) if is_own else [],
        "sha256": {file.name: sha256(file) for file in files} if read_all else {},
    }


def describe_text(path: str | Path, languages: Sequence[str] = ("en", "it")) -> Info:
    """Returns what is known about a folder of parallel text (see `open_text`), as JSON-compatible values."""
    if len(languages) != 2:
        raise UserError(f"--languages must name two languages, such as en,it, got {','.join(languages)!r}")
    root = Path(path).expanduser()
    names = text.text_splits(root, languages) if root.is_dir() else []
    opened = {split: text.open_text(root, split, languages) for split in names or ["train"]}  # raises if there is none
    described = {
        split: {
            "pairs": len(found),
            "characters": [sum(map(len, side)) for side in (found.sources, found.targets)],
            "skipped": found.skipped,
        }
        for split, found in opened.items()
    }
    return {"path": str(root), "languages": list(languages), "splits": described}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _splits(name: str, path: str | None, data_dir: str | None) -> tuple[list[str], Path]:
    """Returns the splits of a data set, and its folder."""
    if name in ("folder", "video"):
        root = Path(path or "").expanduser()
        if not path or not root.is_dir():
            return ["train"], root  # opening it raises the appropriate error
        listed = lists.list_splits(root) if name == "video" else []
        folders = layout.split_folders(root)
        labelled = [split for split, folder in folders.items() if layout.subfolders(folder)]
        return listed or labelled or list(folders), root
    directory = tfds.directory_of(name, data_dir)
    return tfds.split_names(directory), directory


def _not_read(name: str, root: Path) -> list[str]:
    """Returns what lies in a folder of images or clips but belongs to no split or class, in sentences."""
    unit, endings = ("image(s)", suffixes()) if name == "folder" else ("clip(s)", VIDEO_SUFFIXES)
    if name == "video" and lists.list_splits(root):
        return []
    folders = layout.split_folders(root)
    notes = [
        f"{root / file} is not read: a list has the name of a split, such as train.csv"
        for file in (layout.files_outside(root, lists.SUFFIXES) if name == "video" else [])
        if file not in (*lists.NAMES, MANIFEST)
    ]
    for folder in layout.subfolders(root) if folders != {"train": root} else []:
        if folder not in folders.values():
            notes.append(f"{folder} is not read: its name is not that of a split")
        elif not layout.subfolders(folder):
            notes.append(f"{folder} is not read: it has no class folders")
    for folder in folders.values():
        count = len(layout.files_outside(folder, endings))
        if count and layout.subfolders(folder):
            notes.append(f"{count:,} {unit} directly in {folder} are not read: they are in no class folder")
    return notes


def _describe_split(opened: Source, read_all: bool) -> dict[str, Any]:
    known: Any = opened
    looked_at, found = _notices(known)
    return {
        "examples": len(opened),
        "images": dict(_image_formats(opened).most_common(10)),
        "class_counts": known.class_counts() if read_all else None,
        "skipped": [list(entry) for entry in opened.skipped],
        "recognised": getattr(known, "recognised", ""),
        "looked_at": looked_at,
        "notices": dict(found),
    }


def _notices(opened: Any) -> tuple[int, Counter[str]]:
    """Looks at up to `SAMPLE` images, spread evenly; returns their number, and how many have each notice."""
    if opened.kind != "image":
        return 0, Counter()
    count = min(SAMPLE, len(opened))
    chosen = [index * len(opened) // count for index in range(count)]
    if hasattr(opened, "path_of"):
        return count, notices_of_files(opened.path_of(index) for index in chosen)
    return count, Counter(notice for example in opened.__getitems__(chosen) for notice in notices_of(example["image"]))


def _image_formats(opened: Source) -> Counter[str]:
    """Counts images by "width x height mode", and clips likewise: all of a folder, or else the first examples."""
    formats: Any = getattr(opened, "image_formats", None)
    if formats is None:
        is_decoded = opened.name == "video"  # from files
        examples = opened.__getitems__(range(min(CLIPS if is_decoded else SAMPLE, len(opened))))
        if opened.kind == "video":
            return Counter(_clip_format(example["video"]) for example in examples)
        images = [example["image"] for example in examples]
        formats = Counter((image.width, image.height, image.mode) for image in images)
    return Counter({f"{width}x{height} {mode}": count for (width, height, mode), count in formats.items()})


def _clip_format(video: Video) -> str:
    try:
        (frame,) = video.read([0])
    except UserError:
        return "unreadable"
    return f"{counted(video.num_frames, 'frames')} of {frame.width}x{frame.height} {frame.mode}"


def _text_folder(name: str, path: str | None, data_dir: str | None) -> str | Path:
    found = path or (data_root(data_dir) / name if name in _PREPARED_TEXT else None)
    if found is None:
        raise UserError("data info text needs --path DIR, the folder of the text")
    if name in _PREPARED_TEXT and not Path(found).is_dir():
        command = f"python -m vit_jax data prepare {name} --path {_PREPARED_TEXT[name]}"
        raise UserError(f"{found} does not exist. To prepare it: {command}")
    return found


def _text_lines(info: Info) -> list[str]:
    source, target = info["languages"]
    lines = [f"{info['path']}: {source} to {target}", "", f"{'split':12} {'pairs':>10} {'skipped':>8}  characters"]
    for name, split in info["splits"].items():
        characters = " and ".join(f"{count:,}" for count in split["characters"])
        lines.append(f"{name:12} {split['pairs']:>10,} {len(split['skipped']):>8,}  {characters}")
    for name, split in info["splits"].items():
        lines += [f"skipped in {name}: {where} ({reason})" for where, reason in split["skipped"]]
    return lines


def _lines(info: Info) -> list[str]:
    size = "" if info["bytes"] is None else f", {info['bytes'] / 2**20:,.1f} MiB"
    lines = [f"{info['name']}: {info['path']}{size}", "", f"{'split':12} {'examples':>10} {'skipped':>8}  images"]
    for name, split in info["splits"].items():
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in list(split["images"].items())[:3])
        more = ", ..." if len(split["images"]) > 3 else ""
        lines.append(f"{name:12} {split['examples']:>10,} {len(split['skipped']):>8,}  {kinds}{more}")
    lines += ["", *_class_lines(info)]
    for split, classes in info["missing_classes"].items():
        lines.append(f"{split} has no folder for {', '.join(classes)}")
    for name, split in info["splits"].items():
        lines += [f"skipped in {name}: {file} ({reason})" for file, reason in split["skipped"]]
    lines += info["not_read"]
    for name, split in info["splits"].items():
        lines += [split["recognised"]] if split["recognised"] else []
        looked_at = f"{split['looked_at']:,} images looked at"
        lines += [f"{name}, {count:,} of the {looked_at}: {notice}" for notice, count in split["notices"].items()]
    if info["sha256"]:
        lines += ["", *(f"{digest}  {file}" for file, digest in info["sha256"].items())]
    return lines


def _class_lines(info: Info) -> list[str]:
    splits = {name: split["class_counts"] for name, split in info["splits"].items()}
    lines = [counted(info["num_classes"], "classes")]
    if any(counts is None for counts in splits.values()):
        return [*lines, "(use --full for counts and checksums of a set this large)"]
    shown = info["classes"][:20]
    width = max(len("class"), *(len(label) for label in shown))
    lines.append(f"{'class':{width}} " + " ".join(f"{name:>10}" for name in splits))
    for number, label in enumerate(shown):
        lines.append(f"{label:{width}} " + " ".join(f"{counts[number]:>10,}" for counts in splits.values()))
    if len(shown) < info["num_classes"]:
        lines.append(f"... and {info['num_classes'] - len(shown)} more (--json lists all)")
    return lines
