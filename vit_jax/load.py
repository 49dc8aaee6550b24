"""Loading a run from a checkpoint, or foreign weights as a run, so that whatever takes a run takes them too."""

import contextlib
import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
from etils import epath

from vit_jax import config as schema
from vit_jax.architecture import is_run
from vit_jax.config import Config, extensions
from vit_jax.config.schema import MODEL
from vit_jax.data.modality import load_encoder, modality_of
from vit_jax.errors import UserError
from vit_jax.experiment import described_by, make_model, make_task
from vit_jax.run import Run
from vit_jax.weights import Pretrained, from_pretrained
from vit_jax.workdir.best import Best
from vit_jax.workdir.checkpoint import average_checkpoints, load_checkpoint, load_meta, saved_steps

_ROWS_PER_DEVICE = 64  # in evaluation
_SUFFIXES = (".npz", ".npy", ".safetensors", ".bin", ".pt", ".pth", ".pyth", ".ckpt", ".tar", ".pkl")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


def load_run(
    path: epath.PathLike,
    *,
    average: int = 1,
    best: bool = False,
    trust: bool = False,
    own: Collection[str] = (),
    **foreign: Any,
) -> Run:
    """Loads the newest intact checkpoint of a workdir, or `WORKDIR/checkpoints/STEP`, or foreign weights.

    Args:
      average: Number of newest checkpoints whose parameters are averaged (Attention Is All You Need, section 6.1).
      best: Load the best of the workdir's checkpoints, by the metric `config.checkpoint.best`, instead of the newest.
      trust: Whether to import code outside vit_jax that the checkpoint names, which runs this code.
      own: Import paths that need no trust, because the user's own config names them.
      **foreign: What foreign weights do not state: see `foreign_run`.

    Raises:
      UserError: There is no intact checkpoint, there are fewer than `average`, its description is damaged, or it
        names code that is not trusted; or none of the checkpoints was evaluated, and the best is asked for.
    """
    if type(average) is not int or average < 1:
        raise UserError(f"average must be a whole number of at least 1, got {average!r}")
    if is_foreign(path):
        if best or average > 1:
            raise UserError(f"{path} is a single set of weights: best and average apply to the workdir of a run")
        return foreign_run(path, **foreign)
    _check_path(epath.Path(path))
    if foreign:
        raise UserError(f"{path} is a run, which states its model and labels itself: leave out {', '.join(foreign)}")
    if best:
        if average > 1:
            raise UserError("best and average cannot be combined: the best checkpoint is a single one")
        path = best_checkpoint(path)
    with described_by(path):
        if meta := load_meta(path):
            extensions.check_trust(meta, trust, source=path, own=own)
    params, meta = load_checkpoint(path) if average == 1 else average_checkpoints(path, average)
    with described_by(path):
        config, labels = schema.from_dict(meta["config"]), tuple(meta["labels"])
        encoder = load_encoder(meta["preprocessing"])
        # here there may be fewer devices than in training
        config.devices_per_clip = math.gcd(config.devices_per_clip, jax.local_device_count())
        model, task = make_model(config, encoder, labels), make_task(config, encoder, labels)
    return Run(model, params, task, labels, encoder, config, meta["step"], _workdir(epath.Path(path)))


def best_checkpoint(workdir: epath.PathLike) -> epath.Path:
    """Returns the path of the best checkpoint of a workdir, by the metric that its config names in `checkpoint.best`.

    Only checkpoints that were saved at an evaluation are ranked; of two equal ones, the newer is the better.

    Raises:
      UserError: A single checkpoint is named, or none was saved at an evaluation.
    """
    path = epath.Path(workdir)
    if path.parent.name == "checkpoints":
        raise UserError(f"{workdir} is a single checkpoint. Name its workdir, {_workdir(path)}, for the best one.")
    ranking, name = None, "top1"
    for step in saved_steps(path):
        with contextlib.suppress(OSError, ValueError, UserError):
            if meta := load_meta(path / "checkpoints" / str(step)):
                name = meta["config"]["checkpoint"]["best"]
                ranking = ranking or Best(1, name)
                ranking.add(step, meta.get("metrics"))
    if ranking is None or (step := ranking.first()) is None:
        raise UserError(
            f"no checkpoint in {path / 'checkpoints'} was saved at an evaluation with the metric {name}, so that none "
            "is the best. Set config.checkpoint.every to the interval config.eval_every."
        )
    return path / "checkpoints" / str(step)


