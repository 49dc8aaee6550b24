"""TnT against a NumPy transcription and its finite differences; published counts, options and sizes."""

import functools
import math
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from transcriptions.tnt import numpy_tnt

from vit_jax.models import build_model
from vit_jax.models.blocks.tnt import word_grid
from vit_jax.models.tnt import TNT

SIZES = {"image_size": (13, 9), "patch_size": (6, 4), "num_words": 6, "num_layers": 2, "num_classes": 5}
WIDTHS = {"hidden_dim": 8, "mlp_dim": 12, "num_heads": 2, "inner_hidden_dim": 6, "inner_mlp_dim": 10}


def tiny(**fields) -> Any:
    """A grid of 2 by 2 patches, a row and a column of pixels left over, and 3 by 2 words in a patch."""
    return build_model("tnt:S/16", **{**SIZES, **WIDTHS, "inner_num_heads": 3, **fields})


def shapes_of(model):
    images = jnp.zeros((1, *model.input_shape))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]


def some_images(model, batch=3):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((batch, *model.input_shape)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("model", "capture"))
def logits_of(model, params, images, capture=()):
    return model.apply({"params": params}, images, train=False, capture=capture)


def distance(value, expected):
    return np.linalg.norm(np.float64(value) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pos_embed": "none", "squeeze_excitation": True, "in_channels": 2},
        {"word_pos_embed": "none", "tnt_layers": (1,), "scan_layers": True},
        {"patch_size": (3, 4), "num_words": 2, "image_size": (4, 8), "tnt_layers": (), "squeeze_excitation": True},
    ],
    ids=str,
)
def test_the_whole_model_is_the_transcription(fields, randomised):
    model = tiny(**fields)
    images, params = some_images(model), randomised(shapes_of(model))
    expected, expected_captured = numpy_tnt(model, jax.tree.map(np.float64, params), np.float64(images))
    logits, captured = logits_of(model, params, images, capture=tuple(expected_captured))
    assert distance(logits, expected) < 1e-5
    assert captured.keys() == expected_captured.keys()
    assert jax.tree.map(np.shape, captured) == jax.tree.map(np.shape, expected_captured)
    for (path, value), correct in zip(
        jax.tree.leaves_with_path(captured), jax.tree.leaves(expected_captured), strict=True
    ):
        assert distance(value, correct) < 1e-5, path


def test_gradients_are_finite_differences_of_the_transcription(randomised):
    model = tiny(squeeze_excitation=True)
    images, params = some_images(model), randomised(shapes_of(model))
    target = np.random.default_rng(1).standard_normal((3, 5))
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, images, train=True) * target).sum()))(params)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.float64, params))
    images = np.float64(images)

    def loss(leaves):
        return (numpy_tnt(model, jax.tree.unflatten(tree, leaves), images)[0] * target).sum()

    for i, (path, gradient) in enumerate(jax.tree.leaves_with_path(gradients)):
        direction = np.random.default_rng(2).standard_normal(gradient.shape)
        step = 1e-5 * direction
        ahead, behind = (loss([*leaves[:i], leaves[i] + sign * step, *leaves[i + 1 :]]) for sign in (1, -1))
        slope = (np.asarray(gradient, np.float64) * direction).sum()
        np.testing.assert_allclose(
            slope, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path)
        )


def test_scanned_and_recomputed_gradients_are_the_same(randomised):
    images, params = some_images(tiny()), randomised(shapes_of(tiny()))

    def gradients_of(model):
        gradients = jax.grad(lambda p: jnp.cos(model.apply({"params": p}, images, train=True)).sum())
        return jax.flatten_util.ravel_pytree(jax.jit(gradients)(params))[0]

    expected = gradients_of(tiny(attention_kernel="reference"))
    assert distance(gradients_of(tiny(scan_layers=True, remat="full")), expected) < 1e-5


# Table 1 prints 6.1, 23.8 and 65.6 M, which count the authors' frozen, unused tensor of 196 by hidden_dim; so do Table
# 8's 23.8 and 25.1 M, and Table 12's 24.7 M. Table 8 leaves open how many heads a word of 6 channels has: not 4.
PUBLISHED = [
    ("Ti/16", {}, 6_076_408, 6.1),
    ("S/16", {}, 23_768_584, 23.8),
    ("B/16", {}, 65_428_680, 65.6),
    ("S/16", {"inner_num_heads": 8}, 23_768_584, 23.8),  # Table 7
    ("S/16", {"num_words": 64, "inner_hidden_dim": 6, "inner_mlp_dim": 24, "inner_num_heads": 3}, 23_686_000, 23.8),
    ("S/16", {"num_words": 4, "inner_hidden_dim": 96, "inner_mlp_dim": 384}, 25_032_040, 25.1),
    ("S/16", {"squeeze_excitation": True}, 24_668_296, 24.7),
]


