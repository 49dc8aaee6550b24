"""What a config means: keys, durations, optimizers and schedules."""

KEYS = "tests/loop/test_resume_keys.py tests/test_config.py"
OPTIMIZER = "tests/test_optimizer.py"

MUTANTS = {
    ("vit_jax/config.py", KEYS): [
        ('"accum_steps": Key(1, "micro-batches of one update: less memory, the same update")',
         '"accum_steps": Key(1, "micro-batches of one update: less memory, the same update", False)'),
        ('"exponential moving average of the parameters, evaluated in their place; 0 for none")',
         '"exponential moving average of the parameters, evaluated in their place; 0 for none", False)'),
        ('"duration between evaluations; one is always made at the end", False)',
         '"duration between evaluations; one is always made at the end")'),
        ('"newest checkpoints kept", False)', '"newest checkpoints kept")'),
        ("effect(value) if callable(effect)", "value if callable(effect)"),
        ("(steps_per_epoch if match[2] == \"epoch\" else 1)", "(1 if match[2] == \"epoch\" else steps_per_epoch)"),
        ("return round(float(match[1])", "return int(float(match[1])"),
        ("was = flatten(default_config()) | flatten(old)", "was = flatten(old)"),
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
        ("last_inputs = leaf.ndim - 1 if path.endswith(\"/out/kernel\") else 1", "last_inputs = 1"),
        ("consistent_rms=0.2", "consistent_rms=None"),
        ("momentum = config.momentum or None", "momentum = None"),
        ("\"frozen\": optax.set_to_zero()", "\"frozen\": tx"),
    ],
}  # fmt: skip
