"""The schema: every key of a config, with its default, its meaning and its legal values.

A key that is not declared here is an error, except below `extra`: the sections model, data, task and optimizer each
have a free dict of that name, which holds the fields of the user's own code (see `vit_jax/config/extensions.py`). This
module does not import JAX or Flax, so that `--help` and error messages appear at once.
"""

import operator
import re

from vit_jax.config.forms import DURATION, INTERVAL, REGEX, SIDES, Choice, Items, Match, Number, Whole
from vit_jax.config.key import Key
from vit_jax.config.model_keys import model_keys

_BATCH = Whole(1, 2**24)
_LEARNING_RATE = Number("[0, 1e30]")  # float32 must hold it and its sums


def _extra(name: str) -> Key:
    return Key(dict, f"fields of your own {name}, if `name` is an import path: --config.{name}.extra.FIELD=VALUE")


MODEL = {
    "name": Key(
        str,
        "family and variant, such as vit:B/16, or an import path, such as mylab.nets:MyViT; taken from init_from "
        "if unset. The keys below override the variant's fields",
        unless_init="vit:B/16",
    ),
    **dict(model_keys()),
    "dtype": Key(
        "float32",
        "dtype of the computation; parameters, softmax and layer norms are kept in float32 or wider",
        Choice("float32", "bfloat16", "float64"),
    ),
    "extra": _extra("model"),
}

DATA = {
    "name": Key(
        "digits",
        "digits, fashion_mnist, motion/... or another prepared TFDS set; folder, video or text for your own files; "
        "or an import path, such as mylab.data:open_split",
    ),
    "path": Key(str, "root folder of the data set (folder, video and text only)", affects_results=False),
    "data_dir": Key(
        str,
        "folder of the prepared data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if unset",
        affects_results=False,
    ),
    "train_split": Key("train", "training split, in TFDS syntax: train[:90%]"),
    "eval_split": Key("test", "evaluation split, in TFDS syntax"),
    "image_size": Key(
        tuple,
        "image size in pixels, after the transforms; that of init_from if unset",
        SIDES,
        unless_init=(224, 224),
    ),
    "channels": Key(
        int, "number of image channels: grey or RGB; that of init_from if unset", Choice(1, 3), unless_init=3
    ),
    "train_transforms": Key(
        str,
        "training preprocessing, a chain of transforms; that of init_from if unset",
        unless_init="random_resized_crop|flip|normalize(mean=0.5, std=0.5)",
    ),
    "eval_transforms": Key(
        str,
        "evaluation preprocessing, a chain of transforms; that of init_from if unset",
        unless_init="resize(256)|center_crop|normalize(mean=0.5, std=0.5)",
    ),
    "label": Key(str, "feature to use as the label, for a TFDS set that has several"),
    "num_frames": Key(8, "video: number of frames per clip", Whole(1, 4_096)),
    "sampling": Key(
        "stride(frames=32, fps=30)",
        "video: how the frames of a clip are chosen: stride(frames=), stride(frames=, fps=), stride(seconds=), "
        "segments or first",
    ),
    "eval_clips": Key(1, "video: number of clips per example in evaluation; see task.average_views", Whole(1, 1_000)),
    "eval_crops": Key(1, "video: number of crops per evaluation clip, along the longer side", Whole(1, 100)),
    "frames_fps": Key(
        30.0,
        "video: frame rate of clips stored as folders of frames, in frames per second",
        Number("(0, 1000]"),
    ),
    "languages": Key(
        ("en", "it"),
        "text: languages of the two sides, as in the file names",
        Items(Match(re.compile(r"[\w-]+"), "a name such as 'en'"), "(source, target)", length=2),
    ),
    "vocab_size": Key(
        8_000,
        "text: number of sub-words, shared by both languages; learned from the training split or taken from init_from",
        Whole(1, 1_000_000),
    ),
    "buckets": Key(
        (16, 32, 64),
        "text: lengths, in tokens, to which sentences are padded; longer sentences are skipped",
        Items(Whole(2, 65_536), "increasing lengths such as (16, 32, 64)", order=operator.lt),
    ),
    "repeats": Key(1, "repeated augmentation: number of times an image or clip appears in a batch", Whole(1, 1_000)),
    "strict": Key(False, "raise an error for unreadable images or clips instead of skipping them"),
    "num_workers": Key(
        int,
        "number of processes that prepare batches; if unset, one for each core but one where accelerators compute and "
        "files are read, else 0. Batches stay the same",
        Whole(0, 1_024, zero="uses threads of the main process"),
        affects_results=False,
    ),
    "num_threads": Key(
        int,
        "number of threads that prepare batches, per process; if unset, 1 in each worker process, or 2 in the main "
        "process. Batches stay the same",
        Whole(0, 1_024, zero="prepares each batch when it is needed"),
        affects_results=False,
    ),
    "extra": _extra("data"),
}

