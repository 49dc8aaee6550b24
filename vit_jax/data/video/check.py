"""Decodes every clip of a folder and notes what comes of it. Behind `python -m vit_jax data check`."""

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

from vit_jax.data.video.containers import BrokenVideo, decoded, opened, read_table
from vit_jax.data.video.decode import FrameFolder, VideoFile
from vit_jax.data.video.manifest import BROKEN, Record, manifest_files, read_manifest, stamp, write_manifest
from vit_jax.data.video.source import list_clips, split_names

SAVE_SECONDS = 30  # between two writings of the manifest
MIN_FRAMES = 8
DOUBTFUL = ("truncated", "unreadable")  # so a clip also looks on a disk that fails, or without leave to read it

Stamp = tuple[int, int]
Job = tuple[Path, str, int]  # file, its name in the manifest, frames that are enough


class Check:
    """The clips of some splits of a folder, and what is known about them.

    `todo` are the paths to be decoded: those without a record of the file as it is now, and those that seemed truncated
    or unreadable. `run` decodes them, in `workers` processes (0: in this one), and writes the manifest now and then and
    at the end, even if it is interrupted: a later check goes on.

    Raises `UserError` where there are no clips.
    """

    def __init__(self, path: str | Path, split: str | None = None, *, min_frames: int = MIN_FRAMES):
        self.path, self.split, self.min_frames = Path(path).expanduser(), split, min_frames
        if split is None and not self.path.is_dir():
            list_clips(self.path, "train")  # says what is wrong
        splits = [split] if split else split_names(self.path)
        listings = [list_clips(self.path, name) for name in splits]
        files = {lst.prefix + clip.file: lst.root / clip.file for lst in listings for clip in lst.clips}
        self.files = dict(sorted(files.items()))
        self.manifest = manifest_files(self.path)[0]
        self._known, self._found = read_manifest(self.path), dict[str, Record]()
        self.todo = [name for name, file in self.files.items() if not self._is_known(name, file)]
        for name in self.todo:
            self._known.pop(name, None)

    def _is_known(self, name: str, file: Path) -> bool:
        record = self._known.get(name)
        if record is None or record.status in DOUBTFUL or not record.is_of(stamp(file)):
            return False
        return not record.is_usable or (record.status == "few-frames") == (record.frames < self.min_frames)

    def run(self, workers: int) -> Iterator[Record]:
        """Decodes what is to do and yields its records, as they come."""
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
        """Writes the manifest: what it says by now, as other checks may be at work, and what this one has found.

        In a check of all splits, clips that are no longer there leave it.
        """
        records = read_manifest(self.path) | self._found
        kept = [record for name, record in records.items() if self.split or name in self.files]
        self.manifest = write_manifest(self.path, kept)

    @property
    def records(self) -> list[Record]:
        """Of the clips of these splits, so far as they are known."""
        return [self._known[name] for name in self.files if name in self._known]


def examine_all(jobs: Iterator[Job], workers: int, examine: Callable[..., Record]) -> Iterator[Record]:
    """Yields the record of each job as it is done; a clip on which a process dies is called unreadable."""
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
    except BrokenProcessPool as error:  # a process has died since the last look
        future: Future[Record] = Future()
        future.set_exception(error)
        return future


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which waits for us


def _examine_alone(job: Job, examine: Callable[..., Record]) -> Record:
    with _pool(1) as pool:
        try:
            return pool.submit(examine, *job).result()
        except BrokenProcessPool:
            file, name, _ = job
            return _record(name, stamp(file), "unreadable", "the decoder crashes")


def examine(file: Path, name: str, min_frames: int = MIN_FRAMES) -> Record:
    """Decodes a file, or a folder of frames, to its end."""
    now = stamp(file)
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
    except Exception as error:  # of whatever kind: the other clips are to be checked all the same
        return _record(name, now, "unreadable", str(error) or type(error).__name__)


class Decoded(NamedTuple):
    """What came of decoding: number of frames, length and frames' times in seconds, size in pixels, upright.

    A folder of frames has no length; its times are the frames' numbers.
    """

    frames: int
    seconds: float
    times: np.ndarray
    unit: float  # of the times, in seconds
    width: int
    height: int
    damaged: int = 0  # frames that the decoder has mended


def _decode_file(file: Path, name: str) -> Decoded:
    with opened(file, name) as (container, stream):
        table = read_table(container, stream, name)
    given, damaged, frame = 0, 0, None
    with opened(file, name) as (container, stream):
        for frame in decoded(container, stream, name):
            given += 1
            damaged += frame.is_corrupt
    if frame is None:
        raise BrokenVideo(name, "unreadable", "no frame of it can be decoded")
    if frame.is_corrupt:
        raise BrokenVideo(name, "truncated", f"truncated: the last of {given} frames is damaged")
    if given < len(table.stamps):
        VideoFile(file, name).read([len(table.stamps) - 1])  # where some are left out, the last is there or this raises
    width, height = (frame.width, frame.height) if frame.rotation % 180 == 0 else (frame.height, frame.width)
    times = np.array(table.stamps) * table.unit
    return Decoded(len(times), table.seconds, times, table.unit, width, height, damaged)


def _decode_folder(file: Path, name: str) -> Decoded:
    video = FrameFolder(file, name=name)
    for index in range(video.num_frames):
        image = video.read([index])[0]
    return Decoded(video.num_frames, 0.0, np.arange(video.num_frames), 0.0, image.width, image.height)


def _judge(name: str, now: Stamp, found: Decoded, min_frames: int) -> Record:
    gaps = np.diff(found.times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    status, detail = "ok", f"{found.damaged} damaged frames" if found.damaged else ""
    if found.frames < min_frames:
        status, detail = "few-frames", f"{found.frames} of at least {min_frames}"
    elif np.any(np.abs(gaps - usual) > max(0.1 * usual, 1.5 * found.unit)):
        status, detail = "variable-rate", f"{gaps.min():.3g} to {gaps.max():.3g} seconds a frame"
    fps = found.frames / found.seconds if found.seconds else 0.0
    numbers = {"fps": round(fps, 3), "seconds": round(found.seconds, 3)}
    size = {"width": found.width, "height": found.height}
    return _record(name, now, status, detail, frames=found.frames, **numbers, **size)


def _record(name: str, now: Stamp | None, status: str, detail: str, **numbers: Any) -> Record:
    size, modified = now or (0, 0)
    return Record(name, status=status, detail=" ".join(detail.split()), bytes=size, modified=modified, **numbers)
