"""Asks every peer for the logits and gradients of the tiny cases: `python -m tests.parity.make_goldens [NAME ...]`.

Needs the extra `parity` and `VIT_JAX_AUTHORS` (see `peers.py`). A golden holds the shapes of the peer's tensors, from
which `peers.random_tensors` makes the same weights again, the logits, and each gradient's product with a few fixed
directions.
"""

import json
import pathlib
import sys

import numpy as np

from tests.parity.cases import TINY
from tests.parity.compare import projections, theirs


def main(wanted: list[str]) -> None:
    folder = pathlib.Path(__file__).parent / "goldens"
    folder.mkdir(exist_ok=True)
    for name in wanted or TINY:
        shapes, logits, gradients = theirs(TINY[name])
        names = sorted(gradients)
        np.savez(
            folder / f"{name}.npz",
            shapes=json.dumps(shapes),
            names=json.dumps(names),
            logits=logits,
            gradients=projections(gradients, names),
        )
        print(f"{name}: {sum(map(np.size, gradients.values()))} parameters, logits {logits.std():.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
