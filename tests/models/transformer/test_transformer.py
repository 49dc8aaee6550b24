"""The Transformer against a NumPy transcription and its finite differences; counts, causality, padding, dropout."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcriptions.layers import layer_norm
from transcriptions.transformer import formula, numpy_transformer

from vit_jax.models import build_model
from vit_jax.models.transformer import Transformer, sinusoids

LAYERS, HEADS = 2, 2
# the last example is a batch's padding
SOURCE = np.array([[3, 4, 9, 5, 0, 0], [7, 1, 1, 6, 10, 8], [0, 0, 0, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 8, 3, 3, 10], [1, 4, 2, 0, 0], [0, 0, 0, 0, 0]], np.int32)
# all that a field can change, but for the architecture
OTHER = {
    "norm": "pre",
    "pos_embed": "learned",
    "share_embeddings": False,
    "qkv_bias": True,
    "out_bias": True,
    "qk_head_dim": 5,
    "v_head_dim": 3,
    "norm_epsilon": 0.1,
}


def tiny(**fields):
    sizes = {"vocab_size": 11, "hidden_dim": 8, "mlp_dim": 12, "num_layers": LAYERS, "num_heads": HEADS}
    return build_model("transformer:base", **{**sizes, "max_length": 7, **fields})


def inputs_of(model):
    one = {"encoder": (SOURCE,), "decoder": (TARGET,)}
    return tuple(jnp.asarray(tokens) for tokens in one.get(model.architecture, (SOURCE, TARGET)))


def shapes_of(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs_of(model), train=False))["params"]


@pytest.fixture
def random_params(randomised):
    """Makes parameters of a model: the scales of the norms near 1, or the tokens of a source would be all alike."""

    def fill(model):
        params = randomised(shapes_of(model))
        return jax.tree.map_with_path(lambda path, leaf: leaf + (path[-1].key == "scale"), params)

    return fill


@functools.partial(jax.jit, static_argnames=("model", "train", "capture"))
def run(model, params, *sequences, train=False, key=None, capture=()):
    rngs = {} if key is None else {"dropout": key}
    return model.apply({"params": params}, *sequences, train=train, capture=capture, rngs=rngs)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [("encoder_decoder", {}), ("encoder_decoder", OTHER), ("encoder", OTHER), ("decoder", {})],
    ids=["published", "other", "encoder", "decoder"],
)
def test_the_whole_model_is_the_transcription(architecture, fields, random_params):
    model = tiny(architecture=architecture, **fields)
    sequences = inputs_of(model)
    params = random_params(model)
    p = jax.tree.map(np.float64, params)
    expected, expected_captured = numpy_transformer(model, p, *map(np.asarray, sequences))
    if architecture != "encoder":  # the same run as in decoding below, compiled once
        np.testing.assert_allclose(run(model, params, *sequences), expected, rtol=1e-4, atol=1e-5)
    out, captured = run(model, params, *sequences, capture=tuple(expected_captured))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert captured.keys() == expected_captured.keys()
    for name, value in expected_captured.items():
        np.testing.assert_allclose(captured[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("fields", [{}, OTHER], ids=["published", "other"])
def test_gradients_are_finite_differences_of_the_transcription(fields, random_params):
    model = tiny(**fields)
    params = random_params(model)
    weights = np.random.default_rng(1).standard_normal((*TARGET.shape, 11))
    sequences = inputs_of(model)
    gradients = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, *sequences, train=False) * weights).sum()))(
        params
    )
    leaves, tree = jax.tree.flatten(jax.tree.map(np.float64, params))

    def loss(leaves):
        return (numpy_transformer(model, jax.tree.unflatten(tree, leaves), SOURCE, TARGET)[0] * weights).sum()

    for i, (path, gradient) in enumerate(jax.tree.leaves_with_path(gradients)):
        direction = np.random.default_rng(2).standard_normal(gradient.shape)
        step = 1e-6 * direction
        ahead, behind = (loss([*leaves[:i], leaves[i] + sign * step, *leaves[i + 1 :]]) for sign in (1, -1))
        slope = (np.asarray(gradient, np.float64) * direction).sum()
        np.testing.assert_allclose(
            slope, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-4, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("hidden_dim", [2, 6, 512])
def test_sinusoids(hidden_dim):
    expected = [[formula(position, channel, hidden_dim) for channel in range(hidden_dim)] for position in range(70)]
    np.testing.assert_allclose(sinusoids(jnp.arange(70), hidden_dim), expected, atol=1e-5)
    np.testing.assert_allclose(sinusoids(jnp.asarray(69), hidden_dim), expected[69], atol=1e-5)


# Table 3: fields, millions of parameters with 37,000 tokens (worked out by hand), and as printed
ROWS = {
    "base": ({}, 63.046, 65),
    "A, 1 head": ({"num_heads": 1}, 63.046, None),
    "A, 4 heads": ({"num_heads": 4}, 63.046, None),
    "A, 16 heads": ({"num_heads": 16}, 63.046, None),
    "A, 32 heads": ({"num_heads": 32}, 63.046, None),
    "B, d_k = 16": ({"qk_head_dim": 16}, 55.968, 58),
    "B, d_k = 32": ({"qk_head_dim": 32}, 58.327, 60),
    "C, N = 2": ({"num_layers": 2}, 33.645, 36),
    "C, N = 4": ({"num_layers": 4}, 48.345, 50),
    "C, N = 8": ({"num_layers": 8}, 77.746, 80),
    "C, d_model = 256": ({"hidden_dim": 256, "qk_head_dim": 32, "v_head_dim": 32}, 26.817, 28),
    "C, d_model = 1024": ({"hidden_dim": 1024, "qk_head_dim": 128, "v_head_dim": 128}, 163.815, 168),
    "C, d_ff = 1024": ({"mlp_dim": 1024}, 50.450, 53),
    "C, d_ff = 4096": ({"mlp_dim": 4096}, 88.236, 90),
    "D, no dropout": ({"dropout_rate": 0.0}, 63.046, None),
    "E, learned positions": ({"pos_embed": "learned"}, 63.308, None),
    "big": ({}, 214.172, 213),
}


@pytest.mark.parametrize("row", ROWS)
def test_parameter_counts_of_table_3(row):
    fields, millions, printed = ROWS[row]
    model = build_model("transformer:big" if row == "big" else "transformer:base", **fields)
    lengths = jnp.zeros((2, 7), jnp.int32), jnp.zeros((2, 13), jnp.int32)
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *lengths, train=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert logits.shape == (2, 13, 37_000)
    assert round(count / 1e6, 3) == millions
    if row == "big":
        assert abs(count / 1e6 / printed - 1) < 0.01
    elif printed:  # what is missing is what 4,100 more tokens weigh, in every row
        assert round((count + 4_100 * model.hidden_dim) / 1e6) == printed


def test_variants():
    base, big = build_model("transformer:base"), build_model("transformer:big")
    assert base == Transformer()
    assert big == Transformer(hidden_dim=1024, mlp_dim=4096, num_heads=16, dropout_rate=0.3)


def test_causality_by_gradient(random_params):
    model = tiny(pos_embed="learned")
    params = random_params(model)
    sequences = inputs_of(model)

    @jax.jit
    @jax.jacrev
    def jacobian(tables):  # each row of a table is an input of one place
        return model.apply({"params": params | tables}, *sequences, train=False)[:2].sum(axis=-1)

    names = "source_pos_embed", "target_pos_embed"
    by_place = jax.tree.map(lambda leaf: np.abs(leaf).max(-1) > 0, jacobian({name: params[name] for name in names}))
    by_source, by_target = (by_place[name]["embedding"] for name in names)
    length = TARGET.shape[1]
    expected = np.tril(np.ones((length, length), bool))
    for example in range(2):
        np.testing.assert_array_equal(by_target[example, :, :length], expected)
        np.testing.assert_array_equal(by_source[example, :, :6], np.tile(SOURCE[example] != 0, (length, 1)))
        assert not by_target[example, :, length:].any()


def test_padding_changes_nothing(random_params):
    model = tiny()
    params = random_params(model)
    padded = run(model, params, np.pad(SOURCE, ((0, 0), (0, 1))), TARGET)
    np.testing.assert_allclose(padded[:2], run(model, params, *inputs_of(model))[:2], rtol=1e-5, atol=1e-5)


def test_what_is_padding_is_a_field(random_params):
    model = tiny(architecture="encoder", num_layers=1)
    params = random_params(model)
    error = np.abs(run(model, params, SOURCE) - run(model.clone(pad_id=1), params, SOURCE))
    assert error[:2].max(axis=(1, 2)).min() > 0.01


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [("encoder_decoder", {}), ("encoder_decoder", OTHER), ("decoder", {})],
    ids=["published", "other", "decoder"],
)
def test_cached_decoding_is_the_whole_model(architecture, fields, random_params):
    model = tiny(architecture=architecture, **fields)
    params = random_params(model)
    beams = np.stack([TARGET, TARGET[::-1]], axis=1)  # two sequences of each source
    sources = () if architecture == "decoder" else (jnp.asarray(SOURCE),)
    expected = np.stack([run(model, params, *sources, beams[:, beam]) for beam in range(2)], axis=1)

    variables = {"params": params}
    source = sources[0] if sources else None
    cache = jax.jit(lambda source: model.apply(variables, source, (3, 2, 6), method="start"))(source)
    step = jax.jit(lambda tokens, cache, i: model.apply(variables, tokens, cache, i, method="step"))
    for i in range(TARGET.shape[1]):
        logits, cache = step(jnp.asarray(beams[:, :, i]), cache, i)
        np.testing.assert_allclose(logits, expected[:, :, i], rtol=1e-5, atol=1e-5)


def test_scan_and_remat_change_no_value_or_gradient(random_params):
    params = random_params(tiny())

    def values_and_gradients(**fields):
        model = tiny(**fields)
        assert jax.tree.map(jnp.shape, shapes_of(model)) == jax.tree.map(jnp.shape, params)

        def run(params):
            apply = functools.partial(model.apply, train=False)
            out, pull_back = jax.vjp(lambda p: apply({"params": p}, *inputs_of(model)), params)
            return out, pull_back(jnp.cos(out))

        return jax.tree.leaves(jax.jit(run)(params))

    for a, b in zip(values_and_gradients(scan_layers=True, remat="dots"), values_and_gradients(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_dropout_is_where_the_paper_has_it(norm, random_params):
    """With all of it dropped, only the layer norms and the logits remain."""
    model = tiny(norm=norm, num_layers=1).clone(dropout_rate=1.0)
    params = random_params(model)
    logits = run(model, params, *inputs_of(model), train=True, key=jax.random.key(0))
    x = np.zeros(8)
    if norm == "post":
        for name in ("attention_norm", "cross_attention_norm", "mlp_norm"):
            x = layer_norm(params["decoder"]["block_0"][name], x)
    else:
        x = layer_norm(params["decoder_norm"], x)
    expected = np.broadcast_to(x @ params["embed"]["embedding"].T, logits.shape)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [{"dropout_rate": 0.5}, {"attention_dropout_rate": 0.5}, {"attention_dropout_rate": 0.5, "scan_layers": True}],
    ids=str,
)
def test_dropout_follows_its_rng_and_is_off_in_evaluation(fields, random_params):
    off = tiny(architecture="encoder", dropout_rate=0.0)
    params, model = random_params(off), off.clone(**fields)
    keys = (jax.random.key(seed, impl="rbg") for seed in (0, 0, 1))
    first, again, other = (run(model, params, SOURCE, train=True, key=key) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_allclose(run(model, params, SOURCE), run(off, params, SOURCE), rtol=1e-5, atol=1e-5)


def test_initial_values():
    fields = {"num_layers": 1, "hidden_dim": 128, "mlp_dim": 256, "vocab_size": 500, "pos_embed": "learned"}
    model = build_model("transformer:base", share_embeddings=False, out_bias=True, **fields)
    init = jax.jit(lambda key: model.init(key, *inputs_of(model), train=False)["params"])
    params = init(jax.random.key(0, impl="rbg"))
    for name in ("source_embed", "target_embed", "source_pos_embed", "target_pos_embed"):
        table = params[name]["embedding"]
        np.testing.assert_allclose([table.mean(), table.std()], [0, 128**-0.5], rtol=0.02, atol=1e-3)
    block = params["decoder"]["block_0"]
    assert not block["mlp"]["in"]["bias"].any()
    assert not block["cross_attention"]["out"]["bias"].any()
    for kernel, fan_in, fan_out in [
        *(
            (block[x][y]["kernel"], 128, 128)
            for x in ("attention", "cross_attention")
            for y in ("query", "value", "out")
        ),
        (block["mlp"]["in"]["kernel"], 128, 256),
        (block["mlp"]["out"]["kernel"], 256, 128),
        (params["head"]["kernel"], 128, 500),
    ]:
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / math.sqrt(3), rtol=0.02)


def test_bfloat16_computes_near_float32_and_keeps_it_outside(random_params):
    model = tiny(dtype=jnp.bfloat16)
    params, sequences = random_params(model), inputs_of(model)
    capture = ("decoder/cross_attention/1", "decoder/tokens/1")
    logits, captured = run(model, params, *sequences, capture=capture)
    exact = run(tiny(), params, *sequences)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert [array.dtype for array in (logits, *captured.values())] == [jnp.float32, jnp.float32, jnp.bfloat16]
    assert 0 < np.linalg.norm(logits - exact) < 0.03 * np.linalg.norm(exact)
    cache = jax.eval_shape(lambda: model.apply({"params": params}, sequences[0], (3, 1, 4), method="start"))
    assert {leaf.dtype for leaf in jax.tree.leaves((cache.past, cache.memory))} == {jnp.dtype("bfloat16")}


def test_the_kernel_reaches_the_blocks():
    with pytest.raises(ValueError, match="unknown attention kernel 'flash'"):
        shapes_of(tiny().clone(attention_kernel="flash"))


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("huge", {}, r"unknown Transformer variant 'huge'. Use one of base, big"),
        ("base", {"norm": "sandwich"}, r"norm must be one of post, pre.* got 'sandwich'"),
        ("base", {"pos_embed": "rotary"}, r"pos_embed must be one of sinusoidal, learned.* got 'rotary'"),
        (
            "base",
            {"architecture": "both"},
            r"architecture must be one of encoder_decoder, encoder, decoder.* got 'both'",
        ),
        ("base", {"remat": "all"}, r"remat must be one of none.* got 'all'"),
        ("base", {"attention_kernel": "flash"}, r"attention_kernel must be one of auto.* got 'flash'"),
        ("base", {"num_heads": 7}, r"num_heads=7 does not divide hidden_dim=512"),
        ("base", {"hidden_dim": 9, "num_heads": 3}, r"pos_embed='sinusoidal' needs an even hidden_dim, not 9"),
    ],
)
def test_errors_of_building(variant, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model(f"transformer:{variant}", **overrides)


@pytest.mark.parametrize(
    ("fields", "lengths", "capture", "message"),
    [
        ({"pos_embed": "learned"}, (8, 3), (), "8 tokens given to a model with learned positions for max_length=7"),
        ({"pos_embed": "learned"}, (3, 9), (), "9 tokens given"),
        ({}, (3,), (), "'encoder_decoder' takes source and target"),
        ({"architecture": "encoder"}, (3, 3), (), "'encoder' takes one sequence"),
        ({"architecture": "decoder"}, (3, 3), (), "'decoder' takes one sequence"),
        ({}, (3, 3), ["decoder/tokens/2"], r"capture names \['decoder/tokens/2'\]; layers are 0 to 1"),
        ({}, (3, 3), ["encoder/cross_attention/0", "encoder/tokens/0"], r"names \['encoder/cross_attention/0'\]"),
        ({}, (3, 3), ["decoder/cross_tokens/0"], r"names \['decoder/cross_tokens/0'\]"),
        ({"architecture": "encoder"}, (3,), ["decoder/tokens/0"], r"names \['decoder/tokens/0'\]"),
    ],
)
def test_errors_of_running(fields, lengths, capture, message):
    model = tiny(**fields)
    sequences = [jnp.ones((2, length), jnp.int32) for length in lengths]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), *sequences, train=False, capture=capture))
