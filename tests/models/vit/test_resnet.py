"""The ResNet stem of hybrids against a NumPy transcription; sizes and initial values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.resnet import ResNet, StdConv, Unit, stride_of


def shapes_of(module, *shape):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape)))["params"]


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# the transcription: float64, a loop over the places of the result


def windows(x, size, stride, fill):
    """What a window sees at each place: (batch, rows, columns, size, size, channels), SAME padding."""
    places = [-(-n // stride) for n in x.shape[1:3]]
    total = [max((new - 1) * stride + size - old, 0) for new, old in zip(places, x.shape[1:3], strict=True)]
    x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in total), (0, 0)], constant_values=fill)
    seen = np.empty((len(x), *places, size, size, x.shape[-1]))
    for i, j in np.ndindex(*places):
        seen[:, i, j] = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
    return seen


def std_conv(p, x, stride, flavour):
    kernel = p["kernel"]
    mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    kernel = (kernel - mean) / (np.sqrt(var) + 1e-5 if flavour == "google" else np.sqrt(var + 1e-8))
    return np.einsum("nijxyc,xycd->nijd", windows(x, len(kernel), stride, 0), kernel, optimize=True)


def group_norm(p, x, flavour):
    grouped = x.reshape(*x.shape[:3], 32, -1)
    mean, var = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
    normed = (grouped - mean) / np.sqrt(var + (1e-6 if flavour == "google" else 1e-5))
    return normed.reshape(x.shape) * p["scale"] + p["bias"]


def relu(x):
    return np.maximum(x, 0)


def numpy_unit(p, x, stride, flavour):
    conv, norm = functools.partial(std_conv, flavour=flavour), functools.partial(group_norm, flavour=flavour)
    shortcut = x
    if "shortcut_conv" in p:
        shortcut = norm(p["shortcut_norm"], conv(p["shortcut_conv"], x, stride))
    y = relu(norm(p["norm_0"], conv(p["conv_0"], x, 1)))
    y = relu(norm(p["norm_1"], conv(p["conv_1"], y, stride)))
    return relu(shortcut + norm(p["norm_2"], conv(p["conv_2"], y, 1)))


def numpy_resnet(p, x, stages, flavour):
    x = relu(group_norm(p["root_norm"], std_conv(p["root_conv"], x, 2, flavour), flavour))
    x = windows(x, 3, 2, -np.inf).max((3, 4))
    for i, units in enumerate(stages):
        for j in range(units):
            x = numpy_unit(p[f"stage_{i}_unit_{j}"], x, 2 if i and not j else 1, flavour)
    return x


@pytest.mark.parametrize(("size", "stride", "shape"), [(7, 2, (9, 12)), (3, 2, (8, 5)), (3, 1, (4, 3)), (1, 2, (5, 6))])
@pytest.mark.parametrize("flavour", ["google", "timm"])
def test_standardised_convolution(size, stride, shape, flavour, randomised):
    x, conv = normal(2, *shape, 3), StdConv(6, size, stride, flavour)
    params = randomised(shapes_of(conv, *x.shape), scale=1e-3)  # small, so that the epsilons count
    expected = std_conv(jax.tree.map(np.float64, params), np.float64(x), stride, flavour)
    np.testing.assert_allclose(jax.jit(conv.apply)({"params": params}, x), expected, rtol=1e-5, atol=2e-5)


def test_the_flavours_differ(randomised):
    x = normal(1, 4, 4, 3)
    params = randomised(shapes_of(StdConv(6, 3), *x.shape), scale=1e-3)
    google, timm = (
        jax.jit(StdConv(6, 3, flavour=flavour).apply)({"params": params}, x) for flavour in ("google", "timm")
    )
    assert np.abs(google - timm).max() > 1e-3


@pytest.mark.parametrize(("channels", "stride"), [(128, 1), (32, 1), (128, 2)])
def test_unit(channels, stride, randomised):
    x, unit = normal(2, 5, 4, channels), Unit(32, stride)
    params = randomised(shapes_of(unit, *x.shape))
    assert ("shortcut_conv" in params) == ("shortcut_norm" in params) == (channels == 32 or stride == 2)
    expected = numpy_unit(jax.tree.map(np.float64, params), np.float64(x), stride, "google")
    np.testing.assert_allclose(jax.jit(unit.apply)({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stages", "flavour"), [((), "google"), ((2, 1), "google"), ((1, 1), "timm")])
def test_the_whole_stem_is_the_transcription(stages, flavour, randomised):
    x, resnet = normal(2, 21, 34, 3), ResNet(stages, 32, flavour)
    params = randomised(shapes_of(resnet, *x.shape))
    expected = numpy_resnet(jax.tree.map(np.float64, params), np.float64(x), stages, flavour)
    np.testing.assert_allclose(jax.jit(resnet.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stages", [(), (1,), (1, 2, 1), (2, 1, 1, 1)])
@pytest.mark.parametrize("size", [(224, 224), (33, 50), (1, 7)])
def test_sizes_and_channels(stages, size):
    resnet = ResNet(stages)
    features = jax.eval_shape(lambda: resnet.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)))[0])
    stride, channels = stride_of(stages), 256 * 2 ** (len(stages) - 1) if stages else 64
    assert features.shape == (1, -(-size[0] // stride), -(-size[1] // stride), channels)


def test_initial_values():
    resnet = ResNet((1,))
    params = jax.jit(resnet.init)(jax.random.key(0, impl="rbg"), jnp.zeros((1, 8, 8, 3)))["params"]
    np.testing.assert_allclose(np.std(params["root_conv"]["kernel"]), (7 * 7 * 3) ** -0.5, rtol=0.05)
    unit = params["stage_0_unit_0"]
    for name, scale in [("norm_0", 1), ("norm_1", 1), ("norm_2", 0), ("shortcut_norm", 1)]:
        np.testing.assert_array_equal(unit[name]["scale"], np.full_like(unit[name]["scale"], scale))
        assert not unit[name]["bias"].any()


def test_bfloat16_computes_near_float32(randomised):
    x = normal(2, 16, 16, 3)
    params = randomised(shapes_of(ResNet((1,), 32), *x.shape))
    exact, short = (
        jax.jit(ResNet((1,), 32, dtype=dtype).apply)({"params": params}, x) for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert short.dtype == jnp.bfloat16
    assert 0 < np.linalg.norm(short - exact) < 0.02 * np.linalg.norm(exact)
