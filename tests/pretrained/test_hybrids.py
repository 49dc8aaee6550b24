"""Weights of hybrid ViTs: round trips, what formats cannot express, old layouts, and loading by peers."""

import json

import jax
import numpy as np
import pytest

from vit_jax import from_pretrained, save_pretrained
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.formats import find_format
from vit_jax.pretrained.names import shapes_of, to_params, to_tensors

SIZE = (40, 24)
SMALL = {"image_size": SIZE, "patch_size": (2, 2), "resnet_stages": (1, 2), "resnet_width": 32}
STEM = {"image_size": (40, 32), "patch_size": (2, 2), "resnet_stages": ()}
TIMM = {"gelu": "exact", "resnet_flavour": "timm"}


@pytest.mark.parametrize(
    ("format", "fields"),
    [
        ("npz", SMALL),
        ("npz", {**STEM, "in_channels": 1, "pool": "gap", "representation_dim": 6}),
        ("timm", {**STEM, **TIMM}),
    ],
    ids=str,
)
def test_the_same_model_and_the_same_bits(format, fields, tiny, tmp_path):
    model, params = tiny(**fields)
    save_pretrained(tmp_path / "out", model, params, format)
    loaded = from_pretrained(tmp_path / "out", stored_image_size=model.image_size, pool=model.pool)
    jax.tree.map(np.testing.assert_array_equal, params, loaded.params)
    for field in ("in_channels", "patch_size", "resnet_stages", "resnet_width", "resnet_flavour", "grid"):
        assert getattr(loaded.model, field) == getattr(model, field), field
    assert len(loaded.report.loaded) == len(jax.tree.leaves(params))


def test_names_of_timms_stages(tiny):
    model, params = tiny(**SMALL, **TIMM)
    timm = find_format("timm", model)
    tensors = to_tensors(timm, model, params)
    assert tensors["patch_embed.backbone.stages.1.blocks.0.downsample.conv.weight"].shape == (256, 128, 1, 1)
    assert tensors["patch_embed.backbone.stem.norm.weight"].shape == (32,)
    told = timm.architecture(tensors, {})
    assert {field: told[field] for field in ("in_channels", "resnet_stages", "resnet_width")} == {
        "in_channels": 3,
        "resnet_stages": (1, 2),
        "resnet_width": 32,
    }
    jax.tree.map(np.testing.assert_array_equal, params, to_params(timm, model, tensors))


@pytest.mark.parametrize(
    ("format", "fields", "message"),
    [
        (
            "timm",
            {**STEM, "gelu": "exact"},
            "timm' cannot hold resnet_flavour='google': it would be read back as 'timm'",
        ),
        (
            "timm",
            {**SMALL, **TIMM},
            r"no hybrid with resnet_stages=\(1, 2\), resnet_width=32; it has stages \(\), .*",
        ),
        ("npz", {**STEM, **TIMM, "gelu": "tanh"}, "npz' cannot hold resnet_flavour='timm'"),
        ("big_vision", {**STEM, "pool": "gap"}, "big_vision' has no place for resnet/root_conv/kernel"),
        ("huggingface", STEM, "huggingface' has no place for resnet/root_conv/kernel"),
    ],
)
def test_what_a_format_cannot_express_is_refused_by_name(format, fields, message, tiny, tmp_path):
    model, params = tiny(**fields)
    with pytest.raises(UserError, match=message):
        save_pretrained(tmp_path / "out", model, params, format)


def test_published_files_hold_group_norms_with_four_axes(tiny, tmp_path):
    model, params = tiny(**SMALL)
    tensors = to_tensors(find_format("npz", model), model, params)
    old = {
        name: value.reshape(1, 1, 1, -1) if "/gn" in f"/{name}" and value.ndim == 1 else value
        for name, value in tensors.items()
    }
    assert old["gn_root/scale"].shape == old["block2/unit1/gn_proj/bias"][..., :32].shape == (1, 1, 1, 32)
    np.savez(tmp_path / "old.npz", **old)  # pyright: ignore[reportArgumentType]
    loaded = from_pretrained(tmp_path / "old.npz", image_size=SIZE)
    jax.tree.map(np.testing.assert_array_equal, params, loaded.params)


@pytest.mark.parametrize("variant", ["R+Ti/16", "R26+S/32", "R26+B/32", "R50+B/16", "R50+L/32"])
def test_published_hybrids_have_a_name_for_everything(variant):
    model = build_model(f"vit:{variant}")
    shapes = shapes_of(model)
    for format in ("npz", "timm"):
        covered = {path for rule in find_format(format, model).rules(model) for path in rule.ours}
        assert not shapes.keys() - covered


def logits_of(model, params, images):
    return jax.jit(lambda params: model.apply({"params": params}, images, train=False))(params)


@pytest.mark.parity
@pytest.mark.parametrize(
    "fields", [{**STEM, "patch_size": (8, 8), "image_size": (96, 61)}, {"resnet_stages": (3, 4, 9)}]
)
def test_timm_computes_the_same_from_what_is_written(fields, tiny, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.parity import peers

    model, params = tiny(**{"image_size": (72, 40), "patch_size": (1, 1), **fields, **TIMM})
    save_pretrained(tmp_path / "out", model, params, "timm")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    options = {**config["model_args"], "num_classes": config["num_classes"]}
    peer = peers.timm_model(config["architecture"], **options).module
    tensors = to_tensors(find_format("timm", model), model, params)
    peer.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    images = np.random.default_rng(0).standard_normal((2, *model.input_shape)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = logits_of(model, params, jax.numpy.asarray(images))
    assert np.linalg.norm(logits - expected) < 1e-4 * np.linalg.norm(expected)
