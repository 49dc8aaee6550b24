"""The preprocessing that timm's and Hugging Face's configs describe, as chains of transforms."""

import pytest

from vit_jax.errors import UserError
from vit_jax.pretrained.preprocessing import (
    Recipe,
    big_vision,
    cropped,
    from_hugging_face,
    from_timm,
    squashed,
    to_timm,
)

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DEIT = "resize(248, method='bicubic')|center_crop|normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"


@pytest.mark.parametrize(
    ("fields", "size", "chain"),
    [
        ({"crop_pct": 0.9, "interpolation": "bicubic", **IMAGENET}, 224, DEIT),
        (
            {"crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
            224,
            "resize(256, method='bilinear')|center_crop|normalize(mean=0.5, std=0.5)",
        ),
        (
            {"crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
            384,
            "resize(384, method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)",
        ),
        (
            {"crop_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
            384,
            "resize(method='bicubic')|normalize(mean=0.5, std=0.5)",
        ),
        ({"input_size": [3, 224, 224]}, 224, None),
    ],
)
def test_of_timm(fields, size, chain):
    assert from_timm({"pretrained_cfg": fields}, (size, size)) == chain


@pytest.mark.parametrize("side", [224, 232, 235, 248, 249, 255, 256, 288, 300])
def test_timm_crops_the_side_that_was_written(side):
    ours = Recipe((224, 224), 3, side, "bicubic", 0.5, 0.5)
    assert from_timm({"pretrained_cfg": to_timm(ours)}, (224, 224)) == cropped(side, "bicubic", 0.5, 0.5)


VIT = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}


@pytest.mark.parametrize(
    ("fields", "size", "chain"),
    [
        ({**VIT, "size": 224}, 224, squashed("bilinear", 0.5, 0.5)),
        ({**VIT, "size": {"height": 224, "width": 224}}, 384, squashed("bilinear", 0.5, 0.5)),
        (
            {**VIT, "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
            224,
            cropped(256, "bicubic", 0.5, 0.5),
        ),
        ({**VIT, "size": {"shortest_edge": 256}, "crop_size": 224}, 448, cropped(512, "bilinear", 0.5, 0.5)),
        ({**VIT, "do_normalize": False}, 224, squashed("bilinear", 0.0, 1.0)),
        ({}, 224, None),
    ],
)
def test_of_hugging_face(fields, size, chain):
    assert from_hugging_face({"preprocessor_config": fields}, (size, size)) == chain


def test_what_these_transforms_cannot_do_is_refused():
    with pytest.raises(UserError, match="crop_mode 'border' with interpolation 'bicubic' is not supported"):
        from_timm({"pretrained_cfg": {**IMAGENET, "crop_mode": "border"}}, (224, 224))
    for fields in ({"do_resize": False}, {"rescale_factor": 1 / 127.5}):
        with pytest.raises(UserError, match="do_resize=false and a rescale_factor other than 1 / 255 are not"):
            from_hugging_face({"preprocessor_config": {**VIT, **fields}}, (224, 224))


def test_big_vision_resizes_256_for_224():
    chain = "resize({}, method='box')|center_crop|normalize(mean=0.5, std=0.5)"
    assert [big_vision((side, side)) for side in (224, 448)] == [chain.format(256), chain.format(512)]
