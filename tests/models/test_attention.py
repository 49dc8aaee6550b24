"""Every attention kernel against Flax's attention function, and the multi-head layer against Flax's layer."""

import functools
import importlib.util
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from vit_jax.models.attention import MultiHeadAttention, attention_weights, dot_product_attention

needs_tokamax = pytest.mark.skipif(
    importlib.util.find_spec("tokamax") is None, reason="needs tokamax, the extra 'kernels'"
)
every_kernel = pytest.mark.parametrize("kernel", ["reference", "xla", "chunked"])
HEADS, QUERIES = 2, 5


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def qkv(batch=(2,), keys=QUERIES, qk_head_dim=4, v_head_dim=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        normal(rng, *batch, QUERIES, HEADS, qk_head_dim),
        normal(rng, *batch, keys, HEADS, qk_head_dim),
        normal(rng, *batch, keys, HEADS, v_head_dim),
    )


def random_mask(*shape, seed=1):
    mask = np.random.default_rng(seed).random(shape) < 0.6
    mask[..., 0] = True  # a row with nothing to see is a test of its own
    return jnp.asarray(mask)


# batch dimensions, shape of the mask, shape of the bias, causal, keys, qk_head_dim, v_head_dim
CASES = {
    "plain": ((2,), None, None, False, 5, 4, 4),
    "no batch": ((), (5, 7), (2, 5, 7), False, 7, 4, 4),
    "two batch dimensions, narrow values": ((2, 3), (3, 1, 1, 5), (2, 5, 5), False, 5, 6, 3),
    "three batch dimensions": ((2, 1, 3), (2, 1, 1, 1, 5, 7), (1, 3, 2, 1, 7), False, 7, 4, 4),
    "causal, more keys, wide values": ((2, 2), None, (5, 7), True, 7, 3, 6),
    "causal, fewer keys, padding mask": ((2,), (2, 1, 1, 3), None, True, 3, 4, 4),
    "causal and masked": ((3, 2), (2, 1, 5, 5), (5, 5), True, 5, 4, 4),
    "mask of keys": ((2,), (7,), (7,), False, 7, 4, 4),
    "mask of a head": ((2,), (2, 1, 5), (2, 1, 1), False, 5, 4, 4),
    "whole mask": ((2,), (2, 2, 5, 7), (2, 2, 5, 7), False, 7, 4, 4),
}


def values_and_gradients(attention, case):
    batch, mask, bias, is_causal, keys, qk_head_dim, v_head_dim = CASES[case]
    arrays = qkv(batch, keys, qk_head_dim, v_head_dim)
    mask = None if mask is None else random_mask(*mask)
    bias = None if bias is None else normal(np.random.default_rng(2), *bias)
    target = normal(np.random.default_rng(3), *batch, QUERIES, HEADS, v_head_dim)

    def run(*arrays_and_bias):
        out, pull_back = jax.vjp(functools.partial(attention, mask=mask, is_causal=is_causal), *arrays_and_bias)
        return out, pull_back(target)

    return jax.jit(run)(*arrays, bias)


@functools.cache
def expected_values_and_gradients(case):
    def flax(query, key, value, bias, mask, is_causal):
        if is_causal:
            causal = np.arange(key.shape[-3]) <= np.arange(QUERIES)[:, None]
            mask = causal if mask is None else mask & causal
        return nn.dot_product_attention(query, key, value, bias=bias, mask=mask)

    return values_and_gradients(flax, case)


@every_kernel
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_flax(kernel, case):
    def ours(query, key, value, bias, mask, is_causal):
        return dot_product_attention(query, key, value, mask=mask, bias=bias, is_causal=is_causal, kernel=kernel)

    got = values_and_gradients(ours, case)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected_values_and_gradients(case)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@every_kernel
def test_bfloat16_inputs(kernel):
    arrays = [x.astype(jnp.bfloat16) for x in qkv(keys=7)]
    out = jax.jit(functools.partial(dot_product_attention, kernel=kernel))(*arrays)
    exact = nn.dot_product_attention(*(x.astype(jnp.float32) for x in arrays))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out), exact, rtol=2**-7, atol=2**-7)


