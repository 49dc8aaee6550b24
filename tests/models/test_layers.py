"""The shared layers against formulas, Flax and timm; a stack of blocks gives the same result however it runs."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.blocks import BlockStack, EncoderBlock
from vit_jax.models.layers import GELU, MLP, Dense, DropPath, LayerScale, PatchEmbed, torch_uniform


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def shapes_of(module, *args, **kwargs):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs)).get("params", {})


@pytest.mark.parametrize(
    ("features", "axes", "use_bias"),
    [(5, (-1,), True), ((2, 3), (-1,), True), ((2, 3), (-1,), False), (5, (-2, -1), True), ((3, 2), (-2, -1), False)],
)
def test_a_dense_layer_is_flax_s(features, axes, use_bias):
    x = normal(2, 3, 4, 6)
    options = {"use_bias": use_bias, "kernel_init": nn.initializers.xavier_uniform()}
    options["bias_init"] = nn.initializers.normal(0.3)
    ours, theirs = Dense(features, len(axes), **options), nn.DenseGeneral(features, axis=axes, **options)
    params = ours.init(jax.random.key(0), x)["params"]
    for got, expected in zip(*map(jax.tree.leaves, (params, theirs.init(jax.random.key(0), x)["params"])), strict=True):
        np.testing.assert_array_equal(got, expected)

    def values_and_gradients(layer):
        out, pull_back = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
        return out, pull_back(jnp.cos(out))

    for got, expected in zip(*map(jax.tree.leaves, map(values_and_gradients, (ours, theirs))), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "patch_size"),
    [((2, 8, 12, 3), (4, 4)), ((2, 17, 22, 3), (4, 7)), ((2, 3, 9, 6, 1), (2, 3)), ((1, 5, 5, 2), (5, 1))],
)
def test_patch_embed_is_a_strided_convolution(image, patch_size, randomised):
    images = normal(*image)
    ours = PatchEmbed(patch_size, 6)
    conv = nn.Conv(6, patch_size, strides=patch_size, padding="VALID")
    params = randomised(shapes_of(ours, images))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes_of(conv, images))

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(layer):
        out, pull_back = jax.vjp(lambda params, images: layer.apply({"params": params}, images), params, images)
        return out, pull_back(jnp.cos(out))

    got, expected = values_and_gradients(ours), values_and_gradients(conv)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_torch_s_initial_values_are_uniform_on_both_sides_of_0():
    values = np.asarray(torch_uniform(16)(jax.random.key(0), (10_000,)))
    assert -0.25 <= values.min() < -0.249
    assert 0.249 < values.max() <= 0.25
    assert abs(values.mean()) < 4 * 0.25 / math.sqrt(3 * 10_000)  # four standard errors


def test_gelus():
    x = np.linspace(-4, 4, 101, dtype=np.float32)
    exact = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    tanh = [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in x]
    assert np.abs(np.subtract(exact, tanh)).max() > 1e-4
    np.testing.assert_allclose(GELU["exact"](x), exact, atol=1e-6)
    np.testing.assert_allclose(GELU["tanh"](x), tanh, atol=1e-6)
    np.testing.assert_allclose(GELU["quick"](x), [v / (1 + math.exp(-1.702 * v)) for v in x], atol=1e-6)


@pytest.mark.parametrize("gelu", GELU)
def test_gelu_rounds_once_and_its_derivative_is_that_of_the_formula(gelu):
    x = np.linspace(-6, 6, 97).astype(np.float32)
    step = 1e-6
    formula = {
        "exact": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
        "tanh": lambda v: v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
        "quick": lambda v: v / (1 + math.exp(-1.702 * v)),
    }[gelu]
    expected = [(formula(float(v) + step) - formula(float(v) - step)) / (2 * step) for v in x]
    np.testing.assert_allclose(jax.vmap(jax.grad(GELU[gelu]))(x), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jvp(GELU[gelu], (x,), (np.ones_like(x),))[1], expected, atol=1e-5)
    narrow = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_array_equal(GELU[gelu](narrow), GELU[gelu](narrow.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("gelu", GELU)
def test_mlp(gelu, randomised):
    x = normal(2, 3, 4)
    mlp = MLP(7, gelu)
    params = randomised(shapes_of(mlp, x, train=False))
    hidden = GELU[gelu](x @ params["in"]["kernel"] + params["in"]["bias"])
    expected = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(mlp.apply({"params": params}, x, train=False), expected, rtol=1e-5, atol=1e-5)


def test_mlp_drops_after_each_layer():
    rate, width = 0.25, 128
    mlp = MLP(width, dropout_rate=rate)
    layer = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    variables = {"params": {"in": layer, "out": layer}}
    x = jnp.full((256, width), 100.0)  # where GELU is the identity, so that the whole MLP is
    dropped = jax.jit(lambda key: mlp.apply(variables, x, train=True, rngs={"dropout": key}))(jax.random.key(0))
    out = np.asarray(dropped) / 100
    np.testing.assert_allclose(np.unique(out), [0, (1 - rate) ** -2], rtol=1e-5)
    np.testing.assert_allclose((out > 0).mean(), (1 - rate) ** 2, atol=0.01)
    np.testing.assert_array_equal(mlp.apply(variables, x, train=False), x)


@pytest.mark.parametrize("rate", [0.3, jnp.float32(0.3)], ids=["static", "traced"])
def test_drop_path_drops_whole_examples_and_keeps_the_expectation(rate):
    out = DropPath().apply({}, jnp.ones((4096, 2, 3)), rate, train=True, rngs={"dropout": jax.random.key(0)})
    per_example = np.asarray(out).reshape(4096, -1)
    np.testing.assert_array_equal(per_example.min(axis=1), per_example.max(axis=1))
    np.testing.assert_allclose(np.unique(per_example), [0, 1 / 0.7], rtol=1e-6)
    np.testing.assert_allclose((per_example == 0).mean(), 0.3, atol=0.02)  # 4 standard deviations: 0.029
    np.testing.assert_allclose(per_example.mean(), 1, atol=0.03)


def test_drop_path_is_the_identity_in_evaluation_and_at_rate_0():
    x = normal(4, 3)
    np.testing.assert_array_equal(DropPath().apply({}, x, 0.9, train=False), x)
    np.testing.assert_array_equal(DropPath().apply({}, x, 0.0, train=True), x)  # no rng either
    rngs = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(DropPath().apply({}, x, jnp.float32(0), train=True, rngs=rngs), x)


def test_layer_scale():
    x = normal(2, 3, 4)
    params = LayerScale(1e-4).init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(params["scale"], np.full(4, 1e-4, np.float32))
    scale = normal(4, seed=1)
    np.testing.assert_allclose(LayerScale(1e-4).apply({"params": {"scale": scale}}, x), x * scale, rtol=1e-6)
    assert not LayerScale(None).init(jax.random.key(0), x)
    assert LayerScale(None).apply({}, x) is x


def test_both_branches_of_a_block_can_be_dropped(randomised):
    x = normal(3, 5, 8)
    block = EncoderBlock(num_heads=2, mlp_dim=12)
    params = randomised(shapes_of(block, x, train=False))
    rngs = {"dropout": jax.random.key(0)}
    apply = jax.jit(lambda rate: block.apply({"params": params}, x, rate, train=True, rngs=rngs)[0])
    np.testing.assert_array_equal(apply(1.0), x)
    in_evaluation = jax.jit(lambda: block.apply({"params": params}, x, train=False)[0])()
    np.testing.assert_allclose(apply(0.0), in_evaluation, rtol=1e-5, atol=1e-5)


def stack(**fields):
    return BlockStack(functools.partial(EncoderBlock, num_heads=2, mlp_dim=12, layer_scale_init=0.1), 2, **fields)


@pytest.fixture(scope="module")
def unrolled(randomised):
    """Tokens, parameters of a plain stack, and its output and gradients."""
    x = normal(2, 5, 8)
    params = randomised(shapes_of(stack(), x, train=False))
    return x, params, values_and_gradients(stack(), params, x)


def values_and_gradients(module, params, x):
    def run(params, x):
        out, pull_back = jax.vjp(lambda params, x: module.apply({"params": params}, x, train=True)[0], params, x)
        return out, pull_back(jnp.cos(out))

    return jax.jit(run)(params, x)


scan_and_remat = pytest.mark.parametrize(
    "fields", [{"scan_layers": True}, {"remat": "full"}, {"scan_layers": True, "remat": "dots"}], ids=str
)


@scan_and_remat
def test_scan_and_remat_change_no_value_gradient_or_parameter(fields, unrolled):
    x, params, expected = unrolled
    module = stack(**fields)
    assert shapes_of(module, x, train=False) == shapes_of(stack(), x, train=False)
    got = values_and_gradients(module, params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_scan_and_remat_are_for(unrolled):
    x, params, _ = unrolled

    def products(**fields):
        def loss(params):
            return stack(**fields).apply({"params": params}, x, train=False)[0].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general")

    assert products() < products(remat="dots") < products(remat="full")  # what the backward pass recomputes
    assert 2 * products(scan_layers=True) == products()  # one block is compiled, not two


class Recorder(nn.Module):
    """Writes its drop-path rate and a random draw at its place, which the first column of `x` counts."""

    @nn.compact
    def __call__(self, x, rate=0.0, *, return_weights=False, train):
        scale = self.param("scale", nn.initializers.normal(), ())
        i, seen = x
        draw = jax.random.uniform(self.make_rng("dropout")) if train else 0.0
        return (i + 1, seen.at[i].set(jnp.stack([scale * rate, draw]))), None


@scan_and_remat
def test_scan_and_remat_change_no_initial_value(fields):
    x = (jnp.int32(0), jnp.zeros((3, 2)))
    plain, other = (
        BlockStack(Recorder, 3, **fields).init(jax.random.key(0), x, train=False) for fields in ({}, fields)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, other)
    assert len({float(block["scale"]) for block in plain["params"].values()}) == 3


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize(("num_layers", "rate"), [(12, 0.1), (2, 0.4), (1, 0.2), (4, 0.0)])
def test_drop_path_rates_rise_linearly_as_in_timm(scan_layers, num_layers, rate):
    module = BlockStack(Recorder, num_layers, drop_path_rate=rate, scan_layers=scan_layers)
    params = {f"block_{i}": {"scale": jnp.ones(())} for i in range(num_layers)}
    x = (jnp.int32(0), jnp.zeros((num_layers, 2)))
    rngs = {"dropout": jax.random.key(0)}
    (count, seen), _ = module.apply({"params": params}, x, train=True, rngs=rngs)
    assert count == num_layers
    rates, draws = np.asarray(seen).T
    np.testing.assert_allclose(rates, np.linspace(0, rate, num_layers), rtol=1e-6)
    assert len(set(draws)) == num_layers  # no two layers share their dropout


@pytest.mark.parametrize("scan_layers", [False, True])
def test_capture(scan_layers, unrolled):
    x, params, (expected, _) = unrolled
    names = ["tokens/0", "attention/1", "tokens/1", "no such name"]
    module = stack(scan_layers=scan_layers)
    out, captured = jax.jit(lambda p: module.apply({"params": p}, x, train=False, capture=names))(params)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert {name: value.shape for name, value in captured.items()} == {
        "tokens/0": (2, 5, 8),
        "attention/1": (2, 2, 5, 5),
        "tokens/1": (2, 5, 8),
    }
    np.testing.assert_array_equal(captured["tokens/1"], out)
    assert np.abs(captured["tokens/0"] - out).max() > 0.01
    np.testing.assert_allclose(captured["attention/1"].sum(-1), 1, rtol=1e-5)
