"""Building models: names, overrides, errors, published parameter counts, and a package that imports fast."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax.models import build_model
from vit_jax.models.vit import VARIANTS, ViT


def test_a_name_is_a_family_and_a_variant():
    model = build_model("vit:B/16")
    assert isinstance(model, ViT)
    assert model == ViT()  # the defaults of the module are those of the paper's base model
    assert vit_jax.build_model is build_model


@pytest.mark.parametrize(
    ("variant", "num_layers", "hidden_dim", "mlp_dim", "num_heads"),
    [
        ("Ti/16", 12, 192, 768, 3),
        ("S/32", 12, 384, 1536, 6),
        ("B/8", 12, 768, 3072, 12),
        ("L/32", 24, 1024, 4096, 16),
        ("H/14", 32, 1280, 5120, 16),
    ],
)
def test_variants(variant, num_layers, hidden_dim, mlp_dim, num_heads):
    model = build_model(f"vit:{variant}")
    patch = int(variant.split("/")[1])
    assert (model.num_layers, model.hidden_dim, model.mlp_dim, model.num_heads) == (
        num_layers,
        hidden_dim,
        mlp_dim,
        num_heads,
    )
    assert model.patch_size == (patch, patch)
    assert model.grid == (224 // patch, 224 // patch)


# (224, 224) pixels and 1000 classes; ViT, Table 1, and AugReg, Table 1 (which prints the counts with a representation
# layer). S/32 is S/16 with 768 more pixels a patch and 147 fewer positions.
PUBLISHED = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "S/32": 22_050_664 + (768 * 3 - 147) * 384,
    "B/16": 86_567_656,
    "B/32": 88_224_232,
    "L/16": 304_326_632,
    "L/32": 306_535_400,
    "H/14": 632_045_800,
}
# AugReg, Table 2, which counts a representation layer (6.4, 36.6 and 330.0 million with one); ViT, appendix B.1
HYBRIDS = {
    "R+Ti/16": (192, 6_374_760, (7, 7)),
    "R26+S/32": (384, 36_579_752, (7, 7)),
    "R26+B/32": (768, 101_974_568, (7, 7)),
    "R50+B/16": (768, 99_249_704, (14, 14)),
    "R50+L/32": (1024, 330_044_456, (7, 7)),
}


def count_parameters(variant, **fields):
    model = build_model(f"vit:{variant}", **fields)
    images = jnp.zeros((1, *model.input_shape))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
    assert logits.shape == (1, 1000)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameter_counts(variant):
    assert count_parameters(variant) == PUBLISHED[variant]


@pytest.mark.parametrize(("variant", "width", "count"), [("Ti/16", 192, 5_754_472), ("S/16", 384, 22_198_504)])
def test_parameter_counts_with_a_representation_layer(variant, width, count):
    assert count_parameters(variant, representation_dim=width) == count


@pytest.mark.parametrize("variant", HYBRIDS)
def test_hybrids(variant):
    hidden_dim, count, grid = HYBRIDS[variant]
    model = build_model(f"vit:{variant}")
    size = VARIANTS[variant.partition("+")[2].partition("/")[0]]
    assert {field: getattr(model, field) for field in size} == size
    assert (model.hidden_dim, model.grid) == (hidden_dim, grid)
    assert count_parameters(variant, representation_dim=hidden_dim) == count


def test_overrides_win_over_the_variant():
    model = build_model("vit:Ti/16", hidden_dim=96, patch_size=(8, 4), image_size=(64, 32), num_classes=None)
    assert (model.hidden_dim, model.num_heads, model.num_classes) == (96, 3, None)
    assert model.grid == (8, 8)
    assert model.input_shape == (64, 32, 3)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("vti:B/16", {}, r"unknown model family 'vti' in 'vti:B/16'; known: .*vit"),
        ("B/16", {}, r"unknown model family 'B/16'"),
        ("vit", {}, r"unknown ViT variant ''"),
        ("vit:M/16", {}, r"unknown ViT variant 'M/16'. Use one of Ti, S, B, L, H, then / and a patch size"),
        ("vit:B", {}, r"unknown ViT variant 'B'"),
        ("vit:B/x", {}, r"unknown ViT variant 'B/x'"),
        ("vit:B/16", {"num_class": 10}, r"'vit:B/16' has no field 'num_class'; did you mean 'num_classes'\?"),
        ("vit:B/16", {"zzz": 1}, r"no field 'zzz'; it has .*image_size, .*remat"),
        ("vit:B/16", {"parent": None}, r"no field 'parent'"),
        ("vit:B/16", {"pool": "mean"}, r"pool must be one of cls, gap, map.* got 'mean'"),
        ("vit:B/16", {"pos_embed": "rope"}, r"pos_embed must be one of learned, learned2d, sincos2d.* got 'rope'"),
        (
            "vit:B/16",
            {"pos_embed_at": "layers"},
            r"pos_embed_at must be one of stem, every_layer, every_layer_shared.* got 'layers'",
        ),
        (
            "vit:B/16",
            {"pos_embed": "relative", "pos_embed_at": "every_layer"},
            r"pos_embed_at='every_layer' has no effect: pos_embed='relative' adds nothing",
        ),
        ("vit:R50+B/8", {}, r"unknown ViT variant 'R50\+B/8'. .* between \+ and /: R/16, R26/32, R50/16, R50/32"),
        ("vit:R26+M/32", {}, r"unknown ViT variant 'R26\+M/32'"),
        ("vit:R26+S/32", {"resnet_width": 48}, r"resnet_width must be a multiple of 32, .* got 48"),
        ("vit:R26+S/32", {"resnet_flavour": "torch"}, r"resnet_flavour must be one of google, timm.* got 'torch'"),
        ("vit:R+Ti/16", {"image_size": (28, 64)}, r"no patch of patch_size=\(8, 8\) fits into image_size=\(28, 64\)"),
        ("vit:B/16", {"remat": "all"}, r"remat must be one of none, full, dots.* got 'all'"),
        ("vit:B/16", {"gelu": "erf"}, r"gelu must be one of tanh, exact, quick, got 'erf'"),
        (
            "vit:B/16",
            {"attention_kernel": "flash"},
            r"attention_kernel must be one of auto, reference, xla.* got 'flash'",
        ),
        ("vit:B/16", {"image_size": (8, 32)}, r"no patch of patch_size=\(16, 16\) fits into image_size=\(8, 32\)"),
        ("vit:B/0", {}, r"no patch of patch_size=\(0, 0\)"),
        ("vit:B/16", {"dropout_rate": 1.5}, r"dropout_rate must be at least 0 and below 1, got 1.5"),
        ("tnt:S/16", {"drop_path_rate": -0.1}, r"drop_path_rate must be at least 0 and below 1, got -0.1"),
        ("vit:B/16", {"norm_epsilon": 0.0}, r"norm_epsilon must be above 0 and at most 1, got 0.0"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_known(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **overrides)


def test_a_model_says_which_pixels_no_patch_covers():
    assert build_model("vit:H/14", image_size=(224, 224)).notes() == []
    (note,) = build_model("vit:H/14", image_size=(384, 224)).notes()
    assert note.startswith("the patches cover 378 x 224 of the 384 x 224 pixels of an image")


def test_importing_the_package_loads_no_framework():
    script = "import sys, vit_jax; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "vit_jax" in modules
    assert not {"jax", "flax", "tensorflow", "numpy"} & set(modules)


def test_an_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="'vit_jax' has no attribute 'bild_model'"):
        _ = vit_jax.bild_model