TASK = {
    "name": Key(
        "classification",
        "what is learned; an import path is such as mylab.tasks:Regression",
        Choice(classification="images, videos", translation="text", parsing="text: sentences and trees", path=True),
    ),
    "loss": Key(
        "softmax", "classification: the loss", Choice(softmax="", sigmoid="multi-label or one-vs-all training")
    ),
    "label_smoothing": Key(
        0.0, "epsilon; each class or token receives epsilon / num_classes, before mixup and CutMix", Number("[0, 1)")
    ),
    "mixup_alpha": Key(
        0.0, "mixup coefficients are drawn from Beta(alpha, alpha)", Number("[0, 1000]", zero="disables mixup")
    ),
    "cutmix_alpha": Key(
        0.0,
        "CutMix areas are drawn from Beta(alpha, alpha). With mixup as well, each batch uses one of them, with equal "
        "probability",
        Number("[0, 1000]", zero="disables CutMix"),
    ),
    "mix_probability": Key(1.0, "probability that a batch is mixed", Number("[0, 1]")),
    "average_views": Key(
        "probabilities",
        "video: what is averaged over the clips and crops of an example in evaluation",
        Choice(probabilities="the TimeSformer paper", logits="its authors' code, and their published numbers"),
    ),
    "beam_size": Key(4, "text: number of beam-search hypotheses; 1 is greedy decoding", Whole(1, 1_000)),
    "length_penalty": Key(0.6, "text: exponent alpha of the length penalty", Number("[0, 10]")),
    "extra_length": Key(
        50, "text: maximum number of tokens by which a translation or tree may exceed its source", Whole(0, 10_000)
    ),
    "extra": _extra("task"),
}

SCHEDULE = {
    "name": Key(
        "cosine", "how the learning rate changes", Choice("constant", "cosine", "linear", "step", "rsqrt", "noam")
    ),
    "peak": Key(1e-3, "peak learning rate; for noam, the factor that multiplies hidden_dim ** -0.5", _LEARNING_RATE),
    "warmup": Key("0 steps", "duration of the linear warm-up from start to peak", DURATION),
    "start": Key(0.0, "learning rate at the start of the warm-up; not for noam", _LEARNING_RATE),
    "end": Key(0.0, "final learning rate of cosine and linear, and of a cool-down", _LEARNING_RATE),
    "cooldown": Key("0 steps", "constant, step, rsqrt, noam: duration of a linear cool-down to end", DURATION),
    "boundaries": Key(
        (),
        "step: durations after which the learning rate is multiplied by step_factor",
        Items(DURATION, "a tuple such as ('30 epochs', '60 epochs')", or_empty=True),
    ),
    "step_factor": Key(0.1, "step: factor applied at each boundary", Number("(0, 1e30]")),
    "timescale": Key(
        "10_000 steps", "rsqrt: the learning rate decays as 1 / sqrt(1 + (step - warmup) / timescale)", INTERVAL
    ),
}

OPTIMIZER = {
    "name": Key(
        "adamw",
        "the optimizer; an import path is such as optax:adan or mylab.optim:sophia",
        Choice("adamw", "sgd", "lamb", "adafactor", "lion", "muon", path=True),
    ),
    "b1": Key(
        0.9,
        "decay rate of the first moment (adamw, lamb, lion; muon: of the parameters that Adam updates)",
        Number("[0, 1)"),
    ),
    "b2": Key(
        0.999,
        "decay rate of the second moment (adamw, lamb, lion; muon: of the parameters that Adam updates)",
        Number("[0, 1)"),
    ),
    "eps": Key(1e-8, "epsilon in the denominator (adamw, lamb, muon)", Number("[1e-30, 1]")),
    "momentum": Key(0.9, "momentum (sgd, adafactor, muon)", Number("[0, 1)", zero="disables it for sgd and adafactor")),
    "nesterov": Key(False, "use Nesterov momentum (sgd)"),
    "mu_dtype": Key(str, "dtype of the first moment; float32 if unset", Choice("float32", "bfloat16", "float16")),
    "weight_decay": Key(
        0.0,
        "decoupled weight decay, multiplied by the learning rate as in optax; for sgd, L2 regularisation",
        Number("[0, inf)"),
    ),
    "weight_decay_mask": Key(r".*/kernel", "parameters that decay: matches their whole path", REGEX),
    "layer_decay": Key(
        1.0,
        "factor by which the learning rate decreases with each layer, from the head down to the patches",
        Number("(0, 1]"),
    ),
    "clip_norm": Key(0.0, "maximum global norm of the gradients", Number("[0, inf)", zero="disables clipping")),
    "trainable": Key(r".*", "parameters that are trained: matches their whole path; the others are frozen", REGEX),
    "ema_decay": Key(
        0.0,
        "decay of the exponential moving average of the parameters, which is then evaluated",
        Number("[0, 1)", zero="disables it"),
    ),
    "schedule": SCHEDULE,
    "extra": _extra("optimizer"),
}

