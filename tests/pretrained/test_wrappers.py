"""Names of tensors under the prefixes that training code adds, in any order and number."""

import itertools

import numpy as np
import pytest

from vit_jax import from_pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained.formats import find_format, recognise
from vit_jax.pretrained.names import to_tensors
from vit_jax.pretrained.wrappers import unwrapped

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.")
TNT = {"inner_hidden_dim": 4, "inner_mlp_dim": 16, "inner_num_heads": 2, "num_words": 4, "image_size": (8, 8)}
MODELS = [
    ("vit:Ti/4", "timm", {}),
    ("vit:Ti/4", "huggingface", {}),
    ("vit:Ti/4", "huggingface", {"num_classes": None}),
    ("tnt:S/4", "timm", TNT),
    ("timesformer:Ti/4", "huggingface", {"num_frames": 2}),
    ("timesformer:Ti/4", "timesformer", {"num_frames": 2}),
    ("timesformer:Ti/4", "timesformer", {"num_frames": 2, "attention_type": "joint_space_time"}),
]


@pytest.fixture(scope="module")
def tensors_of(tiny):
    def make(name, format_name, fields):
        model, params = tiny(name, **fields)
        format = find_format(format_name, model)
        return format, to_tensors(format, model, params)

    return make


def wrapped(tensors, prefix):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(("name", "format_name", "fields"), MODELS, ids=str)
def test_no_prefix_changes_names_or_family(name, format_name, fields, tensors_of):
    format, tensors = tensors_of(name, format_name, fields)
    for length in range(4):
        for parts in itertools.product(PREFIXES, repeat=length):
            found, _ = unwrapped(wrapped(tensors, "".join(parts)))
            assert found.keys() == tensors.keys()
            assert recognise(found.keys(), {}) is format


def test_what_torch_inserts_is_removed_at_any_depth(tensors_of):
    _, tensors = tensors_of("vit:Ti/4", "timm", {})
    inner = {
        name.replace("blocks.1.", "blocks._orig_mod.1._checkpoint_wrapped_module."): tensors[name] for name in tensors
    }
    found, prefix = unwrapped(wrapped(inner, "model.module."))
    assert (found.keys(), prefix) == (tensors.keys(), "model.")


def test_only_what_all_tensors_share_is_removed(tensors_of):
    _, tensors = tensors_of("vit:Ti/4", "timm", {})
    mixed = {**wrapped(tensors, "model."), "loss.weight": np.zeros(3)}
    assert unwrapped(mixed) == (mixed, "")
    assert unwrapped({"head.weight": 1}) == ({"head.weight": 1}, "")
    with pytest.raises(UserError, match=r"the same tensor as head\.bias and as module\.head\.bias"):
        unwrapped({"head.bias": 1, "module.head.bias": 2})


def test_lightning_s_vit_is_loaded_as_a_vit(tiny, tmp_path):
    model, params = tiny(gelu="exact")
    tensors = to_tensors(find_format("timm", model), model, params)
    np.savez(tmp_path / "x.npz", **wrapped(tensors, "model._orig_mod.module."))
    loaded = from_pretrained(tmp_path / "x.npz", num_heads=2, pool="cls", image_size=(8, 12))
    assert loaded.model == model
    np.testing.assert_array_equal(loaded.params["head"]["kernel"], params["head"]["kernel"])
