"""Foreign weights as a run, so that whatever takes a run takes them too."""

from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from vit_jax import config as schema
from vit_jax.architecture import is_run
from vit_jax.config import Config
from vit_jax.config.schema import MODEL
from vit_jax.data.modality import modality_of
from vit_jax.errors import UserError
from vit_jax.experiment import make_task
from vit_jax.run import Run
from vit_jax.weights import Pretrained, from_pretrained

_ROWS_PER_DEVICE = 64  # in evaluation
_SUFFIXES = (".npz", ".npy", ".safetensors", ".bin", ".pt", ".pth", ".pyth", ".ckpt", ".tar", ".pkl")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


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
