"""A workdir written by commit fe7a5b0 still predicts, evaluates and resumes.

The fixture holds a run of `CONFIG` on the images of `harness.write_images` that was stopped by SIGTERM after step 7 of
12, before checkpoints had checksums. `expected.json` has what that commit computed: the probabilities of the images in
the test split, and the rows of the whole run.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
from harness import rows, saved
from PIL import Image

from vit_jax.config import default_config
from vit_jax.experiment import Experiment
from vit_jax.load import load_run
from vit_jax.train import train_and_evaluate
from vit_jax.workdir.provenance import read_runs

FIXTURE = pathlib.Path(__file__).parent.parent / "workdir" / "fixtures" / "fe7a5b0.zip"


def config_of(images):
    config = default_config()
    config.model.update(name="vit:Ti/4", hidden_dim=8, mlp_dim=8, num_layers=1, num_heads=2)
    config.data.update(
        name="folder", path=str(images), image_size=(8, 8), channels=1, num_threads=1,
        train_transforms="flip|normalize(mean=0.5, std=0.5)", eval_transforms="normalize(mean=0.5, std=0.5)",
    )  # fmt: skip
    config.update(batch_size=4, duration="12 steps", eval_every="4 steps", log_every="3 steps", compilation_cache="")
    config.checkpoint.every = "5 steps"
    config.optimizer.ema_decay = 0.5
    return config


@pytest.fixture
def old(tmp_path):
    shutil.unpack_archive(FIXTURE, tmp_path)
    return tmp_path / "run", json.loads((tmp_path / "expected.json").read_text())


def test_it_predicts_the_same(old, images):
    workdir, expected = old
    run = load_run(workdir)
    assert (run.step, run.labels) == (7, ("cat", "dog"))
    files = sorted((images / "test").rglob("*.png"))
    answers = run.predict([Image.open(file) for file in files])
    guesses = [{guess["label"]: guess["probability"] for guess in answer["predictions"]} for answer in answers]
    probabilities = [[guess[label] for label in run.labels] for guess in guesses]
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-6)


def test_it_resumes_evaluates_and_ends_as_it_would_have(old, images):
    workdir, expected = old
    result = train_and_evaluate(Experiment.from_config(config_of(images), workdir), workdir, quiet=True)
    assert saved(workdir)[-2:] == [10, 12]
    now = rows(workdir)
    assert [(row["step"], row["split"]) for row in now] == [(row["step"], row["split"]) for row in expected["rows"]]
    for ours, theirs in zip(now, expected["rows"], strict=True):
        for name in theirs.keys() - {"split"}:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    assert result["loss"] == now[-1]["loss"]
    assert read_runs(workdir)[0]["commit"] == "fe7a5b00a601"
