"""Prepares data sets on disk as TFDS folders of ArrayRecord files, without TensorFlow."""

import contextlib
import functools
import io
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vit_jax.errors import UserError, counted, nearest

OWN = ("digits", "fashion_mnist", "motion")
FASHION_MNIST_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

READ_AS_IS = {
    "folder": "a folder of images needs no preparation. To list it: python -m vit_jax data info folder --path DIR",
    "video": "a folder of clips needs no preparation. To find broken clips: python -m vit_jax data check DIR",
    "text": "text needs no preparation. Give its folder as --config.data.path",
}

Progress = Callable[[str, int, int], None]  # what, done, total


def data_root(data_dir: str | None = None) -> Path:
    """Returns the folder of prepared sets: `data_dir`, else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, data_dir: str | None = None) -> Path | None:
    """Returns the folder of a prepared set `name[/config][:version]`; the default is the highest version.

    Returns None if the set is not there, or only as TFRecords; `not_prepared` tells the two apart.
    """
    directory = _find(name, data_dir)
    return directory if directory and "array_record" in _formats(directory) else None


def not_prepared(name: str, data_dir: str | None = None) -> UserError:
    """Returns an error that says why a set cannot be read, and which command prepares it."""
    option = f" --data_dir {data_dir}" if data_dir else ""
    if _find(name, data_dir):
        return UserError(
            f"data set {name!r} is stored as TFRecord files, which need TensorFlow. Convert them once, which needs no "
            f"TensorFlow: python -m vit_jax data prepare {name}{option}"
        )
    root = data_root(data_dir)
    base = name.split("/")[0].split(":")[0]
    if base in OWN:
        return UserError(f"{name!r} is not prepared under {root}: python -m vit_jax data prepare {name}{option}")
    known = _known_names()
    if base not in known:
        present = [path.name for path in root.glob("*") if path.is_dir() and not path.name.startswith(".")]
        return UserError(
            f"unknown data set {name!r}{_close(base, known | set(present))}; 'folder' reads your own images"
        )
    return UserError(f"{name!r} is not prepared under {root}. {_with_tensorflow(name, root)}")


def prepare_and_report(
    name: str, data_dir: str | None = None, path: str | None = None, progress: Progress | None = None
) -> tuple[list[str], list[str]]:
    """Prepares any set that can be prepared; returns what to print, and a line for each file that was skipped.

    Raises:
      UserError: See `prepare`, or the set is read as it is.
    """
    if name in READ_AS_IS:
        raise UserError(READ_AS_IS[name])
    if name == "messages":
        return _prepare_messages(data_root(data_dir) / "messages", path, progress)
    if name == "treebank":
        return _prepare_treebank(data_root(data_dir) / "treebank", path, progress)
    already = find_prepared(name, data_dir)
    directory = already or prepare(name, data_dir, path, progress)
    return [f"{'already prepared' if already else 'prepared'}: {directory}"], []


def _prepare_messages(directory: Path, path: str | None, progress: Progress | None) -> tuple[list[str], list[str]]:
    from vit_jax.data.sets.messages import build

    if (directory / "counts.json").exists():
        return [f"already prepared: {directory}"], []
    counts = build(directory, path, progress=progress)
    pairs = ", ".join(f"{count:,} {split}" for split, count in counts["pairs"].items())
    skipped = [f"skipped {file}: {reason}" for file, reason in counts["unreadable"]]
    return [f"prepared: {directory}: {pairs} pairs. To use it: --config.data.path={directory}"], skipped


def _prepare_treebank(directory: Path, path: str | None, progress: Progress | None) -> tuple[list[str], list[str]]:
    from vit_jax.data.sets.treebank import build

    if (directory / "counts.json").exists():
        return [f"already prepared: {directory}"], []
    counts = build(directory, path, progress=progress)
    trees = ", ".join(f"{count:,} {split}" for split, count in counts["trees"].items())
    empty = sum(counts["empty"].values())
    notes = [
        f"section {', '.join(counts['missing'])} is missing, so that scores are not comparable"
        * bool(counts["missing"]),
        f"{counted(counts['unused'], 'files')} in no section that is used (02 to 23)" * bool(counts["unused"]),
        f"skipped {counted(empty, 'trees')} without words" * bool(empty),
    ]
    return [f"prepared: {directory}: {trees} trees. To use it: --config.data.path={directory}"], [*filter(None, notes)]


def prepare(name: str, data_dir: str | None = None, path: str | None = None, progress: Progress | None = None) -> Path:
    """Prepares one of the project's own sets, or converts the TFRecords of another set to ArrayRecord.

    Args:
      path: Folder of the raw files, for sets that need them.

    Returns:
      The folder of the set. If it has been prepared already, nothing is done.

    Raises:
      UserError: Preparing the set needs TensorFlow, or raw files that are missing.
    """
    found = find_prepared(name, data_dir)
    if found:
        return found
    in_tfrecords = _find(name, data_dir)
    if in_tfrecords:
        return convert_to_array_record(in_tfrecords, progress)
    if name.split("/")[0] not in OWN:
        raise not_prepared(name, data_dir)
    return _prepare_own(name, data_root(data_dir), path, progress)


def _prepare_own(name: str, root: Path, path: str | None, progress: Progress | None) -> Path:
    import tensorflow_datasets as tfds

    make_builder = _own_builder(name, root, path, progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        builder = make_builder(data_dir=root, file_format="array_record")
        with _quiet(tfds), tempfile.TemporaryDirectory() as downloads:
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        found = find_prepared(name, str(root))  # another process may have finished first
        if found:
            return found
        raise UserError(f"cannot prepare {name!r} in {root} ({error}): choose another data_dir") from None
    return Path(builder.data_dir)


def _own_builder(name: str, root: Path, path: str | None, progress: Progress | None) -> Callable[..., Any]:
    from vit_jax.data.sets.digits import Digits
    from vit_jax.data.sets.fashion_mnist import FashionMnist
    from vit_jax.data.sets.motion import Motion

    base, _, variant = name.partition("/")
    if base == "motion":
        configs = {f"motion/{config.name}": config for config in Motion.BUILDER_CONFIGS}
        if name not in configs:
            raise UserError(f"there is no data set {name!r}; there are {', '.join(configs)}{nearest(name, configs)}")
        files = fashion_mnist_files(path, root) if configs[name].objects == "fashion" else None
        return functools.partial(Motion, config=variant, files=files, progress=progress)
    if variant:
        raise UserError(f"data set {base!r} has no configurations, so {variant!r} is unknown")
    return functools.partial(FashionMnist, files=fashion_mnist_files(path, root)) if base == "fashion_mnist" else Digits


def fashion_mnist_files(path: str | None, root: Path) -> Path:
    """Returns the folder of the four raw files.

    Raises:
      UserError: They are not there; the message says how to get them.
    """
    from vit_jax.data.sets.fashion_mnist import FILES

    places = [Path(path).expanduser()] if path else [FASHION_MNIST_DEBIAN, root / "manual"]
    for place in places:
        if all((place / file).is_file() for file in FILES):
            return place
    raise UserError(
        f"Fashion-MNIST: {', '.join(FILES)} are not all in {' or '.join(map(str, places))}. Either run "
        f"'apt-get install dataset-fashion-mnist' (Debian, Ubuntu), or download them from {FASHION_MNIST_URL} "
        "into a folder and add --path FOLDER"
    )


def convert_to_array_record(directory: Path, progress: Progress | None = None) -> Path:
    """Adds ArrayRecord files to a set prepared as TFRecords, and records them in its `dataset_info.json`.

    The TFRecords are kept and remain the set's main format, so that other programs can still read them. An interrupted
    conversion keeps the shards that are complete; `dataset_info.json` is changed last, atomically.

    Raises:
      UserError: A shard is truncated or has an unexpected number of records, or there is too little disk space.
    """
    info_file = directory / "dataset_info.json"
    info = json.loads(info_file.read_text())
    shards = list(_shards(directory, info))
    needed = sum(shard.stat().st_size for shard, _ in shards if not _converted(shard).exists())
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory}: the ArrayRecord files need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free"
        )
    for done, (shard, records) in enumerate(shards):
        if progress:
            progress(shard.name, done, len(shards))
        _convert_shard(shard, records)
    if progress:
        progress("", len(shards), len(shards))
    formats = info.setdefault("alternativeFileFormats", [])
    if "array_record" not in formats:
        formats.append("array_record")
    _replace(info_file, json.dumps(info, indent=2))
    return directory


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, each stored as length (8 bytes), checksum (4), data and checksum (4).

    Checksums are not verified.

    Raises:
      UserError: The file is truncated.
    """
    with path.open("rb") as file:
        while header := file.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            data = file.read(length + 4)
            if len(header) < 12 or len(data) < length + 4:
                raise UserError(f"{path} is truncated: download or prepare it again")
            yield data[:length]


