"""Measures how fast images and clips become batches, beside timm's transforms and loader on the same files.

    python -m benchmarks.input                                  # generated JPEGs, PNGs and videos
    python -m benchmarks.input --path ~/imagenet/train --formats folder --workers 0 2 4
    python -m benchmarks.input --formats clips --clips motion/fashion
    python -m benchmarks.input --tiny                           # a try, a few seconds

Two kinds of measurement, in turns:

- One core (`workers` is empty in the CSV file): one thread reads, decodes and transforms one example after another.
- The loader (--workers): batches as training gets them, prepared by worker processes; with 0 workers by threads of the
  process; timm's loader (`timm.data.create_loader`) has one. `worker_mib` is the largest memory a worker holds (its
  share of what it shares with others included).

timm is measured twice: `timm` makes normalized floats, and `timm uint8` leaves the normalization to a GPU, as its
loader does with a prefetcher. Our batches leave it to the device.

Rates per core come from the CPU time of all processes, so that what else runs on the machine matters little.

Generated images are of 500 x 375 pixels, cut from the two photographs that scikit-learn ships (--size for others);
generated videos are of 340 x 256 pixels, H.264, 10 s of 30 frames each.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import input_files, records

COLUMNS = (
    "date", "commit", "device", "cores", "input", "chain", "side", "workers", "threads", "examples", "turns",
    "per_second", "cpu_milliseconds", "per_second_per_core", "cores_for_10000", "ratio", "worker_mib", "versions",
)  # fmt: skip
NORMALIZE = "normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
CHAINS = {
    "crop": f"random_resized_crop|flip|{NORMALIZE}",
    "fast": f"random_resized_crop(exact=False)|flip|{NORMALIZE}",
    "augreg": "inception_crop|flip|randaug(2, 15)|normalize(mean=0.5, std=0.5)",
    "deit": f"random_resized_crop|flip|randaugment('rand-m9-mstd0.5-inc1')|{NORMALIZE}|random_erasing(0.25)",
    "eval": f"resize(256)|center_crop|{NORMALIZE}",
    "reduced": f"reduced_decode|random_resized_crop|flip|{NORMALIZE}",
}
CLIP_CHAIN = "random_resize(256, 320)|random_crop|flip|normalize(mean=0.45, std=0.225)"  # of Kinetics
_CROP = {"is_training": True, "color_jitter": None, "interpolation": "bicubic"}
_TIMM = {  # arguments of timm's create_transform; AugReg's operations are not in timm
    "crop": _CROP,
    "deit": {**_CROP, "re_prob": 0.25, "auto_augment": "rand-m9-mstd0.5-inc1"},
    "eval": {"is_training": False, "interpolation": "bicubic", "crop_pct": 0.875},
    "fast": _CROP,  # timm has Pillow only
    "reduced": _CROP,  # which decodes at full size
}  # fmt: skip
FORMATS = ("jpeg", "png", "folder", "video", "clips")
SIZE = (224, 224)


def main() -> None:
    args = _parse()
    if importlib.util.find_spec("cykooz_resizer") is None and "fast" in args.chains:
        print("fast is left out: cykooz-resizer is not installed")
        args.chains.remove("fast")
    bench = Bench(args)
    with tempfile.TemporaryDirectory() as folder, _cache_in(folder):
        for kind in args.formats:
            if kind in ("jpeg", "png", "folder"):
                made = pathlib.Path(folder) / kind
                path = args.path or input_files.write_images(made, kind, args.images, tuple(args.size))
                bench.images(kind, pathlib.Path(path))
            elif kind == "video":
                bench.videos(input_files.write_videos(pathlib.Path(folder) / kind, args.videos, args.seconds))
            else:
                bench.clips(args.clips)
    print(f"\nrows are in {bench.csv.path}")


class Bench:
    """A run: what is common to its rows, and how they are measured."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.csv = args, records.Table(args.csv, COLUMNS)
        self.row = {
            "date": records.today(), "commit": records.commit(), "device": records.processor(),
            "cores": records.cores(), "versions": records.versions((*records.PACKAGES, "cykooz-resizer", "av")),
        }  # fmt: skip
        print(f"{self.row['device']}, {self.row['cores']} cores\n{self.row['versions']}", flush=True)
        self.timm = _timm_transforms()

    def images(self, kind: str, folder: pathlib.Path) -> None:
        """Measures every chain on a folder of images: one core, then the loader."""
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        files = files[: self.args.images]
        name = f"{kind}, {sum(file.stat().st_size for file in files) / len(files) / 1000:.0f} kB"
        for chain in self.args.chains:
            sides: dict[str, Callable[[], int]] = {"vit_jax": _ours_one_by_one(files, CHAINS[chain])}
            for side, transform in self._timm(chain).items():
                sides[side] = _timm_one_by_one(files, transform)
            self._turns(name, chain, sides)
        for workers, chain in itertools.product(self.args.workers, self.args.chains):
            loaders: dict[str, Callable[[], Any]] = {"vit_jax": self._our_loader(folder, CHAINS[chain], workers)}
            for side in self._timm(chain):
                loaders[side] = self._timm_loader(files, chain, workers, as_levels=side == "timm uint8")
            self._loader_turns(name, chain, workers, loaders)

    def _timm(self, chain: str) -> dict[str, Callable]:
        """Returns timm's transforms that do what a chain does, by the name of the side; none without timm."""
        if not self.timm or chain not in _TIMM:
            return {}
        return {"timm": self.timm(chain, False), "timm uint8": self.timm(chain, True)}

    def videos(self, files: list[pathlib.Path]) -> None:
        """Measures decoding 8 frames of a video, and Kinetics' transforms."""
        from vit_jax.data.video.clips import ClipPreprocessing
        from vit_jax.data.video.decode import VideoFile

        preprocessing = ClipPreprocessing(8, SIZE, 3, "stride(frames=32, fps=30)", CLIP_CHAIN)

        def run() -> int:
            for index, file in enumerate(files):
                preprocessing.batch_rows(VideoFile(file), np.random.default_rng(index))
            return len(files)

        name = f"H.264 340x256, {self.args.seconds:g} s"
        self._turns(name, "kinetics", {"vit_jax": run}, len(files))

    def clips(self, name: str) -> None:
        """Measures reading and normalising a prepared set of clips."""
        from vit_jax.data.loading.pipeline import LoadBatch
        from vit_jax.data.source import open_source
        from vit_jax.data.video.clips import ClipPreprocessing
        from vit_jax.errors import UserError

        try:
            source = open_source(name, "train")
        except (UserError, ImportError) as error:
            print(f"{name} is left out: {error}")
            return
        (example,) = source.__getitems__([0])
        frames, height, width, channels = example["video"].frames.shape
        preprocessing = ClipPreprocessing(frames, (height, width), channels, "first", "normalize(mean=0.5, std=0.5)")
        load, batch = LoadBatch(source, preprocessing, self.args.batch, 0, 1, seed=0), self.args.batch
        batches = itertools.count()

        def run() -> int:
            steps = max(self.args.images // batch, 1)
            for _, step in zip(range(steps), batches, strict=False):
                load(range(step * batch, (step + 1) * batch))
            return steps * batch

        self._turns(f"{name}, {frames}x{height}x{width}", "normalize", {"vit_jax": run})

    def _our_loader(self, folder: pathlib.Path, chain: str, workers: int) -> Callable[[], Any]:
        from vit_jax.data.image.folder import FolderSource
        from vit_jax.data.image.transforms import Preprocessing
        from vit_jax.data.loading.pipeline import train_batches
        from vit_jax.data.loading.workers import Workers

        source, preprocessing = FolderSource(folder, "train"), Preprocessing(SIZE, 3, chain)  # not kept in memory
        return lambda: train_batches(
            source, preprocessing, batch_size=self.args.batch, seed=0, first_step=0, last_step=10**6,
            workers=Workers(workers, self.args.threads),
        )  # fmt: skip

    def _timm_loader(self, files: list[pathlib.Path], chain: str, workers: int, *, as_levels: bool) -> Callable:
        """Returns timm's loader; with `as_levels`, without the step that its prefetcher does on a GPU."""
        import torch
        from timm.data import create_loader

        def start() -> Iterator[Any]:
            loader: Any = create_loader(
                TimmFiles(files, None), (3, *SIZE), self.args.batch, num_workers=workers, use_prefetcher=as_levels,
                persistent_workers=workers > 0, pin_memory=False, device=torch.device("cpu"), **_TIMM[chain],
            )  # fmt: skip
            loader = getattr(loader, "loader", loader)  # of levels, before they go to a device
            return itertools.chain.from_iterable(itertools.repeat(loader))

        return start

    def _turns(self, name: str, chain: str, sides: dict[str, Callable[[], int]], examples: int = 0) -> None:
        """Measures on one thread, in turns after one that does not count."""
        turns: dict[str, list[Turn]] = {side: [] for side in sides}
        for turn in range(self.args.turns + 1):
            for side, run in sides.items():
                started, cpu = time.perf_counter(), time.process_time()
                done = run()
                if turn:
                    turns[side].append(Turn(done, time.perf_counter() - started, time.process_time() - cpu))
        self._add(name, chain, turns, examples=examples)

    def _loader_turns(self, name: str, chain: str, workers: int, loaders: dict[str, Callable[[], Any]]) -> None:
        """Measures loaders in turns, each from its second batch on; a loader's workers live for its turn only."""
        turns: dict[str, list[Turn]] = {side: [] for side in loaders}
        memory: dict[str, int] = {}
        for _ in range(self.args.turns):
            for side, start in loaders.items():
                batches = start()
                for _ in range(max(2 * workers, 2)):  # what the workers had ready
                    next(batches)
                steps = max(self.args.images // self.args.batch, 1)
                started, cpu = time.perf_counter(), input_files.cpu_seconds()
                for _ in range(steps):
                    next(batches)
                done = steps * self.args.batch
                turns[side].append(Turn(done, time.perf_counter() - started, input_files.cpu_seconds() - cpu))
                memory[side] = max(memory.get(side, 0), input_files.largest_child_bytes())
                getattr(batches, "close", lambda: None)()
                del batches
        self._add(name, chain, turns, workers=workers, memory=memory)

    def _add(self, name, chain, turns, *, workers=None, memory=None, examples=0) -> None:
        """Adds a row for each side; `ratio` compares the CPU time with ours."""
        cpu = {side: statistics.median(turn.cpu / turn.examples for turn in each) for side, each in turns.items()}
        for side, each in turns.items():
            threads = self.args.threads if side == "vit_jax" and workers is not None else 1
            rate = statistics.median(turn.examples / turn.seconds for turn in each)
            held = (memory or {}).get(side, 0) / 2**20
            self.csv.add(
                **self.row, input=name, chain=chain, side=side, workers=workers, threads=threads,
                examples=examples or self.args.images, turns=len(each), per_second=rate,
                cpu_milliseconds=1000 * cpu[side], per_second_per_core=1 / cpu[side],
                cores_for_10000=10_000 * cpu[side], ratio=cpu[side] / cpu["vit_jax"], worker_mib=held or None,
            )  # fmt: skip
            how = "one core" if workers is None else f"{workers} workers, {threads} threads"
            print(
                f"{name:24} {chain:8} {side:10} {how:20} {rate:8,.1f} a second, {1 / cpu[side]:8,.1f} per core"
                + (f", {held:,.0f} MiB a worker" if held else ""),
                flush=True,
            )


class Turn(NamedTuple):
    """One turn of a side: how many examples it prepared, in how many seconds and seconds of CPU time."""

    examples: int
    seconds: float
    cpu: float


class TimmFiles:
    """A data set for torch's loader, at the top of the module so that workers can be given it."""

    def __init__(self, files: list[pathlib.Path], transform: Callable | None):
        self.files, self.transform = files, transform  # which `create_loader` sets

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        assert self.transform is not None
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), 0


def _ours_one_by_one(files: list[pathlib.Path], chain: str) -> Callable[[], int]:
    from vit_jax.data.image.reading import stored_image
    from vit_jax.data.image.transforms import Preprocessing

    preprocessing = Preprocessing(SIZE, 3, chain)

    def run() -> int:
        for index, file in enumerate(files):
            rng = np.random.Generator(np.random.Philox(key=[0, index])) if preprocessing.is_random else None
            preprocessing.batch_rows(stored_image(file, "cannot be read"), rng)
        return len(files)

    return run


def _timm_one_by_one(files: list[pathlib.Path], transform: Callable) -> Callable[[], int]:
    data = TimmFiles(files, transform)

    def run() -> int:
        for index in range(len(data)):
            data[index]
        return len(data)

    return run


def _timm_transforms() -> Callable[[str, bool], Callable] | None:
    """Returns a function from a chain's name (and whether to give levels) to timm's transform; None without timm."""
    try:
        import torch

        from benchmarks.torch_side import import_torchvision

        import_torchvision()
        from timm.data import create_transform
    except (ImportError, RuntimeError) as error:
        print(f"timm is left out: {error}")
        return None
    torch.set_num_threads(1)

    def transform(chain: str, as_levels: bool) -> Any:
        return create_transform(SIZE[0], use_prefetcher=as_levels, **_TIMM[chain])

    return transform


@contextlib.contextmanager
def _cache_in(folder: str) -> Iterator[None]:
    """Keeps what is noted about generated files out of the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--formats", nargs="+", choices=FORMATS, default=["jpeg", "png", "video"], help="[jpeg png video]")
    add(
        "--chains",
        nargs="+",
        choices=CHAINS,
        default=["crop", "fast", "augreg", "deit"],
        help="[crop fast augreg deit]",
    )
    add("--images", type=int, default=1024, metavar="N", help="examples in a turn [1024]")
    add("--size", type=int, nargs=2, default=input_files.IMAGE_SIZE, metavar=("W", "H"), help="of generated images")
    add("--path", help="folder of images with one sub-folder per class, instead of generated images")
    add("--workers", type=int, nargs="*", metavar="N", help="worker processes of the loader [0 2]")
    add("--threads", type=int, default=1, help="threads of our loader, and of each of its workers [1]")
    add("--batch", type=int, default=64, help="examples per batch of the loader [64]")
    add("--videos", type=int, default=16, metavar="N", help="generated videos in a turn [16]")
    add("--seconds", type=float, default=10.0, help="length of a generated video [10]")
    add("--clips", default="motion/fashion", metavar="NAME", help="prepared set for --formats clips [motion/fashion]")
    add("--turns", type=int, default=3, help="turns of each side; their median counts [3]")
    add("--csv", default="benchmarks/results/input.csv", metavar="FILE", help="to append rows to [%(default)s]")
    add("--tiny", action="store_true", help="a few examples and one turn; for a try, rows in input_tiny.csv")
    args = parser.parse_args()
    if "folder" in args.formats and not args.path:
        parser.error("--formats folder needs --path")
    if args.workers is None:
        args.workers = [0] if args.tiny else [0, 2]
    if args.tiny:
        args.images, args.videos, args.seconds, args.turns, args.batch = 16, 1, 1.0, 1, 4
        if args.csv == parser.get_default("csv"):
            args.csv = f"{tempfile.gettempdir()}/input_tiny.csv"
    return args


if __name__ == "__main__":
    main()
