"""A folder of clips, read as it is: one sub-folder per class, or lists; video files, or folders of frames."""

import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from vit_jax.data.image.reading import DANGLING
from vit_jax.data.layout import class_names, dangling_links, folder_of, named, printable, recognised, split_folders
from vit_jax.data.scan import Record, file_states, list_classes, read_manifest, walk
from vit_jax.data.splits import choose, parse_split
from vit_jax.data.video import lists
from vit_jax.data.video.decode import VIDEO_SUFFIXES, FrameFolder, Video, VideoFile, is_image
from vit_jax.data.video.lists import ClipEntry
from vit_jax.errors import UserError

FLOW_FOLDER = re.compile(r"(optical_?)?flow(_?[xyuv])?", re.IGNORECASE)

Answer = TypeVar("Answer")


class Listing(NamedTuple):
    """The clips of one split: files are relative to `root`; in the manifest, `prefix` precedes them.

    `recognised` says how a list was read; it is empty for class folders.
    """

    root: Path
    prefix: str
    clips: list[ClipEntry]
    labels: tuple[str, ...]
    recognised: str = ""


class VideoSource:
    """The clips of one split under `path`: those in the list of the split, or else those in the class folders.

    In a list, `train.csv` or similar (see `dialects.read_lines`), paths are relative to `path`, and an example's id is
    its position in the list. Without lists, splits, classes, slices and ids are those of a folder of images (see
    `FolderSource`). A clip is a file with the suffix of a video format, or a folder that contains images and no videos;
    its images are the frames, `frames_fps` per second. Other files are ignored.

    Opening a folder decodes nothing. `manifest.csv`, written by `python -m vit_jax data check`, says which clips cannot
    be used, and counts for as long as a file's size and modification time stay the same. These clips, and those that
    end before the start given in a list, are skipped and listed in `skipped`. A clip that turns out to be broken when
    it is read raises `UserError`.

    Raises:
      UserError: The split does not exist, listed files are missing (unless the manifest says so), no clips are left, or
        `strict` is set and a clip cannot be used.
    """

    name = "video"
    kind = "video"
    image_shape = None

    def __init__(self, path: str | Path, split: str, *, strict: bool = False, frames_fps: float = 30.0):
        if not 0 < frames_fps < math.inf:
            raise UserError(f"config.data.frames_fps must be above 0, not {frames_fps}")
        self.path, self.split, self._frames_fps = Path(path).expanduser(), split, frames_fps
        slices = parse_split(split)
        self._root, prefix, self._clips, self.labels, how = list_clips(self.path, slices[0].base)
        self.recognised = how or recognised(self.path, slices[0].base, self._root)
        self.files = [clip.file for clip in self._clips]
        chosen = choose(len(self._clips), slices)
        problems = self._problems(chosen, prefix)
        self.skipped = [(self.files[index], problems[index]) for index in sorted(problems)]
        if not how:
            self.skipped += [(name, DANGLING) for name in dangling_links(self._root)]
        self._ids = [index for index in chosen if index not in problems]
        found = f"{self.path}: split {split!r} has {len(self.skipped)} of {len(chosen)} clips that cannot be used"
        some = named(f"{file} ({reason})" for file, reason in self.skipped)
        if strict and self.skipped:
            raise UserError(f"{found}: {some}. Repair or remove them, or unset strict to skip them")
        if not self._ids:
            raise UserError(f"{found}, none left: {some}" if self.skipped else f"{self.path}: {split!r} has no clips")

    def _problems(self, chosen: list[int], prefix: str) -> dict[int, str]:
        """Returns the ids of the clips that cannot be used, and why."""
        records = read_manifest(self.path)
        states = file_states(self._root, [self.files[index] for index in chosen])
        problems: dict[int, str] = {}
        missing, unchecked = [], 0
        for index, state in zip(chosen, states, strict=True):
            clip = self._clips[index]
            record = records.get(prefix + clip.file)
            if record is None or not record.is_current(state):
                unchecked += 1
                missing += [clip.file] if state is None else []
            elif problem := self._problem(clip, record):
                problems[index] = problem
        if missing:
            raise UserError(
                f"{self.path}: {len(missing):,} of {len(chosen):,} clips of {self.split!r} are missing: "
                f"{named(map(printable, missing))}. Run {_check(self.path)} to have them recorded and skipped"
                f"{f'. {self.recognised}' if self.recognised else ''}"
            )
        if records and unchecked:
            print(
                f"{self.path}: {unchecked:,} of {len(chosen):,} clips of {self.split!r} are new or have changed since "
                f"they were checked, and are used unchecked. To check them, run {_check(self.path)}",
                file=sys.stderr,
            )
        return problems

    def _problem(self, clip: ClipEntry, record: Record) -> str:
        if not record.is_usable:
            return record.reason
        seconds = record.length(self._frames_fps)
        return f"starts at {clip.start:g} s, but the video lasts {seconds:g} s" if clip.start >= seconds else ""

    def __len__(self) -> int:
        return len(self._ids)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._example(self._ids[index]) for index in indices]

    def _example(self, example_id: int) -> dict[str, Any]:
        clip = self._clips[example_id]
        advice = f"run {_check(self.path)} to find all such clips and have them skipped"
        video = LazyVideo(clip.file, lambda: open_clip(self._root / clip.file, clip, self._frames_fps), advice)
        return {"video": video, "label": clip.label, "id": example_id}

    def class_counts(self) -> list[int]:
        """Returns the number of examples of each class."""
        return np.bincount(self.all_labels(), minlength=len(self.labels)).tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._clips[index].label for index in self._ids])


