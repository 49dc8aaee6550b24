"""Train a config with every combination of some values of its keys, or the rows of a table, here or on Slurm.

Every run gets a workdir in DIR, named after its values. Ctrl-C stops all of them once their states are saved. To go
on, run the same command again: finished runs are left as they are, and the others resume; more values may be added.
Several launchers may work on one DIR.

With --table, the runs are the rows of a table that have no score yet, and what they start from. DIR is the folder that
`reproduce --runs` takes (default: runs/reproduce). `reproduce` then scores them and writes the results.

  python -m vit_jax launch --config=configs/quickstart.py --sweep optimizer.schedule.peak=1e-3,3e-3 --seeds=2 runs/peak
  python -m vit_jax launch --config=configs/quickstart.py --sweep model.num_layers=2,4 --at_once=2 runs/depth --dry-run
  python -m vit_jax launch --config=configs/deit.py:S --seeds=3 runs/deit --slurm --partition=gpu --gpus=8 --time=24:00
  python -m vit_jax launch --table=vit/table8 --scale=small --seeds=3 --at_once=2
  python -m vit_jax launch status runs/peak
  python -m vit_jax launch stop runs/peak
"""

import argparse
import json
import pathlib
import re
import shlex
from typing import Any

from vit_jax.commands.shared import common
from vit_jax.errors import UserError, counted, nearest

HELP = "train a config with many values of its keys, or the rows of a table"
_ACTIONS = ("status", "stop")
_RUNS = "runs/reproduce"  # folder of the runs of tables
_SLURM = ("time", "nodes", "cpus", "memory", "partition", "account", "qos")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text, count = common.given, common.at_least(1)
    parser.add_argument(
        "words", nargs="*", metavar="[status|stop] DIR", type=text, help="folder of the sweep, which is created"
    )
    option = parser.add_argument
    option("--config", metavar="FILE.py[:ARGS]", type=text, help="config file, for example configs/quickstart.py")
    option(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        type=text,
        help="key of the config and its values; may be repeated, for every combination",
    )
    option("--seeds", type=count, metavar="N", help="train everything with the seeds 0 to N - 1 (for --table: 3)")
    option("--table", metavar="TABLE", type=text, help="PAPER/TABLE, or the file that defines the table")
    option("--scale", choices=("small", "paper"), help="of --table: small models, or the paper's (default: small)")
    option("--only", metavar="ROW", type=text, help="of --table: one row")
    option("--dry-run", action="store_true", help="print the commands or scripts, and the cost, and start nothing")
    option("--json", action="store_true", help="of status: print one JSON object per run")
    option("--gpus", type=count, metavar="N", help="GPUs of each run; on Slurm, on each node")
    local = parser.add_argument_group("on this machine").add_argument
    local(
        "--at_once",
        type=count,
        metavar="N",
        help="runs that train at a time, each with its share of the cores (default: 1, or as many as --gpus allows)",
    )
    slurm = parser.add_argument_group("on Slurm", "One job for each run; needs the extra `launch`.").add_argument
    slurm("--slurm", action="store_true", help="submit the runs to Slurm")
    slurm("--time", metavar="HH:MM", type=_minutes, help="time limit, after which a run is requeued (default: 1:00)")
    slurm("--nodes", type=count, metavar="N", help="nodes of each run (default: 1)")
    slurm("--cpus", type=count, metavar="N", help="cores of each process (default: 1)")
    slurm("--memory", metavar="SIZE", type=text, help="memory per node, such as 64G")
    slurm("--partition", metavar="NAME", type=text, help="partition of the cluster")
    slurm("--account", metavar="NAME", type=text, help="account that pays")
    slurm("--qos", metavar="NAME", type=text, help="quality of service")
    parser.set_defaults(overrides=[])
    parser.epilog = "Any key of the config can be set for all runs as --config.KEY=VALUE."


