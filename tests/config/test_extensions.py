"""Code outside vit_jax: import paths, their fields, their description in a checkpoint, and trust."""

import hashlib
import json
import logging
import pathlib
import sys

import pytest

from vit_jax.config import default_config, extensions, load_config
from vit_jax.errors import UserError

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

LAB = {
    "__init__.py": "",
    "nets.py": (
        "import dataclasses\n"
        "import flax.linen as nn\n\n"
        "class MyViT(nn.Module):\n"
        "    hidden_dim: int\n"
        "    width: int = 3\n\n"
        "@dataclasses.dataclass\n"
        "class Plain:\n"
        "    hidden_dim: int = 8\n\n"
        "    def __post_init__(self):\n"
        "        if self.hidden_dim < 0:\n"
        "            raise ValueError('hidden_dim is negative')\n\n"
        "def function(config, split, *, noise=0.0): return noise\n\n"
        "def anything(**fields): return fields\n\n"
        "number = 3\n"
    ),
    "broken.py": "x = 1\nraise RuntimeError('out of paint')\n",
    "wrong.py": "def f(:\n",
    "needy.py": "import no_such_package\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
}


def forget(package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Makes a package `lab_of_tests` in the current directory."""
    package = tmp_path / "lab_of_tests"
    package.mkdir()
    for name, text in LAB.items():
        (package / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield package
    forget("lab_of_tests")


@pytest.fixture
def mylab(monkeypatch):
    """The example package, as from the directory that holds it."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    forget("mylab")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mylab.nets:MyViT", True),
        ("optax:adan", True),
        ("vit:B/16", False),
        ("transformer:base", False),
        ("timesformer:B/16-HR", False),
        ("digits", False),
        ("motion/fashion", False),
        ("mnist:3.0.1", False),
        ("mylab.nets.MyViT", False),
        ("mylab..nets:MyViT", False),
        ("mylab.nets:", False),
        ("mylab.nets:My.ViT", False),
        ("../mylab:ViT", False),
        (None, False),
    ],
)
def test_an_import_path_is_a_module_and_an_attribute_but_not_a_family(name, expected):
    assert extensions.is_import_path(name) is expected


def test_objects_are_found_in_the_current_directory(lab):
    assert extensions.load_object("lab_of_tests.nets:MyViT", "model.name").__name__ == "MyViT"
    chained = extensions.load_object("lab_of_tests.nets.function", "transforms")
    assert chained is extensions.load_object("lab_of_tests.nets:function", "data.name")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_lab_at_all:MyViT", "there is no module 'no_lab_at_all' in the current directory or among the installed"),
        ("lab_of_tests.net:MyViT", "there is no module 'lab_of_tests.net' in"),
        ("lab_of_tests.nets:MyVit", "module 'lab_of_tests.nets' has no 'MyVit'; did you mean 'MyViT'?"),
        ("lab_of_tests.nets:Qqqqqqqq", "has no 'Qqqqqqqq'; known: MyViT, Plain, anything, function"),
        ("lab_of_tests.nets:number", "must be a class or a function, got int"),
        ("lab_of_tests.broken:f", "importing lab_of_tests.broken raises RuntimeError: out of paint ("),
        ("lab_of_tests.broken:f", "broken.py, line 2)"),
        ("lab_of_tests.wrong:f", "importing lab_of_tests.wrong raises SyntaxError: "),
        ("lab_of_tests.wrong:f", "wrong.py, line 1)"),
        ("lab_of_tests.needy:f", "raises ModuleNotFoundError: No module named 'no_such_package'"),
        ("lab_of_tests.leaves:f", "importing lab_of_tests.leaves raises SystemExit: 3"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(lab, name, message):
    with pytest.raises(UserError) as caught:
        extensions.load_object(name, "config.model.name")
    assert str(caught.value).startswith(f"config.model.name={name!r}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_legal_fields_are_those_of_a_class_and_the_parameters_of_a_function(lab):
    def legal(name):
        return extensions.legal_fields(extensions.load_object(f"lab_of_tests.nets:{name}", "x"))

    assert legal("MyViT") == ("hidden_dim", "width")
    assert legal("Plain") == ("hidden_dim",)
    assert legal("function") == ("config", "split", "noise")
    assert legal("anything") is None


def config_with(section, name, **extra):
    config = default_config()
    config[section].name = name
    config[section].extra.update(extra)
    return config[section]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            ("model", "lab_of_tests.nets:MyViT", {"hiden_dim": 8}),
            "config.model.extra.hiden_dim: lab_of_tests.nets:MyViT has no field 'hiden_dim'; did you mean 'hidden_dim'",
        ),
        (
            ("data", "lab_of_tests.nets:function", {"nose": 8}),
            "config.data.extra.nose: lab_of_tests.nets:function has no parameter 'nose'; did you mean 'noise'?",
        ),
        (
            ("data", "lab_of_tests.nets:function", {"split": 8}),
            "config.data.extra.split: lab_of_tests.nets:function is given 'split' by vit_jax; remove the key",
        ),
        (
            ("model", "vit:B/16", {"width": 8}),
            "config.model.extra.width: `extra` holds fields of code of your own, but config.model.name is 'vit:B/16'.",
        ),
    ],
)
def test_an_unknown_field_is_named(lab, section, message):
    name, path, extra = section
    with pytest.raises(UserError) as caught:
        extensions.extra_fields(config_with(name, path, **extra), f"config.{name}", ours=("config", "split"))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_fields_that_are_there_are_returned(lab):
    section = config_with("model", "lab_of_tests.nets:MyViT", width=8)
    assert extensions.extra_fields(section, "config.model") == {"width": 8}
    assert extensions.extra_fields(config_with("model", "lab_of_tests.nets:anything", x=1), "config.model") == {"x": 1}
    assert extensions.extra_fields(config_with("model", "vit:B/16"), "config.model") == {}