def is_foreign(path: epath.PathLike) -> bool:
    """Returns whether a path looks like weights that vit_jax has not written: a weight file, or a folder with one."""
    path = epath.Path(path)
    if path.is_file():
        return path.name.lower().endswith(_SUFFIXES)
    return not is_run(path) and any((path / name).exists() for name in _IN_FOLDER)


def foreign_run(
    path: epath.PathLike,
    name: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    sampling: str | None = None,
    **options: Any,
) -> Run:
    """Reads weights in any format that `from_pretrained` reads, and returns them as a run.

    Its config holds the architecture and the preprocessing, and its step is 0. It names no data set.

    Args:
      name: Family and variant, for example "vit:B/16", if the file does not state the model.
      labels: Names of the outputs, in their order, instead of those in the file. Without either, the outputs are taken
        to be the classes of the data set that is evaluated, if their numbers agree.
      sampling: How the frames of clips are chosen (`config.data.sampling`); the default is that of the config.
      **options: Those of `from_pretrained`.

    Raises:
      UserError: See `from_pretrained`; or the preprocessing is unknown, or there are not as many labels as outputs.
    """
    loaded = from_pretrained(path, name, **options)
    outputs = getattr(loaded.model, "num_classes", None) or 0
    if loaded.preprocessing is None:
        raise UserError(
            f"{path} does not state its preprocessing. Give it as a chain of transforms, for example preprocessing="
            "'resize(248)|center_crop|normalize(mean=0.5, std=0.5)'"
        )
    if labels is not None and len(labels) != outputs:
        raise UserError(f"{path} has {outputs:,} outputs, but {len(labels):,} labels are given")
    config = _config(path, loaded, sampling)
    encoder = modality_of(loaded.model).make_encoder(config, train=False)
    task = make_task(config, encoder, tuple(map(str, range(outputs))))
    return Run(loaded.model, loaded.params, task, tuple(labels or loaded.labels), encoder, config, 0)


def _config(path: epath.PathLike, loaded: Pretrained, sampling: str | None) -> Config:
    """Returns the config of a run that would have this model and preprocessing."""
    config, encoder = schema.default_config(), loaded.preprocessing
    fields = {field: getattr(loaded.model, field, None) for field in MODEL if field not in ("name", "dtype", "extra")}
    config.model.update({field: value for field, value in fields.items() if value is not None})
    config.model.name = loaded.name
    config.init_from = str(path)
    config.data.update({"name": "", "eval_split": "", "image_size": encoder.image_size, "channels": encoder.channels})
    config.data.eval_transforms = encoder.transforms
    config.data.num_frames = getattr(loaded.model, "num_frames", None) or config.data.num_frames
    config.data.sampling = sampling or config.data.sampling
    config.eval_batch_size = _ROWS_PER_DEVICE * jax.device_count()
    return config


def _workdir(path: epath.Path) -> epath.Path:
    """Returns the workdir of a path that is one or `WORKDIR/checkpoints/STEP`."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _check_path(path: epath.Path) -> None:
    """Raises UserError if a path can be neither a workdir nor a checkpoint; the message says what to name instead."""
    if path.is_file():
        raise UserError(
            f"{path} is a file. Name a workdir, or WORKDIR/checkpoints/STEP; the command `predict` takes the workdir "
            "before its inputs."
        )
    if path.name == "checkpoints" and (steps := saved_steps(path.parent)):
        raise UserError(
            f"{path} holds several checkpoints. Name one of them, such as {path}/{steps[0]}, or {path.parent}."
        )
    if not path.exists() and path.parent.name != "checkpoints":
        raise UserError(f"{path}: no such workdir. Name one of `python -m vit_jax train`, or a file of weights.")