def _minutes(text: str) -> int:
    match = re.fullmatch(r"(\d{1,4}):([0-5]\d)", text)
    if match is None or not int(match[1]) * 60 + int(match[2]):
        raise argparse.ArgumentTypeError(f"must be hours and minutes, such as 24:00 or 0:30, got {text!r}")
    return int(match[1]) * 60 + int(match[2])


def run(args: argparse.Namespace) -> int:
    # argparse takes an unknown option for a word if it has a space, as in --config.duration="20 epochs"
    args.overrides += [word for word in args.words if word.startswith("--config.")]
    args.words = [word for word in args.words if not word.startswith("--config.")]
    if not args.words and args.table:
        args.words = [_RUNS]
    if not args.words:
        raise UserError("launch needs a folder for the sweep")
    *actions, name = args.words
    folder = pathlib.Path(name)
    if not actions:
        return _launch(args, folder)
    if len(actions) > 1 or actions[0] not in _ACTIONS:
        raise UserError(f"launch takes one folder, got {shlex.join(args.words)}{nearest(actions[0], _ACTIONS)}")
    return {"status": _status, "stop": _stop}[actions[0]](args, folder)


def _launch(args: argparse.Namespace, folder: pathlib.Path) -> int:
    from vit_jax.launch.sweep import Sweep

    if args.words[0] in _ACTIONS:
        raise UserError(f"launch {args.words[0]} needs the folder of a sweep")
    if not args.config and not args.table:
        raise UserError(
            "launch needs --config=FILE.py or --table=TABLE. For an existing sweep, give `status` or `stop` before its "
            "folder."
        )
    _check_options(args)
    if args.table:
        return _launch_table(args, folder)
    return _start(args, folder, Sweep.parse(args.config, args.overrides, args.sweep, args.seeds))


def _launch_table(args: argparse.Namespace, runs: pathlib.Path) -> int:
    from vit_jax.launch import table

    scale, seeds = args.scale or "small", args.seeds or 3
    name, trials = table.trials_of(args.table, scale, runs)
    sweep = table.runs_of(name, trials, args.only, range(seeds))
    only = f" --only={shlex.quote(args.only)}" if args.only else ""
    where = "" if runs == pathlib.Path(_RUNS) else f" --runs={shlex.quote(str(runs))}"
    score = f"python -m vit_jax reproduce {args.table} --scale={scale} --seeds={seeds}{only}{where}"
    if not sweep.points:
        print(f"all rows of {name} have a score; see: {score}")
        return 0
    for arguments in trials.comparison.data:
        print(shlex.join(["python", "-m", "vit_jax", "data", "prepare", *arguments]), flush=True)
    if not args.dry_run:
        trials.prepare_data()
    status = _start(args, trials.runs, sweep)
    if not args.dry_run:
        print(f"score the finished runs: {score}")
    return status


def _start(args: argparse.Namespace, folder: pathlib.Path, sweep: Any) -> int:
    return _on_slurm(args, folder, sweep) if args.slurm else _here(args, folder, sweep)


def _check_options(args: argparse.Namespace) -> None:
    """Raises UserError for an option that has no effect."""
    if args.json:
        raise UserError("--json applies to launch status")
    if args.table and (given := [*args.sweep, *args.overrides, *filter(None, [args.config])]):
        raise UserError(f"--table says what is trained. Leave {given[0]} out, or leave --table out.")
    for option in ("scale", "only"):
        if not args.table and getattr(args, option) is not None:
            raise UserError(f"--{option} applies to the rows of a table. Add --table=TABLE, or leave it out.")
    if args.slurm and args.at_once:
        raise UserError("--at_once applies to runs on this machine; on Slurm, the cluster decides how many run")
    for option in _SLURM:
        if not args.slurm and getattr(args, option) is not None:
            raise UserError(f"--{option} applies to Slurm. Add --slurm, or leave it out.")


