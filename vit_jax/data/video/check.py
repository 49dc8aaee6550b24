"""Decodes every clip of a folder and records what was found, for `python -m vit_jax data check`."""

import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_jax.data.scan import BROKEN, FileState, Record, file_state, manifest_files, read_manifest, write_manifest
from vit_jax.data.video.containers import BrokenVideo, decoded, opened, read_table
from vit_jax.data.video.decode import FrameFolder, VideoFile
from vit_jax.data.video.source import list_clips, split_names

SAVE_SECONDS = 30  # interval at which the manifest is written during a check
MIN_FRAMES = 8
DOUBTFUL = ("truncated", "unreadable")  # a failing disk or a missing permission looks the same

Job = tuple[Path, str, int]  # a file, its path in the manifest, the number of frames below which it has few


class Check:
    """The clips of one or all splits of a folder, and what is known about them.

    `todo` lists the paths to decode: those whose file has no current record, and those recorded as truncated or
    unreadable. `run` decodes them in `workers` processes (0: in this process). It writes the manifest every
    `SAVE_SECONDS` and at the end, also when interrupted, so that the next check continues from there.

    Raises:
      UserError: The folder or the split does not exist, or has no clips.
    """

    def __init__(self, path: str | Path, split: str | None = None, *, min_frames: int = MIN_FRAMES):
        self.path, self.split, self.min_frames = Path(path).expanduser(), split, min_frames
        if split is None and not self.path.is_dir():
            list_clips(self.path, "train")  # raises the appropriate error
        splits = [split] if split else split_names(self.path)
        listings = [list_clips(self.path, name) for name in splits]
        files = {found.prefix + clip.file: found.root / clip.file for found in listings for clip in found.clips}
        self.files = dict(sorted(files.items()))
        self.manifest = manifest_files(self.path)[0]
        self._known, self._found = read_manifest(self.path), dict[str, Record]()
        self.todo = [name for name, file in self.files.items() if not self._is_known(name, file)]
        for name in self.todo:
            self._known.pop(name, None)

    def _is_known(self, name: str, file: Path) -> bool:
        record = self._known.get(name)
        if record is None or record.status in DOUBTFUL or not record.is_current(file_state(file)):
            return False
        return not record.is_usable or (record.status == "few-frames") == (record.frames < self.min_frames)

    def run(self, workers: int) -> Iterator[Record]:
        """Decodes the clips in `todo` and yields their records as they are done."""
        jobs = ((self.files[name], name, self.min_frames) for name in self.todo)
        saved = time.monotonic()
        try:
            for record in examine_all(jobs, min(workers, len(self.todo)), examine):
                self._known[record.path] = self._found[record.path] = record
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                yield record
        finally:
            self.save()

    def save(self) -> None:
        """Adds the records found so far to the manifest on disk, which other checks may be writing too.

        A check of all splits removes the records of clips that no longer exist.
        """
        records = read_manifest(self.path) | self._found
        kept = [record for name, record in records.items() if self.split or name in self.files]
        self.manifest = write_manifest(self.path, kept)

    @property
    def records(self) -> list[Record]:
        """The records of the clips of these splits, as far as they are known."""
        return [self._known[name] for name in self.files if name in self._known]


def examine_all(jobs: Iterator[Job], workers: int, examine: Callable[..., Record]) -> Iterator[Record]:
    """Yields the record of each job as it is done. If a clip kills the process, it is recorded as unreadable."""
    if workers == 0:
        yield from itertools.starmap(examine, jobs)
        return
    pool, running = _pool(workers), {}
    try:
        while True:
            more = list(itertools.islice(jobs, 4 * workers - len(running)))
            running |= {_submitted(pool, examine, job): job for job in more}
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                pool.shutdown()
                yield from [_examine_alone(job, examine) for job in running.values()]
                pool, running = _pool(workers), {}
                continue
            yield from [future.result() for future in done]
            running = {future: job for future, job in running.items() if future not in done}
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _submitted(pool: ProcessPoolExecutor, examine: Callable[..., Record], job: Job) -> Future[Record]:
    try:
        return pool.submit(examine, *job)
    except BrokenProcessPool as error:  # a process has died since the last `wait`
        future: Future[Record] = Future()
        future.set_exception(error)
        return future


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and waits for its workers


