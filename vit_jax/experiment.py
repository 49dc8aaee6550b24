"""What a config means: the model, the task and the data it names; and what a checkpoint holds beside arrays."""

import dataclasses
import json
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from vit_jax import config as schema
from vit_jax.config import Config
from vit_jax.data import pipeline
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.sources import open_source
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError, nearest
from vit_jax.models import build_model
from vit_jax.parallel import check_batch_size
from vit_jax.sentences import Sentences, open_sentences, sentence_batches
from vit_jax.tasks import Task
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.translation import Translation
from vit_jax.workdir.checkpoint import average_checkpoints, load_checkpoint

PyTree = Any
_DTYPES = ("float32", "bfloat16", "float64")
_TASKS = {"classification": ("image", "video"), "translation": ("text",)}  # and what each learns from
_PREPROCESSINGS: dict[str, Any] = {"image": Preprocessing, "video": ClipPreprocessing, "text": Vocabulary}


def make_model(config: Config, preprocessing: Any, labels: tuple[str, ...] = ()) -> nn.Module:
    """Builds `config.model` for what `preprocessing` gives it, and for these classes.

    Raises:
      UserError: A name or a field is wrong.
    """
    fields = {name: value for name, value in config.model.items() if value is not None and name != "name"}
    dtype = fields.pop("dtype")
    if dtype not in _DTYPES:
        raise UserError(f"unknown config.model.dtype {dtype!r}{nearest(dtype, _DTYPES)}")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model.dtype 'float64' needs the environment variable JAX_ENABLE_X64=1")
    dtype = jnp.dtype(dtype)
    given = {**preprocessing.model_fields, **({"num_classes": len(labels)} if labels else {})}
    types = {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}
    try:
        return build_model(config.model.name, **given, **types, **fields)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def make_task(config: Config, preprocessing: Any, labels: tuple[str, ...] = ()) -> Task:
    """Builds `config.task`.

    Raises:
      UserError: A name is wrong, or the data are of another task.
    """
    task = config.task
    if task.name not in _TASKS:
        raise UserError(f"unknown config.task.name {task.name!r}{nearest(task.name, _TASKS)}")
    if preprocessing.key not in _TASKS[task.name]:
        known = next(name for name, keys in _TASKS.items() if preprocessing.key in keys)
        raise UserError(f"config.task.name={task.name!r} does not learn from {preprocessing.key}; {known!r} does")
    if task.name == "translation":
        fields = ("label_smoothing", "beam_size", "length_penalty", "extra_length")
        try:
            return Translation(
                vocabulary=preprocessing,
                max_length=max(config.data.buckets),
                language=config.data.languages[-1],
                **{name: task[name] for name in fields},
            )
        except ValueError as error:
            raise UserError(f"config.task: {error}") from error
    losses = ("softmax", "sigmoid")
    if task.loss not in losses:
        raise UserError(f"unknown config.task.loss {task.loss!r}{nearest(task.loss, losses)}")
    return Classification(
        num_classes=len(labels),
        loss_name=task.loss,
        repeats=config.data.repeats,
        views=preprocessing.views,
        **{name: task[name] for name in ("label_smoothing", "mixup_alpha", "cutmix_alpha", "mix_probability")},
    )


class Data(Protocol):
    """The two splits of a config, and the batches made of them.

    Attributes:
      train: The source of the training split.
      labels: Names of the classes; none of text.
      preprocessing: Of evaluation, with which a checkpoint predicts.
      unit: What `batch_size` counts, as "images".
      skipped: Examples of the evaluation split that are not scored.
    """

    train: Any
    labels: tuple[str, ...]
    preprocessing: Any
    unit: str
    skipped: int

    @property
    def steps_per_epoch(self) -> float: ...
    def train_batches(self, first_step: int, last_step: int) -> pipeline.Batches: ...
    def eval_batches(self) -> pipeline.Batches: ...
    def summary(self) -> list[str]: ...


class Examples:
    """Images or clips with labels."""

    def __init__(self, config: Config):
        mixed = Classification(1, **{name: config.task[name] for name in ("mixup_alpha", "cutmix_alpha")})
        group = dataclasses.replace(mixed, repeats=config.data.repeats).group
        check_batch_size(config.batch_size, config.accum_steps, group=group)
        check_batch_size(config.eval_batch_size or config.batch_size, 1, "eval_batch_size")
        data = config.data
        self.train, self.eval = (open_split(config, split) for split in (data.train_split, data.eval_split))
        check_labels(self.train.labels, self.eval.labels, f"split {data.train_split}", f"split {data.eval_split}")
        self.config, self.labels, self.skipped = config, self.train.labels, len(self.eval.skipped)
        self.train_preprocessing = make_preprocessing(config, self.train.kind, train=True)
        self.preprocessing = make_preprocessing(config, self.eval.kind, train=False)
        self.unit = {"image": "images", "video": "clips"}[self.eval.kind]

    @property
    def steps_per_epoch(self) -> float:
        return len(self.train) / self.config.batch_size

    def train_batches(self, first_step: int, last_step: int) -> pipeline.Batches:
        """Yields this process's slice of the batches of updates `first_step + 1` to `last_step`."""
        return pipeline.train_batches(
            self.train,
            self.train_preprocessing,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            first_step=first_step,
            last_step=last_step,
            repeats=self.config.data.repeats,
            **pipeline.processes_and_workers(self.config),
        )

    def eval_batches(self) -> pipeline.Batches:
        """Yields this process's slice of batches that hold every example of the evaluation split once."""
        return eval_batches(self.config, self.eval, self.preprocessing)[0]

    def summary(self) -> list[str]:
        skipped = len(self.train.skipped)
        return [
            f"{self.train.name}: {len(self.train):,} training and {len(self.eval):,} evaluation {self.unit}, "
            f"{len(self.labels)} classes",
            *([f"skipped {skipped} unreadable {self.unit}"] if skipped else []),
        ]


