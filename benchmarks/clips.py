"""How many clips of a prepared set one thread reads and normalises in a second.

python -m benchmarks.clips [--name motion/fashion] [--clips 5000]
"""

import argparse
import time

from vit_jax.data.pipeline import LoadBatch
from vit_jax.data.source import open_source
from vit_jax.data.video.clips import ClipPreprocessing

BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="motion/fashion", help="a prepared set of clips [motion/fashion]")
    parser.add_argument("--clips", type=int, default=5_000, metavar="N", help="to read [5000]")
    args = parser.parse_args()
    source = open_source(args.name, "train")
    (example,) = source.__getitems__([0])
    num_frames, height, width, channels = example["video"].frames.shape
    chain = "normalize(mean=0.5, std=0.5)"
    preprocessing = ClipPreprocessing(num_frames, (height, width), channels, "first", chain)
    load = LoadBatch(source, preprocessing, BATCH_SIZE, 0, 1, seed=0)
    load(0)
    steps, started = max(args.clips // BATCH_SIZE, 1), time.perf_counter()
    for step in range(1, steps + 1):
        load(step)
    seconds = time.perf_counter() - started
    print(f"{args.name}: {steps * BATCH_SIZE / seconds:,.0f} clips of {num_frames}x{height}x{width} a second")


if __name__ == "__main__":
    main()
