"""Features: every family, layer and kind, and the agreement of patch tokens with the positions of their pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax import build_model
from vit_jax.analysis import extract, features

SIZES = {"image_size": (8, 12), "patch_size": (4, 4), "hidden_dim": 8, "mlp_dim": 8, "num_heads": 2, "num_layers": 2}
GRID, PLACE = (2, 3), (1, 2)  # of patches; of the one that is touched
WORDS = {"inner_hidden_dim": 4, "inner_mlp_dim": 4, "inner_num_heads": 2, "num_words": 4}
MODELS = {
    "vit": ("vit:Ti/4", {}),
    "gap": ("vit:Ti/4", {"pool": "gap"}),
    "tnt": ("tnt:Ti/4", WORDS),
    "space_only": ("timesformer:B/4", {"num_frames": 3, "attention_type": "space_only"}),
    "divided": ("timesformer:B/4", {"num_frames": 3}),
}
LAYERS = (0, -1, "final")


def built(name):
    variant, fields = MODELS[name]
    return build_model(variant, **{**SIZES, **fields, "num_classes": 5})


def params_of(model, randomised):
    inputs = jnp.zeros((1, *model.input_shape))
    return randomised(jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"])


def some_inputs(model, batch=2):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, *model.input_shape)), jnp.float32)


def is_video(model):
    return len(model.input_shape) == 4


@functools.partial(jax.jit, static_argnames="model")
def all_features(model, params, inputs):
    """Logits, and features of every layer and kind by name, in one compilation."""
    asked = [("final", "pooled"), *((layer, "patch") for layer in LAYERS)]
    asked += [(0, "frame")] if is_video(model) else []
    asked += [(0, "class"), ("final", "class")] if getattr(model, "pool", "cls") == "cls" else []
    found = {f"{kind}/{layer}": features(model, params, inputs, layer=layer, kind=kind) for layer, kind in asked}
    return model.apply({"params": params}, inputs, train=False), found


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return built(request.param)


def test_patches_are_on_their_grid(model, randomised):
    """Where attention adds nothing, a patch's tokens are of its pixels alone."""
    params = flatten_dict(params_of(model, randomised))
    kept = {path: 0 * leaf if "attention/out/" in "/".join(path) else leaf for path, leaf in params.items()}
    params, inputs = unflatten_dict(kept), some_inputs(model)
    time = (2,) if is_video(model) else ()
    touched = inputs.at[(1, *time, *(slice(4 * at, 4 * at + 4) for at in PLACE))].add(1)
    before, after = (all_features(model, params, x)[1] for x in (inputs, touched))
    for layer in LAYERS:
        one, other = before[f"patch/{layer}"], after[f"patch/{layer}"]
        assert one.shape == (2, *inputs.shape[1:-3], *GRID, 8)
        assert np.argwhere(np.abs(one - other).max(-1) > 1e-3).tolist() == [[1, *time, *PLACE]]
    if time:
        np.testing.assert_allclose(after["frame/0"], after["patch/0"].mean((2, 3)), atol=1e-6)


def test_negative_layers_count_from_the_last(randomised):
    model = built("gap")
    params, inputs = params_of(model, randomised), some_inputs(model)
    for layer in range(model.num_layers):
        one, other = (features(model, params, inputs, layer=i, kind="patch") for i in (layer, layer - model.num_layers))
        np.testing.assert_array_equal(one, other)


def test_kinds_are_what_the_model_makes_of_them(model, randomised):
    params, inputs = params_of(model, randomised), some_inputs(model)
    logits, found = all_features(model, params, inputs)
    pooled, last, final = (found[name] for name in ("pooled/final", "patch/-1", "patch/final"))
    np.testing.assert_allclose(pooled @ params["head"]["kernel"] + params["head"]["bias"], logits, atol=1e-5)

    x = np.asarray(last, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm_epsilon)
    np.testing.assert_allclose(final, x * params["norm"]["scale"] + params["norm"]["bias"], atol=1e-5)

    if model == built("gap"):
        np.testing.assert_allclose(pooled, final.mean((1, 2)), atol=1e-6)
        with pytest.raises(ValueError, match="ViT with pool='gap' has no class token"):
            features(model, params, inputs, layer=-1, kind="class")
        return
    assert found["class/0"].shape == (2, 8)
    if model != built("space_only"):  # which averages its frames' class tokens before the norm
        np.testing.assert_allclose(found["class/final"], pooled, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        ("final", "frame", "kind='frame' requires a video model, but ViT takes images"),
        ("final", "words", "kind must be one of class, patch, frame, pooled, got 'words'"),
        (-1, "pooled", "kind='pooled' requires layer='final', got layer=-1"),
        (2, "patch", "layer must be 'final', 0 to 1 or -2 to -1, got 2"),
        ("last", "patch", "layer must be 'final', 0 to 1 or -2 to -1, got 'last'"),
    ],
)
def test_unknown_layers_and_kinds_are_refused(layer, kind, message):
    with pytest.raises(ValueError, match=message):
        features(built("vit"), {}, some_inputs(built("vit")), layer=layer, kind=kind)


@pytest.mark.parametrize("name", ["vit", "divided"])
def test_a_split_is_extracted_without_its_padding_in_its_order(name, randomised):
    model = built(name)
    inputs, params = some_inputs(model, 5), params_of(model, randomised)
    key, batches = "video" if is_video(model) else "image", []
    for ids in np.array([[2, 3], [0, 1], [4, -1]]):
        batches.append({key: inputs[ids], "label": 10 + ids, "mask": ids >= 0, "id": ids})
    rows = extract(model, params, batches, layer=0, kind="patch")
    assert rows["id"].tolist() == [0, 1, 2, 3, 4]
    assert rows["label"].tolist() == [10, 11, 12, 13, 14]
    for pair in ([0, 1], [2, 3], [4, 4]):
        expected = all_features(model, params, inputs[np.array(pair)])[1]["patch/0"]
        np.testing.assert_allclose(rows["features"][pair], expected, atol=1e-5)
