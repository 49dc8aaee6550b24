"""What a run that starts from weights says about them: names, sizes, preprocessing, and fields that contradict them."""

import pathlib

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from saved import save_run

from vit_jax import build_model, save_pretrained
from vit_jax.architecture import architecture_of, naming_differences, title
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.errors import UserError
from vit_jax.experiment import complete, make_model
from vit_jax.pretrained.names import shapes_of
from vit_jax.weights import start_from

SIZES = {"hidden_dim": 12, "mlp_dim": 16, "num_layers": 1, "num_heads": 3}
CHAIN = "resize(8)|center_crop|normalize(mean=0.5, std=0.25)"


@pytest.fixture(scope="module")
def model_and_params():
    model = build_model("vit:Ti/4", image_size=(8, 8), num_classes=3, **SIZES)
    shapes = unflatten_dict(shapes_of(model), sep="/")
    return model, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


@pytest.fixture(scope="module")
def run(model_and_params, tmp_path_factory):
    config = default_config()
    config.model.update(name="vit:Ti/4", **SIZES)
    config.data.update(image_size=(8, 8), channels=3, train_transforms=CHAIN)
    return save_run(tmp_path_factory.mktemp("run"), model_and_params[1], config, "abc", Preprocessing((8, 8), 3, CHAIN))


def config_from(path, **model):
    config = default_config()
    config.init_from = str(path)
    config.model.update(model)
    return complete(config)


def test_another_mean_and_std_than_the_weights_are_said(run, model_and_params):
    same = CHAIN.replace("resize(8)", "resize(9)")
    other = "resize(8)|center_crop|normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    _, report = start_from(run, *model_and_params, ("a", "b", "c"), transforms={"eval_transforms": same})
    assert len(report) == 1
    chains = {"eval_transforms": other, "train_transforms": f"flip|{same}"}
    _, report = start_from(run, *model_and_params, ("a", "b", "c"), transforms=chains)
    assert report[1:] == [
        f"from {run}, step 3: config.data.eval_transforms normalizes with mean=(0.485, 0.456, 0.406), "
        "std=(0.229, 0.224, 0.225), but the weights were trained with mean=0.5, std=0.25"
    ]


def test_preprocessing_that_no_chain_expresses_can_be_given(model_and_params, tmp_path):
    model, params = model_and_params
    model = model.clone(gelu="exact", norm_epsilon=1e-12)
    save_pretrained(tmp_path / "x", model, params, "huggingface")
    (tmp_path / "x" / "preprocessor_config.json").write_text('{"do_pad": true}')
    with pytest.raises(
        UserError, match=r"do_pad is True.*Give the preprocessing yourself: .*config.data.eval_transforms"
    ):
        config_from(tmp_path / "x")
    config = default_config()
    config.init_from, config.data.eval_transforms = str(tmp_path / "x"), CHAIN
    data = complete(config).data
    assert (data.eval_transforms, data.train_transforms) == (
        CHAIN,
        "random_resized_crop|flip|normalize(mean=0.5, std=0.25)",
    )
    _, report = start_from(tmp_path / "x", model, params, (), transforms={"eval_transforms": CHAIN})
    assert not any("normalizes" in line for line in report)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_dim": 32},
            "num_heads=3 does not divide hidden_dim=32. The model differs from the one in config.init_from: "
            "config.model.hidden_dim is 32, the checkpoint has 12",
        ),
        (
            {"name": "vit:Ti/4", "hidden_dim": 32, "num_layers": 1, "mlp_dim": 16},
            "num_heads=3 does not divide hidden_dim=32. The model differs from the one in config.init_from: "
            "config.model.hidden_dim is 32, the checkpoint has 12",
        ),
        (
            {"name": "tnt:S/16", "num_heads": 5},
            "config.model.name is 'tnt:S/16', the checkpoint has 'vit:Ti/4'; config.model.num_layers is 12, the "
            "checkpoint has 1; config.model.hidden_dim is 384, the checkpoint has 12",
        ),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_is_compared_with_the_checkpoint(fields, message, run):
    config = config_from(run, **fields)
    with pytest.raises(UserError) as error, naming_differences(config):
        make_model(config, Preprocessing((8, 8), 3, CHAIN), ("a", "b", "c"))
    said = str(error.value)
    assert all(part in said for part in message.split("; ")), said


def test_a_mistake_that_has_nothing_to_do_with_the_checkpoint_stays_as_it_is(run):
    config = config_from(run)
    with pytest.raises(UserError, match=r"^wrong$"), naming_differences(config):
        raise UserError("wrong")
    config.init_from = None
    with pytest.raises(UserError, match=r"^wrong$"), naming_differences(config):
        raise UserError("wrong")


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("vit:Ti/4", {"image_size": (8, 8)}, "vit:Ti/4"),
        ("vit:B/16", SIZES, "vit:B/16 with hidden_dim=12, mlp_dim=16, num_layers=1, num_heads=3"),
        ("vit:B/16", {"patch_size": (4, 4)}, "vit:B/16 with patch_size=(4, 4)"),
        ("tnt:S/16", {"inner_num_heads": 2}, "tnt:S/16 with inner_num_heads=2"),
        ("transformer:base", {"vocab_size": 9, "num_layers": 2}, "transformer:base with num_layers=2"),
    ],
)
def test_a_model_is_named_by_its_variant_and_the_sizes_that_differ(name, fields, expected):
    assert title(name, build_model(name, **fields)) == expected


def test_a_file_with_a_prefix_asks_for_the_keys_of_the_config(tmp_path, model_and_params):
    missing = tmp_path / "nowhere.npz"
    with pytest.raises(UserError, match=rf"^config\.init_from={missing}: no such file or folder$"):
        config_from(missing)
    save_pretrained(tmp_path / "x.npz", *model_and_params, "npz")
    with pytest.raises(UserError, match=r"Give config\.init_image_size=\(height, width\)") as error:
        start_from(tmp_path / "x.npz", model_and_params[0].clone(image_size=(16, 16)), {}, ())
    assert "stored_image_size" not in str(error.value)
    assert architecture_of(tmp_path / "x.npz").image_size is None


def test_what_the_file_does_not_say_is_asked_for_by_its_config_key(tmp_path):
    path = pathlib.Path(__file__).parent / "pretrained" / "fixtures" / "vit_checkpoint.pth"
    message = r"does not say num_heads\. Give config\.model\.num_heads=\.\.\., .* config\.model\.name='vit:B/16'"
    with pytest.raises(UserError, match=rf"^config\.init_from={path}: .*{message}"):
        architecture_of(path)
    with pytest.raises(UserError, match=r"does not say pool\. Give config\.model\.pool=\.\.\.$"):
        architecture_of(path, given={"name": None, "num_heads": 2})
    given = {"name": None, "num_heads": 2, "pool": "cls", "gelu": None}
    assert architecture_of(path, given=given).fields["num_heads"] == 2
    assert architecture_of(path, given={"name": "vit:Ti/16"}).channels == 3
    with pytest.raises(UserError, match=r"^config\.init_from=nowhere: no such file or folder$"):
        architecture_of("nowhere")
