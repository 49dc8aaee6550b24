"""Fine-tuning from another run: positions resampled, head replaced, everything else the same or refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vit_jax.transfer import transfer

from vit_jax import build_model
from vit_jax.errors import UserError
from vit_jax.models.positions import resample


def params(seed=0, size=(8, 8), classes=3, **fields):
    shape = {"hidden_dim": 8, "mlp_dim": 16, "num_layers": 2, "num_heads": 2, "in_channels": 1, **fields}
    model = build_model("vit:Ti/2", image_size=size, num_classes=classes, **shape)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 1)), train=False)["params"])
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda x: noise.normal(size=x.shape).astype(np.float32), shapes)


ABC, XYZ = ("a", "b", "c"), ("x", "y", "z")


def test_the_same_model_and_classes_load_everything():
    source = params(0)
    loaded, report = transfer(source, params(1), source_labels=ABC, target_labels=ABC)
    jax.tree.map(np.testing.assert_array_equal, loaded, source)
    assert len(report) == 1


def test_other_classes_replace_the_head_only_and_say_so():
    source, target = params(0), params(1)
    loaded, report = transfer(source, target, source_labels=ABC, target_labels=XYZ)
    np.testing.assert_array_equal(loaded["head"]["kernel"], target["head"]["kernel"])
    np.testing.assert_array_equal(loaded["norm"]["scale"], source["norm"]["scale"])
    assert "head replaced: 3 classes -> 3 others, initialised anew" in report


def test_another_resolution_resamples_positions_and_says_so():
    source, target = params(0), params(1, size=(12, 6), classes=2)
    loaded, report = transfer(source, target, source_labels=ABC, target_labels=("a", "b"))
    assert loaded["pos_embed"].shape == (6, 3, 8)
    np.testing.assert_allclose(loaded["pos_embed"], resample(jnp.asarray(source["pos_embed"]), (6, 3)), rtol=1e-5)
    assert any("4x4 -> 6x3" in line for line in report)


def test_positions_of_rows_columns_and_layers_are_resampled_too():
    fields: dict[str, Any] = {"pos_embed": "learned2d", "pos_embed_at": "every_layer"}
    source, target = params(0, **fields), params(1, size=(12, 6), **fields)
    loaded, report = transfer(source, target, source_labels=ABC, target_labels=ABC)
    for old, new in zip(source["encoder"].values(), loaded["encoder"].values(), strict=True):
        np.testing.assert_allclose(new["pos_embed_y"], resample(jnp.asarray(old["pos_embed_y"]), (6,)), rtol=1e-5)
        np.testing.assert_allclose(new["pos_embed_x"], resample(jnp.asarray(old["pos_embed_x"]), (3,)), rtol=1e-5)
        np.testing.assert_array_equal(new["cls_pos"], old["cls_pos"])
    assert "encoder/block_1/pos_embed_y resampled: 4 -> 6" in report


def test_relative_positions_fit_one_sequence_only():
    source, target = (params(size=size, pos_embed="relative") for size in ((8, 8), (12, 6)))
    with pytest.raises(UserError, match=r"relative_embed of shape \(33, 4\); this model's is \(37, 4\)"):
        transfer(source, target, source_labels=ABC, target_labels=ABC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mlp_dim": 32}, r"mlp/in/bias of shape \(16,\); this model's is \(32,\)"),
        ({"num_layers": 3}, "no parameter encoder/block_2"),
        ({"num_layers": 1}, "this model lacks: encoder/block_1"),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_the_parameter(fields, message):
    with pytest.raises(UserError, match=message):
        transfer(params(0), params(1, **fields), source_labels=ABC, target_labels=ABC)
