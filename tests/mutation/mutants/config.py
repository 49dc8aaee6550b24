"""Mutants of configs: keys, durations, optimizers and schedules."""

# ruff: noqa: E501

KEYS = "tests/config/test_resume_keys.py tests/config/test_config.py"
OPTIMIZER = "tests/test_optimizer.py"

MUTANTS = {
    ("vit_jax/config/schema.py", KEYS): [
        ('"number of micro-batches per update: less memory, the same update")', '"number of micro-batches", False)'),
        ('"duration between evaluations; the last step is always evaluated", False)', '"duration between evaluations")'),
        ('"number of newest checkpoints to keep", False)', '"number of newest checkpoints to keep")'),
        ('"duration between lines of training metrics", False)', '"duration between lines of training metrics")'),
        ('"length of training")', '"length of training", False)'),
    ],
    ("vit_jax/config/__init__.py", KEYS): [
        ('(steps_per_epoch if match[2] == "epoch" else 1)', '(1 if match[2] == "epoch" else steps_per_epoch)'),
        ("return round(float(match[1])", "return int(float(match[1])"),
        ("defaults | flatten(old)", "flatten(old)"),
        ("(name in known and known[name].affects_results)", "name in known"),
        ("if was.get(name) != now.get(name)\n", "if name in was and was.get(name) != now.get(name)\n"),
    ],
    ("vit_jax/optimizer.py", OPTIMIZER): [
        ("hidden_dim**-0.5 * jnp.minimum", "jnp.minimum"),
        ("(step + 1.0) ** -0.5", "(step + 2.0) ** -0.5"),
        ("decay_steps = total_steps - warmup", "decay_steps = total_steps"),
        ("optax.linear_schedule(0.0, peak, warmup)", "optax.linear_schedule(peak, peak, warmup)"),
        ("{end - warmup: config.step_factor", "{end: config.step_factor"),
        ("(1.0 + step / timescale) ** -0.5", "(1.0 + step / timescale) ** 0.5"),
        ("alpha=config.end / peak if peak else 0.0", "alpha=config.end"),
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
