"""The best checkpoint of a workdir, found by what its checkpoints say about themselves."""

import json

import pytest

from vit_jax.errors import UserError
from vit_jax.load import best_checkpoint, load_run


def write(workdir, best="top1", **metrics_by_step):
    for step, metrics in metrics_by_step.items():
        meta = workdir / "checkpoints" / step.removeprefix("step") / "meta"
        meta.mkdir(parents=True)
        (meta / "metadata").write_text(json.dumps({"config": {"checkpoint": {"best": best}}, "metrics": metrics}))
    return workdir


@pytest.mark.parametrize(("best", "expected"), [("top1", "20"), ("loss", "10")])
def test_the_config_says_which_metric_ranks(tmp_path, best, expected):
    write(
        tmp_path,
        best,
        step10={"top1": 0.5, "loss": 0.1},
        step20={"top1": 0.9, "loss": 0.2},
        step30={"top1": 0.7, "loss": 0.3},
    )
    assert best_checkpoint(tmp_path).name == expected


def test_of_equal_checkpoints_the_newest_is_the_best(tmp_path):
    write(tmp_path, step9={"top1": 0.5}, step10={"top1": 0.5}, step11={})
    assert best_checkpoint(tmp_path).name == "10"


def test_checkpoints_that_cannot_be_read_are_passed_over(tmp_path):
    write(tmp_path, step1={"top1": 0.5}, step2={"top1": 0.9})
    (tmp_path / "checkpoints" / "2" / "meta" / "metadata").write_text("{")
    assert best_checkpoint(tmp_path).name == "1"


def test_without_evaluations_there_is_no_best(tmp_path):
    write(tmp_path, step1={})
    with pytest.raises(UserError, match="was saved at an evaluation with the metric top1"):
        load_run(tmp_path, best=True)
    with pytest.raises(UserError, match=r"is a single checkpoint\. Name its workdir"):
        load_run(tmp_path / "checkpoints" / "1", best=True)
    with pytest.raises(UserError, match="best and average cannot be combined"):
        load_run(tmp_path, best=True, average=2)
