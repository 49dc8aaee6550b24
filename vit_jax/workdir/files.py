"""Files in a workdir, which may be local or in an object store such as `gs://BUCKET/RUN` (through `etils.epath`)."""

import os

from etils import epath


def is_local(path: epath.PathLike) -> bool:
    """Returns whether a path is in the local file system rather than a URI such as `gs://BUCKET/RUN`."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns an absolute path, as Orbax requires; URIs are absolute already."""
    return epath.Path(os.path.abspath(path) if is_local(path) else path)


def append(path: epath.Path, text: str) -> None:
    """Appends text to a file. In an object store, where objects cannot grow, the whole file is rewritten."""
    if is_local(path):
        with path.open("a") as file:
            file.write(text)
    else:
        path.write_text((path.read_text() if path.exists() else "") + text)


def replace(path: epath.Path, text: str) -> None:
    """Replaces a file atomically: if the process is killed, the file contains either the old or the new text."""
    if is_local(path):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    else:  # an object store shows an object only when it is complete
        path.write_text(text)


def copy_tree(source: epath.Path, target: epath.Path) -> None:
    """Copies a folder recursively; the two paths may be in different file systems."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            copy_tree(path, target / path.name)
        else:
            (target / path.name).write_bytes(path.read_bytes())
