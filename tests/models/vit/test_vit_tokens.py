"""The tokens before the patches: class token, distillation token and registers; where the last norm is."""

import numpy as np
import pytest
from test_vit import GRID, logits_of, shapes_of, some_images, tiny
from transcriptions.layers import layer_norm


def test_split_tokens(randomised):
    images = some_images()
    for pool in ("cls", "gap"):
        model = tiny(pool=pool)
        tokens = logits_of(model, randomised(shapes_of(model)), images, capture=("tokens/final",))[1]["tokens/final"]
        first, patches = model.split_tokens(tokens)
        assert patches.shape == (3, *GRID, 8)
        np.testing.assert_array_equal(patches[:, 1, 2], tokens[:, (pool == "cls") + 6])
        if pool == "cls":
            np.testing.assert_array_equal(first, tokens[:, 0])
        else:
            assert first is None


PREFIXES = [
    {"pool": "gap", "unpooled_class_token": True},
    {"pool": "map", "unpooled_class_token": True, "num_registers": 2, "prefix_pos_embed": False},
    {"distillation_token": True, "num_registers": 2},
    {"pool": "gap", "num_registers": 1, "pos_embed": "relative"},
    {"num_registers": 2, "pos_embed_at": "every_layer"},
    {"distillation_token": True, "pos_embed_at": "every_layer_shared", "prefix_pos_embed": False},
]


@pytest.mark.parametrize("fields", PREFIXES, ids=str)
def test_tokens_before_the_patches(fields, randomised):
    model, images = tiny(**fields), some_images()
    params = randomised(shapes_of(model))
    num_prefix = model.has_class_token + fields.get("distillation_token", False) + fields.get("num_registers", 0)
    names = ("tokens/0", "tokens/final", "attention/1", "pooled")
    _, captured = logits_of(model, params, images, capture=names)
    assert captured["attention/1"].shape[-1] == num_prefix + 8
    assert captured["tokens/0"].shape == (3, num_prefix + 8, 8)
    tokens = captured["tokens/final"]
    first, patches = model.split_tokens(tokens)
    np.testing.assert_array_equal(patches[:, 1, 2], tokens[:, num_prefix + 6])
    if model.has_class_token:
        np.testing.assert_array_equal(first, tokens[:, 0])
    pooled = {"cls": tokens[:, : 1 + model.distillation_token], "gap": patches.reshape(3, 8, 8)}
    if model.pool in pooled:
        np.testing.assert_allclose(captured["pooled"], pooled[model.pool].mean(axis=1), atol=1e-6)
    learned = {"cls_pos", "distillation_pos", "register_pos"} & (params.keys() | params["encoder"]["block_0"].keys())
    expected = {"cls_pos"} if model.has_class_token else set()
    expected |= {"distillation_pos"} if model.distillation_token else set()
    expected |= {"register_pos"} if model.num_registers else set()
    assert learned == (expected if model.prefix_pos_embed and model.pos_embed == "learned" else set())


def test_the_distillation_head_reads_its_own_token(randomised):
    model, images = tiny(distillation_token=True), some_images()
    params = randomised(shapes_of(model))
    logits, captured = logits_of(model, params, images, capture=("tokens/final",))
    first, second = (captured["tokens/final"][:, i] for i in (0, 1))
    both = [
        x @ params[name]["kernel"] + params[name]["bias"]
        for x, name in ((first, "head"), (second, "distillation_head"))
    ]
    np.testing.assert_allclose(logits, (both[0] + both[1]) / 2, rtol=1e-4, atol=1e-5)
    features = tiny(distillation_token=True, num_classes=None)
    params = {name: value for name, value in params.items() if not name.endswith("head")}
    np.testing.assert_allclose(logits_of(features, params, images), (first + second) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "gap"])
def test_where_the_last_norm_is(pool, randomised):
    images, capture = some_images(), ("tokens/1", "tokens/final", "pooled")
    params = randomised(shapes_of(tiny(pool=pool)))
    for where in ("after_pool", "none"):
        model = tiny(pool=pool, final_norm=where)
        given = params if where == "after_pool" else {name: x for name, x in params.items() if name != "norm"}
        logits, captured = logits_of(model, given, images, capture=capture)
        np.testing.assert_array_equal(captured["tokens/final"], captured["tokens/1"])
        pooled = captured["tokens/1"][:, 0] if pool == "cls" else captured["tokens/1"].mean(axis=1)
        pooled = layer_norm(params["norm"], pooled) if where == "after_pool" else pooled
        np.testing.assert_allclose(captured["pooled"], pooled, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            logits, pooled @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unpooled_class_token": True}, "unpooled_class_token needs pool='gap' or 'map'"),
        ({"num_registers": -1}, "num_registers must be a whole number from 0 to 1,000, got -1"),
        ({"final_norm": "first"}, "final_norm must be one of before_pool, after_pool, none, got 'first'"),
        ({"distillation_token": True, "pool": "gap"}, "distillation_token needs pool='cls', got 'gap'"),
        (
            {"distillation_token": True, "representation_dim": 6},
            "distillation_token needs representation_dim=None, got 6",
        ),
        ({"distillation_token": True, "final_norm": "none"}, "distillation_token needs final_norm='before_pool', got"),
    ],
)
def test_tokens_that_do_not_fit_the_pooling(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)