def test_an_object_is_made_of_what_it_accepts(lab):
    model = extensions.load_object("lab_of_tests.nets:MyViT", "model.name")
    assert extensions.accepted(model, {"hidden_dim": 2, "image_size": (8, 8), "name": "x"}) == {"hidden_dim": 2}
    assert extensions.construct(model, {"hidden_dim": 2}, "config.model").width == 3
    with pytest.raises(UserError, match=r"config\.model\.extra\.hidden_dim must be set: .*MyViT has no default for it"):
        extensions.construct(model, {}, "config.model")
    plain = extensions.load_object("lab_of_tests.nets:Plain", "task.name")
    with pytest.raises(UserError, match=r"config\.task: lab_of_tests\.nets:Plain: hidden_dim is negative"):
        extensions.construct(plain, {"hidden_dim": -1}, "config.task")


def test_a_model_is_built_by_import_path(lab):
    from vit_jax.models import build_model

    offered = {"num_classes": 10, "image_size": (8, 8)}
    model = build_model("lab_of_tests.nets:MyViT", offered, hidden_dim=4)
    assert (model.hidden_dim, model.width) == (4, 3)
    with pytest.raises(UserError, match=r"model\.num_layers: lab_of_tests\.nets:MyViT has no field 'num_layers'"):
        build_model("lab_of_tests.nets:MyViT", offered, hidden_dim=4, num_layers=2)
    with pytest.raises(ValueError, match=r"'vit:B/16' has no field 'num_frames'"):
        build_model("vit:B/16", {"num_frames": 8})


NAMES = ("MyViT", "Plain", "function")


def lab_config():
    config = default_config()
    config.model.name = "lab_of_tests.nets:MyViT"
    config.task.name = "lab_of_tests.nets:Plain"
    config.data.train_transforms = (
        "flip|lab_of_tests.nets.function(0.5)|lab_of_tests.nets.MyViT(width=(1, 2))|normalize"
    )
    return config


def test_all_import_paths_of_a_config_are_found():
    """In names and in chains, of the config or of the encoder; what cannot be parsed is imported by nobody."""
    expected = {
        "lab_of_tests.nets:MyViT": "config.model.name",
        "lab_of_tests.nets:Plain": "config.task.name",
        "lab_of_tests.nets:function": "config.data.train_transforms",
    }
    config = lab_config()
    assert extensions.import_paths(config) == expected
    chains = ["a.b.c|(d.e(1))", "a.b(", "flip|normalize(mean=0.5, std=0.5)"]
    found = extensions.import_paths(json.loads(config.to_json()), chains)
    assert found == {**expected, "a.b:c": "transforms", "d:e": "transforms"}
    assert extensions.import_paths(default_config()) == {}
    assert extensions.import_paths({"model": {"name": "vit:B/16"}}) == {}


