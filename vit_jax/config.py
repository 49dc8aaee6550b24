"""The schema: every key of a config, its default and its meaning.

A file in `configs/` starts from `default_config()` and sets values; the command line overrides them
(`--config.batch_size=512`). Keys that are not declared here are errors. Configs state intent (epochs, global batch);
steps are derived from the data in `train.py`, after all overrides.

A duration is a string: `"300 epochs"`, `"0.5 epochs"`, `"10_000 steps"`.
"""

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from vit_jax.errors import UserError, nearest

Config = Any  # a ConfigDict, whose declared types say nothing of its keys


class Key(NamedTuple):
    default: Any  # a type stands for an optional value of that type, None until it is set
    meaning: str
    affects_results: bool | Callable = True  # whether, or what of it: no run is resumed with another value


MODEL = {
    "name": Key("vit:B/16", "family and the paper's variant; the keys below override its fields where set"),
    "patch_size": Key(tuple, "(height, width) in pixels"),
    "hidden_dim": Key(int, "token width"),
    "mlp_dim": Key(int, "width of the MLP's hidden layer"),
    "num_layers": Key(int, "blocks"),
    "num_heads": Key(int, "attention heads"),
    "pool": Key(str, "cls, gap or map"),
    "pos_embed": Key(
        str,
        "of ViT: learned, learned2d, sincos2d, relative or none; of TNT: learned or none; "
        "of TimeSformer: space_time, space or none; of the Transformer: sinusoidal or learned",
    ),
    "pos_embed_at": Key(str, "of ViT: stem, every_layer or every_layer_shared (Table 8)"),
    "representation_dim": Key(int, "width of the tanh layer before the head"),
    "resnet_stages": Key(tuple, "of a hybrid ViT: units of each ResNet stage before the patches"),
    "resnet_width": Key(int, "of a hybrid ViT: channels of the ResNet's root"),
    "resnet_flavour": Key(str, "of a hybrid ViT: google or timm"),
    "inner_hidden_dim": Key(int, "of TNT: width of a word"),
    "inner_mlp_dim": Key(int, "of TNT: width of the hidden layer in the MLP on words"),
    "inner_num_heads": Key(int, "of TNT: attention heads among words"),
    "num_words": Key(int, "of TNT: words of a patch"),
    "tnt_layers": Key(tuple, "of TNT: layers, from 0, with an inner block; all if unset"),
    "word_pos_embed": Key(str, "of TNT: learned or none"),
    "squeeze_excitation": Key(bool, "of TNT: rescaled copies of the MLPs' outputs"),
    "attention_type": Key(
        str,
        "of TimeSformer: space_only, joint_space_time, divided_space_time, sparse_local_global or axial",
    ),
    "divided_order": Key(str, "of TimeSformer: time_first, space_first or parallel"),
    "weight_init": Key(str, "of TimeSformer: authors, to start from an image model, or scratch"),
    "norm": Key(str, "of the Transformer: post or pre"),
    "qk_head_dim": Key(int, "of the Transformer: width of a head's queries and keys"),
    "v_head_dim": Key(int, "of the Transformer: width of a head's values"),
    "out_bias": Key(bool, "of the Transformer: bias in the attention's output projection"),
    "share_embeddings": Key(bool, "of the Transformer: one matrix for source, target and logits"),
    "max_length": Key(int, "of the Transformer: tokens at most, with learned positions"),
    "cls_in_temporal_attention": Key(bool, "of TimeSformer: the class token takes part in temporal attention"),
    "gelu": Key(str, "tanh or exact"),
    "qkv_bias": Key(bool, "bias in the query, key and value projections"),
    "norm_epsilon": Key(float, "of the layer norms"),
    "layer_scale_init": Key(float, "initial layer scale"),
    "dropout_rate": Key(float, "after attention, in the MLP and after the positions"),
    "attention_dropout_rate": Key(float, "of the attention weights"),
    "drop_path_rate": Key(float, "of the last block; rises linearly from 0"),
    "head_bias_init": Key(float, "initial bias of the head"),
    "scan_layers": Key(bool, "compile one block instead of all"),
    "remat": Key(str, "none, full or dots: what the backward pass recomputes"),
    "attention_kernel": Key(str, "auto, reference, xla, cudnn, chunked, mosaic or triton"),
    "dtype": Key(
        "float32", "of the computation: float32, bfloat16 or float64; parameters, softmax and norms stay wide"
    ),
}

