"""The schema: every key of a config, with its default and its meaning.

A key that is not declared here is an error, except below `extra`: the sections model, data, task and optimizer each
have a free dict of that name, which holds the fields of the user's own code (see `vit_jax/config/extensions.py`). This
module does not import JAX or Flax, so that `--help` and error messages appear at once.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from vit_jax.config.families import FAMILIES, module_fields


class Key(NamedTuple):
    """One key of the schema.

    Attributes:
      default: The value of the key until it is set. If this is a type, the key accepts a value of that type and is None
        until it is set; `dict` makes it a free dict, which is empty at first.
      meaning: The description in `--help`.
      affects_results: Whether another value can change the results. A run cannot be resumed with another value of such
        a key.
      unless_init: For an optional key that `init_from` can supply: the value without `init_from`; see
        `resolve_defaults`.
    """

    default: Any
    meaning: str
    affects_results: bool = True
    unless_init: Any = None


# Fields of the models that are not keys: the data, the task and `dtype` determine them.
DERIVED_FIELDS = (
    "architecture", "image_size", "in_channels", "num_classes", "num_frames", "pad_id", "param_dtype", "vocab_size",
)  # fmt: skip
_FAMILY_NAMES = {"transformer": "Transformer", "vit": "ViT", "tnt": "TnT", "timesformer": "TimeSformer"}
_MODEL_MEANINGS = {
    "patch_size": "patch size, (height, width) in pixels",
    "hidden_dim": "token width",
    "mlp_dim": "width of the MLP's hidden layer",
    "num_layers": "number of blocks",
    "num_heads": "number of attention heads",
    "pool": "how tokens are pooled: cls (class token), gap (global average) or map (attention pooling)",
    "pos_embed": (
        "position embedding; ViT: learned, learned2d, sincos2d, relative or none; TnT: learned or none; "
        "TimeSformer: space_time, space or none; Transformer: sinusoidal or learned"
    ),
    "unpooled_class_token": "add a class token although pool is gap or map (MAE's fine-tuned models)",
    "distillation_token": "add DeiT's distillation token, with a second head; the logits are the mean of both",
    "num_registers": "number of register tokens: learned tokens that are not pooled",
    "prefix_pos_embed": "learn positions of the class, distillation and register tokens as well (DeiT III: false)",
    "pos_embed_at": "where positions are added: stem, every_layer or every_layer_shared (ViT paper, Table 8)",
    "patch_bias": "add a bias in the patch embedding",
    "stem_norm": "add a layer norm before the first block (CLIP)",
    "final_norm": "where the last layer norm is: before_pool, after_pool (MAE's fine-tuned models) or none",
    "representation_dim": "width of the tanh layer before the head; no such layer if unset",
    "resnet_stages": "hybrid: number of ResNet units in each stage before the patches",
    "resnet_width": "hybrid: channels of the ResNet's root convolution",
    "resnet_flavour": "hybrid: google or timm",
    "inner_hidden_dim": "width of a word token",
    "inner_mlp_dim": "width of the hidden layer in the words' MLP",
    "inner_num_heads": "number of attention heads in the words' attention",
    "num_words": "number of words per patch",
    "tnt_layers": "layers, counted from 0, that have an inner block; all layers if unset",
    "word_pos_embed": "position embedding of the words: learned or none",
    "squeeze_excitation": "add a rescaled copy of the outer MLP's output, by squeeze-and-excitation",
    "attention_type": "space_only, joint_space_time, divided_space_time, sparse_local_global or axial",
    "divided_order": "order of divided attention: time_first, space_first or parallel",
    "cls_in_temporal_attention": "let the class token take part in temporal attention",
    "weight_init": "authors (suits training that starts from an image model) or scratch",
    "norm": "layer norm after (post) or before (pre) each sub-layer",
    "qk_head_dim": "width of the queries and keys of one head; hidden_dim / num_heads if unset",
    "v_head_dim": "width of the values of one head; hidden_dim / num_heads if unset",
    "out_bias": "add a bias in the attention's output projection",
    "share_embeddings": "use one matrix for the source and target embeddings and for the logits",
    "max_length": "maximum number of tokens, for learned positions",
    "gelu": "form of the GELU: exact, tanh (google-research) or quick (CLIP)",
    "qkv_bias": "add a bias in the query, key and value projections",
    "norm_epsilon": "epsilon of the layer norms",
    "layer_scale_init": "initial value of layer scale; no layer scale if unset",
    "dropout_rate": "dropout probability after the position embedding, after attention and in the MLP",
    "attention_dropout_rate": "dropout probability of the attention weights",
    "drop_path_rate": "drop probability of the residual branches in the last block; rises linearly from 0 in the first",
    "head_bias_init": "initial bias of the head",
    "scan_layers": "compile one block and loop over the layers, which shortens compilation",
    "remat": "what the backward pass recomputes to save memory: none, full or dots",
    "attention_kernel": "auto, reference, xla, cudnn, chunked, mosaic or triton",
}


def _model_keys() -> Iterator[tuple[str, Key]]:
    """Yields a key for each field of the families' modules. The meaning names the families if only some have it."""
    families = {family: module_fields(family) for family in FAMILIES}
    types = {field: kind for fields in families.values() for field, kind in fields.items()}
    for field in (*_MODEL_MEANINGS, *sorted(types.keys() - _MODEL_MEANINGS.keys())):
        if field in types and field not in (*DERIVED_FIELDS, "dtype"):
            having = [_FAMILY_NAMES[family] for family, fields in families.items() if field in fields]
            suffix = f" ({', '.join(having)} only)" if len(having) < len(families) else ""
            yield field, Key(types[field], _MODEL_MEANINGS.get(field, "") + suffix)


