"""The lists of models and recipes."""

import io
import json
import pathlib
from contextlib import redirect_stdout

import pytest
from refusals import refused

from vit_jax.__main__ import main
from vit_jax.analysis import catalogue
from vit_jax.config import load_config
from vit_jax.models import build_model

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*arguments):
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(list(arguments)) == 0
    return out.getvalue()


def test_a_model_has_its_cost_its_recipes_and_its_formats():
    (entry,) = [json.loads(line) for line in run("models", "vit:Ti/16", "--json").splitlines()]
    assert entry["params"] == 5_717_416  # DeiT-Ti
    assert entry["macs"] / 1e9 == pytest.approx(1.26, abs=0.01)
    assert entry["input"] == "224x224x3"
    assert {"configs/deit.py:Ti", "configs/augreg.py:Ti/16,imagenet2012"} <= set(entry["recipes"])
    assert not any("quickstart" in name for name in entry["recipes"])  # another width
    assert {"npz*", "timm*", "huggingface*", "big_vision*", "dinov2"} == set(entry["formats"])


def test_a_hybrid_is_carried_by_the_formats_that_can_hold_it():
    assert set(catalogue._carriers("vit:R50+B/16")) == {"npz*"}
    assert set(catalogue._carriers("tnt:S/16")) == {"timm*", "tnt"}


def test_every_model_that_a_recipe_names_is_listed():
    for name in catalogue.MODELS:
        build_model(name, **({"vocab_size": 8} if name.startswith("transformer") else {}))
    trained = catalogue._trained(ROOT / "configs")
    assert set(trained) <= set(catalogue.MODELS)
    assert {"vit:H/14", "vit:R50+L/32", "tnt:B/16", "timesformer:B/16-HR", "transformer:big"} <= set(trained)


def test_every_recipe_and_argument_can_be_loaded():
    found = catalogue.recipes()
    assert sorted(recipe.file for recipe in found) == sorted(
        f"configs/{path.name}" for path in ROOT.glob("configs/*.py")
    )
    for recipe in found:
        for name in recipe.names():
            load_config(name, [])


def test_the_scores_are_those_of_the_heads():
    recipes = {recipe.file: recipe for recipe in catalogue.recipes()}
    assert "B/16       79.84    78.73  81.63" in recipes["configs/augreg.py"].expected
    assert "hr        79.7            81.8" in recipes["configs/timesformer.py"].expected
    assert recipes["configs/finetune.py"].expected == ""
    assert not any("python -m" in recipe.expected for recipe in recipes.values())
    printed = run("configs")
    assert "between 96.9 and 98.9 % over five seeds" in printed
    assert "configs/deit.py: DeiT (arXiv:2012.12877) without distillation" in printed
    assert "Hardware: the authors trained Ti and S on 4 GPUs" in run("configs", "deit")


def test_tables_for_the_documentation():
    text = catalogue.models_table([catalogue.Entry("vit:X", 1_500_000, 2_000_000_000, "2x2", ("a.py:b",), ("npz*",))])
    assert text.splitlines()[2] == "| `vit:X` | 1.5 | 2.0 | 2x2 | `a.py:b` | `npz*` |"
    assert "### configs/vit.py" in catalogue.recipes_text(catalogue.recipes())


def test_mistakes_in_one_line(tmp_path):
    assert "unknown ViT variant 'Q/16'" in refused("models", "vit:Q/16")
    assert "no recipe 'dait' in configs; did you mean 'deit'?" in refused("configs", "dait")
    assert "has no config files" in refused("configs", f"--folder={tmp_path}")
