"""TimeSformers that start from an image ViT."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_timesformer import HEADS, ODD, PATCH, logits_of, shapes_of, some_videos, tiny

from vit_jax.models import build_model
from vit_jax.models.from_image import from_image_params


def image_model(grid=ODD, **fields):
    sizes = {"image_size": (2 * grid[1], grid[2]), "patch_size": PATCH, "num_layers": 1, "num_heads": HEADS}
    defaults = {"hidden_dim": 8, "mlp_dim": 12, "num_classes": 5, "gelu": "exact"}
    return build_model("vit:B/16", **{**sizes, **defaults, **fields})


IDENTICAL = [
    {"attention_type": "space_only"},
    {"divided_order": "time_first"},
    {"divided_order": "space_first"},
    {"divided_order": "parallel"},
    {"cls_in_temporal_attention": True},
]


@pytest.mark.parametrize("fields", IDENTICAL, ids=str)
def test_identical_frames_give_the_image_models_logits(fields, randomised):
    image, model = image_model(), tiny(image_size=(10, 3), **fields)
    image_params = randomised(shapes_of(image))
    params = from_image_params(image_params, randomised(shapes_of(model), seed=1), model, keep_head=True)
    images = some_videos(image)
    videos = jnp.repeat(images[:, None], model.num_frames, axis=1)
    expected = logits_of(image, image_params, images)
    logits, captured = logits_of(model, params, videos, capture=("frame_logits",))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    if "attention_type" in fields:
        np.testing.assert_allclose(captured["frame_logits"], np.repeat(expected[:, None], 3, 1), rtol=1e-5, atol=1e-5)


def test_what_starts_from_an_image_model(randomised):
    image, model = image_model((1, 4, 4)), tiny((3, 8, 4), attention_type="axial", image_size=(16, 4))
    image_params, own = randomised(shapes_of(image)), randomised(shapes_of(model), seed=1)
    params = from_image_params(image_params, own, model)
    assert jax.tree.structure(params) == jax.tree.structure(own)
    block, source = params["encoder"]["block_0"], image_params["encoder"]["block_0"]
    for name in ("temporal_", "width_", ""):
        np.testing.assert_array_equal(block[f"{name}attention"]["key"]["kernel"], source["attention"]["key"]["kernel"])
        norm = block[f"{name or 'attention_'}norm"]
        np.testing.assert_array_equal(norm["bias"], source["attention_norm"]["bias"])
    assert not block["width_out"]["kernel"].any()
    assert not params["time_embed"].any()
    np.testing.assert_array_equal(params["pos_embed"], image_params["pos_embed"].repeat(2, axis=0))  # nearest
    np.testing.assert_array_equal(params["head"]["kernel"], own["head"]["kernel"])


@pytest.mark.parametrize(
    ("image", "fields", "options", "message"),
    [
        ({"layer_scale_init": 1.0}, {}, {}, r"no place for the image model's encoder/block_0/attention_scale/scale, "),
        ({"pool": "gap"}, {}, {}, r"has no parameter cls_pos, from which cls_pos would start"),
        ({}, {"num_layers": 2}, {}, r"no parameter encoder/block_1/.*, from which encoder/block_1/"),
        ({}, {"hidden_dim": 10}, {}, r"is \(.*8,?\) in the image model, \(.*10,?\) in the video model"),
        ({"num_classes": 4}, {}, {"keep_head": True}, r"head/.* is \(.*4,\) in the image model, \(.*5,\) in the video"),
        ({"representation_dim": 8}, {}, {"keep_head": True}, r"no place for the image model's representation/bias"),
    ],
)
def test_image_models_that_do_not_fit(image, fields, options, message):
    zeros, model = functools.partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape)), tiny(**fields)
    with pytest.raises(ValueError, match=message):
        from_image_params(zeros(shapes_of(image_model(**image))), zeros(shapes_of(model)), model, **options)
