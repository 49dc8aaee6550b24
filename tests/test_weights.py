"""Starting a run from another: positions are resampled, a head is replaced, other differences are refused."""

import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from saved import save_run

import vit_jax.pretrained.stored
from vit_jax import build_model, from_pretrained, load_pretrained, save_pretrained
from vit_jax.architecture import architecture_of
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError
from vit_jax.models.positions import resample
from vit_jax.models.vit import ViT
from vit_jax.pretrained.names import shapes_of
from vit_jax.weights import start_from

ABC, XYZ = ("a", "b", "c"), ("x", "y", "z")
SIZES = {"hidden_dim": 8, "mlp_dim": 16, "num_layers": 2, "num_heads": 2}
CHAIN = "resize(8)|center_crop|normalize(mean=0.5, std=0.25)"


def filled(shapes, seed):
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda x: noise.normal(size=x.shape).astype(np.float32), shapes)


def made(name="vit:Ti/2", seed=0, size=(8, 8), classes=3, **fields):
    """Builds a model for grey images or clips, with random parameters."""
    model = build_model(name, image_size=size, num_classes=classes, in_channels=1, **{**SIZES, **fields})
    return model, filled(unflatten_dict(shapes_of(model), sep="/"), seed)


def config_of(name="vit:Ti/2", size=(8, 8), **fields):
    config = default_config()
    config.model.update(name=name, **{**SIZES, **fields})
    config.data.update(image_size=size, channels=1, train_transforms=f"flip|{CHAIN}")
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Saves a run with the classes a, b and c, once for the same fields; returns its workdir and parameters."""
    saved: dict[str, Any] = {}

    def save(name="vit:Ti/2", **fields):
        key = f"{name} {fields}"
        if key not in saved:
            frames = {"num_frames": 2} if name.startswith("timesformer") else {}
            _, params = made(name, **frames, **fields)
            encoder = ClipPreprocessing(2, (8, 8), 1, "first", CHAIN) if frames else Preprocessing((8, 8), 1, CHAIN)
            workdir = tmp_path_factory.mktemp("run")
            saved[key] = save_run(workdir, params, config_of(name, **fields), ABC, encoder), params
        return saved[key]

    return save


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train(["open the file", "close it"], 280)


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# ---- another run of ours ----


def test_the_same_model_and_classes_load_everything(run):
    workdir, source = run()
    loaded, report = start_from(workdir, *made(seed=1), ABC)
    equal(loaded, source)
    assert report == [f"from {workdir}, step 3: 41 of 41 parameter arrays loaded"]
    again, _ = start_from(workdir / "checkpoints" / "3", *made(seed=1), ABC)
    equal(again, source)


def test_other_classes_replace_only_the_head_and_the_report_says_so(run):
    workdir, source = run()
    model, target = made(seed=1)
    loaded, report = start_from(workdir, model, target, XYZ)
    equal(loaded["head"], target["head"])
    equal({**loaded, "head": None}, {**source, "head": None})
    assert report == [
        f"from {workdir}, step 3: 39 of 41 parameter arrays loaded",
        f"from {workdir}, step 3: head replaced: 3 classes -> 3 others, initialised from scratch",
    ]


def test_without_the_layer_before_it_the_head_is_replaced_too(tmp_path):
    with_layer, params = made(representation_dim=192)
    save_pretrained(tmp_path / "pre_logits.npz", with_layer, params, "npz")
    model, initial = made(seed=1)
    filled, report = load_pretrained(tmp_path / "pre_logits.npz", model, initial, stored_image_size=(8, 8))
    assert {row.path: row.status for row in report.rows if row.path.startswith(("head/", "representation/"))} == {
        "head/kernel": "replaced",
        "head/bias": "replaced",
        "representation/kernel": "skipped",
        "representation/bias": "skipped",
    }
    equal(filled["head"], initial["head"])
    equal(filled["encoder"], params["encoder"])


def test_another_resolution_resamples_positions_and_the_report_says_so(run):
    workdir, source = run()
    loaded, report = start_from(workdir, *made(seed=1, size=(12, 6), classes=2), ("a", "b"))
    assert loaded["pos_embed"].shape == (6, 3, 8)
    np.testing.assert_allclose(loaded["pos_embed"], resample(jnp.asarray(source["pos_embed"]), (6, 3)), rtol=1e-5)
    assert f"from {workdir}, step 3: pos_embed resampled: 4x4 -> 6x3" in report


def test_positions_of_rows_columns_and_layers_are_resampled_too(run):
    fields: dict[str, Any] = {"pos_embed": "learned2d", "pos_embed_at": "every_layer"}
    workdir, source = run(**fields)
    loaded, report = start_from(workdir, *made(seed=1, size=(12, 6), **fields), ABC)
    for old, new in zip(source["encoder"].values(), loaded["encoder"].values(), strict=True):
        np.testing.assert_allclose(new["pos_embed_y"], resample(jnp.asarray(old["pos_embed_y"]), (6,)), rtol=1e-5)
        np.testing.assert_allclose(new["pos_embed_x"], resample(jnp.asarray(old["pos_embed_x"]), (3,)), rtol=1e-5)
        np.testing.assert_array_equal(new["cls_pos"], old["cls_pos"])
    assert f"from {workdir}, step 3: encoder/block_*/pos_embed_y resampled: 4 -> 6 (2 arrays)" in report


def test_relative_positions_fit_only_one_sequence_length(run):
    workdir, _ = run(pos_embed="relative")
    message = (
        r"relative_embed has shape \(33, 4\) in the weights, but \(37, 4\) in this model\. "
        r"config\.data\.image_size is \(12, 6\), the checkpoint has \(8, 8\)$"
    )
    with pytest.raises(UserError, match=message):
        start_from(workdir, *made(size=(12, 6), pos_embed="relative"), ABC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mlp_dim": 32}, r"mlp/in/bias has shape \(16,\) in the weights, but \(32,\) .*mlp_dim is 32, .* has 16$"),
        ({"num_layers": 3}, "have no parameter encoder/block_2.*config.model.num_layers is 3, the checkpoint has 2$"),
        ({"num_layers": 1}, "the weights have encoder/block_1.*, which this model does not have.*num_layers is 1"),
        (
            {"layer_scale_init": 1e-5},
            "attention_scale.*model.layer_scale_init is 1e-05, the checkpoint has None",
        ),
        (
            {"hidden_dim": 12, "gelu": "exact", "pool": "gap", "dropout_rate": 0.1, "size": (12, 6)},
            "config.model.hidden_dim is 12, the checkpoint has 8; config.model.gelu is 'exact', the checkpoint has "
            "'tanh'; config.model.pool is 'gap', the checkpoint has 'cls'$",
        ),
    ],
    ids=str,
)
def test_another_architecture_is_refused_by_the_parameter_and_every_field_that_differs(fields, message, run):
    workdir, _ = run()
    with pytest.raises(UserError, match=rf"^config\.init_from={workdir}: .*{message}"):
        start_from(workdir, *made(seed=1, **fields), ABC)


def test_fields_that_change_the_function_but_not_the_parameters_are_reported(run):
    workdir, source = run()
    loaded, report = start_from(workdir, *made(seed=1, gelu="exact", norm_epsilon=1e-3, dropout_rate=0.5), ABC)
    equal(loaded, source)
    assert [line.removeprefix(f"from {workdir}, step 3: ") for line in report[1:]] == [
        "config.model.gelu is 'exact', but the weights were trained with 'tanh'",
        "config.model.norm_epsilon is 0.001, but the weights were trained with 1e-06",
    ]


def test_another_family_and_nothing_at_all_are_refused(run, tmp_path):
    workdir, _ = run("tnt:S/4", size=(8, 8), inner_hidden_dim=4, inner_mlp_dim=8, inner_num_heads=2, num_words=4)
    with pytest.raises(UserError, match="the weights belong to a TNT, not to a ViT"):
        start_from(workdir, *made(), ABC)
    missing = tmp_path / "nowhere"
    with pytest.raises(UserError, match=rf"^config\.init_from={missing}: no such file or folder$"):
        start_from(missing, *made(), ABC)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^config\.init_from={tmp_path}/empty: no checkpoint in"):
        start_from(tmp_path / "empty", *made(), ABC)


def test_a_tree_of_yours_is_filled_from_a_run(run):
    workdir, source = run()
    loaded, report = load_pretrained(workdir, *made(seed=1))
    equal(loaded, source)
    assert (report.format, len(report.loaded), report.notes) == ("vit_jax", 41, ())
    with pytest.raises(UserError, match=r"mlp_dim is 32, the checkpoint has 16$"):
        load_pretrained(workdir, *made(mlp_dim=32))


# ---- videos and text ----


@pytest.mark.parametrize("source", ["vit:Ti/2", "timesformer:Ti/2"])
def test_attention_in_time_starts_from_an_image_model_and_keeps_the_head_by_name(source, run):
    fields = {"gelu": "exact"} if source == "vit:Ti/2" else {"attention_type": "space_only"}
    workdir, image = run(source, **fields)
    video, fresh = made("timesformer:Ti/2", seed=1, num_frames=2)
    loaded, report = start_from(workdir, video, fresh, ABC)
    equal(loaded["head"], image["head"])
    ours, theirs = (tree["encoder"]["block_1"] for tree in (loaded, image))
    equal(ours["attention"], theirs["attention"])
    equal(ours["temporal_attention"]["query"], theirs["attention"]["query"])
    assert not np.any(loaded["time_embed"])
    assert report[-1].endswith("attentions before the last are copies of its own, with output projections of zero")
    assert not any("is 'divided_space_time'" in line or "pos_embed is" in line for line in report)
    other, _ = start_from(workdir, video, fresh, XYZ)
    equal(other["head"], fresh["head"])


def test_a_video_model_of_another_width_than_the_image_model_is_refused_by_field(run):
    workdir, _ = run()
    with pytest.raises(UserError, match=r"image model.*config\.model\.hidden_dim is 12, the checkpoint has 8"):
        start_from(workdir, *made("timesformer:Ti/2", num_frames=2, hidden_dim=12), ABC)


def test_a_text_run_starts_from_a_text_run(vocabulary, tmp_path):
    def transformer(seed, size):
        model = build_model("transformer:base", vocab_size=size, **SIZES)
        tokens = jnp.zeros((1, 4), int)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens, train=False)["params"])
        return model, filled(shapes, seed)

    size = vocabulary.model_fields["vocab_size"]
    _, source = transformer(0, size)
    config = config_of("transformer:base")
    config.task.name = "translation"
    workdir = save_run(tmp_path / "run", source, config, (), vocabulary)
    loaded, report = start_from(workdir, *transformer(1, size), ())
    equal(loaded, source)
    assert len(report) == 1
    with pytest.raises(UserError, match=rf"config.data.vocab_size is {size + 1}, the checkpoint has {size}$"):
        start_from(workdir, *transformer(1, size + 1), ())
    architecture = architecture_of(workdir)
    assert (architecture.name, architecture.image_size) == ("transformer:base", None)
    assert architecture.fields == SIZES


# ---- what a load costs ----


def test_one_load_builds_and_traces_the_module_once(tmp_path, monkeypatch):
    save_pretrained(tmp_path / "x.npz", *made(), "npz")
    mine = made(seed=1)
    calls = {"build_model": 0, "init": 0}

    def counted(function, name):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for module in (vit_jax.pretrained.stored, vit_jax.weights):
        monkeypatch.setattr(module, "build_model", counted(build_model, "build_model"))
    monkeypatch.setattr(ViT, "init", counted(ViT.init, "init"))
    from_pretrained(tmp_path / "x.npz", image_size=(8, 8))
    assert calls == {"build_model": 1, "init": 1}
    load_pretrained(tmp_path / "x.npz", *mine)
    assert calls == {"build_model": 2, "init": 2}


def test_the_package_of_foreign_weights_imports_nothing_of_ours_but_models_and_errors():
    folder = pathlib.Path(vit_jax.pretrained.stored.__file__).parent
    lines = [line.split() for path in folder.rglob("*.py") for line in path.read_text().splitlines()]
    modules = {words[1] for words in lines if words[:1] in (["import"], ["from"]) and words[1].startswith("vit_jax")}
    allowed = ("vit_jax.errors", "vit_jax.models", "vit_jax.pretrained")
    assert modules
    assert not [module for module in modules if not module.startswith(allowed)]


def test_loading_an_npz_imports_no_decoder_checkpointer_pipeline_or_training_loop(tmp_path):
    save_pretrained(tmp_path / "x.npz", *made(), "npz")
    unwanted = ["av", "orbax", "grain", "tensorflow", "tensorflow_datasets", "sentencepiece", "vit_jax.train"]
    program = (
        f"import sys, vit_jax; loaded = vit_jax.from_pretrained({str(tmp_path / 'x.npz')!r}, image_size=(8, 8)); "
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
