"""Every architecture of timm whose tensors resemble ours: equal logits, or refused by name.

Each is built small, with random parameters, and saved as timm saves for the Hub; `from_pretrained` reads the folder.
Architectures that cannot be built small, and classes other than timm's `VisionTransformer` and `TNT`, are built on
torch's meta device, and have to be refused. `pytest -m parity -rP tests/pretrained/peers/test_timm_sweep.py` prints a
table.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import from_pretrained
from vit_jax.errors import UserError
from vit_jax.pretrained import stored
from vit_jax.pretrained.formats.timm_models import _NUM_HEADS

pytestmark = pytest.mark.parity

MODULES = (
    *("vision_transformer", "deit", "vision_transformer_hybrid", "tnt", "vision_transformer_relpos", "eva", "beit"),
    *("vision_transformer_sam", "naflexvit", "vitamin", "deepseek_vit", "gemma4_vit", "qwen3_vit"),
)
TNTS = {"tnt_s_patch16_224", "tnt_b_patch16_224"}
SMALL_TNT = {"embed_dim": 120, "inner_dim": 8, "depth": 2, "img_size": (32, 48), "num_classes": 5}


@pytest.fixture(scope="module")
def timm():
    pytest.importorskip("torch")
    from tests.parity import peers

    peers.timm_model("test_vit")  # imports timm although torchvision is not there
    return pytest.importorskip("timm")


def architectures(timm) -> list[str]:
    names = timm.list_models()
    return [name for name in names if timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in MODULES]


def arguments_of(timm, name, **options):
    """Returns the arguments with which `VisionTransformer` is called; None if another class is."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    class Called(Exception):
        pass

    def called(self, **arguments):
        raise Called(arguments | {"class": type(self).__name__})

    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(VisionTransformer, "__init__", called)
        try:
            timm.create_model(name, **options)
        except Called as call:
            return call.args[0]
        except AttributeError:  # a subclass that goes on without its base
            pass
    return None


def small(timm, name):
    """Returns options that make the architecture small and keep its number of heads; None if there are none."""
    if name.startswith("tnt_"):
        return SMALL_TNT
    arguments = arguments_of(timm, name)
    if arguments is None or arguments["class"] not in ("VisionTransformer", "VisionTransformerDistilled"):
        return None
    embed_dim = math.ceil(240 / arguments["num_heads"]) * arguments["num_heads"]
    options = {"embed_dim": embed_dim, "depth": 2, "num_classes": 5}
    if "embed_layer" in arguments:  # a hybrid keeps its stem
        return options | {"img_size": (64, 96)} if "proj" not in arguments["embed_layer"].keywords else None
    return options | {"patch_size": 4, "img_size": (8, 12)}


def randomise(module):
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * noise + (parameter.ndim < 2) * torch.sign(noise) * 0.7)
    return module.eval()


