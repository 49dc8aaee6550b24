"""Measures decoders of JPEGs, and by how much what is faster changes the levels that a model sees.

    python -m benchmarks.input_jpeg                       # generated photographs of 500 x 375 and 4000 x 3000 pixels
    python -m benchmarks.input_jpeg --path ~/photographs

Decoders (`what` is "decode"): Pillow, and simplejpeg if it is installed, each to a Pillow image as the transforms need
it. Resizing alone ("resize"), of random crops: by Pillow, and by `exact=False` ("fast"), compared with Pillow before
version 13 ("rows first"), which always resized rows before columns. Chains ("crop" and "eval"): all of a chain, with
`exact=False` and with `reduced_decode(gap)`, compared with the exact one on the same random crops. `mean`, `most` (99.9
% of the levels differ by no more) and `largest` are differences of levels from 0 to 255. Milliseconds are CPU time per
image, the median over the turns.
"""

import argparse
import importlib.util
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import input_files, records
from vit_jax.data.image.geometry import RandomResizedCrop
from vit_jax.data.image.reading import StoredJpeg, read_image, stored_image
from vit_jax.data.image.resizing import resized
from vit_jax.data.image.transforms import Preprocessing

COLUMNS = (
    "date", "commit", "device", "input", "what", "side", "images", "turns", "cpu_milliseconds", "ratio", "mean", "most",
    "largest", "versions",
)  # fmt: skip
SIZES = ((500, 375), (4000, 3000))
NORMALIZE = "normalize(mean=0.5, std=0.5)"
CHAINS = {"crop": f"random_resized_crop|flip|{NORMALIZE}", "eval": f"resize(256)|center_crop|{NORMALIZE}"}
FAST = {
    "crop": f"random_resized_crop(exact=False)|flip|{NORMALIZE}",
    "eval": f"resize(256, exact=False)|center_crop|{NORMALIZE}",
}
GAPS = (1, 2, 3)
HAS_FAST = importlib.util.find_spec("cykooz_resizer") is not None


