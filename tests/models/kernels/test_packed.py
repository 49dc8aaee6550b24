"""The Pallas kernel for many short sequences, interpreted on the CPU, and its lowering for GPUs and TPUs."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model
from vit_jax.models.kernels import dot_product_attention
from vit_jax.models.kernels.packed import packed_attention


def arrays(shape, dtype=jnp.float32):
    return [jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype) for seed in range(4)]


def values_and_gradients(attention, query, key, value, target):
    out, pull_back = jax.vjp(attention, query, key, value)
    return out, *pull_back(target)


# TNT's words; TimeSformer's frames; rows that fill no power of 2; more sequences than a tile; one sequence
@pytest.mark.parametrize("shape", [(5, 16, 4, 6), (3, 8, 2, 64), (2, 3, 14, 2, 8), (9, 32, 1, 5), (1, 3, 2, 20)])
def test_values_and_gradients_are_those_of_the_formula(shape):
    q, k, v, g = (x.swapaxes(-3, -2) for x in np.asarray(arrays(shape), np.float64))
    scale = shape[-1] ** -0.5
    weights = np.exp(q @ k.swapaxes(-1, -2) * scale)
    weights /= weights.sum(-1, keepdims=True)
    by_weights = g @ v.swapaxes(-1, -2)
    by_logits = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True)) * scale
    transposed = weights.swapaxes(-1, -2), by_logits.swapaxes(-1, -2)
    expected = weights @ v, by_logits @ k, transposed[1] @ q, transposed[0] @ g
    got = jax.jit(functools.partial(values_and_gradients, packed_attention))(*arrays(shape))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x, y.swapaxes(-3, -2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 16, 4, 6), (2, 3, 14, 2, 8)])
def test_one_array_of_queries_keys_and_values_gives_the_same(shape):
    joint = jnp.concatenate([x.reshape(*shape[:-2], -1) for x in arrays(shape)[:3]], axis=-1)

    def of_joint(joint):
        apart = [x.reshape(shape) for x in jnp.split(joint, 3, axis=-1)]
        return packed_attention(*apart, joint)

    expected, *gradients = values_and_gradients(packed_attention, *arrays(shape))
    got, pull_back = jax.vjp(of_joint, joint)
    np.testing.assert_array_equal(got, expected)
    gradients = jnp.concatenate([x.reshape(*shape[:-2], -1) for x in gradients], axis=-1)
    np.testing.assert_array_equal(*pull_back(arrays(shape)[3]), gradients)


def test_bfloat16_is_as_accurate_as_the_reference():
    exact = values_and_gradients(functools.partial(dot_product_attention, kernel="reference"), *arrays((6, 16, 2, 8)))
    got = values_and_gradients(packed_attention, *arrays((6, 16, 2, 8), jnp.bfloat16))
    for x, y in zip(got, exact, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(x), y, atol=0.03 * np.abs(y).max())


@pytest.mark.parametrize("options", [{"is_causal": True}, {"mask": jnp.tri(16, dtype=bool)}, {"bias": jnp.eye(16)}])
def test_what_the_kernel_does_not_compute_is_left_to_auto(options):
    query, key, value, _ = arrays((2, 16, 2, 4))
    expected = dot_product_attention(query, key, value, **options)
    got = dot_product_attention(query, key, value, kernel="packed", **options)
    np.testing.assert_array_equal(got, expected)
    long = arrays((1, 33, 1, 4))[:3]
    np.testing.assert_array_equal(dot_product_attention(*long, kernel="packed"), dot_product_attention(*long))


def test_what_the_compiler_divides_over_devices_is_left_to_auto(monkeypatch):
    monkeypatch.setattr("vit_jax.models.kernels.attention.is_whole", lambda: False)
    short = arrays((2, 16, 2, 4))[:3]
    np.testing.assert_array_equal(dot_product_attention(*short, kernel="packed"), dot_product_attention(*short))


def test_a_tnt_uses_it_for_its_words(randomised):
    fields = {"num_classes": 3, "image_size": (32, 32), "num_layers": 1, "hidden_dim": 16, "mlp_dim": 32}
    fields |= {"num_heads": 2, "inner_hidden_dim": 8, "inner_mlp_dim": 16, "inner_num_heads": 2}
    plain, packed = (build_model("tnt:S/16", **fields, attention_kernel=kernel) for kernel in ("auto", "packed"))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    params = randomised(jax.eval_shape(lambda: plain.init(jax.random.key(0), images, train=False))["params"])
    expected, got = (
        jax.jit(lambda p, m=m: m.apply({"params": p}, images, train=False))(params) for m in (plain, packed)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


DEVICES = {"cuda": ("hopper", "NVIDIA H100 80GB HBM3", 132, "gpu"), "tpu": ("tpu", "TPU v5 lite", 1, "tpu")}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("shape", [(784, 16, 4, 6), (196, 8, 12, 64)])
def test_lowering(platform, shape):
    device, kind, cores, backend = DEVICES[platform]
    context = contextlib.nullcontext()
    if hasattr(jax.sharding, "AbstractDevice") and jax.__version_info__ >= (0, 11):
        abstract = jax.sharding.AbstractDevice(device_kind=kind, num_cores=cores, platform=backend)
        context = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=abstract))
    elif platform == "tpu":
        pytest.skip("this JAX lowers for a TPU only where it has one")
    query = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    attention = functools.partial(packed_attention, device=device)
    with context:
        traced = jax.jit(functools.partial(values_and_gradients, attention)).trace(*[query] * 4)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("__gpu$xla.gpu.triton" if platform == "cuda" else "tpu_custom_call") == 2
