"""A folder of clips as it is: a sub-folder per class, or lists; files in any format of FFmpeg, or folders of frames."""

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from vit_jax.data.image import folder
from vit_jax.data.video import lists as video_lists
from vit_jax.data.video.cache import VideoCache
from vit_jax.data.video.decode import IMAGE_SUFFIXES, FrameFolder, Video, VideoFile
from vit_jax.data.video.lists import Clip, named
from vit_jax.data.video.manifest import Record, read_manifest, stamp
from vit_jax.errors import UserError

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)

Answer = TypeVar("Answer")


class Listing(NamedTuple):
    """What there is of one split. Files of `clips` count from `root`, and in the manifest have `prefix` before them."""

    root: Path
    prefix: str
    clips: list[Clip]
    labels: tuple[str, ...]


def open_videos(
    path: str | Path,
    split: str,
    *,
    strict: bool = False,
    cache: str | None = None,
    cache_gb: float = 50.0,
    cache_side: int = 320,
    frames_fps: float = 30.0,
) -> "VideoSource":
    """Opens a split of the clips at `path`; with `cache`, a folder, decoded copies of them are kept there.

    See `VideoSource` and `VideoCache`. Raises `UserError` naming what is missing and how to get it.
    """
    copies = VideoCache(cache, cache_gb, cache_side) if cache else None
    return VideoSource(path, split, strict=strict, cache=copies, frames_fps=frames_fps)


class VideoSource:
    """The clips under `path`: those of the list of the split, or those of its class folders.

    With a list, `train.csv` or the like (see `video_lists.read_rows`), its paths count from `path`, and an example's id
    is its place in the list. Else splits, classes, slices and ids are those of a folder of images (see `FolderSource`);
    a clip is a file named like a video, or a folder of images without any, which are its frames, `frames_fps` a second;
    other files are ignored.

    Nothing is decoded on opening. What `python -m vit_jax data check` has found out about a clip is taken from
    `manifest.csv` for as long as size and time of its file stay: clips that cannot be decoded, or end before the start
    that a list gives, are skipped and listed in `skipped`; with `strict` they raise `UserError`. So do always a missing
    split, listed files that are missing and not so in the manifest, and a split without any clip left; and one that
    turns out to be broken when it is read.
    """

    name = "video"
    kind = "video"
    image_shape = None

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        strict: bool = False,
        cache: VideoCache | None = None,
        frames_fps: float = 30.0,
    ):
        if not 0 < frames_fps < math.inf:
            raise UserError(f"config.data.frames_fps must be above 0, not {frames_fps}")
        self.path, self.split, self._cache, self._frames_fps = Path(path).expanduser(), split, cache, frames_fps
        parts = [folder.parse_split(part) for part in split.split("+")]
        bases = {base for base, _, _ in parts}
        if len(bases) > 1:
            raise UserError(f"split {split!r}: ids count within one split; read {' and '.join(sorted(bases))} apart")
        self._root, prefix, self._clips, self.labels = list_clips(self.path, bases.pop())
        self.files = [clip.file for clip in self._clips]
        chosen = folder.chosen_from(len(self._clips), parts)
        problems = self._problems(chosen, prefix)
        self.skipped = [(self.files[index], problems[index]) for index in sorted(problems)]
        self._ids = [index for index in chosen if index not in problems]
        found = f"{self.path}: split {split!r} has {len(self.skipped)} of {len(chosen)} clips that cannot be used"
        some = named(f"{file} ({reason})" for file, reason in self.skipped)
        if strict and self.skipped:
            raise UserError(f"{found}: {some}; mend or remove them")
        if not self._ids:
            raise UserError(f"{found}, none left: {some}" if self.skipped else f"{self.path}: {split!r} has no clips")

    def _problems(self, chosen: list[int], prefix: str) -> dict[int, str]:
        """Why clips cannot be used, by their ids."""
        records = read_manifest(self.path)
        problems: dict[int, str] = {}
        missing, unchecked = [], 0
        for index in chosen:
            clip = self._clips[index]
            record, now = records.get(prefix + clip.file), stamp(self._root / clip.file)
            if record is None or not record.is_of(now):
                unchecked += 1
                missing += [clip.file] if now is None else []
            elif problem := self._problem(clip, record):
                problems[index] = problem
        if missing:
            raise UserError(
                f"{self.path}: {len(missing):,} of {len(chosen):,} clips of {self.split!r} are missing: "
                f"{named(missing)}; {_check(self.path)} notes them, and then they are skipped"
            )
        if records and unchecked:
            print(
                f"{self.path}: {unchecked:,} of {len(chosen):,} clips of {self.split!r} are new or have changed since "
                f"they were checked and are taken as they are: {_check(self.path)}",
                file=sys.stderr,
            )
        return problems

    def _problem(self, clip: Clip, record: Record) -> str:
        if not record.is_usable:
            return record.reason
        seconds = record.length(self._frames_fps)
        return f"lasts {seconds:g} s, is to be taken from {clip.start:g} s" if clip.start >= seconds else ""

    def __len__(self) -> int:
        return len(self._ids)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._example(self._ids[index]) for index in indices]

    def _example(self, example_id: int) -> dict[str, Any]:
        clip = self._clips[example_id]
        advice = f"{_check(self.path)} finds all such clips, and then they are skipped"
        return {"video": Listed(clip.file, lambda: self._open(clip), advice), "label": clip.label, "id": example_id}

    def _open(self, clip: Clip) -> Video:
        file = self._root / clip.file
        if self._cache is None:
            return open_clip(file, clip, self._frames_fps)
        rate = [self._frames_fps] if file.is_dir() else []  # of files it decides nothing
        key = (file.resolve(), stamp(file), clip.start, clip.end, *rate)
        return self._cache.open(key, lambda: open_clip(file, clip, self._frames_fps), clip.file)

    def class_counts(self) -> list[int]:
        """How many examples each class has."""
        return np.bincount(self.all_labels(), minlength=len(self.labels)).tolist()

    def all_labels(self) -> np.ndarray:
        return np.array([self._clips[index].label for index in self._ids])


