"""The pixels of foreign folders against transformers' image processors and timm's `create_transform`."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.image.transforms import Preprocessing
from vit_jax.pretrained.image_processors import from_hugging_face
from vit_jax.pretrained.preprocessing import from_timm

pytestmark = pytest.mark.parity

SHAPES = [(120, 177), (177, 121), (64, 64), (333, 41), (10, 400), (224, 225), (7, 5)]
CROP = {"do_center_crop": True, "crop_size": 200}
HUGGING_FACE = [
    ("vit", {}),
    ("vit", {"size": 48}),
    ("vit", {"feature_extractor_type": "ViTFeatureExtractor", "size": [32, 48]}),
    ("vit", {"resample": 0, "image_mean": 0.1, "image_std": 0.25}),
    ("vit", {"resample": 1, "do_rescale": False}),
    ("vit", {"resample": 4, "do_normalize": False}),
    ("vit", {"do_normalize": False, "do_rescale": False}),
    ("vit", {"rescale_factor": 1 / 127.5, "image_mean": [0.1, 0.2, 0.3]}),
    ("vit", CROP),
    ("vit", {**CROP, "size": {"shortest_edge": 230}}),
    ("vit", {"image_processor_type": "CLIPImageProcessor", "size": 224}),
    ("vit", {"image_processor_type": "SiglipImageProcessor"}),
    ("vit", {"image_processor_type": "BeitImageProcessor", "do_center_crop": True, "size": 256}),
    ("vit", {"image_processor_type": "ConvNextImageProcessor", "size": 224}),
    ("vit", {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0.95}),
    ("vit", {"image_processor_type": "ConvNextImageProcessor"}),
    ("vit_mae", {}),
    ("deit", {}),
    ("deit", {"size": 70, "crop_size": 48}),
    ("deit", {"size": 71, "crop_size": {"height": 48, "width": 32}}),
    ("dinov2", {}),
    ("timesformer", {}),
    (
        "timesformer",
        {"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "size": {"shortest_edge": 61}, "crop_size": 48},
    ),
]
TIMM = [
    {"mean": [0.5] * 3, "std": [0.5] * 3},
    {"mean": [0.48, 0.45, 0.4], "std": None, "crop_pct": 0.9, "interpolation": "bilinear"},
    {"mean": None, "crop_mode": "squash", "crop_pct": 1.0},
    {"std": [0.1] * 3, "crop_mode": "squash", "crop_pct": None},
    {"std": [0.1] * 3, "crop_mode": None, "crop_pct": 0.95},
]


def photograph(height, width, grey=False):
    """Returns an image with large and small structures; a grey one has equal channels."""
    rng = np.random.default_rng(height * width)
    small = rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = Image.fromarray((smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))
    return noisy.convert("L").convert("RGB") if grey else noisy


IMAGES = [photograph(*shape, grey=i == 2) for i, shape in enumerate(SHAPES)]


@pytest.fixture
def transformers(monkeypatch):
    """Returns the library. It does not find the stub of torchvision with which another test may have imported timm."""
    module = pytest.importorskip("transformers")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    module.utils.import_utils.is_torchvision_available.cache_clear()
    return module


@pytest.mark.parametrize(("model_type", "fields"), HUGGING_FACE, ids=str)
def test_hugging_face(model_type, fields, tmp_path, transformers):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    for image in IMAGES:
        given = [image] if "VideoMAE" in type(processor).__name__ else image
        pixels = np.asarray(processor(given, return_tensors="np")["pixel_values"])
        pixels = pixels.reshape(pixels.shape[-3:]).transpose(1, 2, 0)
        size = (len(pixels), len(pixels[0]))
        chain = from_hugging_face({"model_type": model_type, "preprocessor_config": fields}, size)
        assert chain
        ours = Preprocessing(size, 3, chain)(image, None)
        np.testing.assert_allclose(ours, pixels, rtol=1e-6, atol=1e-6)


@pytest.fixture
def create_transform(monkeypatch):
    """Returns timm's function, with the few functions of torchvision that it calls for evaluation written in Pillow."""
    torch = pytest.importorskip("torch")
    from tests.parity import peers

    peers.timm_model("test_vit")  # imports timm although torchvision is not there
    from timm.data import create_transform, transforms, transforms_factory

    def resize(image, size, interpolation=None):
        if isinstance(size, int):
            shorter = min(image.size)
            size = (int(size * image.height / shorter), int(size * image.width / shorter))
        return image.resize((size[1], size[0]), interpolation)

    def center_crop(image, size):
        top, left = (round((side - wanted) / 2) for side, wanted in zip(image.size[::-1], size, strict=True))
        return image.crop((left, top, left + size[1], top + size[0]))

    def compose(steps):
        def run(image):
            for step in steps:
                image = step(image)
            return image

        return run

    def normalize(mean, std):
        return lambda image: (image - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)

    def mode(name):
        return Image.Resampling[name.upper()]

    def to_tensor():
        return lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    functions = SimpleNamespace(resize=resize, get_dimensions=lambda image: [3, image.height, image.width])
    classes = SimpleNamespace(
        Resize=lambda size, interpolation: lambda image: resize(image, size, interpolation),
        CenterCrop=lambda size: lambda image: center_crop(image, size),
        Compose=compose,
        Normalize=normalize,
    )
    monkeypatch.setattr(transforms, "F", functions)
    monkeypatch.setattr(transforms, "str_to_interp_mode", mode)
    monkeypatch.setattr(transforms_factory, "transforms", classes)
    monkeypatch.setattr(transforms_factory, "str_to_interp_mode", mode)
    monkeypatch.setattr(transforms_factory, "MaybeToTensor", to_tensor)
    return create_transform


@pytest.mark.parametrize("size", [(224, 224), (160, 288), (96, 32), (64, 65)], ids=str)
@pytest.mark.parametrize("fields", TIMM, ids=str)
def test_timm(fields, size, create_transform):
    from timm.data import resolve_data_config

    transform = create_transform(**resolve_data_config(pretrained_cfg={**fields, "input_size": (3, *size)}))
    chain = from_timm({"pretrained_cfg": fields}, size)
    assert chain
    encoder = Preprocessing(size, 3, chain)
    for image in IMAGES:
        theirs = transform(image).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(encoder(image, None), theirs, rtol=1e-6, atol=1e-6)
