"""The preprocessing that timm's and Hugging Face's configs describe, as chains of transforms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.pretrained import image_processors
from vit_jax.pretrained.image_processors import from_hugging_face, to_hugging_face
from vit_jax.pretrained.preprocessing import Recipe, big_vision, cropped, from_timm, squashed, to_timm

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
            {"crop_mode": "squash", "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
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
    ours = Recipe((224, 224), 3, (side, side), True, "even", "bicubic", 0.5, 0.5)
    assert from_timm({"pretrained_cfg": to_timm(ours)}, (224, 224)) == cropped(side, "bicubic", 0.5, 0.5)


def test_timm_covers_another_shape_and_takes_the_crop_of_the_test_size():
    fields = {**IMAGENET, "crop_pct": 0.9, "test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    rest = "center_crop|normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    expected = {
        (224, 224): f"resize(248, method='bicubic')|{rest}",
        (288, 288): f"resize(288, method='bicubic')|{rest}",
        (160, 288): f"resize((177, 320), method='bicubic', cover=True)|{rest}",
    }
    assert {size: from_timm({"pretrained_cfg": fields}, size) for size in expected} == expected


def test_timm_squashes_to_more_than_the_crop():
    fields = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_mode": "squash"}
    chain = "resize((256, 512), method='bicubic')|center_crop|normalize(mean=0.5, std=0.5)"
    assert from_timm({"pretrained_cfg": fields}, (224, 448)) == chain


def test_timm_reads_an_old_config_and_its_defaults():
    fields = {"architecture": "vit_tiny_patch16_224", "mean": None, "std": [0.5], "interpolation": "", "crop_pct": None}
    chain = "resize(256, method='bicubic')|center_crop|normalize(mean=(0.485, 0.456, 0.406), std=0.5)"
    assert from_timm(fields, (224, 224)) == chain
    assert from_timm({"pretrained_cfg": fields}, (224, 224)) == chain
    assert from_timm({"architecture": "vit_tiny_patch16_224"}, (224, 224)) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode is 'border', but only center, squash are supported. Give the preproc"),
        ({"interpolation": "random"}, "interpolation is 'random', but only nearest, lanczos,"),
        ({"crop_pct": 1.2}, "crop_pct is 1.2, but it must be above 0 and at most 1"),
        ({"crop_pct": "0.9"}, "crop_pct is '0.9'"),
        ({"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\], but numbers, one or one per channel"),
        ({"mean": "imagenet"}, "mean is 'imagenet'"),
        ({"std": [0.5, 0.5, 0.0]}, "std is .*, but positive numbers"),
        ({"naflex": True}, "naflex is True, but this key is unknown and may change the pixels"),
    ],
    ids=str,
)
def test_what_of_timm_no_chain_expresses_is_refused_by_name(fields, message):
    with pytest.raises(UserError, match=rf"^config.json.*: {message}"):
        from_timm({"pretrained_cfg": {**IMAGENET, **fields}}, (224, 224))
    assert from_timm({"pretrained_cfg": {**IMAGENET, "naflex": False, "tag": "x"}}, (224, 224))


VIT = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
DOWN = "center_crop(rounding='down')"
HALF = "normalize(mean=0.5, std=0.5)"
SHORTEST = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    ("fields", "size", "chain"),
    [
        ({**VIT, "size": 224}, 224, squashed("bilinear", 0.5, 0.5)),
        ({**VIT, "size": {"height": 224, "width": 224}}, 384, squashed("bilinear", 0.5, 0.5)),
        ({**VIT, **SHORTEST, "resample": 3}, 224, cropped(256, "bicubic", 0.5, 0.5, crop=DOWN)),
        ({**VIT, **SHORTEST}, 448, cropped(512, "bilinear", 0.5, 0.5, crop=DOWN)),
        ({**VIT, "do_normalize": False}, 224, squashed("bilinear", 0.0, 1.0)),
        ({**VIT, "do_rescale": False, "image_mean": 127.5, "image_std": 51}, 224, squashed("bilinear", 0.5, 0.2)),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, 224, squashed("bilinear", 0.5, 0.5)),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True},
            224,
            f"resize((256, 256), method='bicubic')|center_crop|{HALF}",
        ),
        (
            {"image_processor_type": "DeiTImageProcessorFast"},
            384,
            f"resize((439, 439), method='bicubic')|{DOWN}|{HALF}",
        ),
        (
            {"image_processor_type": "VivitImageProcessor", "image_mean": 0, "image_std": 1},
            224,
            f"resize(256, method='bilinear')|{DOWN}|{HALF}",
        ),
        (
            {"image_processor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875},
            224,
            f"resize(256, method='bicubic')|{DOWN}|{HALF}",
        ),
        ({"resample": None, "image_mean": None, "do_normalize": False}, 224, squashed("bilinear", 0.0, 1.0)),
        ({}, 224, squashed("bilinear", 0.5, 0.5)),
    ],
    ids=str,
)
def test_of_hugging_face(fields, size, chain):
    assert from_hugging_face({"preprocessor_config": fields}, (size, size)) == chain


def test_hugging_face_without_a_file_says_nothing():
    assert from_hugging_face({"model_type": "vit"}, (224, 224)) is None


def test_a_class_that_is_not_named_follows_from_the_model():
    chains = {
        "vit_mae": f"resize(method='bilinear')|{HALF}",
        "deit": f"resize((256, 256), method='bicubic')|center_crop|{HALF}",
        "timesformer": f"resize(224, method='bilinear')|{DOWN}|{HALF}",
    }
    for model_type, chain in chains.items():
        assert from_hugging_face({"model_type": model_type, "preprocessor_config": {}}, (224, 224)) == chain


def test_a_video_s_file_comes_first():
    video = {"video_processor_type": "TimesformerVideoProcessor", "do_sample_frames": True, "num_frames": 8}
    chain = from_hugging_face({"video_preprocessor_config": video, "preprocessor_config": VIT}, (224, 224))
    normalize = "normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    assert chain == f"resize(224, method='bilinear')|{DOWN}|{normalize}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_resize": False}, "do_resize is False, but images of another size than the model's cannot"),
        ({"do_pad": True}, "do_pad is True, but padding is not supported"),
        ({"resample": 5}, r"resample is 5, but only 0 \(nearest\), .*4 \(box\) are supported"),
        ({"resample": "bilinear"}, "resample is 'bilinear'"),
        ({"rescale_factor": 0}, "rescale_factor is 0, but a positive number is needed"),
        ({"offset": True}, "offset is True, but the processor of ViT does not use it"),
        ({"crop_pct": 0.9}, "crop_pct is 0.9, but the processor of ViT does not use it"),
        (
            {"size": {"longest_edge": 224}},
            r"size is \{'longest_edge': 224\}, but only height and width, or shortest_edge",
        ),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size is .*longest_edge"),
        (
            {"size": {"shortest_edge": 224}},
            r"size is \{'shortest_edge': 224\}, but without do_center_crop, images keep",
        ),
        ({"size": "224"}, "size is '224', but a size in pixels is needed"),
        ({"do_center_crop": True}, "crop_size is None, but a size in pixels is needed"),
        ({"do_center_crop": True, "crop_size": 256, "size": 224}, "crop_size is 256, but it is larger than size, 224"),
        ({"image_mean": None}, "image_mean is None, but versions of transformers differ in what null means"),
        ({"do_rescale": None}, "do_rescale is None, but versions of transformers differ"),
        ({"image_std": [0.5, 0.5]}, r"image_std is \[0.5, 0.5\], but positive numbers"),
        ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map is .*, but code in a folder is not run"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is True, but this key is unknown"),
        (
            {"image_processor_type": "LevitImageProcessor"},
            "the processor is 'LevitImageProcessor', but only those of ViT",
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 224, "width": 224}},
            "crop_pct is 0.875",
        ),
    ],
    ids=str,
)
def test_what_of_hugging_face_no_chain_expresses_is_refused_by_name(fields, message):
    with pytest.raises(UserError, match=rf"^preprocessor_config.json: {message}.*Give the preprocessing yourself"):
        from_hugging_face({"preprocessor_config": fields}, (224, 224))


@pytest.mark.parametrize(
    ("scaled", "cover", "size"),
    [((256, 256), True, (224, 224)), ((224, 224), False, (224, 224)), ((256, 300), False, (224, 260))],
)
def test_hugging_face_reads_back_what_is_written(scaled, cover, size):
    ours = Recipe(size, 3, scaled, cover, "down", "bicubic", (0.1, 0.2, 0.3), 0.5)
    written = to_hugging_face(ours, {"model_type": "vit"})
    assert written is not None
    chain = from_hugging_face({"preprocessor_config": written}, size)
    if cover:
        assert chain == cropped(scaled, "bicubic", (0.1, 0.2, 0.3), 0.5, crop=DOWN)
    else:
        assert chain == squashed("bicubic", (0.1, 0.2, 0.3), 0.5, scaled=None if scaled == size else scaled)


def test_what_a_format_cannot_express_is_not_written():
    ours = Recipe((160, 288), 3, (183, 329), True, "down", "bicubic", 0.5, 0.5)
    assert to_hugging_face(ours, {"model_type": "vit"}) is None
    assert to_timm(Recipe((160, 288), 3, (183, 400), True, "even", "bicubic", 0.5, 0.5)) is None


@pytest.mark.parametrize("shape", [(177, 236), (640, 480), (1000, 30), (8, 2000), (160, 288)])
@pytest.mark.parametrize(
    "chain",
    [
        from_timm({"pretrained_cfg": IMAGENET}, (160, 288)),
        from_hugging_face({"preprocessor_config": {**VIT, **SHORTEST}}, (160, 288)),
        from_hugging_face({"model_type": "deit", "preprocessor_config": {}}, (160, 288)),
        big_vision((160, 288)),
    ],
)
def test_every_photograph_fits_a_model_that_is_not_square(chain, shape):
    image = Image.fromarray(np.zeros(shape, np.uint8)).convert("RGB")
    assert Preprocessing((160, 288), 3, chain)(image, None).shape == (160, 288, 3)


def test_big_vision_resizes_256_for_224():
    chain = "resize({}, method='box')|center_crop|normalize(mean=0.5, std=0.5)"
    assert [big_vision((side, side)) for side in (224, 448)] == [chain.format(256), chain.format(512)]


VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 224, 256.0, 0.5, float("nan"), float("inf"), 10**12, "", "a", "bicubic", [], [1],
     ["a"] * 3, [0.5] * 3, [224, 224], [3, 224, 224], {}, {"height": 224, "width": 224},
     {"shortest_edge": 256}, {"height": "a"}]
)  # fmt: skip
TIMM_KEYS = ("interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std", "test_input_size", "unknown")
KEYS = (*image_processors._ALL, "image_processor_type", "unknown")


@settings(derandomize=True, deadline=None, database=None, max_examples=500)
@given(
    timm=st.dictionaries(st.sampled_from(TIMM_KEYS), VALUES, max_size=4),
    hugging_face=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    processor=st.sampled_from(list(image_processors._PROCESSORS)),
)
def test_any_values_give_a_chain_or_one_line(timm, hugging_face, processor):
    hugging_face = {"image_processor_type": f"{processor}ImageProcessor", **hugging_face}
    for read, config in (
        (from_timm, {"pretrained_cfg": timm}),
        (from_hugging_face, {"preprocessor_config": hugging_face}),
    ):
        try:
            chain = read(config, (224, 160))
        except UserError as error:
            said = str(error)
        else:
            said = ""
            assert chain is None or Preprocessing((224, 160), 3, chain).steps
        assert "\n" not in said
