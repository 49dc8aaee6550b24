"""The convert command, workdirs as a source, and runs that start from foreign weights."""

import dataclasses

import jax
import numpy as np
import pytest
from saved import save_run

from vit_jax import from_pretrained, save_pretrained
from vit_jax.__main__ import main
from vit_jax.config import default_config
from vit_jax.data.image.transforms import Preprocessing
from vit_jax.data.text.vocabulary import Vocabulary
from vit_jax.data.video.clips import ClipPreprocessing
from vit_jax.errors import UserError
from vit_jax.experiment import make_model
from vit_jax.models.positions import resample
from vit_jax.weights import start_from

pytestmark = pytest.mark.usefixtures("own_home")
LABELS = ("tench", "goldfish", "shark", "ray", "stingray")
CHAIN = "resize(9, method='bicubic')|center_crop|normalize(mean=0.5, std=0.25)"


@pytest.fixture
def config():
    config = default_config()
    config.model.update(
        name="vit:Ti/4", hidden_dim=8, mlp_dim=12, num_layers=2, num_heads=2, gelu="exact", norm_epsilon=1e-6
    )
    config.data.image_size = (8, 12)
    return config


@pytest.fixture
def workdir(config, tiny, tmp_path):
    """A run of the model that `tiny(gelu="exact")` makes."""
    return save_run(tmp_path / "run", tiny(gelu="exact")[1], config, LABELS, Preprocessing((8, 12), 3, CHAIN))


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def test_a_run_goes_out_and_comes_back(workdir, tiny, tmp_path, capsys):
    _, params = tiny(gelu="exact")
    for format in ("timm", "huggingface"):
        assert convert(workdir, tmp_path / format, f"--format={format}") == 0
        loaded = from_pretrained(tmp_path / format)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
        assert loaded.labels == LABELS
        assert loaded.preprocessing is None  # its images may be narrower than the target, which neither library crops
        out = capsys.readouterr().out
        assert "Weights in format vit_jax" in out
        assert f'format {format!r} cannot express the preprocessing "{CHAIN}"' in out
        assert f"wrote {tmp_path}/{format}" in out


def test_a_run_loads_as_it_is_and_at_another_size(workdir, tiny):
    _, params = tiny(gelu="exact")
    loaded = from_pretrained(workdir)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loaded.labels == LABELS
    larger = from_pretrained(workdir / "checkpoints" / "3", image_size=(12, 12), num_classes=2)
    assert larger.report.resized == ["pos_embed"]
    assert larger.labels == ()
    with pytest.raises(UserError, match="the weights have hidden_dim=8, but vit:S/4 has 384"):
        from_pretrained(workdir, "vit:S/4")


def test_a_run_on_clips_keeps_its_sampling_and_its_views(config, tiny, tmp_path):
    config.model.name = "timesformer:Ti/4"
    _, params = tiny(config.model.name, num_frames=3)
    clips = ClipPreprocessing(3, (8, 12), 3, "stride(seconds=0.5)", CHAIN, clips=2, crops=3)
    save_run(tmp_path / "run", params, config, LABELS, clips)
    assert from_pretrained(tmp_path / "run").preprocessing == clips
    other = {"num_frames": 5, "image_size": (12, 12)}
    larger = from_pretrained(tmp_path / "run", preprocessing=CHAIN.replace("9", "12"), **other)
    assert larger.preprocessing == dataclasses.replace(clips, transforms=CHAIN.replace("9", "12"), **other)
    assert larger.report.resized == ["pos_embed", "time_embed"]


def test_a_run_on_text_has_no_other_format(config, randomised, tmp_path, capsys):
    config.task.name, config.model.name = "translation", "transformer:base"
    for name in ("gelu", "norm_epsilon"):
        config.model[name] = None
    vocabulary = Vocabulary.train(["open the file", "close it"], 280)
    model = make_model(config, vocabulary)
    tokens = jax.numpy.zeros((1, 4), int)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens, train=False)["params"])
    workdir = save_run(tmp_path / "run", randomised(shapes), config, (), vocabulary)
    message = f"{workdir} holds a text model, which no foreign format can store. Load it with vit_jax.load_run"
    with pytest.raises(UserError, match=message):
        from_pretrained(workdir)
    assert convert(workdir, tmp_path / "new", "--format=npz") == 2
    assert capsys.readouterr().err == f"vit_jax: {message}\n"


