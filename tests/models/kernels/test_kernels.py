"""The choice of an attention kernel, and cuDNN's padding; test_attention.py has the values of every kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import build_model
from vit_jax.models.blocks.timesformer import ATTENTIONS
from vit_jax.models.kernels import KERNELS, hardware
from vit_jax.models.kernels.choice import RULES, choose
from vit_jax.models.kernels.libraries import with_even_lengths


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("capability", "name"),
    [("7.5", "gpu"), ("8.0", "ampere"), ("8.6", "ampere"), ("8.9", "ada"), ("9.0", "hopper"), ("10.0", "blackwell"),
     ("10.3", "blackwell"), ("12.0", "blackwell_workstation"), ("gfx942", "gpu"), ("", "gpu")],
)  # fmt: skip
def test_generation_of_a_compute_capability(capability, name):
    assert hardware.nvidia_generation(capability) == name
    assert name in hardware.GENERATIONS


def test_this_process_computes_on_a_cpu():
    assert hardware.generation() == "cpu"


@pytest.mark.parametrize(
    ("device", "dtype", "keys", "head_dim", "kernel"),
    [
        ("cpu", "float32", 16, 64, "xla"),
        ("cpu", "float32", 17, 64, "reference"),
        ("cpu", "bfloat16", 1024, 64, "reference"),
        ("cpu", "float32", 1025, 64, "chunked"),
        ("cpu", "float64", 1569, 64, "chunked"),
        ("hopper", "float32", 18_817, 64, "chunked"),
        ("hopper", "float64", 18_817, 64, "chunked"),
        ("cpu", "float64", 5, 64, "reference"),
        ("hopper", "float64", 197, 64, "reference"),
        ("hopper", "bfloat16", 197, 64, "cudnn"),
        ("hopper", "float32", 197, 64, "xla"),  # cuDNN has no attention in float32
        ("hopper", "bfloat16", 197, 60, "xla"),  # no multiple of 8
        ("hopper", "bfloat16", 197, 256, "xla"),  # too wide for training
        ("hopper", "bfloat16", 16, 6, "packed"),
        ("hopper", "bfloat16", 8, 64, "packed"),
        ("hopper", "float32", 8, 64, "xla"),
        ("hopper", "bfloat16", 17, 64, "xla"),
        ("blackwell", "bfloat16", 4096, 64, "cudnn"),
        ("blackwell", "bfloat16", 197, 64, "xla"),
        ("ampere", "bfloat16", 197, 64, "xla"),
        ("tpu", "bfloat16", 197, 64, "xla"),
    ],
)
def test_choice(device, dtype, keys, head_dim, kernel):
    assert choose(jnp.dtype(dtype), keys, head_dim, head_dim, device) == kernel


def test_the_table_is_made_of_known_names():
    for rule in RULES:
        assert rule.kernel in KERNELS
        assert set(rule.devices) <= set(hardware.GENERATIONS)
        assert rule.source
    for device in hardware.GENERATIONS:  # every device has a row for every dtype
        assert any(rule.applies(device, "float32", 100, 64, 64) for rule in RULES)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (4, 7), (5, 6), (4, 6)])
def test_one_token_more_changes_nothing(queries, keys, is_causal):
    """Only cuDNN needs it; JAX's other implementation takes the same arguments and runs here."""
    query, key, value = normal(0, 2, queries, 3, 8), normal(1, 2, keys, 3, 8), normal(2, 2, keys, 3, 8)
    bias, target = normal(3, 2, 1, queries, keys), normal(4, 2, queries, 3, 8)
    mask = jnp.asarray(np.random.default_rng(5).random((2, 1, 1, keys)) < 0.7).at[..., 0].set(True)
    plain = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    seen = []

    def even_only(query, key, *rest, **options):
        seen.append((query.shape[1], key.shape[1]))
        return plain(query, key, *rest, **options)

    def run(attention):
        def apply(query, key, value, bias):
            return attention(query, key, value, bias, mask, is_causal=is_causal, scale=8**-0.5)

        out, pull_back = jax.vjp(apply, query, key, value, bias)
        return out, pull_back(target)

    got, expected = jax.jit(lambda: run(with_even_lengths(even_only)))(), jax.jit(lambda: run(plain))()
    assert all(number % 2 == 0 for pair in seen for number in pair)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vit:Ti/16", {"pool": "map"}),
        ("tnt:S/16", {}),
        *(("timesformer:Ti/16", {"attention_type": scheme}) for scheme in ATTENTIONS),
        ("transformer:base", {"vocab_size": 11}),
    ],
)
def test_every_attention_of_a_model_has_its_kernel(name, fields, monkeypatch):
    sizes = {"image_size": (32, 48), "num_classes": 3} if "transformer" not in name else {}
    model = build_model(name, num_layers=2, attention_kernel="reference", **sizes, **fields)
    inputs = [jnp.ones((1, 5), jnp.int32)] * 2 if not sizes else [jnp.zeros((1, *model.input_shape))]
    called = []
    monkeypatch.setattr("vit_jax.models.kernels.attention.choose", lambda *_, **__: called.append(name) or "reference")
    jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
    assert not called
