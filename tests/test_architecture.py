"""What a run or a weight file says about its model, read without its parameters."""

import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from test_weights import ABC, CHAIN, SIZES, made, run  # noqa: F401  run is a fixture

from vit_jax import build_model, from_pretrained, save_pretrained
from vit_jax.architecture import architecture_of
from vit_jax.pretrained.names import shapes_of


def test_the_architecture_of_a_run_is_read_without_its_parameters(run, tmp_path):  # noqa: F811
    workdir, _ = run(gelu="exact", layer_scale_init=0.1, dropout_rate=0.1)
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3" / "state")
    architecture = architecture_of(tmp_path / "run")
    assert (architecture.name, architecture.labels) == ("vit:Ti/2", ABC)
    assert architecture.fields == {**SIZES, "gelu": "exact", "layer_scale_init": 0.1}
    assert (architecture.image_size, architecture.channels, architecture.num_frames) == ((8, 8), 1, None)
    assert (architecture.eval_transforms, architecture.train_transforms) == (CHAIN, f"flip|{CHAIN}")


def test_the_architecture_of_a_video_run_has_its_sampling(run):  # noqa: F811
    workdir, _ = run("timesformer:Ti/2", attention_type="space_only")
    architecture = architecture_of(workdir)
    assert (architecture.num_frames, architecture.sampling) == (2, "first")
    assert architecture.fields == {**SIZES, "attention_type": "space_only"}


FOREIGN = [
    ("npz", "vit:Ti/2", {"patch_size": (2, 4), "representation_dim": 6}),
    ("big_vision", "vit:Ti/2", {"pool": "map"}),
    ("timm", "vit:Ti/2", {"gelu": "exact", "layer_scale_init": 1e-5}),
    ("huggingface", "vit:Ti/2", {"norm_epsilon": 1e-12}),
    ("timm", "tnt:S/4", {"inner_hidden_dim": 4, "inner_mlp_dim": 16, "inner_num_heads": 2, "num_words": 4}),
    ("huggingface", "timesformer:Ti/2", {"num_frames": 3, "attention_type": "joint_space_time"}),
]


@pytest.mark.parametrize(("format", "name", "fields"), FOREIGN, ids=str)
def test_the_architecture_of_foreign_weights_rebuilds_their_model(format, name, fields, tmp_path, monkeypatch):
    model, params = made(name, **fields)
    save_pretrained(tmp_path / "x", model, params, format, labels=ABC if format in ("timm", "huggingface") else ())
    size = {"image_size": (8, 8)} if format in ("npz", "big_vision") else {}
    expected = from_pretrained(tmp_path / "x", **{f"stored_{key}": value for key, value in size.items()})
    monkeypatch.delattr("numpy.load")
    monkeypatch.delattr("safetensors.deserialize")
    architecture = architecture_of(tmp_path / "x", **size)
    frames = {} if architecture.num_frames is None else {"num_frames": architecture.num_frames}
    assert architecture.image_size is not None
    rebuilt = build_model(
        architecture.name,
        num_classes=3,
        image_size=architecture.image_size,
        in_channels=architecture.channels,
        **frames,
        **architecture.fields,
    )
    assert rebuilt == expected.model
    assert architecture.labels == expected.labels
    chain = expected.preprocessing.transforms if expected.preprocessing else None
    assert architecture.eval_transforms == chain


def test_the_architecture_is_named_by_the_variant_whose_sizes_the_file_has(tmp_path):
    model = build_model("vit:Ti/16", num_classes=None)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), unflatten_dict(shapes_of(model), sep="/"))
    save_pretrained(tmp_path / "x.npz", model, params, "npz")
    architecture = architecture_of(tmp_path / "x.npz")
    assert (architecture.name, architecture.fields, architecture.image_size) == ("vit:Ti/16", {}, None)
    assert architecture.chain((32, 32)) == "resize(method='bilinear', antialias=False)|normalize(mean=0.5, std=0.5)"