def _here(args: argparse.Namespace, folder: pathlib.Path, sweep: Any) -> int:
    from vit_jax.launch import local
    from vit_jax.launch.jobs import jobs_of

    gpus = args.gpus or 0
    at_once = args.at_once or (max(len(local.visible_gpus()) // gpus, 1) if gpus else 1)
    at_once = min(at_once, len(sweep.points))
    shares = local.shares(at_once, gpus)
    if args.dry_run:
        for job in jobs_of(folder, sweep):
            print(shlex.join(sweep.command(job.point, folder, "python")))
        cores = counted(min(len(share["cores"]) for share in shares), "cores")
        print(
            f"{counted(len(sweep.points), 'runs')}, {at_once} at a time, each with {cores}"
            + (f" and {gpus} GPUs" if gpus else "")
        )
        return 0
    saved = sweep.save(folder)
    sweep = sweep if sweep.table else saved  # of a table, other launchers may have been given other rows
    say = lambda line: print(line, flush=True)  # noqa: E731
    return local.Launcher(folder, sweep, at_once=at_once, gpus_each=gpus, say=say).run()


def _on_slurm(args: argparse.Namespace, folder: pathlib.Path, sweep: Any) -> int:
    from vit_jax.launch import slurm
    from vit_jax.launch.jobs import RUNNING, WAITING, jobs_of

    slurm.check_cluster()
    folder = folder.absolute()  # the jobs may start in another folder
    given = {name: getattr(args, name) for name in (*_SLURM, "gpus") if getattr(args, name) is not None}
    if "time" in given:
        given["minutes"] = given.pop("time")
    resources = slurm.Resources(**given)
    if args.dry_run:
        for job in jobs_of(folder, sweep):
            print(slurm.script(job, sweep, resources))
        print(resources.cost(len(sweep.points)))
        return 0
    saved = sweep.save(folder)
    jobs = jobs_of(folder, sweep if sweep.table else saved)
    queue = slurm.queue(job.recorded()["slurm"] for job in jobs if "slurm" in job.recorded())
    for job in jobs:
        state, reason = job.state(queue)
        if job.is_finished() or state == RUNNING or (state == WAITING and reason):
            print(f"{job.point.name}: {state}{f' ({reason})' if reason else ''}")
        elif lacking := [need for need in job.lacking() if "slurm" not in need.recorded()]:
            print(f"{job.point.name}: not submitted, because it starts from {lacking[0].point.name}")
        elif number := slurm.submit(job, sweep, resources):
            print(f"{job.point.name}: submitted as Slurm job {number}", flush=True)
    print(f"see: python -m vit_jax launch status {shlex.quote(str(folder))}")
    return 0


def _status(args: argparse.Namespace, folder: pathlib.Path) -> int:
    from vit_jax.launch.jobs import jobs_of

    jobs = jobs_of(folder)
    queue = _queue(jobs)
    width = max(len(job.point.name) for job in jobs)
    for job in jobs:
        state, reason = job.state(queue)
        (step, total), scores = job.progress(), job.scores()
        if args.json:
            row = {"run": job.point.name, "state": state, "reason": reason, "step": step, "steps": total}
            print(json.dumps({**row, "values": job.point.values, "metrics": scores}))
            continue
        numbers = [f"{name} {scores[name]:.4g}" for name in ("loss", "top1", "bleu", "f1") if name in scores]
        steps = [f"step {step:,} of {total:,}"] if total else []
        print("  ".join([f"{job.point.name:<{width}}  {state:<8}", *steps, *numbers, *filter(None, [reason])]).rstrip())
    return 0


def _queue(jobs: Any) -> dict[str, str]:
    from vit_jax.launch import slurm

    return slurm.queue(job.recorded()["slurm"] for job in jobs if "slurm" in job.recorded())


def _stop(args: argparse.Namespace, folder: pathlib.Path) -> int:
    from vit_jax.launch import local, slurm
    from vit_jax.launch.jobs import jobs_of

    jobs = jobs_of(folder)
    queue = _queue(jobs)
    slurm.cancel(list(queue))
    stopped = [job for job in jobs if job.recorded().get("slurm") in queue] + local.stop(folder, jobs)
    for job in stopped:
        print(f"stopping {job.point.name}")
    print(f"{counted(len(stopped), 'runs')} will save and stop; the command that launched them goes on")
    return 0
