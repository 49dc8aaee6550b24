"""Mutants of the models, and of their analysis."""

MUTANTS = {
    ("vit_jax/models/kernels/reference.py", "tests/models/test_attention.py"): [
        ("logits += bias", "logits -= bias"),
        ("jnp.finfo(logits.dtype).min)", "0.0)"),
    ],
    ("vit_jax/models/kernels/products.py", "tests/models/kernels/test_gpu_forms.py"): [
        ("is_whole() and generation()", "generation()"),
    ],
    ("vit_jax/models/kernels/libraries.py", "tests/models/kernels/test_gpu_forms.py"): [
        ('given.arguments["has_bias"] = False', "pass"),
        ("(odd_accepted and bias is None and mask is None)", "odd_accepted"),
    ],
    ("vit_jax/models/kernels/channels.py", "tests/models/kernels/test_gpu_forms.py"): [
        ("if not joins_tokens(x):", "if True:"),
    ],
    ("vit_jax/models/kernels/packed.py", "tests/models/kernels/test_packed.py"): [
        ("column // sizes.head_dim == head", "column % sizes.head_dim == head"),
        ("(column % sizes.slots < sizes.tokens)", "(column >= 0)"),
    ],
    ("vit_jax/models/attention.py", "tests/models/kernels/test_gpu_forms.py"): [
        ("None if divides_clips() else joint", "joint"),
    ],
    ("vit_jax/models/attention.py", "tests/models/test_attention.py"): [
        ("deterministic=not drop)", "deterministic=True)"),
    ],
    ("vit_jax/models/layers.py", "tests/models/test_layers.py tests/models/vit/test_vit.py"): [
        ("x / jnp.asarray(1.0 - rate, x.dtype)", "x"),
        ("x.shape[: self.num_axes] + (1,) * (x.ndim - self.num_axes)", "x.shape"),
        ("-(fan_in**-0.5), fan_in**-0.5)", "0.0, fan_in**-0.5)"),
        ("hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=not train)", "pass"),
    ],
    ("vit_jax/models/blocks/stack.py", "tests/models/test_layers.py tests/models/vit/test_vit.py"): [
        ("self.drop_path_rate / max(self.num_layers - 1, 1)", "self.drop_path_rate / self.num_layers"),
    ],
    ("vit_jax/models/blocks/stack.py", "tests/models/test_scan_layers.py"): [
        ("blocks = jax.lax.optimization_barrier(blocks)", "pass"),
    ],
    ("vit_jax/models/blocks/stack.py", "tests/models/test_remat.py"): [
        ("nn.remat(call) if self.remat_branches else call", "call"),
    ],
    ("vit_jax/models/positions.py", "tests/models/test_positions.py"): [
        ("max(quarter - 1, 1)", "quarter"),
        ("[jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]", "[jnp.sin(y), jnp.cos(y), jnp.sin(x), jnp.cos(x)]"),
        ("place[:, None] - place + num_tokens - 1", "place - place[:, None] + num_tokens - 1"),
        ("(np.arange(new) + 0.5) * old / (new + extra) - 0.5", "np.arange(new) * old / (new + extra)"),
        ("np.arange(new) * (old - 1) / max(new - 1, 1)", "np.arange(new) * old / new"),
    ],
    ("vit_jax/models/timesformer.py", "tests/models/vit/test_model_gaps.py"): [
        ("x = drop(x + times[:, None, None].astype(x.dtype))", "x = x + times[:, None, None].astype(x.dtype)"),
        ("        x = drop(x)\n", ""),
        ("[drop(cls), x]", "[cls, x]"),
    ],
    ("vit_jax/models/blocks/timesformer.py", "tests/models/test_timesformer.py"): [
        ("has_all = has_cls and y.shape[1] == 1", "has_all = y.shape[1] == 1"),
        ("has_all = has_cls and y.shape[1] == 1", "has_all = False"),
    ],
    ("vit_jax/models/timesformer.py", "tests/models/test_timesformer.py"): [
        ("x[:, :, 0].mean(axis=1) if by_frame else x[:, 0]", "x[:, 0, 0] if by_frame else x[:, 0]"),
        ('self.pos_embed == "space_time" and', 'self.pos_embed != "none" and'),
    ],
    ("vit_jax/models/vit.py", "tests/models/vit/test_vit.py tests/models/vit/test_model_gaps.py"): [
        ("x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)", "pass"),
        ("return x.mean(axis=1)", "return x[:, 0]"),
        ("nn.initializers.constant(self.head_bias_init)", "nn.initializers.zeros"),
        ("pooled = nn.tanh(Dense(self.representation_dim", "pooled = nn.gelu(Dense(self.representation_dim"),
    ],
    ("vit_jax/models/decoding.py", "tests/models/transformer/test_decoding.py"): [
        ("return ((5 + length) / 6) ** alpha", "return ((6 + length) / 6) ** alpha"),
        ("alive &= (last != eos_id) & (i + 1 < max_lengths)", "alive &= last != eos_id"),
        ("length_penalty(max_lengths, alpha)", "length_penalty(i + 1, alpha)"),
        (".at[:, 0].set(0)", ""),
    ],
    ("vit_jax/models/transformer.py", "tests/models/transformer/test_transformer.py"): [
        ("x * self.hidden_dim**0.5 + positions", "x + positions"),
        ("return (source != self.pad_id)[:, None, None, :]", "return (source == source)[:, None, None, :]"),
    ],
    ("vit_jax/analysis/embedding/few_shot.py", "tests/analysis/embedding/test_few_shot.py"): [
        ("x.std(0) + 1e-5", "x.var(0) + 1e-5"),
        ("(1 - leverage)[:, None]", "1"),
        ("found[:shots]", "found[-shots:]"),
        ("left**2 @ shrinkage + 1 / len(x)", "left**2 @ shrinkage"),
    ],
    ("vit_jax/analysis/embedding/features.py", "tests/analysis/embedding/test_features.py"): [
        ("patches.mean(axis=(2, 3))", "patches.mean(axis=(1, 2))"),
        ("return layer % model.num_layers", "return abs(layer)"),
    ],
    ("vit_jax/analysis/cost.py", "tests/analysis/test_cost.py"): [
        ("macs * eqn.params[\"length\"]", "macs"),
        ("math.prod(kernel) // features", "math.prod(kernel)"),
        ("if all(operands) else 0", "if any(operands) else 0"),
    ],
}  # fmt: skip
