"""Files to read, made from the photographs that scikit-learn ships; and the memory of child processes."""

import os
import pathlib
import time

import numpy as np
from PIL import Image

IMAGE_SIZE = (500, 375)  # width and height, the commonest of ImageNet
VIDEO_SIZE = (340, 256)
FPS = 30
CLASSES = 2


def photographs() -> list[Image.Image]:
    """Returns photographs; smooth random textures where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        rng = np.random.default_rng(0)
        textures = (rng.integers(0, 256, (27, 40, 3), np.uint8) for _ in range(2))
        return [Image.fromarray(texture).resize((640, 427), Image.Resampling.BICUBIC) for texture in textures]
    return [Image.fromarray(image) for image in load_sample_images().images]


def write_images(folder: pathlib.Path, kind: str, count: int, size: tuple[int, int] = IMAGE_SIZE) -> pathlib.Path:
    """Writes `count` JPEGs or PNGs, each another part of a photograph, into class folders; returns the folder.

    Larger images are enlarged parts.
    """
    photos, rng = photographs(), np.random.default_rng(0)
    width, height = IMAGE_SIZE
    for index in range(count):
        photo = photos[index % len(photos)]
        left, top = (int(rng.integers(0, size - part + 1)) for size, part in zip(photo.size, IMAGE_SIZE, strict=True))
        image = photo.crop((left, top, left + width, top + height))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image if size == IMAGE_SIZE else image.resize(size, Image.Resampling.BICUBIC)
        path = folder / "train" / f"class_{index % CLASSES}" / f"{index:05d}.{'jpg' if kind == 'jpeg' else kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=96)  # PNGs ignore it
    return folder


def write_videos(folder: pathlib.Path, count: int, seconds: float) -> list[pathlib.Path]:
    """Writes `count` H.264 videos in which the camera moves over a photograph; returns their paths."""
    import av

    photos, rng = photographs(), np.random.default_rng(0)
    width, height = VIDEO_SIZE
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        photo = np.asarray(photos[index % len(photos)])
        room = np.array([photo.shape[1] - width, photo.shape[0] - height])
        start, end = rng.random(2) * room, rng.random(2) * room
        paths.append(folder / f"{index:03d}.mp4")
        with av.open(str(paths[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            frames = max(int(seconds * FPS), 2)
            for i in range(frames):
                left, top = (start + (end - start) * i / (frames - 1)).astype(int)
                view = np.ascontiguousarray(photo[top : top + height, left : left + width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
            container.mux(stream.encode())
    return paths


def largest_child_bytes() -> int:
    """Returns the proportional memory of the largest child process (Linux); 0 if there is none."""
    children = pathlib.Path("/proc/self/task").glob("*/children")
    pids = {pid for file in children for pid in file.read_text().split()}
    return max((_proportional_bytes(pid) for pid in pids), default=0)


def _proportional_bytes(pid: str) -> int:
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * int(text.partition("\nPss:")[2].split()[0])
    except (OSError, IndexError):
        return 0


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of its children, those that are still running included (Linux)."""
    children = pathlib.Path("/proc/self/task").glob("*/children")
    pids = {pid for file in children for pid in file.read_text().split()}
    ended = os.times().children_user + os.times().children_system
    return time.process_time() + ended + sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: str) -> float:
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0
