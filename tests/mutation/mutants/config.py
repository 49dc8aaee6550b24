"""Mutants of configs: keys, legal values, durations, the checks before a start, optimizers and schedules."""

# ruff: noqa: E501

KEYS = "tests/config/test_resume_keys.py tests/config/test_config.py tests/config/test_forms.py"
OPTIMIZER = "tests/test_optimizer.py"

MUTANTS = {
    ("vit_jax/config/schema.py", KEYS): [
        ('the same update", Whole(1, 65_536))', 'the same update", Whole(1, 65_536), affects_results=False)'),
        ('the last step is always evaluated", INTERVAL, affects_results=False', 'the last step is always evaluated", INTERVAL'),
        ('newest checkpoints to keep", Whole(1, 1_000_000), affects_results=False)', 'newest checkpoints to keep", Whole(1, 1_000_000))'),
        ('at every evaluation",\n        INTERVAL,\n        affects_results=False', 'at every evaluation",\n        INTERVAL'),
        ('"length of training", INTERVAL, affects_results=False)', '"length of training", INTERVAL)'),
        ('Whole(0, 2**32 - 1)', 'Whole(0, 2**32)'),
        ('Number("[0, inf)", zero="disables clipping")', 'Number("(-inf, inf)", zero="disables clipping")'),
    ],
    ("vit_jax/config/__init__.py", KEYS): [
        ('(steps_per_epoch if match[2] == "epoch" else 1)', '(1 if match[2] == "epoch" else steps_per_epoch)'),
        ("return round(count)", "return int(count)"),
        ("if value is None and key.is_optional:", "if value is None:"),
        ("if count > MAX_STEPS:", "if count > 2 * MAX_STEPS:"),
        ("defaults | flatten(old)", "flatten(old)"),
        ("(name in known and known[name].affects_results)", "name in known"),
        ("if was.get(name) != now.get(name)\n", "if name in was and was.get(name) != now.get(name)\n"),
    ],
    ("vit_jax/schedule.py", "tests/test_schedule.py"): [
        ("hidden_dim**-0.5 * jnp.minimum", "jnp.minimum"),
        ("(step + 1.0) ** -0.5", "(step + 2.0) ** -0.5"),
        ("peak, decay_steps = config.peak, total_steps - warmup", "peak, decay_steps = config.peak, total_steps"),
        ("optax.linear_schedule(config.start, peak, warmup)", "optax.linear_schedule(0.0, peak, warmup)"),
        ("boundary, steps_per_epoch) - warmup", "boundary, steps_per_epoch)"),
        ("factors.get(end, 1.0) * config.step_factor", "config.step_factor"),
        ("jnp.maximum(step, 0) / timescale", "step / timescale"),
        ("alpha=config.end / peak if peak else 0.0", "alpha=config.end"),
        ("end + (rate(step) - end) * jnp.minimum", "rate(step) * jnp.minimum"),
        ("(total_steps - step) / cooldown", "(total_steps - 1 - step) / cooldown"),
        ("if warmup >= total_steps and", "if warmup > total_steps and"),
        ("total_steps // 10", "0"),
    ],
    ("vit_jax/data/start.py", "tests/config/test_start.py"): [
        ("config.batch_size // repeats > examples", "config.batch_size > examples"),
        ("if len(sizes) > 1 else set()", "if len(sizes) > 9 else set()"),
        ("len(whole) + len(whole.skipped)", "100"),
        ("config.task.loss == \"softmax\" and present == 1", "present == 1"),
    ],
    ("vit_jax/data/splits.py", "tests/config/test_start.py"): [
        ("max(min(a.stop, b.stop) - max(a.start, b.start), 0)", "max(min(a.stop, b.stop) - max(a.start, b.start) - 1, 0)"),
        ("if any(bound.startswith(\"-\") for bound in bounds):", "if False:"),
    ],
    ("vit_jax/optimizer.py", OPTIMIZER): [
        ("return int(block[1]) + 1", "return int(block[1])"),
        ("default=-1) + 2", "default=-1) + 1"),
        ("decay ** (_top(params) - _layer(path, _top(params)))", "decay ** _layer(path, _top(params))"),
        ("config.b1,\n        config.b2,\n        config.eps,", "config.b2,\n        config.b1,\n        config.eps,"),
        ("num_inputs = leaf.ndim - 1 if path.endswith(\"/out/kernel\") else 1", "num_inputs = 1"),
        ("consistent_rms=0.2", "consistent_rms=None"),
        ("momentum = config.momentum or None", "momentum = None"),
        ("\"frozen\": optax.set_to_zero()", "\"frozen\": tx"),
    ],
}  # fmt: skip
