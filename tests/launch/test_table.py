"""Launching the rows of a table: `reproduce` then finds the runs, and what a row needs is trained before it."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from refusals import refused

from vit_jax.launch import table
from vit_jax.launch.jobs import Job, jobs_of
from vit_jax.launch.local import Launcher
from vit_jax.launch.sweep import Point, Sweep
from vit_jax.reproduce import trained

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]

TABLE = f"""
from vit_jax.reproduce.comparison import Comparison, Recipe, Trial
SIZES = {{"duration": "4 epochs", "eval_every": "1 epoch", "checkpoint.every": "1 epoch", "model.num_layers": 1}}
START = Trial("start", Recipe({str(ROOT / "configs" / "quickstart.py")!r}, SIZES))
LOOK = [("evaluate", "{{start}}", "--predictions={{workdir}}/start.csv")]
ROWS = [
    Trial("a", Recipe(START.small.config, {{**SIZES, "init_from": "{{start}}"}}, before=LOOK)),
    Trial("b c", Recipe(START.small.config, {{**SIZES, "model.pool": "cls"}})),
    Trial("b averaged", of="b c", scoring={{"average": 2}}),
]
COMPARISON = Comparison("Tiny", "Why?", ROWS, preparation=[START])
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "mine" / "t.py"
    path.parent.mkdir()
    path.write_text(TABLE)
    return path


def opened(tiny):
    return table.trials_of(str(tiny), "small", tiny.parents[1] / "runs", say=lambda line: None)


def names(sweep):
    return [point.name.partition("-")[0] for point in sweep.points]


def test_the_runs_of_a_table_are_those_without_a_score_after_what_they_need(tiny):
    name, trials = opened(tiny)
    assert (name, trials.runs) == ("mine/t", tiny.parents[1] / "runs" / "small" / "mine" / "t")
    sweep = table.runs_of(name, trials, None, [0, 1])
    assert names(sweep) == ["start/0", "a/0", "b", "start/1", "a/1", "b"]
    start, a, b = sweep.points[:3]
    assert trials.runs / b.name == trials.workdir(trials.comparison.trial("b c"), 0)
    assert (a.needs, b.needs) == ((start.name,), ())
    shell, option, script = sweep.command(a, trials.runs, "python")
    assert (shell, option) == ("sh", "-c")
    workdir = f"{trials.runs}/{a.name}"
    assert f"evaluate {trials.runs}/{start.name} --predictions={workdir}/start.csv & wait" in script
    assert script.endswith(f"--config.seed=0 --workdir={workdir}")
    assert names(table.runs_of(name, trials, "b averaged", [0])) == ["b"]
    saved = sweep.save(trials.runs)
    assert [job.point for job in jobs_of(trials.runs)] == list(saved.points) == list(sweep.points)


def test_reproduce_finds_what_was_launched_and_trains_nothing(tiny, monkeypatch):
    name, trials = opened(tiny)
    sweep = table.runs_of(name, trials, None, [0])
    for job in jobs_of(trials.runs, sweep):
        job.make_folders()
        (job.workdir / "runs.jsonl").write_text(json.dumps({"status": "finished"}) + "\n")
    empty = dict.fromkeys(set(trained.COLUMNS) - {"row", "seed", "metric", "identity", "command"}, "0")
    monkeypatch.setattr(trained, "run_command", pytest.fail)
    monkeypatch.setattr(trained, "score", lambda *_: empty)
    assert trials.run(trials.comparison.trials, [0]) == []
    assert set(trials.rows()) == {("a", 0), ("b c", 0), ("b averaged", 0)}
    assert table.runs_of(name, trials, None, [0]).points == ()


def test_a_run_that_another_table_has_finished_is_not_launched(tiny):
    _, trials = opened(tiny)
    start, a = trials.comparison.trial("start"), trials.comparison.trial("a")
    finished = trials.runs.parent / "other" / "begin" / trials.folder(start, 0).name
    finished.mkdir(parents=True)
    (finished / "runs.jsonl").write_text(json.dumps({"status": "finished"}) + "\n")
    sweep = table.runs_of("mine/t", trials, "a", [0])
    assert [trials.runs / point.name for point in sweep.points] == [trials.folder(a, 0)]
    assert sweep.points[0].needs == ()
    assert f"--config.init_from={finished}" in sweep.command(sweep.points[0], trials.runs, "python")[-1]


def scripted(scripts, needs=()):
    """Returns a sweep whose runs are Python programs; each says in its workdir that it has finished."""
    end = "import pathlib; pathlib.Path('{folder}', NAME, 'runs.jsonl').write_text('{\"status\": \"finished\"}')"
    points = [Point(name, {"row": name}, ((text, end.replace("NAME", repr(name))),)) for name, text in scripts.items()]
    return [Point(p.name, p.values, p.commands, needs if p.name == "late" else ()) for p in points]


class Programs(Sweep):
    def command(self, point, folder, python):
        return [python, "-c", "; ".join(word.replace("{folder}", str(folder)) for word in point.commands[0])]