CHECKPOINT = {
    "every": Key(
        "1 epochs", "duration between checkpoints; one is always written at the end", INTERVAL, affects_results=False
    ),
    "keep_last": Key(2, "number of newest checkpoints to keep", Whole(1, 1_000_000), affects_results=False),
    "keep_best": Key(
        1,
        "number of best checkpoints to keep, among those written at an evaluation",
        Whole(0, 1_000_000),
        affects_results=False,
    ),
    "best": Key("top1", "evaluation metric that ranks checkpoints", affects_results=False),
}

PSEUDO_LABELS = {
    "predictions": Key(
        str,
        "Noisy Student: file of a teacher's predictions, whose examples are added to the training split; "
        "`evaluate RUN --split=SPLIT --predictions=FILE.npz` writes it",
    ),
    "split": Key(str, "split that the predictions are about, such as train[10%:]; its own labels are not used"),
    "path": Key(str, "its root folder, if not data.path", affects_results=False),
    "soft": Key(True, "label each of these examples with the probabilities; else with the most probable class"),
    "threshold": Key(
        0.0, "smallest probability of the most probable class of an example that is used", Number("[0, 1)")
    ),
    "per_class": Key(
        int,
        "number of these examples per class: the most confident, repeated if there are fewer; unset: each once",
        Whole(1, 2**31 - 1),
    ),
}

SCHEMA = {
    "seed": Key(0, "seed of initialisation, data order, augmentation and dropout", Whole(0, 2**32 - 1)),
    "init_from": Key(
        str, "fine-tune: workdir or foreign weights (docs/checkpoints.md) to take the initial parameters from"
    ),
    "init_image_size": Key(
        tuple, "image size in pixels that init_from was trained at, for weights that do not store it", SIDES
    ),
    "batch_size": Key(1024, "global batch size, in examples; for text, in tokens per side", _BATCH),
    "accum_steps": Key(1, "number of micro-batches per update: less memory, the same update", Whole(1, 65_536)),
    # a run may go on with another duration if the steps done stay the same: see `Experiment.continued`
    "duration": Key("300 epochs", "length of training", INTERVAL, affects_results=False),
    "eval_every": Key(
        "1 epochs", "duration between evaluations; the last step is always evaluated", INTERVAL, affects_results=False
    ),
    "eval_batch_size": Key(int, "evaluation batch size; batch_size if unset", _BATCH, affects_results=False),
    "log_every": Key(
        "50 steps",
        "duration between lines of training metrics; a shorter run writes one at every evaluation",
        INTERVAL,
        affects_results=False,
    ),
    "parallel": Key(
        "pmap",
        "how the work is distributed over devices",
        Choice(pmap="data parallel", fsdp="parameters and optimizer state are sharded as well"),
        affects_results=False,
    ),
    "devices_per_clip": Key(
        1,
        "fsdp: number of devices that share each clip, by its frames, so that longer clips fit into their memory",
        Whole(1, 65_536),
        affects_results=False,
    ),
    "profile": Key(
        (),
        "steps to trace into WORKDIR/profile",
        Items(Whole(1), "(first, last)", length=2, or_empty=True, order=operator.le),
        affects_results=False,
    ),
    "wandb": Key(
        str,
        "project of Weights & Biases to which metrics are mirrored; needs the extra wandb",
        affects_results=False,
    ),
    "compilation_cache": Key(
        "~/.cache/vit_jax/xla", "folder of compiled programs; '' disables the cache", affects_results=False
    ),
    "model": MODEL,
    "data": DATA,
    "pseudo_labels": PSEUDO_LABELS,
    "task": TASK,
    "optimizer": OPTIMIZER,
    "checkpoint": CHECKPOINT,
}


def keys(schema: dict = SCHEMA, prefix: str = "") -> dict[str, Key]:
    """Returns the schema flat: `{"optimizer.schedule.peak": Key(...), ...}`."""
    flat = {}
    for name, key in schema.items():
        flat |= keys(key, f"{prefix}{name}.") if isinstance(key, dict) else {prefix + name: key}
    return flat
