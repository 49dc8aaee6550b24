"""TimeSformer against attention with an explicit mask over all space-time tokens; parameter counts and options."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcriptions.timesformer import all_neighbours, neighbours, numpy_timesformer

from vit_jax.models import build_model
from vit_jax.models.blocks.timesformer import ATTENTIONS, TimeSformerBlock, split_sequences
from vit_jax.models.timesformer import TimeSformer

PATCH, HEADS = (2, 1), 2
ODD, EVEN = (3, 5, 3), (2, 4, 2)  # frames, rows and columns of patches


def tiny(grid=ODD, **fields) -> Any:
    frames, rows, columns = grid
    sizes = {"num_frames": frames, "image_size": (2 * rows + 1, columns), "patch_size": PATCH, "num_heads": HEADS}
    defaults = {"hidden_dim": 8, "mlp_dim": 12, "num_layers": 1, "num_classes": 5, "drop_path_rate": 0.0}
    return build_model("timesformer:B/16", **{**sizes, **defaults, **fields})


def shapes_of(model):
    videos = jnp.zeros((1, *model.input_shape))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), videos, train=False))["params"]


def some_videos(model, batch=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, *model.input_shape)), jnp.float32)


@functools.partial(jax.jit, static_argnames=("model", "capture"))
def logits_of(model, params, videos, capture=()):
    return model.apply({"params": params}, videos, train=False, capture=capture)


@pytest.mark.parametrize(
    ("attention_type", "grid", "fields"),
    [
        ("space_only", ODD, {"num_layers": 2}),
        ("joint_space_time", ODD, {"qkv_bias": False}),
        ("divided_space_time", ODD, {"num_layers": 2}),
        ("divided_space_time", EVEN, {"divided_order": "space_first", "gelu": "tanh", "norm_epsilon": 0.1}),
        ("divided_space_time", ODD, {"divided_order": "parallel"}),
        ("divided_space_time", ODD, {"cls_in_temporal_attention": True}),
        ("sparse_local_global", ODD, {}),
        ("sparse_local_global", EVEN, {"attention_kernel": "reference"}),
        ("sparse_local_global", (1, 4, 1), {}),
        ("sparse_local_global", (2, 3, 8), {"cls_in_temporal_attention": True}),
        ("axial", ODD, {}),
        ("axial", EVEN, {"cls_in_temporal_attention": True}),
    ],
    ids=str,
)
def test_the_whole_model_is_attention_with_an_explicit_mask(attention_type, grid, fields, randomised):
    model = tiny(grid, attention_type=attention_type, **fields)
    params, videos = randomised(shapes_of(model)), some_videos(model)
    p = jax.tree.map(np.float64, params)
    expected, expected_captured, expected_weights = numpy_timesformer(model, p, np.float64(videos))
    logits, captured = logits_of(model, params, videos, capture=("attention/0", *expected_captured))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    for name, value in expected_captured.items():
        np.testing.assert_allclose(captured[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    if grid == EVEN:
        check_weights(model, captured["attention/0"], expected_weights[0])
    cls, patches = model.split_tokens(captured["tokens/0"])
    flat = captured["tokens/0"] if attention_type != "space_only" else captured["tokens/0"][:, :, 1:]
    assert (cls.shape, patches.shape) == ((2, 8), (2, *grid, 8))
    np.testing.assert_array_equal(patches[0, -1, -1], flat[0].reshape(-1, 8)[-grid[2] :])


def check_weights(model, captured, expected):
    """The weights of every sequence, which hold no zeros as the grid is even, are those of its tokens among all."""
    assert captured.keys() == set(ATTENTIONS[model.attention_type])
    for name, weights in captured.items():
        patches = np.arange(math.prod(EVEN), dtype=np.float32).reshape(1, *EVEN, 1)
        places = np.asarray(split_sequences(jnp.asarray(patches), name)[0][0, :, :, 0], int)
        has_cls = name == ATTENTIONS[model.attention_type][-1] or model.cls_in_temporal_attention
        assert weights.shape == (2, len(places), HEADS, *(places.shape[1] + has_cls,) * 2)
        for sequence, patches in enumerate(places):
            keys = np.concatenate([[0] * has_cls, 1 + patches]).astype(int)
            ours = weights[:, sequence, :, int(has_cls) :]
            np.testing.assert_allclose(ours, expected[name][:, :, patches][..., keys], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention_type", ["divided_space_time", "sparse_local_global", "axial"])
def test_what_a_block_lets_through(attention_type, randomised):
    """By gradient: an output depends on the patches that its attentions reach, one after the other, and no others."""
    model = tiny(ODD, attention_type=attention_type)
    params, video = randomised(shapes_of(model)), some_videos(model, 1)
    direction = np.random.default_rng(1).standard_normal(8)
    pattern = np.random.default_rng(2).standard_normal((*PATCH, 3))

    @jax.jit
    @jax.jacfwd
    def jacobian(amounts):  # of each patch on each token
        added = jnp.einsum("tyx,hwc->tyhxwc", amounts.reshape(ODD), pattern).reshape(3, 10, 3, 3)
        moved = video.at[:, :, :10].add(added)
        _, captured = model.apply({"params": params}, moved, train=False, capture=("tokens/0",))
        cls, patches = model.split_tokens(captured["tokens/0"])
        return jnp.concatenate([cls, patches.reshape(-1, 8)]) @ direction

    size = math.prod(ODD)
    reach = np.eye(size, dtype=bool)
    for attention in ATTENTIONS[attention_type]:
        sees = np.eye(size, dtype=bool)
        for row, patches in enumerate(all_neighbours(attention, ODD)):
            sees[row, list(patches)] = True
        reach = sees @ reach
    influence = np.asarray(jacobian(jnp.zeros(size)))
    np.testing.assert_array_equal(influence[1:] != 0, reach)
    assert np.all(influence[0] != 0)  # the class token sees all


def test_sparse_neighbourhoods_have_the_sizes_of_the_text():
    grid = (8, 14, 14)
    assert {len(neighbours("local", (t, y, x), grid)) for t, y, x in [(0, 0, 0), (3, 6, 7), (7, 13, 2)]} == {8 * 7 * 7}
    assert len(neighbours("global", (3, 6, 7), grid)) == 4 * 7 * 7


# 174 classes, 8 frames: Table 1 prints 85.9, 85.9, 121.4, 121.4 and 156.8 million
PUBLISHED = {
    "space_only": 85_932_462,
    "joint_space_time": 85_938_606,
    "divided_space_time": 121_392_558,
    "sparse_local_global": 121_392_558,
    "axial": 156_846_510,
}


@pytest.mark.parametrize("attention_type", PUBLISHED)
def test_parameter_counts(attention_type):
    model = build_model("timesformer:B/16", attention_type=attention_type, num_classes=174)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model))) == PUBLISHED[attention_type]


def test_variants():
    assert build_model("timesformer:B/16") == TimeSformer()
    high, long, small = (build_model(f"timesformer:{name}") for name in ("B/16-HR", "B/16-L", "S/32"))
    assert high.input_shape == (16, 448, 448, 3)
    assert long.input_shape == (96, 224, 224, 3)
    assert (small.hidden_dim, small.grid, small.num_frames) == (384, (7, 7), 8)
    assert build_model("timesformer:B/16-HR", num_frames=4, image_size=(32, 64)).input_shape == (4, 32, 64, 3)


@pytest.mark.parametrize("attention_type", ATTENTIONS)
@pytest.mark.parametrize("fields", [{"dtype": jnp.bfloat16}, {"num_classes": None, "in_channels": 1}], ids=str)
def test_shapes_and_dtypes(attention_type, fields):
    model = tiny((3, 1, 7), attention_type=attention_type, **fields)
    capture = ["attention/0", "tokens/0", "pooled", "frame_logits"]
    (logits, captured), variables = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), jnp.zeros((2, *model.input_shape)), train=False, capture=capture
        )
    )
    assert logits.shape == (2, 5 if model.num_classes else 8)
    assert captured["frame_logits"].shape == (2, 3, logits.shape[1])
    assert captured["pooled"].shape == (2, 8)
    assert captured["tokens/0"].shape == ((2, 3, 8, 8) if attention_type == "space_only" else (2, 22, 8))
    tokens, sequences = {
        "space_only": ([8], [3]),
        "joint_space_time": ([22], [1]),
        "divided_space_time": ([3, 8], [7, 3]),
        "sparse_local_global": ([21, 9], [1, 4]),
        "axial": ([3, 7, 2], [7, 3, 21]),
    }[attention_type]
    for name, size, number in zip(ATTENTIONS[attention_type], tokens, sequences, strict=True):
        assert captured["attention/0"][name].shape == (2, number, HEADS, size, size)
    wide = {leaf.dtype for leaf in jax.tree.leaves((logits, captured["attention/0"], variables))}
    assert wide == {jnp.dtype("float32")} or model.num_classes is None
    assert captured["tokens/0"].dtype == model.dtype


@pytest.mark.parametrize(("attention_type", "joins"), [("space_only", 0), ("joint_space_time", 0), ("axial", 4)])
def test_a_sequence_of_all_tokens_is_not_joined_again(attention_type, joins):
    """A join copies all tokens: in each branch, and before the last attention, in which the class token takes part."""
    model = tiny(attention_type=attention_type)
    text = str(jax.make_jaxpr(lambda params: logits_of(model, params, some_videos(model)))(shapes_of(model)))
    found = re.findall(r"f32\[\d+,\d+(?:,\d+)?,8\] = concatenate", text)
    assert len(found) == 1 + joins  # one where the class token is put before the patches


@pytest.mark.parametrize(
    ("attention_type", "pos_embed", "names"),
    [
        ("divided_space_time", "space_time", {"cls_pos", "pos_embed", "time_embed"}),
        ("divided_space_time", "space", {"cls_pos", "pos_embed"}),
        ("joint_space_time", "none", set()),
        ("space_only", "space_time", {"cls_pos", "pos_embed"}),
    ],
)
def test_positions_are_parameters_and_none_are_zeros(attention_type, pos_embed, names, randomised):
    model = tiny(attention_type=attention_type, pos_embed=pos_embed)
    params, videos = randomised(shapes_of(model)), some_videos(model)
    assert params.keys() & {"cls_pos", "pos_embed", "time_embed"} == names
    complete = tiny(attention_type=attention_type)
    shapes = shapes_of(complete)
    zeros = {name: jnp.zeros(shapes[name].shape) for name in ("cls_pos", "pos_embed", "time_embed") if name in shapes}
    expected = logits_of(complete, zeros | params, videos)
    np.testing.assert_allclose(logits_of(model, params, videos), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attention_type", "pos_embed", "invariant"),
    [
        ("space_only", "space_time", True),
        ("divided_space_time", "space_time", False),
        ("divided_space_time", "space", True),
        ("axial", "space", True),
        ("sparse_local_global", "space", False),  # every second frame
    ],
)
def test_whether_the_order_of_frames_matters(attention_type, pos_embed, invariant, randomised):
    model = tiny(attention_type=attention_type, pos_embed=pos_embed)
    params, videos = randomised(shapes_of(model)), some_videos(model)
    error = np.abs(logits_of(model, params, videos) - logits_of(model, params, videos[:, jnp.array([1, 2, 0])])).max()
    assert error < 1e-5 if invariant else error > 1e-3


@pytest.mark.parametrize("field", ["dropout_rate", "attention_dropout_rate", "drop_path_rate"])
def test_dropout_follows_its_rng_and_is_off_in_evaluation(field, randomised):
    depth = {"num_layers": 2, "scan_layers": True} if field == "drop_path_rate" else {}
    model = tiny(**{field: 0.5}, **depth)
    params, videos = randomised(shapes_of(model)), some_videos(model)
    train = jax.jit(lambda key: model.apply({"params": params}, videos, train=True, rngs={"dropout": key}))
    first, again, other = (train(jax.random.key(seed, impl="rbg")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    expected = logits_of(tiny(**depth), params, videos)
    np.testing.assert_allclose(logits_of(model, params, videos), expected, rtol=1e-5, atol=1e-6)


def test_drop_path_drops_sequences(randomised):
    block = TimeSformerBlock((6, 2, 2), HEADS, 12)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 25, 8)), jnp.float32)
    params = randomised(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))["params"])
    params = params | {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("mlp", "temporal_out")}

    @jax.jit
    def branch(rate, key):  # of spatial attention alone
        return block.apply({"params": params}, x, rate, train=True, rngs={"dropout": key})[0] - x

    key = jax.random.key(0, impl="rbg")
    ratios = np.asarray(branch(0.5, key) / branch(0.0, key))[:, 1:].reshape(3, 6, -1)
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[:, :, :1], ratios.shape), atol=1e-3)
    assert all(set(np.round(example, 3)) == {0.0, 2.0} for example in ratios[:, :, 0])  # some frames of each example


def test_scan_changes_nothing(randomised):
    plain, scanned = (tiny(num_layers=2, scan_layers=scan) for scan in (False, True))
    params, videos = randomised(shapes_of(plain)), some_videos(plain)
    expected = logits_of(plain, params, videos)
    np.testing.assert_allclose(logits_of(scanned, params, videos), expected, rtol=1e-5, atol=1e-5)


def test_initial_values():
    model = build_model("timesformer:Ti/16", attention_type="axial", num_layers=1, image_size=(32, 64))
    params = jax.jit(lambda key: model.init(key, jnp.zeros((1, *model.input_shape)), train=False)["params"])(
        jax.random.key(0, impl="rbg")
    )
    block = params["encoder"]["block_0"]
    assert not any(np.any(leaf) for name in ("temporal_out", "width_out") for leaf in block[name].values())
    attentions = [block[name] for name in ("temporal_attention", "width_attention", "attention")]
    kernels = [attention[part]["kernel"] for attention in attentions for part in ("query", "key", "value", "out")]
    for kernel in [*kernels, block["mlp"]["in"]["kernel"], block["mlp"]["out"]["kernel"], params["head"]["kernel"]]:
        np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.03)
        assert np.abs(kernel).max() > 3 * 0.02  # a normal, not a truncated one
    biases = [attention[part]["bias"] for attention in attentions for part in ("query", "out")]
    assert not any(np.any(bias) for bias in [*biases, block["mlp"]["in"]["bias"], block["mlp"]["out"]["bias"]])
    for leaf in (params["pos_embed"], params["cls_token"], params["cls_pos"]):
        np.testing.assert_allclose(np.std(leaf), 0.02, rtol=0.2)
    assert not params["time_embed"].any()
    for leaf in params["patch_embed"].values():
        assert 0.95 * 768**-0.5 < np.abs(leaf).max() <= 768**-0.5


@pytest.mark.parametrize(
    ("variant", "fields", "message"),
    [
        (
            "B",
            {},
            r"unknown TimeSformer variant 'B'. Use one of Ti, .*, then / and a patch size, then .* -HR, -L",
        ),
        ("B/16-XL", {}, r"unknown TimeSformer variant 'B/16-XL'"),
        ("B/16-", {}, r"unknown TimeSformer variant 'B/16-'"),
        ("B/16", {"attention_type": "divided"}, r"attention_type must be one of space_only.* got 'divided'"),
        (
            "B/16",
            {"divided_order": "both"},
            r"divided_order must be one of time_first, space_first, parallel.* got 'both'",
        ),
        ("B/16", {"pos_embed": "time"}, r"pos_embed must be one of space_time, space, none.* got 'time'"),
        (
            "B/16",
            {"attention_type": "axial", "divided_order": "parallel"},
            r"divided_order='parallel' needs attention_t",
        ),
        ("B/16", {"attention_type": "space_only", "cls_in_temporal_attention": True}, r"'space_only' has no such"),
        ("B/16", {"num_heads": 5}, r"num_heads=5 does not divide hidden_dim=768"),
        ("B/16", {"image_size": (8, 32)}, r"no patch of patch_size=\(16, 16\) fits into image_size=\(8, 32\)"),
        ("B/16", {"num_frames": 0}, r"num_frames must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_known(variant, fields, message):
    with pytest.raises(ValueError, match=message):
        build_model(f"timesformer:{variant}", **fields)


def test_videos_of_another_shape_and_unknown_captures():
    model = tiny()
    with pytest.raises(ValueError, match=r"\(4, 11, 3, 3\) given to a model built for \(3, 11, 3, 3\): .*num_frames="):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 11, 3, 3)), train=False))
    with pytest.raises(ValueError, match=r"capture names \['tokens/1'\]; layers are 0 to 0"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), some_videos(model), train=False, capture=["pooled", "tokens/1"])
        )
