"""The branches of a model, put together again, are the model; and each part can be switched off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import build_model
from vit_jax.analysis.rank.branches import Parts, open_stack, outputs_from, run
from vit_jax.errors import UserError

SIZES = {"image_size": (8, 12), "patch_size": (4, 4), "hidden_dim": 8, "mlp_dim": 12, "num_heads": 2, "num_layers": 2}
TEXT = {"hidden_dim": 8, "mlp_dim": 16, "num_heads": 2, "num_layers": 2, "vocab_size": 11}
MODELS = {
    "vit": ("vit:Ti/4", {"scan_layers": True}),
    "layer scale": ("vit:Ti/4", {"layer_scale_init": 0.5, "pool": "gap", "num_registers": 2, "gelu": "quick"}),
    "space_only": ("timesformer:B/4", {"num_frames": 3, "attention_type": "space_only"}),
    "joint": ("timesformer:B/4", {"num_frames": 3, "attention_type": "joint_space_time"}),
    "divided": ("timesformer:B/4", {"num_frames": 3}),
    "parallel": ("timesformer:B/4", {"num_frames": 3, "divided_order": "parallel"}),
    "space first": (
        "timesformer:B/4", {"num_frames": 3, "divided_order": "space_first", "cls_in_temporal_attention": True}
    ),
    "local and global": ("timesformer:B/4", {"num_frames": 3, "attention_type": "sparse_local_global"}),
    "post-norm": ("transformer:base", TEXT),
    "pre-norm": ("transformer:base", {**TEXT, "norm": "pre", "architecture": "encoder"}),
}  # fmt: skip
SOURCE = jnp.asarray([[3, 4, 5, 6, 0, 0], [1, 2, 3, 4, 5, 6]])  # the first is padded


def made(name, randomised, **fields):
    """Returns a model, random parameters, its inputs, and the prefix of its captured tokens."""
    variant, own = MODELS[name]
    text = variant.startswith("transformer")
    model = build_model(variant, **({} if text else {**SIZES, "num_classes": 5}), **{**own, **fields})
    if text:
        inputs = (SOURCE,) if model.architecture == "encoder" else (SOURCE, SOURCE)
    else:
        inputs = (jnp.asarray(np.random.default_rng(1).standard_normal((2, *model.input_shape)), jnp.float32),)
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))["params"])
    return model, params, inputs, "encoder/" if text else ""


@pytest.mark.parametrize("name", MODELS)
def test_all_parts_together_are_the_model(name, randomised):
    model, params, inputs, prefix = made(name, randomised)
    names = [f"{prefix}tokens/{i}" for i in range(model.num_layers)]
    outputs, captured = model.apply({"params": params}, *inputs, train=False, capture=tuple(names))
    stack = open_stack(model, params, *inputs)
    after = run(stack, Parts())
    for name, x in zip(names, after[1:], strict=True):
        assert x.dtype == np.float64
        np.testing.assert_allclose(x, np.asarray(captured[name]).reshape(x.shape), atol=1e-5)
    np.testing.assert_allclose(outputs_from(model, params, after[-1], *inputs), outputs, atol=1e-4)


def norm(x, params):
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def attention(x, params):
    query, key, value = (
        np.einsum("btc,chd->bthd", x, params[name]["kernel"]) + params[name]["bias"]
        for name in ("query", "key", "value")
    )
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value)
    return np.einsum("bqhd,hdo->bqo", mixed, params["out"]["kernel"]) + params["out"]["bias"]


def mlp(x, params):
    hidden = x @ params["in"]["kernel"] + params["in"]["bias"]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


@pytest.mark.parametrize("parts", [Parts(s, m, n) for s in (False, True) for m in (False, True) for n in (False, True)])
def test_parts_are_switched_off(parts, randomised):
    model, params, inputs, _ = made("vit", randomised, gelu="quick")
    stack = open_stack(model, params, *inputs)
    x = np.asarray(stack.tokens)
    for i in range(model.num_layers):
        block = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"][f"block_{i}"])
        for kind, function in (("attention", attention), ("mlp", mlp)):
            if kind == "mlp" and not parts.mlp:
                continue
            y = function(norm(x, block[f"{kind}_norm"]) if parts.norm else x, block[kind])
            x = x + y if parts.skip else y
    found = run(stack, parts)[-1]
    np.testing.assert_allclose(found, x, rtol=1e-8, atol=1e-9)


def test_a_class_token_that_takes_no_part_keeps_its_value(randomised):
    model, params, inputs, _ = made("divided", randomised)
    stack = open_stack(model, params, *inputs)
    temporal, spatial = (step[0] for step in stack.blocks[0][:2])
    assert (temporal.leaves_class_token, spatial.leaves_class_token) == (True, False)
    alone = stack.__class__((stack.blocks[0][:1],), stack.tokens, None, False)
    before, after = run(alone, Parts(skip=False, mlp=False))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    assert not np.allclose(before[:, 1:], after[:, 1:])


@pytest.mark.parametrize(
    ("variant", "fields", "named"),
    [
        ("tnt:Ti/4", {}, "blocks of type TNTBlock"),
        ("vit:Ti/4", {"pos_embed_at": "every_layer"}, "blocks of type PositionedBlock"),
        ("vit:Ti/4", {"pos_embed_at": "every_layer_shared"}, "blocks of type SharedPositionsBlock"),
        ("transformer:base", {"architecture": "decoder"}, "Transformer has no encoder"),
    ],
)
def test_other_blocks_are_refused(variant, fields, named, randomised):
    text = variant.startswith("transformer")
    sizes = TEXT if text else {**SIZES, "hidden_dim": 16, "num_classes": 5}
    words = (
        {"inner_hidden_dim": 4, "inner_mlp_dim": 4, "inner_num_heads": 2, "num_words": 4} if "tnt" in variant else {}
    )
    model = build_model(variant, **sizes, **words, **fields)
    inputs = SOURCE if text else jnp.zeros((1, *model.input_shape))
    params = randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"])
    with pytest.raises(UserError, match=named):
        open_stack(model, params, inputs)