class Excerpt:
    """The frames of a video shown from `start` to before `end`, in seconds; its own time 0 is `start`.

    It has at least one frame: the one shown at `start`, which may have begun earlier.

    Raises:
      UserError: The video ends before `start`.
    """

    def __init__(self, video: Video, start: float, end: float):
        if start >= video.seconds:
            raise UserError(f"{video.name}: the clip starts at {start:g} s, but the video lasts {video.seconds:g} s")
        self.name, self._video, self._start = video.name, video, start
        self._first = video.index_at(start)
        before_end = end - 1e-2 / video.fps  # a frame that begins at the end is excluded
        last = video.index_at(before_end) if end < video.seconds else video.num_frames - 1
        self.num_frames = max(last - self._first, 0) + 1
        self.seconds = min(end, video.seconds) - start
        self.fps = self.num_frames / self.seconds

    def index_at(self, seconds: float) -> int:
        index = self._video.index_at(self._start + max(seconds, 0)) - self._first
        return min(index, self.num_frames - 1)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return self._video.read([self._first + index for index in indices])


class LazyVideo:
    """A video that is opened on first use; errors are extended by `advice`, which tells the user what to do."""

    def __init__(self, name: str, open_video: Callable[[], Video], advice: str):
        self.name, self._open, self._advice = name, open_video, advice
        self._video: Video | None = None

    @property
    def num_frames(self) -> int:
        return self._ask(lambda video: video.num_frames)

    @property
    def fps(self) -> float:
        return self._ask(lambda video: video.fps)

    @property
    def seconds(self) -> float:
        return self._ask(lambda video: video.seconds)

    def index_at(self, seconds: float) -> int:
        return self._ask(lambda video: video.index_at(seconds))

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return self._ask(lambda video: video.read(indices))

    def _ask(self, question: Callable[[Video], Answer]) -> Answer:
        try:
            if self._video is None:
                self._video = self._open()
            return question(self._video)
        except UserError as error:
            raise UserError(f"{error}; {self._advice}") from None
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror or error}; {self._advice}") from None


def open_clip(file: Path, clip: ClipEntry, frames_fps: float = 30.0) -> Video:
    """Opens a video file or a folder of frames, or the part of it given by `clip`, under the name `clip.file`."""
    video = FrameFolder(file, frames_fps, clip.file) if file.is_dir() else VideoFile(file, clip.file)
    return video if clip.is_whole else Excerpt(video, clip.start, clip.end)


def split_names(path: Path) -> list[str]:
    """Returns the splits of a folder of clips: those with lists, or else those with folders."""
    return lists.list_splits(path) or list(split_folders(path))


def list_clips(path: Path, split: str) -> Listing:
    """Finds the clips of a split, whether or not they can be decoded.

    Raises:
      UserError: The split does not exist or has no clips.
    """
    if not path.is_dir():
        hint = f". Give the folder of the list, {path.parent}" if path.suffix in lists.SUFFIXES else ""
        raise UserError(f"{path} is not a folder{hint}")
    if lists.list_splits(path) or lists.list_file(path, split):
        return Listing(path, "", *lists.read_entries(path, split))
    folders = split_folders(path)
    root = folder_of(path, split, folders)
    labels = class_names(folders, root)
    clips = [ClipEntry(file, label) for file, label in zip(*list_classes(root, labels, walk_clips), strict=True)]
    if not clips:
        raise UserError(f"{root} has no videos and no folders of frames in its class folders {named(labels)}")
    return Listing(root, "" if root == path else f"{root.name}/", clips, labels)


def walk_clips(class_folder: Path) -> Iterator[str]:
    """Yields the video files below a folder, and the folders of frames: those with images and without videos."""
    for parent, folders, files in walk(class_folder):
        videos = [name for name in files if name.lower().endswith(VIDEO_SUFFIXES)]
        if not videos and parent != str(class_folder) and any(map(is_image, files)):
            folders[:] = []  # a folder of frames is one clip, whatever is in it
            if FLOW_FOLDER.fullmatch(os.path.basename(parent)):
                raise UserError(f"{parent} holds optical flow, not frames: move it out of the class folders")
            yield parent
        yield from (os.path.join(parent, name) for name in videos)


def _check(path: Path) -> str:
    return f"`python -m vit_jax data check {shlex.quote(str(path))}`"
