"""A launcher whose runs are those of `fake_train`, as a program: `launcher.py ARGUMENTS OF launch`."""

import pathlib
import sys

from vit_jax.__main__ import main
from vit_jax.launch.sweep import Sweep

FAKE = pathlib.Path(__file__).with_name("fake_train.py")


def command(self, point, folder, python):
    return [python, str(FAKE), f"--workdir={folder / point.name}", *self.overrides, *point.overrides]


if __name__ == "__main__":
    Sweep.command = command
    sys.exit(main(["launch", *sys.argv[1:]]))