def test_code_is_described_by_version_and_hash(lab):
    import optax

    own, foreign = extensions.describe(["optax:adamw", "lab_of_tests.nets:MyViT"])
    text = (lab / "nets.py").read_bytes()
    assert own == {
        "path": "lab_of_tests.nets:MyViT",
        "version": None,
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    assert (foreign["path"], foreign["version"]) == ("optax:adamw", optax.__version__)
    assert json.loads(json.dumps([own, foreign])) == [own, foreign]


def checkpoint(described):
    return {"config": json.loads(lab_config().to_json()), "preprocessing": {"key": "image"}, "extensions": described}


def test_a_strangers_checkpoint_runs_nothing(lab):
    """Whatever it says of itself: the list of extensions may be empty, or the code be named by its encoder only."""
    meta = checkpoint(extensions.describe(extensions.import_paths(lab_config())))
    forget("lab_of_tests")
    sha256 = hashlib.sha256((lab / "nets.py").read_bytes()).hexdigest()
    uses = ", ".join(f"lab_of_tests.nets:{name} (version unknown, sha256 {sha256[:12]})" for name in NAMES)
    with pytest.raises(UserError) as caught:
        extensions.check_trust(meta, False, source="runs/x")
    assert (
        str(caught.value)
        == f"runs/x uses {uses}, which is code outside vit_jax. Pass --trust (in Python, trust=True) to import it."
    )
    with pytest.raises(UserError, match=r"sha256 unknown\), which is code outside vit_jax"):
        extensions.check_trust({**meta, "extensions": []}, False, source="runs/x")
    ours = json.loads(default_config().to_json())
    chain = {"key": "image", "transforms": "lab_of_tests.broken.f()|normalize(mean=0.5, std=0.5)"}
    with pytest.raises(UserError, match=r"uses lab_of_tests\.broken:f "):
        extensions.check_trust({"config": ours, "preprocessing": chain}, False, source="runs/x")
    assert not [name for name in sys.modules if name.startswith("lab_of_tests")]
    extensions.check_trust({"config": ours, "preprocessing": {"key": "image"}}, False, source="runs/x")


def test_own_code_and_trusted_code_is_imported_and_a_changed_source_is_told(lab, caplog):
    paths = extensions.import_paths(lab_config())
    meta = checkpoint(extensions.describe(paths))
    with caplog.at_level(logging.WARNING):
        extensions.check_trust(meta, True, source="runs/x")
        extensions.check_trust(meta, False, source="runs/x", own=paths)
        assert not caplog.records
        (lab / "nets.py").write_text(LAB["nets.py"] + "# changed\n")
        extensions.check_trust(meta, True, source="runs/x")
    assert len(caplog.records) == len(paths)
    assert "runs/x was written with lab_of_tests.nets:MyViT" in caplog.text
    assert "whose source has changed since" in caplog.text
    with pytest.raises(UserError, match=r"uses lab_of_tests\.nets:Plain \([^:]+$"):
        extensions.check_trust(meta, False, source="runs/x", own=[f"lab_of_tests.nets:{NAMES[i]}" for i in (0, 2)])


def test_trusted_code_that_is_missing_is_reported(lab):
    meta = checkpoint([])
    meta["config"]["model"]["name"] = "lab_of_others:MyViT"
    with pytest.raises(UserError, match=r"^runs/x: config\.model\.name='lab_of_others:MyViT': there is no module"):
        extensions.check_trust(meta, True, source="runs/x")


def test_the_example_package_learns(mylab):
    """Its model, task, data and optimizer, by the paths and the fields of its config; the angle is found."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vit_jax.models import build_model
    from vit_jax.optimizer import make_optimizer

    config = load_config("mylab/config.py", [])
    model_fields = {name: value for name, value in config.model.items() if value is not None}
    extra = extensions.extra_fields(config.model, "config.model")
    offered = {"num_classes": 1, "image_size": config.data.image_size, "in_channels": 1, "param_dtype": jnp.float32}
    model = build_model(config.model.name, offered, hidden_dim=model_fields["hidden_dim"], **extra)
    make_task = extensions.load_object(config.task.name, "config.task.name")
    task = extensions.construct(make_task, extensions.extra_fields(config.task, "config.task"), "config.task")
    open_split = extensions.load_object(config.data.name, "config.data.name")
    fields = extensions.extra_fields(config.data, "config.data", ours=("config", "split"))
    data = {}
    for split in ("train", "test"):
        source = open_split(config, split, **fields)
        examples = source.__getitems__(range(len(source)))
        images = np.stack([np.asarray(example["image"], np.float32)[..., None] / 127.5 - 1 for example in examples])
        labels = np.stack([example["label"] for example in examples])
        np.testing.assert_array_equal(labels, source.all_labels())
        data[split] = {"image": images, "label": labels, "mask": np.ones(len(images), np.float32)}

    params = model.init(jax.random.PRNGKey(0), *task.init_inputs(model), train=False)["params"]
    tx, _ = make_optimizer(config.optimizer, params, total_steps=60, steps_per_epoch=20, hidden_dim=None)

    @jax.jit
    def step(params, opt_state, batch):
        def mean_loss(params):
            return task.loss(model, params, batch, rngs={}, train=True)[0].mean()

        loss, gradients = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, order = tx.init(params), np.random.default_rng(0)
    for _ in range(60):
        batch = order.choice(len(data["train"]["image"]), 64, replace=False)
        params, opt_state, _ = step(params, opt_state, {name: value[batch] for name, value in data["train"].items()})
    rows = {**data["test"], **task.predict(model, params, data["test"])}
    scores = task.score({name: np.asarray(value) for name, value in rows.items()})
    assert scores["examples"] == 360
    assert scores["r2"] > 0.7
    assert task.answers(rows, ("tilt",))[0].keys() == {"tilt"}