DATA = {
    "name": Key(
        "digits", "digits, fashion_mnist, motion/..., another prepared TFDS set; folder, video or text: your own"
    ),
    "path": Key(str, "of folder, video and text: where they lie", False),
    "data_dir": Key(str, "where prepared sets lie; $TFDS_DATA_DIR or ~/tensorflow_datasets if unset", False),
    "train_split": Key("train", "TFDS split syntax, as train[:90%]"),
    "eval_split": Key("test", "likewise"),
    "image_size": Key((224, 224), "(height, width) in pixels, after the transforms"),
    "channels": Key(3, "1 or 3"),
    "train_transforms": Key("random_resized_crop|flip|normalize(mean=0.5, std=0.5)", "what each training image meets"),
    "eval_transforms": Key("resize(256)|center_crop|normalize(mean=0.5, std=0.5)", "likewise for evaluation"),
    "label": Key(str, "the feature that is the label, where a TFDS set has several"),
    "num_frames": Key(8, "of video: frames of a clip"),
    "sampling": Key(
        "stride(frames=32, fps=30)",
        "of video: which frames make a clip: stride(frames=), stride(frames=, fps=), stride(seconds=), segments, first",
    ),
    "eval_clips": Key(1, "of video: clips of each example in evaluation, whose probabilities are averaged"),
    "eval_crops": Key(1, "of video: crops of each of these clips, along the longer side"),
    "frames_fps": Key(30.0, "of video: frames a second of folders of frames"),
    "cache": Key(str, "of video: folder for decoded, resized copies (JPEG: changes pixels); none if unset", bool),
    "cache_gb": Key(50.0, "of video: size at which nothing more is put into the cache. Never changes a batch", False),
    "cache_side": Key(320, "of video: shorter side of the copies in the cache, in pixels; not below image_size"),
    "languages": Key(("en", "it"), "of text: source and target, as its files name them"),
    "vocab_size": Key(8_000, "of text: sub-words of both languages, learned from the training split or of init_from"),
    "buckets": Key((16, 32, 64), "of text: lengths, in tokens, to which sentences are padded; longer ones are skipped"),
    "repeats": Key(1, "repeated augmentation: times an image or a clip stands in a batch"),
    "strict": Key(False, "refuse a folder with images or clips that cannot be read instead of skipping them"),
    "num_workers": Key(0, "processes that prepare batches; 0 for threads of this one. Never changes a batch", False),
    "num_threads": Key(2, "threads that prepare batches. Never changes a batch", False),
}

TASK = {
    "name": Key("classification", "what is learned: classification (images, videos) or translation"),
    "loss": Key("softmax", "of classification: softmax, or sigmoid (multi-label, or one-vs-all)"),
    "label_smoothing": Key(0.0, "epsilon: epsilon / num_classes goes to every class (or token), before mixing"),
    "mixup_alpha": Key(0.0, "mixup's Beta(alpha, alpha); 0 for none"),
    "cutmix_alpha": Key(0.0, "cutmix's Beta(alpha, alpha); 0 for none. With both, each batch takes one, evenly"),
    "mix_probability": Key(1.0, "share of batches that are mixed"),
    "beam_size": Key(4, "of translation: hypotheses kept; 1 is greedy"),
    "length_penalty": Key(0.6, "of translation: alpha"),
    "extra_length": Key(50, "of translation: tokens that a translation may have more than its source"),
}

SCHEDULE = {
    "name": Key("cosine", "constant, cosine, linear, step, rsqrt or noam"),
    "peak": Key(1e-3, "peak learning rate (for noam: the factor before hidden_dim ** -0.5)"),
    "warmup": Key("0 steps", "duration of the linear warm-up from 0"),
    "end": Key(0.0, "last learning rate of cosine and linear"),
    "boundaries": Key((), "step: durations after which the rate is multiplied by step_factor"),
    "step_factor": Key(0.1, "step: see boundaries"),
    "timescale": Key("10_000 steps", "rsqrt: the rate falls as 1 / sqrt(1 + (step - warmup) / timescale)"),
}

OPTIMIZER = {
    "name": Key("adamw", "adamw, sgd, lamb, adafactor, lion or muon"),
    "b1": Key(0.9, "adamw, lamb, lion, and what muon leaves to Adam: decay of the first moment"),
    "b2": Key(0.999, "the same: decay of the second moment"),
    "eps": Key(1e-8, "adamw, lamb, muon"),
    "momentum": Key(0.9, "sgd, adafactor, muon; 0 for none"),
    "nesterov": Key(False, "sgd"),
    "mu_dtype": Key(str, "dtype of the first moment, as bfloat16; float32 if unset"),
    "weight_decay": Key(0.0, "decoupled, times the learning rate (optax); coupled L2 for sgd"),
    "weight_decay_mask": Key(r".*/kernel", "parameters that decay: a regular expression on the whole path"),
    "layer_decay": Key(1.0, "learning rate falls by this factor a layer, from the head to the patches"),
    "clip_norm": Key(0.0, "clip gradients at this global norm; 0 for none"),
    "trainable": Key(r".*", "parameters that learn: a regular expression on the whole path; the rest is frozen"),
    "ema_decay": Key(0.0, "exponential moving average of the parameters, evaluated in their place; 0 for none"),
    "schedule": SCHEDULE,
}