def test_weights_are_float32_and_sum_to_1():
    query, key, _ = qkv(keys=7)
    mask = random_mask(5, 7)
    exact = attention_weights(query, key, mask)
    weights = attention_weights(query.astype(jnp.bfloat16), key.astype(jnp.bfloat16), mask)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights, exact, atol=0.03)
    assert not weights[..., ~mask].any()


@every_kernel
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_query_that_sees_nothing_attends_uniformly(kernel, with_bias):
    query, key, value = qkv(keys=7)
    mask = jnp.ones((5, 1), bool).at[2].set(False)
    bias = normal(np.random.default_rng(2), 5, 7) if with_bias else None

    def attention(query, key, value):
        return dot_product_attention(query, key, value, mask=mask, bias=bias, kernel=kernel)

    @jax.jit
    def values_and_gradients(*arrays):
        out, pull_back = jax.vjp(attention, *arrays)
        return out, pull_back(out)

    out, gradients = values_and_gradients(query, key, value)
    np.testing.assert_allclose(out[:, 2], value.mean(axis=1), rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][:, 2].any()


@every_kernel
@pytest.mark.parametrize("keys", [5, 7])
def test_causal_by_gradient(kernel, keys):
    query, key, value = qkv(keys=keys)

    def attention(key, value):
        return dot_product_attention(query, key, value, is_causal=True, kernel=kernel).sum(axis=(0, 2, 3))

    allowed = np.arange(keys) <= np.arange(QUERIES)[:, None]
    by_key, by_value = jax.jit(jax.jacrev(attention, argnums=(0, 1)))(key, value)
    np.testing.assert_array_equal(np.abs(by_value).max(axis=(1, 3, 4)) > 0, allowed)
    by_key = np.abs(by_key).max(axis=(1, 3, 4))
    assert not by_key[~allowed].any()
    assert by_key[1:][allowed[1:]].all()  # the first query sees one key: its weight is 1 whatever that key is


@pytest.mark.parametrize(("keys", "kernel"), [(16, "xla"), (17, "reference"), (1_024, "reference"), (1_025, "chunked")])
def test_auto_on_a_cpu_is_the_reference_above_16_keys_and_chunked_above_1024(keys, kernel):
    arrays = qkv(keys=keys)
    by_default = dot_product_attention(*arrays)
    np.testing.assert_array_equal(by_default, dot_product_attention(*arrays, kernel="auto"))
    np.testing.assert_array_equal(by_default, dot_product_attention(*arrays, kernel=kernel))


def test_unknown_kernel():
    with pytest.raises(ValueError, match=r"unknown attention kernel 'flash'; known: auto, reference, xla"):
        dot_product_attention(*qkv(), kernel="flash")


@pytest.mark.parametrize(
    "kernel", ["cudnn", pytest.param("mosaic", marks=needs_tokamax), pytest.param("triton", marks=needs_tokamax)]
)
def test_a_kernel_that_does_not_run_here_is_refused_by_name(kernel):
    with pytest.raises(ValueError, match=f"attention kernel '{kernel}' does not run on this cpu"):
        dot_product_attention(*qkv(), kernel=kernel)