def _extra(name: str) -> Key:
    return Key(dict, f"fields of your own {name}, if `name` is an import path: --config.{name}.extra.FIELD=VALUE")


MODEL = {
    "name": Key(
        str,
        "family and variant, such as vit:B/16, or an import path, such as mylab.nets:MyViT; taken from init_from "
        "if unset. The keys below override the variant's fields",
        unless_init="vit:B/16",
    ),
    **dict(_model_keys()),
    "dtype": Key(
        "float32",
        "dtype of the computation: float32, bfloat16 or float64; parameters, softmax and layer norms are kept in "
        "float32 or wider",
    ),
    "extra": _extra("model"),
}

DATA = {
    "name": Key(
        "digits",
        "digits, fashion_mnist, motion/... or another prepared TFDS set; folder, video or text for your own files; "
        "or an import path, such as mylab.data:open_split",
    ),
    "path": Key(str, "root folder of the data set (folder, video and text only)", False),
    "data_dir": Key(str, "folder of the prepared data sets; $TFDS_DATA_DIR or ~/tensorflow_datasets if unset", False),
    "train_split": Key("train", "training split, in TFDS syntax: train[:90%]"),
    "eval_split": Key("test", "evaluation split, in TFDS syntax"),
    "image_size": Key(
        tuple,
        "(height, width) in pixels, after the transforms; that of init_from if unset",
        unless_init=(224, 224),
    ),
    "channels": Key(int, "number of image channels: 1 (grey) or 3 (RGB); that of init_from if unset", unless_init=3),
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
    "num_frames": Key(8, "video: number of frames per clip"),
    "sampling": Key(
        "stride(frames=32, fps=30)",
        "video: how the frames of a clip are chosen: stride(frames=), stride(frames=, fps=), stride(seconds=), "
        "segments or first",
    ),
    "eval_clips": Key(1, "video: number of clips per example in evaluation; their probabilities are averaged"),
    "eval_crops": Key(1, "video: number of crops per evaluation clip, along the longer side"),
    "frames_fps": Key(30.0, "video: frame rate of clips stored as folders of frames, in frames per second"),
    "languages": Key(("en", "it"), "text: source and target language, as in the file names"),
    "vocab_size": Key(
        8_000,
        "text: number of sub-words, shared by both languages; learned from the training split or taken from init_from",
    ),
    "buckets": Key(
        (16, 32, 64), "text: lengths, in tokens, to which sentences are padded; longer sentences are skipped"
    ),
    "repeats": Key(1, "repeated augmentation: number of times an image or clip appears in a batch"),
    "strict": Key(False, "raise an error for unreadable images or clips instead of skipping them"),
    "num_workers": Key(
        0, "number of processes that prepare batches; 0 uses threads of the main process. Batches stay the same", False
    ),
    "num_threads": Key(2, "number of threads that prepare batches. Batches stay the same", False),
    "extra": _extra("data"),
}

