"""Plans of runs: the memory of the step that then runs, and the largest batch that fits."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from vit_jax.__main__ import main
from vit_jax.analysis.plan import largest_batch

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
DEVICES, LIMIT = 4, 12 * 2**20
CASES = ("image/pmap", "image/fsdp", "video/pmap", "text/fsdp")


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    out = tmp_path_factory.mktemp("plans") / "plans.json"
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, str(HERE / "plans.py"), str(out)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_what_the_compiled_step_uses(plans, case):
    planned, used = plans[case]["plan"]["layouts"][0]["memory"], plans[case]["used"]
    assert planned["peak"] == pytest.approx(used, rel=0.1)
    assert planned["peak"] >= planned["state"] + planned["batch"] + planned["temporary"]


@pytest.mark.slow
def test_the_largest_batch_fits_and_the_next_does_not(plans):
    fits, does_not = plans["image/pmap"]["around"]
    assert fits <= LIMIT < does_not


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_plan_describes_the_run(plans, case):
    plan = plans[case]["plan"]
    assert (plan["steps"], plan["devices"]) == (7, DEVICES)
    assert plan["seconds_per_step"] == pytest.approx(6 * plan["macs"] / (DEVICES * 2e12 * 0.5))
    assert plan["hours"] == pytest.approx(7 * plan["seconds_per_step"] / 3600)
    assert plan["rows_per_second"] == pytest.approx(plan["rows"] / plan["seconds_per_step"])


@pytest.mark.slow
def test_the_products_of_a_batch_are_counted(plans):
    """ViT with 16 patches of 192 values and a class token, a block of width 64 and MLP 256, 10 classes, 32 images."""
    block = 17 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 17 * 17 * 64
    assert plans["image/pmap"]["plan"]["macs"] == 32 * (16 * 192 * 64 + block + 64 * 10)


@pytest.mark.slow
def test_remat_takes_less_memory_where_xla_for_cpus_would_undo_it(plans):
    full, none = plans["video/pmap"]["plan"]["layouts"]
    assert (full["remat"], none["remat"]) == ("full", "none")
    assert full["memory"]["temporary"] < none["memory"]["temporary"]


@pytest.mark.slow
def test_a_sharded_state_takes_less_of_a_device(plans):
    pmap, fsdp = (plans[f"image/{name}"]["plan"]["layouts"][0]["memory"]["state"] for name in ("pmap", "fsdp"))
    assert pmap / DEVICES < fsdp < 0.7 * pmap  # kernels of the MLP are sharded, smaller ones are not


@pytest.mark.parametrize("first", [1, 4, 1_000, 2**20])
@pytest.mark.parametrize(
    "memory",
    [
        lambda batch: 1_000 + 7 * batch,
        lambda batch: 1_000 + 7 * (batch // 64) * 64,
        lambda batch: 1_000 + batch + batch**2 // 500,
        lambda batch: 1_000 + 100 * int(batch**0.7),
    ],
    ids=["line", "steps", "parabola", "concave"],
)
def test_the_search_is_exact_and_short(memory, first):
    asked = []

    def memory_at(batch):
        asked.append(batch)
        return memory(batch)

    found = largest_batch(memory_at, 50_000, 4, first=first)
    assert found % 4 == 0
    assert memory(found) <= 50_000 < memory(found + 4)
    assert len(asked) == len(set(asked)) < 40
    assert largest_batch(memory, 999, 4, first=first) == 0


def test_the_search_of_a_line_takes_five_evaluations():
    asked = []
    largest_batch(lambda batch: asked.append(batch) or 10_000 + 37 * batch, 10_000_000, 8, first=256)
    assert len(asked) <= 5


CONFIG = f"--config={ROOT}/configs/folder.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_classes=10"], "config.data.path"),
        ([], "give --num_classes"),
        (["--strategy=pmap,fdsp"], "--strategy must be"),
        (["--remat=dot"], "--remat must be"),
        (["--memory=none"], "--memory must be a number above 0"),
        (["--num_classes=10", "--examples=100", "--config.batch_size=0"], "batch_size"),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments, message, capsys):
    try:
        status = main(["plan", CONFIG, *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_64_devices_of_which_8_share_a_clip_are_planned(tmp_path):
    small = ["patch_size=2,2", "num_layers=1", "hidden_dim=128", "mlp_dim=512", "num_heads=2"]
    options = [f"--config.model.{key}" for key in small]
    options += ["--config.parallel=fsdp", "--config.devices_per_clip=8", "--config.data.num_frames=16"]
    options += ["--config.batch_size=16", "--config.duration=7 steps", "--config.data.image_size=8,8"]
    command = [sys.executable, "-m", "vit_jax", "plan", f"--config={ROOT}/configs/timesformer.py:k400"]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}
    options += ["--devices=64", "--num_classes=10", "--json"]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    plan = json.loads(done.stdout)
    assert (plan["devices"], plan["rows"]) == (64, 16)
    (layout,) = plan["layouts"]
    video = 16 * 16 * 8 * 8 * 3  # bytes of levels
    assert video / 64 <= layout["memory"]["batch"] < 2 * video / 64
    assert layout["memory"]["state"] < 0.2 * 2 * 4 * plan["params"]  # parameters and momentum, nearly all divided


def test_the_command_prints_a_table_and_json(capsys):
    options = ["plan", CONFIG, "--num_classes=3", "--examples=100", "--memory=4", "--peak_tflops=1"]
    small = ["name=vit:Ti/16", "num_layers=1", "hidden_dim=16", "mlp_dim=16", "num_heads=2"]
    options += [f"--config.model.{key}" for key in small]
    options += ["--config.batch_size=8", "--config.duration=2 epochs", "--config.data.image_size=32,32"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "25 steps on 1 cpu device" in printed
    assert "examples/s of input" in printed
    assert printed.splitlines()[-1].startswith("pmap")
    assert main([*options, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert f"{plan['params']:,} parameters" in printed
    assert plan["layouts"][0]["largest_batch"] > 8