def launched(folder, points):
    said = []
    (folder / "launch").mkdir(parents=True)
    status = Launcher(folder, Programs("", (), tuple(points), "t"), at_once=2, say=said.append).run()
    return status, said


def test_a_run_starts_after_those_that_it_needs(tmp_path):
    check = f"import pathlib; assert pathlib.Path({str(tmp_path / 's' / 'early' / 'runs.jsonl')!r}).exists()"
    points = scripted({"late": check, "early": "import time; time.sleep(0.5)"}, needs=("early",))
    status, said = launched(tmp_path / "s", points)
    assert status == 0
    # the process of `early` may still be ending when `late` starts, since its run has been finished by then
    assert said[1].startswith("started early")
    assert sorted(line.split()[1] for line in said[2:]) == ["early", "late", "late"]


def test_a_run_does_not_start_if_one_that_it_needs_has_failed(tmp_path):
    points = scripted({"late": "pass", "early": "raise SystemExit('vit_jax: no data')"}, needs=("early",))
    status, said = launched(tmp_path / "s", points)
    assert status == 1
    assert said[-2].startswith("failed early: no data; see ")
    assert said[-1] == "failed late: early, which it starts from, is not finished"
    assert Job(tmp_path / "s", points[0]).state({})[0] == "waiting"


@pytest.mark.parametrize(("slow", "lines"), [("first", ["first"]), ("second", ["first", "second"])])
def test_commands_in_turn_end_at_sigterm(tmp_path, slow, lines):
    programs = [
        f"echo {name} >> {tmp_path}/lines; {'sleep 60' if slow == name else ':'}" for name in ("first", "second")
    ]
    point = Point("run", {}, tuple(("-c", f"{program}") for program in programs))
    sweep = Sweep("", (), (point,))
    command = [word.replace("sh -m vit_jax", "sh") for word in sweep.command(point, tmp_path, "sh")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 20
    while not (tmp_path / "lines").exists() or len((tmp_path / "lines").read_text().split()) < len(lines):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=10) in (143, -signal.SIGTERM)
    assert (tmp_path / "lines").read_text().split() == lines


def test_mistakes_in_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = "--config=configs/quickstart.py"
    (tmp_path / "mine" / "gone.py").write_text(TABLE.replace("configs/quickstart.py", "configs/quickstrat.py"))
    for arguments, message in (
        (("--table=vit/tabel8",), "unknown table 'vit/tabel8'; did you mean 'vit/table8'?"),
        (("--table=experiments/vit/tabel8.py",), "did you mean 'vit/table8'?"),
        (("--table=tnt/table1",), "tnt/table1 has nothing at the scale small"),
        (("--table=vit/table8", "--only=nnone"), "no row 'nnone' in ViT, Table 8"),
        (("--table=vit/table8", config), "Leave configs/quickstart.py out"),
        (("--table=vit/table8", "--sweep", "seed=1"), "Leave seed=1 out"),
        ((config, "--only=a", tmp_path / "s"), "--only applies to the rows of a table. Add --table=TABLE"),
        ((f"--table={tmp_path / 'mine' / 'gone.py'}",), "row 'start': no config file "),
    ):
        assert message in refused("launch", *arguments)
    assert not (tmp_path / "s").exists()


def test_a_dry_run_prints_what_would_be_done(tiny, tmp_path, capsys):
    from vit_jax.__main__ import main

    assert main(["launch", f"--table={tiny}", "--seeds=1", "--dry-run", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("sh -c ")
    assert lines[3].startswith("3 runs, 1 at a time, each with ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_after_sigkill_of_launcher_and_runs_the_table_is_completed_and_nothing_is_trained_twice(tiny, tmp_path):
    """Kills at several points; then a launcher and `reproduce` finish the table at the same time."""
    program = [sys.executable, "-m", "vit_jax"]
    launch = [*program, "launch", f"--table={tiny}", "--seeds=2", "--at_once=2", str(tmp_path / "runs")]
    options = ["mine/t", "--scale=small", "--seeds=2", f"--folder={tmp_path}", f"--runs={tmp_path / 'runs'}"]
    reproduce = [*program, "reproduce", *options]
    folder = tmp_path / "runs" / "small" / "mine" / "t"

    def alive():
        jobs = jobs_of(folder) if (folder / "sweep.json").exists() else []
        return [job.recorded()["pid"] for job in jobs if job.state({})[0] == "running"]

    for seconds in (4, 15, 25, 35):
        process = subprocess.Popen(launch, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        children = alive()
        process.kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        while alive():
            time.sleep(0.1)
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for command in (launch, reproduce)]
    assert both[0].wait() == 0
    assert both[1].wait() in (0, 1)  # 1: a row was being trained by the launcher
    assert subprocess.run(reproduce, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    with (tmp_path / "results" / "mine" / "t.small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("a", "b averaged", "b c") for seed in "01"
    ]
    for job in jobs_of(folder):
        statuses = [json.loads(line)["status"] for line in (job.workdir / "runs.jsonl").read_text().splitlines()]
        assert statuses.count("finished") == 1
        rows = [json.loads(line) for line in (job.workdir / "metrics.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in rows if row["split"] == "eval"]
        assert steps == sorted(set(steps))