def compare(folder, module, arguments, checked):
    """Loads what timm saves, and compares the logits unless `checked` holds the same arguments and the same model."""
    import torch
    from timm.models import save_for_hf

    save_for_hf(module, folder, safe_serialization=True)
    loaded = from_pretrained(folder)
    key = (str(arguments), str(loaded.model))
    if key in checked:
        return
    images = np.random.default_rng(0).standard_normal((2, *loaded.model.input_shape)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    apply = functools.partial(loaded.model.apply, train=False)
    apply = jax.jit(apply) if loaded.model.patch_size == (1, 1) else apply  # eager operations are compiled once for all
    ours = np.asarray(apply({"params": loaded.params}, jnp.asarray(images)))
    assert np.std(theirs) > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    checked.add(key)


def read_on_meta(timm, name):
    """Reads the architecture at full size, without values."""
    import torch

    with torch.device("meta"):
        module = timm.create_model(name)
    tensors = {key: np.broadcast_to(np.float32(0), tuple(value.shape)) for key, value in module.state_dict().items()}
    config = {"architecture": name, "pretrained_cfg": {"input_size": module.pretrained_cfg["input_size"]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "read", lambda *args, **options: (tensors, config))
        stored.open_stored("folder", stored.Known())


def test_every_architecture(timm, tmp_path):
    results, wrong, checked = {}, {}, set()
    for i, name in enumerate(architectures(timm)):
        options = small(timm, name)
        try:
            if options is None:
                read_on_meta(timm, name)
                wrong[name] = "is read, and is not compared"
            else:
                module = randomise(timm.create_model(name, **options))
                compare(tmp_path / f"{i}", module, arguments_of(timm, name, **options) or name, checked)
                results[name] = "accepted"
        except UserError as error:
            results[name] = message = str(error)
            if name not in message and "config.json: model_args" not in message:
                wrong[name] = f"is refused without its name: {message}"
        except AssertionError as error:
            wrong[name] = f"differs: {error}"
    accepted = {name for name, result in results.items() if result == "accepted"}
    refused = {
        name: re.sub(r"^.*: timm's \S+ ", "", result) for name, result in results.items() if name not in accepted
    }
    print(f"{len(accepted)} accepted ({len(checked)} different models compared), {len(refused)} refused:")
    for reason, count in collections.Counter(refused.values()).most_common():
        print(f"{count:4d}  {reason}")
    assert not wrong
    assert accepted == set(_NUM_HEADS) | TNTS


ARGUMENTS = {
    "act_layer": ("gelu", "gelu_tanh", "quick_gelu", "GELU", "", "relu", "silu", "gelu_erf"),
    "norm_layer": ("layernorm", "layer_norm", "rmsnorm", "layernormfp32"),
    "global_pool": ("token", "avg", "max", "avgmax", "map", "prr"),
    "class_token": (False,),
    "num_heads": (1, 4),
    "mlp_ratio": (2.5,),
    "qkv_bias": (False,),
    "qk_norm": (True,),
    "scale_attn_norm": (True,),
    "scale_mlp_norm": (True,),
    "proj_bias": (False,),
    "init_values": (0.1,),
    "pos_embed": ("none", "", "learn"),
    "no_embed_class": (True,),
    "reg_tokens": (3,),
    "pre_norm": (True,),
    "final_norm": (False,),
    "fc_norm": (True,),
    "pool_include_prefix": (True,),
    "dynamic_img_size": (True,),
    "dynamic_img_pad": (True,),
    "drop_rate": (0.5,),
    "weight_init": ("jax",),
    "attn_layer": ("", "attn", "diff"),
    "embed_norm_layer": ("layernorm",),
}
BASES = {
    "vit_tiny_patch16_224": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "vit_base_patch16_clip_quickgelu_224": {"num_heads": 4},
    "vit_base_patch16_siglip_224": {"num_heads": 4},
    "deit_tiny_distilled_patch16_224": {},
}


@pytest.mark.parametrize("name", BASES)
def test_every_argument(name, timm, tmp_path):
    accepted, refused, wrong, checked = [], {}, {}, set()
    for key, values in ARGUMENTS.items():
        for value in values:
            options = {"embed_dim": 48, "depth": 2, "num_classes": 5, "patch_size": 4, "img_size": (8, 12)}
            options |= {**BASES[name], key: value}
            options |= {"global_pool": "avg"} if key == "class_token" and "gap" not in name else {}
            try:
                module = randomise(timm.create_model(name, **options))
            except (AssertionError, KeyError, TypeError, ValueError):  # timm does not have the combination either
                continue
            folder = tmp_path / f"{key}-{value}"
            try:
                compare(folder, module, arguments_of(timm, name, **options), checked)
                accepted.append((key, value))
            except UserError as error:
                refused[key, value] = str(error).rpartition(f"{folder.name}: ")[2]
            except RuntimeError:  # timm builds it, and cannot run it
                continue
            except AssertionError as error:
                wrong[key, value] = str(error)
    print(name, "accepted", accepted)
    for argument, message in refused.items():
        print(f"  {argument}: {message}")
    assert not wrong
    assert {("act_layer", "relu"), ("norm_layer", "rmsnorm")} <= refused.keys()
    assert {("act_layer", "quick_gelu"), ("num_heads", 4), ("drop_rate", 0.5)} <= set(accepted)
