"""Trains the small models that the notebooks open; a model that is already trained is not trained again.

python notebooks/make_checkpoints.py                # all of them, one after another
python notebooks/make_checkpoints.py digits         # one of them

Each notebook trains the models it needs when it is run for the first time. The runs are in `runs/notebooks/NAME`; after
an interruption, the same command resumes them. With seed 0, on two CPU cores that were shared with other work (so that
the times are upper bounds), the models reached on their test splits:

  digits      97.75 % of 355 images      6 minutes
  divided     97.20 % of 2,000 clips    19 minutes
  space_only  16.85 % of 2,000 clips    18 minutes (chance is 16.7 %)
  messages    BLEU 21.0 on 356 pairs    22 minutes
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys

from vit_jax.workdir.provenance import read_runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "notebooks"
CATALOGUES = RUNS / "catalogues"

# Programs on PyPI that come with Italian catalogues. Their strings are under the licences of the programs.
PROGRAMS = (
    "gramps==6.0.8", "plone.app.locales==7.0.4", "django-oscar==4.2.1", "wagtail==8.0.1", "trac==1.6", "ckan==2.12.0",
    "django==5.2.9",
)  # fmt: skip


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


_SMALL_CLIPS = {
    "data.name": "motion/digits",
    "model.name": "timesformer:Ti/8",  # 4 x 4 patches of each frame: enough to see where a model looks
    "model.hidden_dim": 64,
    "model.mlp_dim": 256,
    "model.num_heads": 4,
    "duration": "1 epochs",
}
_SMALL_SENTENCES = {
    "data.path": RUNS / "messages-data",
    "data.eval_split": "test",
    "data.vocab_size": 2000,
    "data.buckets": "8,16,64",
    "model.num_layers": 2,
    "model.hidden_dim": 128,
    "model.mlp_dim": 512,
    "model.dropout_rate": 0.2,
    "duration": "12 epochs",
    "eval_every": "6 epochs",
    "checkpoint.every": "3 epochs",
    "checkpoint.keep_last": 1,
    "log_every": "1 epochs",
    "optimizer.schedule.warmup": "2 epochs",
}
MODELS = {
    "digits": Model("digits", "configs/quickstart.py"),
    "divided": Model("motion/digits", "configs/timesformer.py:motion,divided_space_time", _SMALL_CLIPS),
    "space_only": Model("motion/digits", "configs/timesformer.py:motion,space_only", _SMALL_CLIPS),
    "messages": Model("messages", "configs/transformer.py:messages", _SMALL_SENTENCES),
}


def make(name: str) -> pathlib.Path:
    """Trains a model of `MODELS` unless this is already done; returns its workdir."""
    model, workdir = MODELS[name], RUNS / name
    if (workdir / "runs.jsonl").exists() and read_runs(workdir)[-1]["status"] == "finished":
        return workdir
    if model.data == "messages":
        make_messages(RUNS / "messages-data")
    else:
        vit_jax("data", "prepare", model.data)
    overrides = [f"--config.{key}={value}" for key, value in model.overrides.items()]
    vit_jax("train", f"--config={model.config}", f"--workdir={workdir}", *overrides)
    return workdir


def make_messages(folder: pathlib.Path) -> None:
    """Collects the English-Italian pairs of `PROGRAMS`, which are downloaded for their catalogues and not installed."""
    from vit_jax.data.sets.messages import build

    if not CATALOGUES.exists():
        options = ("--no-deps", "--no-compile", "--only-binary=:all:", f"--target={CATALOGUES}")
        run(sys.executable, "-m", "pip", "install", "--quiet", *options, *PROGRAMS)
    if not (folder / "counts.json").exists():
        build(folder, CATALOGUES, held_out=None)


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