class Excerpt:
    """The frames of a video whose times are from `start` to before `end`, in seconds; time 0 is then `start`.

    At least one: the frame shown at `start`, whose own time may be earlier. Raises `UserError` if the video is over.
    """

    def __init__(self, video: Video, start: float, end: float):
        if start >= video.seconds:
            raise UserError(f"{video.name}: is to be taken from {start:g} s, but lasts {video.seconds:g} s")
        self.name, self._video, self._start = video.name, video, start
        self._first = video.index_at(start)
        before_end = end - 1e-2 / video.fps  # a frame that begins at the end is not of it
        last = video.index_at(before_end) if end < video.seconds else video.num_frames - 1
        self.num_frames = max(last - self._first, 0) + 1
        self.seconds = min(end, video.seconds) - start
        self.fps = self.num_frames / self.seconds

    def index_at(self, seconds: float) -> int:
        index = self._video.index_at(self._start + max(seconds, 0)) - self._first
        return min(index, self.num_frames - 1)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return self._video.read([self._first + index for index in indices])


class Listed:
    """A clip of a folder, opened at the first question; if it is broken, the message says what to do about it."""

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


def open_clip(file: Path, clip: Clip, frames_fps: float = 30.0) -> Video:
    """Opens a file or a folder of frames, or the part of it that is meant; raises `UserError` naming it as listed."""
    video = FrameFolder(file, frames_fps, clip.file) if file.is_dir() else VideoFile(file, clip.file)
    return video if clip.is_whole else Excerpt(video, clip.start, clip.end)


def split_names(path: Path) -> list[str]:
    """The splits of a folder of clips: of its lists, or else of its folders."""
    return video_lists.list_splits(path) or list(folder.split_folders(path))


def list_clips(path: Path, split: str) -> Listing:
    """Finds the clips of a split, whether or not they can be decoded; raises `UserError` if it is not there."""
    if not path.is_dir():
        hint = f": the folder {path.parent} is wanted" if path.suffix in video_lists.SUFFIXES else ""
        raise UserError(f"{path} is not a folder{hint}")
    if video_lists.list_splits(path) or video_lists.list_file(path, split):
        return Listing(path, "", *video_lists.read_clips(path, split))
    folders = folder.split_folders(path)
    root, labels = folder.folder_of(path, split, folders), folder.class_names(folders)
    clips = [
        Clip(os.path.relpath(file, root), number)
        for number, label in enumerate(labels)
        for file in sorted(walk_clips(root / label))
    ]
    if not clips:
        raise UserError(f"{root} has no videos and no folders of frames in its class folders {', '.join(labels)}")
    return Listing(root, "" if root == path else f"{root.name}/", clips, labels)


def walk_clips(class_folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(class_folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        names = [name for name in files if name[0] != "."]
        videos = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
        if not videos and parent != str(class_folder) and any(n.lower().endswith(IMAGE_SUFFIXES) for n in names):
            folders[:] = []
            yield parent
        yield from (os.path.join(parent, name) for name in videos)


def _check(path: Path) -> str:
    return f"`python -m vit_jax data check {shlex.quote(str(path))}`"