TASK = {
    "name": Key(
        "classification",
        "what is learned: classification (images, videos), translation (text), or an import path, such as "
        "mylab.tasks:Regression",
    ),
    "loss": Key("softmax", "classification: softmax, or sigmoid for multi-label or one-vs-all training"),
    "label_smoothing": Key(0.0, "epsilon; each class or token receives epsilon / num_classes, before mixup and CutMix"),
    "mixup_alpha": Key(0.0, "mixup coefficients are drawn from Beta(alpha, alpha); 0 disables mixup"),
    "cutmix_alpha": Key(
        0.0,
        "CutMix areas are drawn from Beta(alpha, alpha); 0 disables CutMix. With both, each batch uses one of "
        "them, with equal probability",
    ),
    "mix_probability": Key(1.0, "probability that a batch is mixed"),
    "beam_size": Key(4, "translation: number of beam-search hypotheses; 1 is greedy decoding"),
    "length_penalty": Key(0.6, "translation: exponent alpha of the length penalty"),
    "extra_length": Key(50, "translation: maximum number of tokens by which a translation may exceed its source"),
    "extra": _extra("task"),
}

SCHEDULE = {
    "name": Key("cosine", "constant, cosine, linear, step, rsqrt or noam"),
    "peak": Key(1e-3, "peak learning rate; for noam, the factor that multiplies hidden_dim ** -0.5"),
    "warmup": Key("0 steps", "duration of the linear warm-up from 0"),
    "end": Key(0.0, "final learning rate of cosine and linear"),
    "boundaries": Key((), "step: durations after which the learning rate is multiplied by step_factor"),
    "step_factor": Key(0.1, "step: factor applied at each boundary"),
    "timescale": Key("10_000 steps", "rsqrt: the learning rate decays as 1 / sqrt(1 + (step - warmup) / timescale)"),
}

OPTIMIZER = {
    "name": Key(
        "adamw",
        "adamw, sgd, lamb, adafactor, lion or muon; or an import path, such as optax:adan or mylab.optim:sophia",
    ),
    "b1": Key(0.9, "decay rate of the first moment (adamw, lamb, lion; muon: of the parameters that Adam updates)"),
    "b2": Key(0.999, "decay rate of the second moment (adamw, lamb, lion; muon: of the parameters that Adam updates)"),
    "eps": Key(1e-8, "epsilon in the denominator (adamw, lamb, muon)"),
    "momentum": Key(0.9, "momentum (sgd, adafactor, muon); 0 disables it for sgd and adafactor"),
    "nesterov": Key(False, "use Nesterov momentum (sgd)"),
    "mu_dtype": Key(str, "dtype of the first moment, such as bfloat16; float32 if unset"),
    "weight_decay": Key(
        0.0, "decoupled weight decay, multiplied by the learning rate as in optax; for sgd, L2 regularisation"
    ),
    "weight_decay_mask": Key(r".*/kernel", "parameters that decay: a regular expression that matches the whole path"),
    "layer_decay": Key(
        1.0, "factor by which the learning rate decreases with each layer, from the head down to the patches"
    ),
    "clip_norm": Key(0.0, "maximum global norm of the gradients; 0 disables clipping"),
    "trainable": Key(
        r".*", "parameters that are trained: a regular expression that matches the whole path; the others are frozen"
    ),
    "ema_decay": Key(
        0.0, "decay of the exponential moving average of the parameters, which is then evaluated; 0 disables it"
    ),
    "schedule": SCHEDULE,
    "extra": _extra("optimizer"),
}

CHECKPOINT = {
    "every": Key("1 epochs", "duration between checkpoints; one is always written at the end", False),
    "keep_last": Key(2, "number of newest checkpoints to keep", False),
    "keep_best": Key(1, "number of best checkpoints to keep, among those written at an evaluation", False),
    "best": Key("top1", "evaluation metric that ranks checkpoints", False),
}

SCHEMA = {
    "seed": Key(0, "seed of initialisation, data order, augmentation and dropout"),
    "init_from": Key(
        str, "fine-tune: workdir or foreign weights (docs/checkpoints.md) to take the initial parameters from"
    ),
    "init_image_size": Key(tuple, "(height, width) that init_from was trained at, for weights that do not store it"),
    "batch_size": Key(1024, "global batch size, in examples; for text, in tokens per side"),
    "accum_steps": Key(1, "number of micro-batches per update: less memory, the same update"),
    "duration": Key("300 epochs", "length of training"),
    "eval_every": Key("1 epochs", "duration between evaluations; the last step is always evaluated", False),
    "eval_batch_size": Key(int, "evaluation batch size; batch_size if unset", False),
    "log_every": Key("50 steps", "duration between lines of training metrics", False),
    "parallel": Key("pmap", "pmap (data parallel) or fsdp (parameters and optimizer state are sharded as well)", False),
    "profile": Key((), "(first, last) step to trace into WORKDIR/profile", False),
    "compilation_cache": Key("~/.cache/vit_jax/xla", "folder of compiled programs; '' disables the cache", False),
    "model": MODEL,
    "data": DATA,
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