@pytest.mark.parametrize("kernel", ["mosaic", "triton"])
def test_missing_tokamax_says_what_to_install(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokamax", None)
    with pytest.raises(ImportError, match=rf"{kernel}.*pip install 'vit_jax\[kernels\]'"):
        dot_product_attention(*qkv(), kernel=kernel)


def test_the_shape_words_of_signatures_are_checked():
    query, key, value = qkv()
    with pytest.raises(jaxtyping.TypeCheckError, match="heads"):
        dot_product_attention(query, key[:, :, :1], value)


def cross_tokens():
    rng = np.random.default_rng(4)
    return normal(rng, 2, 5, 8), normal(rng, 2, 7, 8)


@pytest.mark.parametrize(
    ("kernel", "qkv_bias", "cross"),
    [("auto", True, False), ("auto", False, True), ("reference", True, True), ("reference", False, False)],
)
def test_multi_head_attention_is_that_of_flax(kernel, qkv_bias, cross, randomised):
    x, y = cross_tokens()
    y = y if cross else None
    mask = random_mask(2, 1, 5, 7 if cross else 5)
    ours = MultiHeadAttention(2, qkv_bias=qkv_bias, kernel=kernel)
    flax = nn.MultiHeadDotProductAttention(2, deterministic=True)
    params = randomised(jax.eval_shape(lambda: ours.init(jax.random.key(0), x, y, train=False))["params"])
    of_flax = {
        name: {"bias": jnp.zeros(layer["kernel"].shape[1:])} | layer if name != "out" else layer
        for name, layer in params.items()
    }

    @jax.jit
    def values_and_gradients(params, of_flax):
        out, pull_back = jax.vjp(lambda p: ours.apply({"params": p}, x, y, mask=mask, train=False)[0], params)
        expected, pull_back_flax = jax.vjp(lambda p: flax.apply({"params": p}, x, y, mask=mask), of_flax)
        return (out, pull_back(out)[0]), (expected, pull_back_flax(expected)[0])

    (out, gradients), (expected, of_flax) = values_and_gradients(params, of_flax)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        layer, leaf = (key.key for key in path)
        scale = np.abs(of_flax[layer]["kernel"]).max()  # the gradient of the key's bias is 0 but for rounding
        np.testing.assert_allclose(gradient, of_flax[layer][leaf], rtol=1e-5, atol=1e-5 * scale, err_msg=str(path))


@pytest.mark.parametrize(("batch", "qkv_bias"), [((), True), ((2,), False), ((3, 2), True)])
def test_keys_and_values_kept_from_before_are_those_of_the_tokens(batch, qkv_bias, randomised):
    rng = np.random.default_rng(5)
    x, memory = normal(rng, *batch, 5, 8), normal(rng, *batch, 7, 8)
    layer = MultiHeadAttention(3, qk_head_dim=4, v_head_dim=2, qkv_bias=qkv_bias)
    variables = randomised(jax.eval_shape(lambda: layer.init(jax.random.key(0), x, train=False)))
    attend = functools.partial(layer.apply, variables, return_weights=True, train=False)

    @jax.jit
    def step(token, past, kept, position):
        past = past.insert(layer.apply(variables, token, method="key_values"), position)
        return attend(token, past, mask=jnp.arange(6) <= position), attend(token, kept), past

    past = layer.apply(variables, *batch, 6, method="empty_key_values")
    assert (past.key.shape, past.value.shape) == ((*batch, 6, 3, 4), (*batch, 6, 3, 2))
    past = jax.tree.map(lambda leaf: leaf + 100, past)  # what is not filled yet is not looked at
    kept = layer.apply(variables, memory, method="key_values")
    causal, across = jax.jit(lambda: (attend(x, is_causal=True), attend(x, memory)))()
    for i in range(5):
        of_past, of_memory, past = step(x[..., i : i + 1, :], past, kept, i)
        for (out, weights), (all_out, all_weights) in ((of_past, causal), (of_memory, across)):
            np.testing.assert_allclose(out, all_out[..., i : i + 1, :], rtol=1e-5, atol=1e-5)
            keys = all_weights.shape[-1]
            np.testing.assert_allclose(weights[..., :keys], all_weights[..., i : i + 1, :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_one_product_for_queries_keys_and_values_changes_nothing(qkv_bias, randomised, monkeypatch):
    x, _ = cross_tokens()
    layer = MultiHeadAttention(2, qk_head_dim=3, v_head_dim=5, qkv_bias=qkv_bias)
    results = []
    for once in (True, False):
        monkeypatch.setattr("vit_jax.models.attention.one_product_is_faster", lambda _, once=once: once)
        initial = layer.init(jax.random.key(0), x, train=False)
        variables = randomised(initial)
        text = str(jax.make_jaxpr(lambda v: layer.apply(v, x, train=False)[0])(variables))
        out, pull_back = jax.vjp(lambda v: layer.apply(v, x, train=False)[0], variables)
        results.append((text.count("dot_general"), initial, out, pull_back(out)))
    assert (results[0][0], results[1][0]) == (4, 6)
    jax.tree.map(np.testing.assert_array_equal, results[0][1], results[1][1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), results[0][2:], results[1][2:])


def test_the_output_projection_needs_no_bias(randomised):
    x, _ = cross_tokens()
    layer = MultiHeadAttention(2, out_bias=False)
    params = randomised(jax.eval_shape(lambda: layer.init(jax.random.key(0), x, train=False))["params"])
    assert list(params["out"]) == ["kernel"]
    with_bias = params | {"out": params["out"] | {"bias": jnp.zeros(8)}}
    expected = MultiHeadAttention(2).apply({"params": with_bias}, x, train=False)[0]
    np.testing.assert_array_equal(layer.apply({"params": params}, x, train=False)[0], expected)


def test_initial_values_are_those_of_flax():
    x, _ = cross_tokens()
    flax = nn.MultiHeadDotProductAttention(2, kernel_init=nn.initializers.xavier_uniform())
    ours = jax.jit(lambda key: MultiHeadAttention(2).init(key, x, train=False))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, ours, jax.jit(flax.init)(jax.random.key(0), x))


@pytest.mark.parametrize(("kernel", "is_causal"), [("auto", True), ("reference", True), ("auto", False)])
def test_head_dimensions_differ_and_weights_come_back(kernel, is_causal, randomised):
    x, y = cross_tokens()
    layer = MultiHeadAttention(3, qk_head_dim=5, v_head_dim=2, kernel=kernel)  # 3 does not divide 8
    params = randomised(jax.eval_shape(lambda: layer.init(jax.random.key(0), x, y, train=False))["params"])
    p = jax.tree.map(np.float64, params)

    query = np.einsum("bqc,chd->bhqd", x, p["query"]["kernel"]) + p["query"]["bias"][:, None]
    key = np.einsum("bkc,chd->bhkd", y, p["key"]["kernel"]) + p["key"]["bias"][:, None]
    value = np.einsum("bkc,chd->bhkd", y, p["value"]["kernel"]) + p["value"]["bias"][:, None]
    weights = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(5))
    weights = np.tril(weights) if is_causal else weights
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqd,hdc->bqc", weights @ value, p["out"]["kernel"]) + p["out"]["bias"]

    for return_weights in (False, True):
        options = {"is_causal": is_causal, "return_weights": return_weights, "train": False}
        out, got = jax.jit(functools.partial(layer.apply, **options))({"params": params}, x, y)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
        assert (got is not None) == return_weights
    np.testing.assert_allclose(got, weights, rtol=1e-5, atol=1e-5)


def test_heads_must_divide_the_width():
    x, _ = cross_tokens()
    with pytest.raises(ValueError, match="num_heads=3 does not divide hidden_dim=8"):
        MultiHeadAttention(3).init(jax.random.key(0), x, train=False)


def test_attention_dropout():
    tokens, heads, rate = 64, 2, 0.25
    layer = MultiHeadAttention(heads, qk_head_dim=4, v_head_dim=tokens, dropout_rate=rate)
    # values are one-hot and every weight 1/64, so that head h writes its 64 dropped weights, in units of 1/64, at
    # the channels [64 h, 64 (h + 1)) of its query
    x = jnp.broadcast_to(jnp.eye(tokens, heads * tokens), (4, tokens, heads * tokens))
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, train=False))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    identity = jnp.eye(heads * tokens).reshape(heads, tokens, -1)
    params["value"]["kernel"] = jnp.broadcast_to(jnp.eye(heads * tokens, tokens)[:, None], (128, heads, tokens))
    params["out"]["kernel"] = tokens * identity

    @functools.partial(jax.jit, static_argnums=0)
    def apply_layer(train, rngs):
        return layer.apply({"params": params}, x, return_weights=True, train=train, rngs=rngs)

    def apply(train, seed=1):
        out, weights = apply_layer(train, {"dropout": jax.random.key(seed)})
        return np.asarray(out).reshape(4, tokens, heads, tokens), weights

    kept, weights = apply(train=True)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert set(np.unique(kept.round(5))) == {0, np.float32(1 / (1 - rate)).round(5)}
    np.testing.assert_allclose((kept == 0).mean(), rate, atol=0.01)  # 32768 draws: 4 standard deviations
    for one, other in ((kept[0], kept[1]), (kept[:, :, 0], kept[:, :, 1]), (kept, apply(True, seed=2)[0])):
        both = ((one > 0) & (other > 0)).mean()  # independent draws for each example, head and rng
        np.testing.assert_allclose(both, (1 - rate) ** 2, atol=0.025)
    np.testing.assert_allclose(apply(train=False)[0], 1, rtol=1e-5)
