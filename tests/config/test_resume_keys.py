"""Keys of a config that prevent resuming: those that affect results, and no others."""

import pytest

from vit_jax import config as schema

# where things are, when something is written, how fast it is done; or another check decides
FREE = {
    "duration",  # checked by `Experiment.continued`
    "data.path", "data.data_dir", "data.num_workers", "data.num_threads", "eval_every",
    "eval_batch_size", "log_every", "parallel", "profile", "compilation_cache", "checkpoint.every",
    "checkpoint.keep_last", "checkpoint.keep_best", "checkpoint.best",
}  # fmt: skip
REFUSED = {
    "seed", "init_from", "init_image_size", "batch_size", "accum_steps",
    *(f"model.{name}" for name in (
        "name", "patch_size", "hidden_dim", "mlp_dim", "num_layers", "num_heads", "pool", "pos_embed", "dropout_rate",
        "attention_dropout_rate", "drop_path_rate", "attention_type", "norm_epsilon", "dtype", "gelu",
    )),
    *(f"data.{name}" for name in (
        "name", "train_split", "eval_split", "image_size", "channels", "train_transforms", "eval_transforms", "label",
        "num_frames", "sampling", "eval_clips", "eval_crops", "frames_fps", "languages", "vocab_size", "buckets",
        "repeats", "strict",
    )),
    *(f"task.{name}" for name in (
        "name", "loss", "label_smoothing", "mixup_alpha", "cutmix_alpha", "mix_probability", "beam_size",
        "length_penalty", "extra_length",
    )),
    *(f"optimizer.{name}" for name in (
        "name", "b1", "b2", "eps", "momentum", "nesterov", "mu_dtype", "weight_decay", "weight_decay_mask",
        "layer_decay", "clip_norm", "trainable", "ema_decay",
    )),
    *(f"optimizer.schedule.{name}" for name in (
        "name", "peak", "warmup", "start", "end", "cooldown", "boundaries", "step_factor", "timescale",
    )),
}  # fmt: skip


def changed(value):
    """Returns another value of the same type."""
    if value is None:
        return "something"
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}_other" if isinstance(value, str) else [*value, 7]


def differences_of(name):
    old = schema.flatten(schema.default_config())
    return schema.differences(old, {**old, name: changed(old[name])})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_key_that_changes_results_refuses_a_resume_and_is_named(name):
    (difference,) = differences_of(name)
    assert difference.startswith(f"{name}: ")


@pytest.mark.parametrize("name", sorted(FREE))
def test_other_keys_do_not(name):
    assert differences_of(name) == []


def test_a_key_that_has_come_since_counts_by_its_default_and_one_that_has_gone_not_at_all():
    old = schema.flatten(schema.default_config())
    assert schema.differences({name: value for name, value in old.items() if name != "seed"}, old) == []
    assert schema.differences({**old, "of_the_past": 3}, old) == []