CHECKPOINT = {
    "every": Key("1 epochs", "duration between checkpoints; one is always written at the end", False),
    "keep_last": Key(2, "newest checkpoints kept", False),
    "keep_best": Key(1, "best checkpoints kept, by `best`, of those written when there was an evaluation", False),
    "best": Key("top1", "metric of evaluation by which checkpoints are best", False),
}

SCHEMA = {
    "seed": Key(0, "of initialisation, data order, augmentation and dropout"),
    "init_from": Key(
        str, "workdir, or foreign weights (docs/checkpoints.md), to take the parameters from: fine-tuning"
    ),
    "init_image_size": Key(tuple, "(height, width) that init_from was trained with, if it does not say so itself"),
    "batch_size": Key(
        1024, "examples of one update, over all devices, processes and micro-batches; of text tokens a side"
    ),
    "accum_steps": Key(1, "micro-batches of one update: less memory, the same update"),
    "duration": Key("300 epochs", "length of training"),
    "eval_every": Key("1 epochs", "duration between evaluations; one is always made at the end", False),
    "eval_batch_size": Key(int, "batch_size if unset", False),
    "log_every": Key("50 steps", "duration between lines of training metrics", False),
    "parallel": Key("pmap", "pmap (data parallel) or fsdp (parameters and optimizer state sharded as well)", False),
    "profile": Key((), "(first, last) step to trace into WORKDIR/profile", False),
    "compilation_cache": Key("~/.cache/vit_jax/xla", "folder of compiled programs; '' for none", False),
    "model": MODEL,
    "data": DATA,
    "task": TASK,
    "optimizer": OPTIMIZER,
    "checkpoint": CHECKPOINT,
}


def default_config() -> Config:
    """Returns every key with its default, locked: a key that is not in the schema cannot be set."""
    return _defaults(SCHEMA).lock()


def _defaults(schema: dict) -> Config:
    def value(key):
        if isinstance(key, dict):
            return _defaults(key)
        return config_dict.placeholder(key.default) if isinstance(key.default, type) else key.default

    return ConfigDict({name: value(key) for name, key in schema.items()})


def keys(schema: dict = SCHEMA, prefix: str = "") -> dict[str, Key]:
    """Returns the schema flat: `{"optimizer.schedule.peak": Key(...), ...}`."""
    flat = {}
    for name, key in schema.items():
        flat |= keys(key, f"{prefix}{name}.") if isinstance(key, dict) else {prefix + name: key}
    return flat


def load_config(path_and_args: str, overrides: list[str]) -> Config:
    """Loads `configs/FILE.py:ARGS` and applies `--config.key=value` overrides.

    Raises:
      UserError: The file, a key or a value is at fault; the message names it.
    """
    from absl import flags
    from ml_collections import config_flags

    known = keys()
    for override in overrides:
        match = re.match(r"--?config\.([^=]+)", override)
        if not match:
            raise UserError(f"unexpected argument {override!r}; write overrides as --config.key=value")
        if match[1] not in known:
            raise UserError(f"unknown config key {match[1]!r}{nearest(match[1], known)}")

    path = path_and_args.partition(":")[0]
    if not os.path.isfile(path):
        raise UserError(f"no config file {path!r}; the project's are in configs/")
    argv = ["vit_jax", f"--config={path_and_args}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        return values.config
    except flags.Error as error:
        raise UserError(f"{path_and_args}: {error}".splitlines()[0]) from error
    except (AttributeError, KeyError) as error:
        if key := re.search(r'Key "(.+?)" does not exist', str(error)):
            names = {name.rpartition(".")[2] for name in known}
            raise UserError(f"{path} sets an unknown key {key[1]!r}{nearest(key[1], names)}") from error
        raise


def differences(old: Config, new: Config) -> list[str]:
    """Returns `key: old -> new` for what differs between two configs and changes results."""
    known, now = keys(), flatten(new)
    was = flatten(default_config()) | flatten(old)  # keys that have since appeared

    def what_counts(name, value):
        effect = known[name].affects_results if name in known else True
        return effect(value) if callable(effect) else value if effect else None

    return [
        f"{name}: {was.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(was.keys() | now.keys())
        if what_counts(name, was.get(name)) != what_counts(name, now.get(name))
    ]


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Returns a config or its JSON form flat, with tuples as lists, so that the two compare."""
    flat = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def from_dict(saved: dict[str, Any]) -> Config:
    """Rebuilds a config from its JSON form; keys that have since appeared take their defaults."""
    config = default_config()
    for name, value in flatten(saved).items():
        if name in keys() and value is not None:
            config.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
    return config


def steps(name: str, duration: str, steps_per_epoch: float) -> int:
    """Converts the duration of key `name` to steps, rounded to the nearest.

    Raises:
      UserError: It is not a number of steps or epochs.
    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?|\.\d+)\s*(step|epoch)s?\s*", duration)
    if not match:
        raise UserError(f"config.{name}={duration!r} is no duration; write it as '90 epochs' or '10_000 steps'")
    return round(float(match[1]) * (steps_per_epoch if match[2] == "epoch" else 1))
