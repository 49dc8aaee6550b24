"""ViT against a NumPy transcription and its finite differences; sizes, pooling, positions, dropout, initial values."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcriptions.layers import attention, gelu_tanh, layer_norm, mlp
from transcriptions.vit import numpy_vit

from vit_jax.models import build_model
from vit_jax.models.positions import sincos2d
from vit_jax.models.resnet import ResNet

IMAGE, PATCH, GRID, HEADS, LAYERS = (8, 13), (4, 3), (2, 4), 2, 2  # a column of pixels is left over


def tiny(**fields):
    sizes = {"image_size": IMAGE, "patch_size": PATCH, "num_layers": LAYERS, "num_heads": HEADS}
    return build_model("vit:Ti/4", **{**sizes, "hidden_dim": 8, "mlp_dim": 12, "num_classes": 5, **fields})


def shapes_of(model):
    images = jnp.zeros((1, *model.input_shape))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]


def some_images(batch=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, *IMAGE, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("model", "capture"))
def logits_of(model, params, images, capture=()):
    return model.apply({"params": params}, images, train=False, capture=capture)


@pytest.mark.parametrize(
    ("pool", "pos_embed", "image_size", "patch_size"),
    [
        ("cls", "learned", (33, 50), (16, 16)),
        ("cls", "sincos2d", (8, 27), (8, 3)),
        ("cls", "none", (17, 5), (3, 5)),
        ("gap", "learned", (8, 27), (8, 3)),
        ("gap", "sincos2d", (17, 5), (3, 5)),
        ("gap", "none", (33, 50), (16, 16)),
        ("map", "learned", (17, 5), (3, 5)),
        ("map", "sincos2d", (33, 50), (16, 16)),
        ("map", "none", (8, 27), (8, 3)),
    ],
)
def test_sizes_pools_and_positions(pool, pos_embed, image_size, patch_size):
    model = tiny(image_size=image_size, patch_size=patch_size, pool=pool, pos_embed=pos_embed, in_channels=1)
    images = jnp.zeros((2, *image_size, 1))
    (logits, captured), variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False, capture=["tokens/0", "pooled"])
    )
    params = variables["params"]
    tokens = model.grid[0] * model.grid[1] + (pool == "cls")
    assert logits.shape == (2, 5)
    assert captured["tokens/0"].shape == (2, tokens, 8)
    assert captured["pooled"].shape == (2, 8)
    assert ("cls_token" in params) == (pool == "cls")
    assert ("cls_pos" in params) == (pool == "cls" and pos_embed == "learned")
    assert ("pool" in params) == (pool == "map")
    assert ("pos_embed" in params) == (pos_embed == "learned")
    if pos_embed == "learned":
        assert params["pos_embed"].shape == (image_size[0] // patch_size[0], image_size[1] // patch_size[1], 8)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"representation_dim": 6, "gelu": "exact", "norm_epsilon": 0.1},
        {"qkv_bias": False, "layer_scale_init": 1e-4, "scan_layers": True, "attention_kernel": "reference"},
        {"pos_embed": "learned2d"},
        {"pos_embed_at": "every_layer"},
        {"pos_embed": "learned2d", "pos_embed_at": "every_layer", "scan_layers": True},
        {"pos_embed_at": "every_layer_shared", "scan_layers": True},
        {"pos_embed": "learned2d", "pos_embed_at": "every_layer_shared"},
        {"pos_embed": "relative", "scan_layers": True},
    ],
    ids=str,
)
def test_the_whole_model_is_the_transcription(fields, randomised):
    model, images = tiny(**fields), some_images()
    params = randomised(shapes_of(model))
    block = params["encoder"]["block_0"]
    assert ("bias" in block["attention"]["query"]) == fields.get("qkv_bias", True)
    assert ("attention_scale" in block) == ("mlp_scale" in block) == ("layer_scale_init" in fields)
    assert ("representation" in params) == ("representation_dim" in fields)

    expected, expected_captured = numpy_vit(model, jax.tree.map(np.float64, params), np.float64(images))
    np.testing.assert_allclose(logits_of(model, params, images), expected, rtol=1e-4, atol=1e-5)

    logits, captured = logits_of(model, params, images, capture=tuple(expected_captured))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert captured.keys() == expected_captured.keys()
    for name, value in expected_captured.items():
        np.testing.assert_allclose(captured[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_gradients_are_finite_differences_of_the_transcription(randomised):
    model, images = tiny(representation_dim=6), some_images()
    params = randomised(shapes_of(model))
    target = np.random.default_rng(1).standard_normal((3, 5))
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images, train=True) * target).sum()))(params)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.float64, params))
    images = np.float64(images)

    def loss(leaves):
        return (numpy_vit(model, jax.tree.unflatten(tree, leaves), images)[0] * target).sum()

    for i, (path, gradient) in enumerate(jax.tree.leaves_with_path(gradients)):
        direction = np.random.default_rng(2).standard_normal(gradient.shape)
        step = 1e-5 * direction
        ahead, behind = (loss([*leaves[:i], leaves[i] + sign * step, *leaves[i + 1 :]]) for sign in (1, -1))
        slope = (np.asarray(gradient, np.float64) * direction).sum()
        np.testing.assert_allclose(
            slope, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path)
        )


def test_pooling_by_mean_and_by_attention(randomised):
    images = some_images()
    gap, by_map = tiny(pool="gap", num_classes=None), tiny(pool="map", num_classes=None)
    params = randomised(shapes_of(by_map))
    p = jax.tree.map(np.float64, params["pool"])
    pooled, captured = logits_of(by_map, params, images, capture=("tokens/final",))
    tokens = np.float64(captured["tokens/final"])
    x = attention(p["attention"], np.broadcast_to(p["probe"], (3, 1, 8)), tokens)[0]
    expected = x + mlp(p["mlp"], layer_norm(p["mlp_norm"], x), gelu_tanh)
    np.testing.assert_allclose(pooled, expected[:, 0], rtol=1e-4, atol=1e-5)
    del params["pool"]
    np.testing.assert_allclose(logits_of(gap, params, images), tokens.mean(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pos_embed", "at"),
    [("sincos2d", "stem"), ("none", "stem"), ("sincos2d", "every_layer"), ("sincos2d", "every_layer_shared")],
)
def test_fixed_positions_are_learned_ones_of_that_value(pos_embed, at, randomised):
    model, images = tiny(pos_embed=pos_embed, pos_embed_at=at), some_images()
    params = randomised(shapes_of(model))
    table = sincos2d(GRID, 8) if pos_embed == "sincos2d" else jnp.zeros((*GRID, 8))
    learned = {"pos_embed": table, "cls_pos": jnp.zeros(8)}
    if at == "every_layer":
        expected_params = params | {"encoder": {name: block | learned for name, block in params["encoder"].items()}}
    else:
        expected_params = params | learned
    expected = logits_of(tiny(pos_embed_at=at), expected_params, images)
    np.testing.assert_allclose(logits_of(model, params, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "gap"])
@pytest.mark.parametrize("at", ["every_layer", "every_layer_shared"])
@pytest.mark.parametrize("pos_embed", ["learned", "learned2d"])
def test_where_positions_are_parameters(pos_embed, at, pool):
    params = shapes_of(tiny(pos_embed=pos_embed, pos_embed_at=at, pool=pool))
    grid = {"pos_embed": (*GRID, 8)} if pos_embed == "learned" else {"pos_embed_x": (4, 4), "pos_embed_y": (2, 4)}
    expected = grid | ({"cls_pos": (8,)} if pool == "cls" else {})

    def positions_in(tree):
        return {name: leaf.shape for name, leaf in tree.items() if "pos" in name}

    in_model, in_block = positions_in(params), positions_in(params["encoder"]["block_1"])
    assert (in_model, in_block) == (({}, expected) if at == "every_layer" else (expected, {}))


def test_relative_positions_belong_to_each_block():
    for pool, tokens in (("cls", 9), ("gap", 8)):
        params = shapes_of(tiny(pos_embed="relative", pool=pool))
        assert {block["relative_embed"].shape for block in params["encoder"].values()} == {(2 * tokens - 1, 4)}
        assert not {"pos_embed", "cls_pos"} & params.keys()


def test_shared_positions_scanned_and_rematerialised_have_the_same_gradients(randomised):
    images, target = some_images(), np.random.default_rng(1).standard_normal((3, 5))
    params = randomised(shapes_of(tiny(pos_embed_at="every_layer_shared")))

    def gradients(**how):
        model = tiny(pos_embed_at="every_layer_shared", **how)
        return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images, train=True) * target).sum()))(params)

    got, expected = gradients(scan_layers=True, remat="full"), gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    ("stages", "image_size", "grid"),
    [((), (33, 50), (9, 13)), ((1,), (32, 17), (8, 5)), ((1, 1), (33, 50), (5, 7)), ((1, 1, 1), (40, 65), (3, 5))],
)
def test_a_hybrid_is_a_vit_of_the_feature_map(stages, image_size, grid, randomised):
    model = tiny(image_size=image_size, resnet_stages=stages, resnet_width=32, patch_size=(1, 1))
    assert model.grid == grid
    params = shapes_of(model)
    assert params["pos_embed"].shape == (*grid, 8)
    if stages != (1,):
        return
    params = randomised(params)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, *image_size, 3)), jnp.float32)
    features = jax.jit(ResNet(stages, 32).apply)({"params": params.pop("resnet")}, images)
    plain = tiny(image_size=grid, in_channels=128, patch_size=(1, 1))
    expected = logits_of(plain, params, features)
    got = logits_of(model, params | {"resnet": randomised(shapes_of(model))["resnet"]}, images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_patches_of_a_feature_map():
    model = tiny(image_size=(64, 50), resnet_stages=(), resnet_width=32, patch_size=(8, 3))
    assert model.grid == (2, 4)  # of 16 by 13 places
    assert shapes_of(model)["patch_embed"]["kernel"].shape == (8, 3, 32, 8)


def test_without_positions_the_order_of_patches_is_lost(randomised):
    images = some_images()[:, :, :12]
    patches = images.reshape(3, 2, 4, 4, 3, 3).swapaxes(2, 3).reshape(3, 8, 4, 3, 3)
    patches = patches[:, np.random.default_rng(1).permutation(8)]
    permuted = patches.reshape(3, 2, 4, 4, 3, 3).swapaxes(2, 3).reshape(images.shape)
    for pos_embed, invariant in (("none", True), ("sincos2d", False)):
        model = tiny(image_size=(8, 12), pool="gap", pos_embed=pos_embed)
        params = randomised(shapes_of(model))
        error = np.abs(logits_of(model, params, images) - logits_of(model, params, permuted)).max()
        assert error < 1e-5 if invariant else error > 1e-2


def test_bfloat16_computes_near_float32(randomised):
    model, images = tiny(dtype=jnp.bfloat16), some_images()
    params = randomised(shapes_of(model))
    exact = logits_of(tiny(), params, images)
    assert 0 < np.linalg.norm(logits_of(model, params, images) - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_bfloat16_keeps_float32_outside(pool):
    model = tiny(dtype=jnp.bfloat16, pool=pool)
    (logits, captured), variables = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), some_images(), train=False, capture=["attention/1", "tokens/1", "pooled"]
        )
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (logits.dtype, captured["attention/1"].dtype) == (jnp.float32, jnp.float32)
    assert (captured["tokens/1"].dtype, captured["pooled"].dtype) == (jnp.bfloat16, jnp.bfloat16)


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "drop_path_rate"])
def test_dropout_follows_its_rng(field, randomised):
    model, images = tiny(**{field: 0.5}), some_images()
    params = randomised(shapes_of(model))
    train = jax.jit(lambda key: model.apply({"params": params}, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed, impl="rbg")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_dropout_is_off_in_evaluation(randomised):
    model, images = tiny(dropout_rate=0.5, attention_dropout_rate=0.5, drop_path_rate=0.5), some_images()
    params = randomised(shapes_of(model))
    np.testing.assert_array_equal(logits_of(model, params, images), logits_of(tiny(), params, images))


def test_initial_values():
    model = build_model("vit:Ti/16", num_layers=1, representation_dim=96, layer_scale_init=1e-5, head_bias_init=-10.0)
    images = jnp.zeros((1, *model.input_shape))
    params = jax.jit(lambda key: model.init(key, images, train=False)["params"])(jax.random.key(0, impl="rbg"))
    block = params["encoder"]["block_0"]
    zeros = [params["head"]["kernel"], params["cls_token"], params["patch_embed"]["bias"]]
    zeros += [block["attention"][name]["bias"] for name in ("query", "key", "value", "out")]
    assert not any(np.any(leaf) for leaf in zeros)
    np.testing.assert_array_equal(params["head"]["bias"], np.full(1000, -10))
    np.testing.assert_array_equal(block["mlp_scale"]["scale"], np.full(192, 1e-5, np.float32))
    for norm in (block["attention_norm"], block["mlp_norm"], params["norm"]):
        np.testing.assert_array_equal(norm["scale"], np.ones(192))
        assert not norm["bias"].any()
    for leaf, std in [
        (params["pos_embed"], 0.02),
        (params["cls_pos"], 0.02),
        (block["mlp"]["in"]["bias"], 1e-6),
        (params["patch_embed"]["kernel"], (16 * 16 * 3) ** -0.5),
    ]:
        np.testing.assert_allclose(np.std(leaf), std, rtol=0.02 if leaf.size > 10_000 else 0.15)
    assert np.abs(params["pos_embed"]).max() > 3 * 0.02  # a normal, not a truncated one
    for kernel, fan_in, fan_out in [
        *((block["attention"][name]["kernel"], 192, 192) for name in ("query", "key", "value", "out")),
        (block["mlp"]["in"]["kernel"], 192, 768),
        (block["mlp"]["out"]["kernel"], 768, 192),
    ]:
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / math.sqrt(3), rtol=0.02)


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, {"remat": "full"}], ids=str)
def test_the_stack_runs_as_asked(fields, primitives_of):
    model = tiny(**fields)
    params = jax.tree.map(jnp.zeros_like, shapes_of(model))

    def apply():
        return model.apply({"params": params}, some_images(), train=False)

    assert ("scan" in primitives_of(apply)) == ("scan_layers" in fields)
    # a GELU is always recomputed, and has no matrix product
    assert ("dot_general" in primitives_of(apply, recomputed=True)) == ("remat" in fields)


def test_the_kernel_reaches_the_blocks():
    with pytest.raises(ValueError, match="unknown attention kernel 'flash'"):
        shapes_of(tiny().clone(attention_kernel="flash"))


def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"\(8, 12, 3\) given to a model built for \(8, 13, 3\): build it with"):
        jax.eval_shape(lambda: tiny().init(jax.random.key(0), jnp.zeros((1, 8, 12, 3)), train=False))


@pytest.mark.parametrize("name", ["attention/2", "tokens", "attention/-1"])
def test_unknown_capture(name):
    model = tiny()
    with pytest.raises(ValueError, match=rf"capture names \['{name}'\]; layers are 0 to 1"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), some_images(), train=False, capture=["pooled", name]))
