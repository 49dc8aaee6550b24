"""What the models compute in another form on a GPU: the same values, lowered here without one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.devices import placement
from vit_jax.models import attention
from vit_jax.models.blocks.encoder import EncoderBlock
from vit_jax.models.kernels import channels, dot_product_attention, products
from vit_jax.models.kernels.choice import choose
from vit_jax.models.layers import Dense, LayerNorm


@pytest.fixture
def on_a_gpu(monkeypatch):
    for module in (channels, products):
        monkeypatch.setattr(module, "generation", lambda: "hopper")


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), jnp.float32)


def values_and_gradients(layer, params, x):
    out, pull_back = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    return out, pull_back(normal(*out.shape))


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (LayerNorm(epsilon=1e-6), nn.LayerNorm(epsilon=1e-6)),
        (Dense(24), nn.Dense(24)),
        (Dense((2, 3)), nn.DenseGeneral((2, 3))),
        (Dense(80), nn.Dense(80)),
    ],
)
@pytest.mark.parametrize("width", [24, 72])
def test_narrow_tokens_are_joined_and_nothing_else_changes(on_a_gpu, layer, plain, width, randomised):
    x = normal(3, 2, 5, width)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(
        jnp.shape, jax.eval_shape(lambda: plain.init(jax.random.key(0), x))["params"]
    )
    params = randomised(shapes)
    got, expected = values_and_gradients(layer, params, x), values_and_gradients(plain, params, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


def test_the_gradient_of_a_narrow_bias_is_summed_over_whole_sequences(on_a_gpu):
    x, layer = jnp.zeros((7, 5, 24)), Dense(24)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))["params"]
    text = jax.jit(functools.partial(values_and_gradients, layer)).lower(params, x).as_text()
    sums = [line for line in text.splitlines() if "stablehlo.reduce(" in line]
    assert any("tensor<7x120xf32>" in line and "-> tensor<120xf32>" in line for line in sums)
    assert not any("tensor<35x24xf32>" in line or "tensor<7x5x24xf32>" in line for line in sums)


def constraints(**options):
    """Returns how many layouts a block with its backward pass constrains."""
    x, block = jnp.zeros((2, 5, 16)), EncoderBlock(num_heads=2, mlp_dim=32)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))

    def loss(params, x):
        with options.get("context", placement.mapped)():
            return block.apply(params, x, train=False)[0].sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).as_text().count("@LayoutConstraint")


def test_the_input_of_every_branch_is_in_row_major_order_on_a_gpu(on_a_gpu, monkeypatch):
    assert constraints() >= 4  # two branches, forward and backward
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert constraints() >= 4  # under pmap, each device has whole arrays
    assert constraints(context=functools.partial(placement.on_mesh, None)) == 0  # the constraint would gather them


def test_on_a_cpu_no_order_is_asked_for():
    assert constraints() == 0


@pytest.mark.parametrize("with_mask", [False, True])
def test_cudnn_takes_an_odd_number_of_tokens_as_it_is_unless_there_is_a_mask(monkeypatch, with_mask):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    for name, answer in (
        ("check_compute_capability", True), ("is_cuda_compute_capability_equal", False), ("check_cudnn_version", 91300)
    ):  # fmt: skip
        monkeypatch.setattr(cudnn, name, lambda *_, answer=answer: answer)
    mask = jnp.ones((1, 1, 5, 5), bool).at[..., 0].set(False) if with_mask else None

    def gradients(*arrays):
        attend = functools.partial(dot_product_attention, mask=mask, kernel="cudnn")
        return jax.grad(lambda *arrays: attend(*arrays).astype(jnp.float32).sum(), argnums=(0, 1, 2))(*arrays)

    tokens = [jax.ShapeDtypeStruct((3, 5, 2, 8), jnp.bfloat16)] * 3
    text = jax.jit(gradients).trace(*tokens).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "@__cudnn$fmha" in line]
    assert len(calls) == 2  # forward and backward
    assert all(f"tensor<3x{6 if with_mask else 5}x2x8xbf16>" in line for line in calls)


def test_what_the_packed_kernel_does_not_take_gets_another():
    given = (jnp.bfloat16, 16, 64, 64, "hopper")
    assert (choose(*given), choose(*given, packs=False)) == ("packed", "xla")


@pytest.mark.parametrize("divided", [False, True])
def test_the_product_of_narrow_tokens_is_handed_on_unless_a_clip_is_divided(monkeypatch, divided):
    given = []

    def attend(query, key, value, *, joint, **_):
        given.append(joint)
        return value

    monkeypatch.setattr(attention, "dot_product_attention", attend)
    monkeypatch.setattr(attention, "divides_clips", lambda: divided)
    layer, x = attention.MultiHeadAttention(num_heads=2), jnp.zeros((3, 5, 8))
    jax.eval_shape(lambda: layer.init(jax.random.key(0), x, train=False))
    assert [None if joint is None else joint.shape for joint in given] == [None if divided else (3, 5, 24)]