@pytest.mark.parametrize(("variant", "fields", "count", "printed"), PUBLISHED)
def test_parameter_counts(variant, fields, count, printed):
    model = build_model(f"tnt:{variant}", **fields)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model))) == count
    frozen = math.prod(model.grid) * model.hidden_dim
    assert round((count + frozen) / 1e6, 1) == printed


def test_variants():
    assert build_model("tnt:B/16") == TNT()  # the defaults of the module are those of the paper's largest model
    fields = ("hidden_dim", "mlp_dim", "num_heads", "inner_hidden_dim", "inner_mlp_dim", "inner_num_heads")
    for variant, values in (("Ti/16", (192, 768, 3, 12, 48, 2)), ("S/8", (384, 1536, 6, 24, 96, 4))):
        model = build_model(f"tnt:{variant}")
        assert tuple(getattr(model, field) for field in fields) == values
        assert (model.num_layers, model.num_words, model.norm_epsilon, model.gelu) == (12, 16, 1e-5, "exact")
    assert build_model("tnt:S/8", image_size=(64, 31)).grid == (8, 3)


@pytest.mark.parametrize(
    ("patch_size", "num_words", "expected"),
    [
        ((16, 16), 64, (2, (8, 8))),
        ((16, 16), 16, (4, (4, 4))),
        ((16, 16), 4, (8, (2, 2))),
        ((14, 14), 16, (4, (4, 4))),
        ((8, 16), 8, (4, (2, 4))),
        ((3, 7), 21, (1, (3, 7))),
        ((3, 7), 1, (7, (1, 1))),
    ],
)
def test_word_grid(patch_size, num_words, expected):
    assert word_grid(patch_size, num_words) == expected