def main() -> None:
    args = _parse()
    if not HAS_FAST:
        print("fast is left out: cykooz-resizer is not installed")
    csv = records.Table(args.csv, COLUMNS)
    row = {
        "date": records.today(), "commit": records.commit(), "device": records.processor(), "turns": args.turns,
        "versions": records.versions(("pillow", "cykooz-resizer", "simplejpeg", "numpy")),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, files in _inputs(args, pathlib.Path(folder)):
            measured = {"decode": decoders(files), "resize": resizers(files)}
            for what, sides in (measured | {chain: chains(files, chain) for chain in CHAINS}).items():
                seconds = in_turns(sides, args.turns)
                for side, run in sides.items():
                    first = next(iter(sides))
                    difference = differences(sides[first], run) if what != "decode" else {}
                    csv.add(
                        **row, **difference, input=name, what=what, side=side, images=len(files),
                        cpu_milliseconds=1000 * seconds[side] / len(files), ratio=seconds[first] / seconds[side],
                    )  # fmt: skip
                    told = ", ".join(f"{key} {value:.3g}" for key, value in difference.items())
                    print(
                        f"{name:28} {what:8} {side:18} {1000 * seconds[side] / len(files):8.2f} ms  {told}", flush=True
                    )
    print(f"\nrows are in {csv.path}")


def decoders(files: Sequence[pathlib.Path]) -> dict[str, Callable[[], Any]]:
    """Returns functions that decode all files, by decoder."""

    def pillow() -> None:
        for file in files:
            StoredJpeg(file.read_bytes(), "").load()

    found: dict[str, Callable[[], Any]] = {"pillow": pillow}
    try:
        import simplejpeg  # pyright: ignore[reportMissingImports]

        def simple() -> None:
            for file in files:
                Image.fromarray(simplejpeg.decode_jpeg(file.read_bytes()))

        found["simplejpeg"] = simple
    except ImportError:
        print("simplejpeg is left out: it is not installed")
    return found


def resizers(files: Sequence[pathlib.Path]) -> dict[str, Callable[[], np.ndarray]]:
    """Returns functions that resize a random crop of each file, by resizer."""
    crop, crops = RandomResizedCrop(size=(224, 224)), []
    for index, file in enumerate(files):
        image = read_image(file)
        top, left, height, width = crop.sample(image.height, image.width, np.random.default_rng(index))
        crops.append(image.crop((left, top, left + width, top + height)))

    def rows_first(image: Image.Image) -> Image.Image:
        return resized(resized(image, (image.height, 224), "bicubic", True), (224, 224), "bicubic", True)

    def all_of(resize: Callable[[Image.Image], Image.Image]) -> Callable[[], np.ndarray]:
        return lambda: np.stack([np.asarray(resize(image)) for image in crops])

    sides = {
        "rows first": all_of(rows_first),
        "pillow": all_of(lambda image: resized(image, (224, 224), "bicubic", True)),
    }
    if HAS_FAST:
        sides["fast"] = all_of(lambda image: resized(image, (224, 224), "bicubic", True, exact=False))
    return sides


def chains(files: Sequence[pathlib.Path], chain: str) -> dict[str, Callable[[], np.ndarray]]:
    """Returns functions that give the rows of all files: of the exact chain, and of the faster ones."""

    def rows(transforms: str) -> Callable[[], np.ndarray]:
        preprocessing = Preprocessing((224, 224), 3, transforms)

        def run() -> np.ndarray:
            made = []
            for index, file in enumerate(files):
                rng = np.random.default_rng(index) if preprocessing.is_random else None
                made += preprocessing.batch_rows(stored_image(file, "cannot be read"), rng)
            return np.stack(made)

        return run

    transforms = {
        "exact": CHAINS[chain],
        "fast": FAST[chain],
        **{f"reduced, gap {gap}": f"reduced_decode({gap})|{CHAINS[chain]}" for gap in GAPS},
        "fast, reduced, gap 2": f"reduced_decode|{FAST[chain]}",
    }
    return {side: rows(text) for side, text in transforms.items() if HAS_FAST or not side.startswith("fast")}


def in_turns(sides: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Returns the median CPU time of each side, measured in turns after one that does not count."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns + 1):
        for side, run in sides.items():
            started = time.process_time()
            run()
            if turn:
                seconds[side].append(time.process_time() - started)
    return {side: statistics.median(each) for side, each in seconds.items()}


def differences(exact: Callable[[], np.ndarray], other: Callable[[], np.ndarray]) -> dict[str, float]:
    """Returns by how much the levels of two chains differ."""
    difference = np.abs(exact().astype(int) - other())
    return {"mean": difference.mean(), "most": np.quantile(difference, 0.999), "largest": difference.max()}


def _inputs(args: argparse.Namespace, folder: pathlib.Path):
    if args.path:
        files = sorted(path for path in pathlib.Path(args.path).expanduser().rglob("*.jpg"))[: args.images]
        yield f"{len(files)} files", files
        return
    for size in SIZES:
        count = max(args.images // (1 if size == input_files.IMAGE_SIZE else 8), 1)
        made = input_files.write_images(folder / str(size[0]), "jpeg", count, size)
        files = sorted(made.rglob("*.jpg"))
        kilobytes = sum(file.stat().st_size for file in files) / len(files) / 1000
        yield f"{size[0]} x {size[1]}, {kilobytes:,.0f} kB", files


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", type=int, default=128, metavar="N", help="images in a turn, an eighth of them of large ones [128]")
    add("--path", help="folder of JPEGs, instead of generated ones")
    add("--turns", type=int, default=3, help="turns of each side; their median counts [3]")
    add("--csv", default="benchmarks/results/input_jpeg.csv", metavar="FILE", help="to append rows to [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