def open_data(config: Config) -> Data:
    """Opens both splits of `config.data`.

    Raises:
      UserError: Set, split or transforms are wrong, or the two splits have different labels.
    """
    return Sentences(config) if config.data.name == "text" else Examples(config)


def open_split(config: Config, split: str, **other: str | None) -> Any:
    """Opens a split of `config.data`; `name`, `path` and `data_dir` of another set may be given.

    Raises:
      UserError: Set or split are wrong.
    """
    data = config.data
    name = other.get("name") or data.name
    path = other.get("path") or (data.path if name == data.name else None)
    if name == "text":
        return open_sentences(config, split, path)
    clips = ("cache", "cache_gb", "cache_side", "frames_fps")
    options = {key: data[key] for key in clips} if name == "video" else {}
    if options.get("cache") and data.cache_side < min(data.image_size):
        raise UserError(
            f"config.data.cache_side={data.cache_side} is below config.data.image_size={tuple(data.image_size)}: "
            "copies would be enlarged again; raise it, or unset config.data.cache"
        )
    data_dir = other.get("data_dir") or data.data_dir
    label = data.label if name == data.name else None
    return open_source(name, split, path=path, data_dir=data_dir, strict=data.strict, label=label, **options)


def make_preprocessing(config: Config, kind: str, *, train: bool) -> pipeline.AnyPreprocessing:
    """Builds what an image or a clip (`kind`) of `config.data` meets in training or in evaluation.

    Raises:
      UserError: Sizes, sampling or transforms are wrong.
    """
    data = config.data
    transforms = data.train_transforms if train else data.eval_transforms
    shape = {"image_size": tuple(data.image_size), "channels": data.channels}
    if kind == "image":
        return Preprocessing(transforms=transforms, **shape)
    views = {} if train else {"clips": data.eval_clips, "crops": data.eval_crops}
    return ClipPreprocessing(
        num_frames=data.num_frames, sampling=data.sampling, transforms=transforms, **shape, **views
    )


def eval_batches(
    config: Config, source: Any, preprocessing: Any, batch_size: int | None = None
) -> tuple[pipeline.Batches, int]:
    """Returns batches that hold every example of a split once, and how many examples cannot be scored.

    Args:
      batch_size: Rows of a batch, about (tokens a side, of text); that of the config if None.
    """
    if preprocessing.key == "text":
        return sentence_batches(config, source, preprocessing, batch_size)
    rows = batch_size or config.eval_batch_size or config.batch_size
    devices = jax.device_count()
    examples = max(rows // preprocessing.views // devices, 1) * devices
    batches = pipeline.eval_batches(
        source, preprocessing, batch_size=examples, **pipeline.processes_and_workers(config)
    )
    return batches, len(source.skipped)


def check_labels(ours: tuple[str, ...], theirs: tuple[str, ...], us: str, them: str) -> None:
    """Raises UserError, with the first differences, unless both name the same classes in the same order."""
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) != len(theirs):
        sizes = f"{us} has {len(ours)} classes, {them} {len(theirs)}"
    else:
        sizes = f"{us} and {them} both have {len(ours)} classes, named differently"
    only = [sorted(set(a) - set(b))[:3] for a, b in ((ours, theirs), (theirs, ours))]
    raise UserError(f"label names do not match: {sizes}; only in {us}: {only[0]}; only in {them}: {only[1]}")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model that predicts by itself: what `load_run` reads from a checkpoint."""

    model: nn.Module
    params: PyTree
    task: Any
    labels: tuple[str, ...]
    preprocessing: Any
    config: Config
    step: int


def describe(config: Config, labels: tuple[str, ...], preprocessing: Any) -> dict[str, Any]:
    """Returns what a checkpoint holds beside arrays, as JSON: enough for `load_run`."""
    return {
        "config": json.loads(config.to_json()),
        "labels": list(labels),
        "preprocessing": {"key": preprocessing.key, **preprocessing.to_dict()},
    }


def load_run(path: epath.PathLike, *, average: int = 1) -> Run:
    """Loads the newest whole checkpoint of a workdir, or `WORKDIR/checkpoints/STEP`.

    Args:
      average: Takes the mean of the parameters of so many of the newest checkpoints (Attention Is All You Need, 6.1).

    Raises:
      UserError: There are none, or too few.
    """
    params, meta = load_checkpoint(path) if average == 1 else average_checkpoints(path, average)
    config, labels = schema.from_dict(meta["config"]), tuple(meta["labels"])
    described = dict(meta["preprocessing"])
    preprocessing = _PREPROCESSINGS[described.pop("key", "image")].from_dict(described)
    return Run(
        model=make_model(config, preprocessing, labels),
        params=params,
        task=make_task(config, preprocessing, labels),
        labels=labels,
        preprocessing=preprocessing,
        config=config,
        step=meta["step"],
    )