def _examine_alone(job: Job, examine: Callable[..., Record]) -> Record:
    with _pool(1) as pool:
        try:
            return pool.submit(examine, *job).result()
        except BrokenProcessPool:
            file, name, _ = job
            return _record(name, file_state(file), "unreadable", "the decoder crashes")


def examine(file: Path, name: str, min_frames: int = MIN_FRAMES) -> Record:
    """Decodes a video file or a folder of frames completely, and returns its record."""
    now = file_state(file)
    if now is None:
        return _record(name, now, "missing", "no such file")
    if not now[0] and not file.is_dir():
        return _record(name, now, "empty", "0 bytes")
    try:
        decode = _decode_folder if file.is_dir() else _decode_file
        return _judge(name, now, decode(file, name), min_frames)
    except BrokenVideo as error:
        has_only_sound = error.problem == "no video" and "audio" in error.reason
        status = error.problem if error.problem in BROKEN else "audio-only" if has_only_sound else "unreadable"
        return _record(name, now, status, error.reason.removeprefix("truncated: "))
    except Exception as error:  # one clip must not end the check of the others
        return _record(name, now, "unreadable", str(error) or type(error).__name__)


class Findings(NamedTuple):
    """What decoding found.

    Attributes:
      frames: Number of frames.
      seconds: Length; 0 for a folder of frames.
      times: Time of each frame, in seconds; for a folder of frames, its number.
      unit: Resolution of `times`, in seconds.
      width, height: In pixels, after rotation to upright.
      damaged: Number of frames in which the decoder concealed errors.
    """

    frames: int
    seconds: float
    times: np.ndarray
    unit: float
    width: int
    height: int
    damaged: int = 0


def _decode_file(file: Path, name: str) -> Findings:
    with opened(file, name) as (container, stream):
        table = read_table(container, stream, name)
    given, damaged, frame = 0, 0, None
    with opened(file, name) as (container, stream):
        for frame in decoded(container, stream, name):
            given += 1
            damaged += frame.is_corrupt
    if frame is None:
        raise BrokenVideo(name, "unreadable", "none of its frames can be decoded")
    if frame.is_corrupt:
        raise BrokenVideo(name, "truncated", f"truncated: the last of {given} frames is damaged")
    if given < len(table.stamps):
        VideoFile(file, name).read([len(table.stamps) - 1])  # raises unless the last frame can be shown
    width, height = (frame.width, frame.height) if frame.rotation % 180 == 0 else (frame.height, frame.width)
    times = np.array(table.stamps) * table.unit
    return Findings(len(times), table.seconds, times, table.unit, width, height, damaged)


def _decode_folder(file: Path, name: str) -> Findings:
    video = FrameFolder(file, name=name)
    for index in range(video.num_frames):
        image = video.read([index])[0]
    return Findings(video.num_frames, 0.0, np.arange(video.num_frames), 0.0, image.width, image.height)


def _judge(name: str, now: FileState, found: Findings, min_frames: int) -> Record:
    gaps = np.diff(found.times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    status, detail = "ok", f"{found.damaged} damaged frames" if found.damaged else ""
    if found.frames < min_frames:
        status, detail = "few-frames", f"{found.frames} of at least {min_frames}"
    elif np.any(np.abs(gaps - usual) > max(0.1 * usual, 1.5 * found.unit)):
        status, detail = "variable-rate", f"{gaps.min():.3g} to {gaps.max():.3g} seconds per frame"
    fps = found.frames / found.seconds if found.seconds else 0.0
    numbers = {"fps": round(fps, 3), "seconds": round(found.seconds, 3)}
    size = {"width": found.width, "height": found.height}
    return _record(name, now, status, detail, frames=found.frames, **numbers, **size)


def _record(name: str, now: FileState | None, status: str, detail: str, **numbers: Any) -> Record:
    size, modified = now or (0, 0)
    detail = " ".join(detail.split())
    # `manifest.csv` travels with the clips, and copying them often drops fractions of a second
    return Record(name, status=status, detail=detail, bytes=size, modified=int(modified), **numbers)