@pytest.mark.parametrize(
    ("image_size", "patch_size", "num_words", "pos_embed", "word_pos_embed"),
    [
        ((33, 50), (16, 16), 16, "learned", "learned"),
        ((8, 27), (8, 3), 8, "learned", "none"),
        ((17, 5), (3, 5), 1, "none", "learned"),
        ((9, 9), (9, 9), 81, "none", "none"),
    ],
)
def test_sizes_and_positions(image_size, patch_size, num_words, pos_embed, word_pos_embed):
    model = tiny(
        image_size=image_size,
        patch_size=patch_size,
        num_words=num_words,
        pos_embed=pos_embed,
        word_pos_embed=word_pos_embed,
        in_channels=1,
        num_classes=None,
    )
    images = jnp.zeros((2, *image_size, 1))
    (pooled, captured), variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False, capture=["tokens/0", "words/1"])
    )
    params, patches = variables["params"], math.prod(model.grid)
    assert model.grid == (image_size[0] // patch_size[0], image_size[1] // patch_size[1])
    assert (pooled.shape, captured["tokens/0"].shape) == ((2, 8), (2, 1 + patches, 8))
    assert captured["words/1"].shape == (2, patches, num_words, 6)
    assert [params[name].shape for name in ("pos_embed", "cls_pos") if name in params] == (
        [(*model.grid, 8), (8,)] if pos_embed == "learned" else []
    )
    words = word_grid(patch_size, num_words)[1]
    assert [params[name].shape for name in ("word_pos",) if name in params] == (
        [(*words, 6)] if word_pos_embed == "learned" else []
    )
    assert params["patch_embed"]["kernel"].shape == (7, 7, 1, 6)
    assert "head" not in params


def test_tokens_split_into_class_token_and_grid():
    model = tiny(image_size=(12, 8))
    tokens = jnp.arange(2 * 5 * 8.0).reshape(2, 5, 8)
    token, grid = model.split_tokens(tokens)
    np.testing.assert_array_equal(token, tokens[:, 0])
    np.testing.assert_array_equal(grid[:, 1, 0], tokens[:, 3])


def test_words_depend_on_their_own_patch_only(randomised):
    model = tiny()
    images, params = some_images(model, batch=1), randomised(shapes_of(model))

    @jax.jit
    def words_of_the_last_patch(images):
        return model.apply({"params": params}, images, train=False, capture=("words/1",))[1]["words/1"][:, -1]

    influence = np.abs(jax.jit(jax.jacrev(words_of_the_last_patch))(images)[0, :, :, 0]).sum(axis=(0, 1, -1))
    rows, columns = np.indices(influence.shape)
    own = (rows >= 6) & (rows < 12) & (columns >= 4) & (columns < 8)
    np.testing.assert_array_equal(influence > 0, own)


def test_bfloat16_keeps_float32_outside(randomised):
    model, capture = tiny(dtype=jnp.bfloat16), ("attention/1", "tokens/1", "words/1")
    images, params = some_images(model), randomised(shapes_of(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits, captured = logits_of(model, params, images, capture)
    assert {weights.dtype for weights in captured["attention/1"].values()} == {logits.dtype} == {jnp.dtype("float32")}
    assert captured["tokens/1"].dtype == captured["words/1"].dtype == jnp.bfloat16
    assert 0 < distance(logits, logits_of(tiny(), params, images)) < 0.03


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate"])
def test_dropout_follows_its_rng(field, randomised):
    model = tiny(**{field: 0.5}, num_layers=1)
    images, params = some_images(model), randomised(shapes_of(model))
    train = jax.jit(lambda key: model.apply({"params": params}, images, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed, impl="rbg")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_dropout_is_off_in_evaluation(randomised):
    model = tiny(dropout_rate=0.5, attention_dropout_rate=0.5, drop_path_rate=0.5)
    images, params = some_images(model), randomised(shapes_of(model))
    np.testing.assert_array_equal(logits_of(model, params, images), logits_of(tiny(), params, images))


def test_drop_path_is_drawn_for_each_patch_of_the_words(randomised):
    model = tiny(drop_path_rate=0.5)
    images, params = some_images(model, batch=16), randomised(shapes_of(model))

    @jax.jit
    def train(key):
        names = ("words/0", "words/1")
        return model.apply({"params": params}, images, train=True, capture=names, rngs={"dropout": key})[1]

    words = train(jax.random.key(0, impl="rbg"))
    kept = (words["words/1"] != words["words/0"]).any(axis=(2, 3))  # of either residual of the last layer
    assert 0.6 < kept.mean() < 0.9
    assert (kept.any(axis=1) & ~kept.all(axis=1)).mean() > 0.4


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, {"remat": "full"}], ids=str)
def test_the_stack_runs_as_asked(fields, primitives_of):
    model = tiny(**fields)
    params = jax.tree.map(jnp.zeros_like, shapes_of(model))

    def apply():
        return model.apply({"params": params}, some_images(model), train=False)

    assert ("scan" in primitives_of(apply)) == ("scan_layers" in fields)
    # a GELU is always recomputed, and has no matrix product
    assert ("dot_general" in primitives_of(apply, recomputed=True)) == ("remat" in fields)


def test_initial_values():
    model = build_model("tnt:Ti/16", num_layers=1, image_size=(32, 48), squeeze_excitation=True)
    images = jnp.zeros((1, *model.input_shape))
    params = jax.jit(lambda key: model.init(key, images, train=False)["params"])(jax.random.key(0, impl="rbg"))
    words, block = params.pop("patch_embed"), params["encoder"]["block_0"]
    bound = (7 * 7 * 3) ** -0.5  # torch's default for convolutions
    assert 0.99 * bound < np.abs(words["kernel"]).max() <= bound
    assert 0.5 * bound < np.abs(words["bias"]).max() <= bound
    np.testing.assert_allclose(np.std(words["kernel"]), bound / math.sqrt(3), rtol=0.02)
    assert "bias" not in block["projection"]["dense"]
    assert "bias" not in block["inner"]["attention"]["query"]
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith(("/scale", "/bias")):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, name.endswith("scale")), err_msg=name)
        else:
            rtol = 4 / math.sqrt(2 * leaf.size)
            np.testing.assert_allclose(np.std(leaf), 0.02, rtol=rtol, err_msg=name)
    assert np.abs(params["head"]["kernel"]).max() > 3 * 0.02  # a normal, not a truncated one


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("L/16", {}, r"unknown TNT variant 'L/16'. Use one of Ti, S, B, then / and a patch size"),
        ("S", {}, r"unknown TNT variant 'S'"),
        ("S/16", {"word_pos": "none"}, r"'tnt:S/16' has no field 'word_pos'; did you mean 'word_pos_embed'\?"),
        ("S/16", {"pos_embed": "sincos2d"}, r"pos_embed must be one of learned, none.* got 'sincos2d'"),
        ("S/16", {"word_pos_embed": "yes"}, r"word_pos_embed must be one of learned, none.* got 'yes'"),
        ("S/16", {"gelu": "erf"}, r"gelu must be one of tanh, exact, quick, got 'erf'"),
        ("S/16", {"num_heads": 5}, r"num_heads=5 does not divide hidden_dim=384"),
        ("S/16", {"inner_num_heads": 5}, r"inner_num_heads=5 does not divide inner_hidden_dim=24"),
        ("S/16", {"image_size": (8, 32)}, r"no patch of patch_size=\(16, 16\) fits into image_size=\(8, 32\)"),
        ("S/0", {}, r"no patch of patch_size=\(0, 0\)"),
        ("S/16", {"num_words": 15}, r"no stride gives num_words=15 in patch_size=\(16, 16\)"),
        ("S/16", {"tnt_layers": (1, 4, 12)}, r"tnt_layers names \[12\]; layers are 0 to 11"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_known(variant, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model(f"tnt:{variant}", **overrides)


def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"\(13, 8, 3\) given to a model built for \(13, 9, 3\): build it with"):
        jax.eval_shape(lambda: tiny().init(jax.random.key(0), jnp.zeros((1, 13, 8, 3)), train=False))


@pytest.mark.parametrize("name", ["attention/2", "words/final", "words", "tokens/-1"])
def test_unknown_capture(name):
    model = tiny()
    with pytest.raises(ValueError, match=rf"capture names \['{name}'\]; layers are 0 to 1"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), some_images(model), train=False, capture=["words/1", name])
        )