def _convert_shard(shard: Path, records: int) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    target = _converted(shard)
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.partial{os.getpid()}")
    writer = ArrayRecordWriter(str(partial), "group_size:1")  # one record per group, for random access
    count = 0
    try:
        for record in read_tfrecords(shard):
            writer.write(record)
            count += 1
        writer.close()
        if count != records:
            raise UserError(f"{shard} has {count} records, its dataset_info.json says {records}: prepare the set again")
        partial.replace(target)
    finally:
        if writer.is_open():
            writer.close()
        partial.unlink(missing_ok=True)


def _shards(directory: Path, info: dict[str, Any]) -> Iterator[tuple[Path, int]]:
    for split in info["splits"]:
        lengths = [int(length) for length in split.get("shardLengths", [])]
        for index, length in enumerate(lengths):
            template = split.get("filepathTemplate", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
            name = template.format(
                DATASET=info["name"],
                SPLIT=split["name"],
                FILEFORMAT="tfrecord",
                SHARD_X_OF_Y=f"{index:05d}-of-{len(lengths):05d}",
            )
            shard = directory / name
            if not shard.is_file():
                raise UserError(f"{shard} is missing: prepare the set again")
            yield shard, length


def _converted(shard: Path) -> Path:
    return shard.with_name(shard.name.replace(".tfrecord", ".array_record"))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _find(name: str, data_dir: str | None) -> Path | None:
    path, _, version = name.partition(":")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise UserError(f"{name!r} is not the name of a data set (name, name/config or name:version)")
    directory = data_root(data_dir) / path
    versions = {
        tuple(map(int, entry.parent.name.split("."))): entry.parent
        for entry in directory.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", entry.parent.name)
    }
    if version:
        return next((found for found in versions.values() if found.name == version), None)
    if versions:
        return versions[max(versions)]
    configs = sorted({entry.parent.parent.name for entry in directory.glob("*/*/dataset_info.json")})
    if len(configs) > 1:
        raise UserError(
            f"data set {name!r} has several configurations: name one, as in {path}/{configs[0]}; "
            f"prepared: {', '.join(configs)}"
        )
    return _find(f"{path}/{configs[0]}", data_dir) if configs and "/" not in path else None


def _formats(directory: Path) -> set[str]:
    info = json.loads((directory / "dataset_info.json").read_text())
    return {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])}


def _known_names() -> set[str]:
    import tensorflow_datasets as tfds

    return {*tfds.list_builders(with_community_datasets=False), *OWN, "folder"}


def _close(word: str, known: set[str]) -> str:
    guess = nearest(word, known)
    return guess if guess.startswith("; did") else ""  # do not list hundreds of names


def _with_tensorflow(name: str, root: Path) -> str:
    return (
        "Preparing it needs TensorFlow, once, which you can install in a separate environment: "
        "python -m venv tfds && tfds/bin/pip install tensorflow-datasets tensorflow-cpu importlib_resources; "
        f"tfds/bin/tfds build {name} --file_format=array_record --data_dir={root}"
    )


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    tfds.disable_progress_bar()  # preparation takes a second, and TFDS prints messages about downloads
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
