"""Attention in blocks against attention with all weights, and what it holds in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.kernels import dot_product_attention
from vit_jax.models.kernels.chunked import chunked_attention

HEADS, QUERIES, KEYS = 2, 37, 53

# batch dimensions, shape of the mask, shape of the bias, causal, queries, keys, qk_head_dim, v_head_dim, chunk
CASES = {
    "one block": ((2,), None, None, False, 5, 7, 4, 4, 64),
    "blocks without padding": ((2,), None, None, False, 32, 48, 4, 4, 16),
    "padded blocks, no batch": ((), (37, 53), (2, 37, 53), False, QUERIES, KEYS, 4, 4, 16),
    "mask of keys, bias of queries": ((2, 3), (3, 1, 1, 53), (2, 37, 1), False, QUERIES, KEYS, 6, 3, 16),
    "mask of queries, bias of keys": ((2,), (2, 1, 37, 1), (1, 1, 1, 53), False, QUERIES, KEYS, 4, 6, 16),
    "bias of examples": ((3,), None, (3, 1, 1, 1), False, QUERIES, KEYS, 4, 4, 16),
    "causal, more keys": ((2,), None, (37, 53), True, QUERIES, KEYS, 4, 4, 16),
    "causal and masked, fewer keys": ((2, 1, 2), (2, 37, 20), None, True, QUERIES, 20, 4, 4, 16),
    "one query": ((2,), (53,), (53,), False, 1, KEYS, 4, 4, 16),
    "one key": ((2,), None, None, False, QUERIES, 1, 4, 4, 16),
    "large bias of all queries": ((2,), None, (1, 53), False, QUERIES, KEYS, 4, 4, 16),
}


def arrays_of(case, dtype=jnp.float32):
    batch, mask, bias, _, queries, keys, qk_head_dim, v_head_dim, _ = CASES[case]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    qkv = normal(*batch, queries, HEADS, qk_head_dim), normal(*batch, keys, HEADS, qk_head_dim)
    qkv += (normal(*batch, keys, HEADS, v_head_dim),)
    mask = None if mask is None else jnp.asarray(rng.random(mask) < 0.6)
    bias = None if bias is None else normal(*bias) * (300 if "large" in case else 1)
    return qkv, bias, mask, normal(*batch, queries, HEADS, v_head_dim)


def values_and_gradients(attention, case, dtype=jnp.float32):
    qkv, bias, mask, target = arrays_of(case, dtype)

    @jax.jit
    def run(*arrays):
        out, pull_back = jax.vjp(lambda *arrays: attention(*arrays, mask=mask), *arrays)
        return out, pull_back(target)

    return jax.tree.leaves(run(*qkv, bias))


def blockwise(case):
    *_, is_causal, _, _, _, _, chunk = CASES[case]
    return functools.partial(chunked_attention, is_causal=is_causal, chunk=chunk)


def reference(case):
    is_causal = CASES[case][3]

    def attention(query, key, value, bias, mask):
        return dot_product_attention(query, key, value, bias=bias, mask=mask, is_causal=is_causal, kernel="reference")

    return attention


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_reference(case):
    ours, theirs = (values_and_gradients(of(case), case) for of in (blockwise, reference))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_float64_is_float64_throughout():
    case = "padded blocks, no batch"
    with jax.enable_x64(True):
        ours, theirs = (values_and_gradients(of(case), case, jnp.float64) for of in (blockwise, reference))
        for x, y in zip(ours, theirs, strict=True):
            assert x.dtype == jnp.float64
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


def test_bfloat16_inputs_have_float32_sums():
    case = "padded blocks, no batch"
    ours = values_and_gradients(blockwise(case), case, jnp.bfloat16)
    exact = values_and_gradients(reference(case), case)
    for x, y in zip(ours, exact, strict=True):
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(x), y, rtol=0.03, atol=0.03)


def test_queries_that_see_nothing_attend_uniformly_and_pass_no_gradient_to_logits():
    (query, key, value), _, _, _ = arrays_of("padded blocks, no batch")
    mask = jnp.ones((QUERIES, 1), bool).at[jnp.array([0, 20])].set(False)
    attention = functools.partial(chunked_attention, mask=mask, chunk=16)
    out, pull_back = jax.vjp(attention, query, key, value)
    np.testing.assert_allclose(out[20], value.mean(axis=0), rtol=1e-5, atol=1e-5)
    d_query, d_key, _ = pull_back(jnp.zeros_like(out).at[jnp.array([0, 20])].set(1.0))
    assert not d_query.any()
    assert not d_key.any()


def test_memory_is_linear_in_the_tokens():
    """By XLA's analysis of the compiled gradient: four times the tokens take about four times the memory."""

    def temporary(tokens):
        x = jax.ShapeDtypeStruct((1, tokens, 4, 32), jnp.float32)
        gradient = jax.grad(lambda *qkv: chunked_attention(*qkv).sum(), argnums=(0, 1, 2))
        return jax.jit(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary(4_096), temporary(16_384)
    assert many < 4.2 * few
    assert many < 16_384**2 * 4 / 4  # a fourth of the weights of one head