def test_the_table_tells_what_was_loaded_resized_and_skipped(tiny, tmp_path, capsys):
    model, params = tiny(representation_dim=6)
    save_pretrained(tmp_path / "x.npz", model, params, "npz")
    arguments = ("--format=npz", "--stored_image_size=8,12", "--image_size=16,8", "--num_classes=3")
    assert convert(tmp_path / "x.npz", tmp_path / "y.npz", *arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    for row in (
        "resized pos_embed 2x3x8 4x2x8 1",
        "replaced head/kernel 6x5 6x3 1",
        "loaded encoder/block_*/mlp/in/kernel 8x12 8x12 2",
        "loaded representation/kernel 8x6 8x6 1",
        "format 'npz' cannot express",
    ):
        assert (row in out) == (row != "format 'npz' cannot express")
    loaded = from_pretrained(tmp_path / "y.npz", image_size=(16, 8))
    expected = resample(jax.numpy.asarray(params["pos_embed"]), (4, 2), "zoom")
    np.testing.assert_array_equal(loaded.params["pos_embed"], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "{}/new", "--format=npz"], "nowhere: no such file or folder"),
        (["{}/x.npz", "{}/x.npz", "--format=npz"], "x.npz exists already. Give another name"),
        (
            ["{}/x.npz", "{}/new", "--format=onnx", "--stored_image_size=8,12", "--pool=gap"],
            "no format 'onnx'; it has",
        ),
        (
            ["{}/x.npz", "{}/new", "--format=timesformer", "--stored_image_size=8,12", "--pool=gap"],
            "ViT has no format 'timesformer'",
        ),
        (["{}/x.npz", "{}/new", "--format=npz"], "the file does not say pool. Give pool=..."),
        (["{}/x.npz", "{}/new", "--format=npz", "--pool=gap"], "stores 6 positions of patches but not their grid"),
        (
            ["{}/x.npz", "{}/new", "--format=npz", "--name=vit:S/16"],
            "weights have hidden_dim=8, but vit:S/16 has 384",
        ),
        (["{}/x.npz", "{}/new", "--format=npz", "--name=vgg:S/16"], "unknown model family 'vgg'"),
    ],
)
def test_one_line_for_a_mistake(arguments, message, tiny, tmp_path, capsys):
    save_pretrained(tmp_path / "x.npz", *tiny(pool="gap"), "npz")
    assert convert(*(argument.format(tmp_path) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_training_starts_from_foreign_weights(config, tiny, tmp_path):
    model, params = tiny()
    save_pretrained(tmp_path / "x.npz", model, params, "npz")
    config.data.image_size = (12, 12)
    config.model.gelu = "tanh"
    mine = make_model(config, Preprocessing((12, 12), 3, CHAIN), LABELS[:3])
    _, fresh = tiny(image_size=(12, 12), num_classes=3)
    path = str(tmp_path / "x.npz")
    message = rf"^config\.init_from={path}: the file stores 6 positions .* config\.init_image_size=\(height, width\)"
    with pytest.raises(UserError, match=message):
        start_from(path, mine, fresh, LABELS[:3])
    filled, report = start_from(path, mine, fresh, LABELS[:3], image_size=(8, 12))
    np.testing.assert_array_equal(filled["norm"]["scale"], params["norm"]["scale"])
    np.testing.assert_array_equal(filled["head"]["kernel"], fresh["head"]["kernel"])
    assert f"from {tmp_path}/x.npz: pos_embed resampled: 2x3 -> 3x3" in report
    assert f"from {tmp_path}/x.npz: head replaced: 5 classes -> 3 others, initialised from scratch" in report
