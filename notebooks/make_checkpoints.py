"""Trains the small models that the notebooks open; a model that is already trained is not trained again.

python notebooks/make_checkpoints.py                # all of them, one after another
python notebooks/make_checkpoints.py digits         # one of them

Each notebook trains the models it needs when it is run for the first time. The runs are in `runs/notebooks/NAME`; after
an interruption, the same command resumes them. With seed 0, the models reached on their test splits:

  model       score                     CPU time
  digits      98.03 % of 355 images        138 s
  divided     83.20 % of 2,000 clips       174 s
  space_only  16.40 % of 2,000 clips       171 s (chance is 16.7 %)
  messages    BLEU 10.4 on 358 pairs       221 s, and 9 s to download and read the programs

Drawing the 42,000 clips takes another 61 s, once. These are seconds on one core that was shared with other work, so
that they are upper bounds. With another number of cores, sums are rounded differently, and scores differ a little.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys

from vit_jax.reproduce import programs
from vit_jax.workdir.provenance import read_runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "notebooks"
PAIRS = RUNS / "messages-data"  # the pairs of sentences, and the programs that they come from


@dataclasses.dataclass(frozen=True)
class Model:
    """A training run.

    Attributes:
      data: The data set to prepare.
      config: Its config, with the argument of the config.
      overrides: Keys of the config that differ, and their values.
    """

    data: str
    config: str
    overrides: dict[str, object] = dataclasses.field(default_factory=dict)


MODELS = {
    "digits": Model("digits", "configs/quickstart.py"),
    "divided": Model("motion/digits", "configs/small.py:motion"),
    "space_only": Model("motion/digits", "configs/small.py:motion", {"model.attention_type": "space_only"}),
    "messages": Model(
        "messages",
        "configs/small.py:messages",
        {"data.path": PAIRS / "messages", "duration": "2000 steps", "eval_every": "2000 steps"},
    ),
}


def make(name: str) -> pathlib.Path:
    """Trains a model of `MODELS` unless this is already done; returns its workdir."""
    model, workdir = MODELS[name], RUNS / name
    if (workdir / "runs.jsonl").exists() and read_runs(workdir)[-1]["status"] == "finished":
        return workdir
    if model.data == "messages":
        programs.prepare(PAIRS, programs.PROGRAMS)
    else:
        vit_jax("data", "prepare", model.data)
    overrides = [f"--config.{key}={value}" for key, value in model.overrides.items()]
    vit_jax("train", f"--config={model.config}", f"--workdir={workdir}", *overrides)
    return workdir


def vit_jax(*arguments: str) -> None:
    run(sys.executable, "-m", "vit_jax", *arguments)


def run(*command: str) -> None:
    """Runs a command in the root of the checkout.

    Raises:
      SystemExit: It failed; it has printed the reason.
    """
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *MODELS], metavar="NAME", help=f"some of {', '.join(MODELS)}")
    for name in parser.parse_args().names or MODELS:
        print(make(name))


if __name__ == "__main__":
    main()
