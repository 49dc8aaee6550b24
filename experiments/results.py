"""Results: measured numbers as CSV in `experiments/results/`, and the README's tables made from them.

python experiments/results.py add WORKDIR     # a finished run becomes a row of results/classification.csv
python experiments/results.py readme          # write the tables between the README's markers

`motion.py` and `translation_baselines.py` write the other CSVs.
"""

import argparse
import csv
import json
import pathlib
import re
import sys
from typing import Any

import jax

from vit_jax.workdir.checkpoint import load_checkpoint
from vit_jax.workdir.metrics import read_metrics
from vit_jax.workdir.provenance import read_runs

HERE = pathlib.Path(__file__).parent
README = HERE.parent / "README.md"
CSV, MOTION, TRANSLATION = (HERE / "results" / f"{name}.csv" for name in ("classification", "motion", "translation"))
COLUMNS = (
    "data", "split", "model", "parameters", "top1", "loss", "examples", "skipped", "seed", "steps", "seconds",
    "hardware", "python", "jax", "date", "commit", "command",
)  # fmt: skip


def is_finished(workdir: pathlib.Path) -> bool:
    return (workdir / "runs.jsonl").exists() and read_runs(workdir)[-1]["status"] == "finished"


def first_start(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the first line of a run's `runs.jsonl`; the seconds are empty if it was not trained in one go."""
    start = read_runs(workdir)[0]
    in_one_go = start["status"] == "finished" and not start.get("resumed_from")
    command = re.sub(r" --(workdir|config\.data\.(data_dir|path)|config\.compilation_cache)=\S+", "", start["command"])
    return {**start, "command": command, "seconds": start["seconds"] if in_one_go else ""}


def row_of(workdir: pathlib.Path) -> dict[str, object]:
    """Returns the row of a run.

    Raises:
      SystemExit: It is not finished.
    """
    if not is_finished(workdir):
        sys.exit(f"{workdir} holds no finished run: its command goes on with it")
    config, run = json.loads((workdir / "config.json").read_text()), first_start(workdir)
    result = [row for row in read_metrics(workdir) if row["split"] == "eval"][-1]
    return {
        "data": config["data"]["name"],
        "split": config["data"]["eval_split"],
        "model": config["model"]["name"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(load_checkpoint(workdir)[0])),
        **{name: result[name] for name in ("top1", "loss", "examples", "skipped")},
        "seed": config["seed"],
        "steps": result["step"],
        "seconds": run["seconds"],
        "hardware": run["hardware"],
        "python": run["python"],
        "jax": run["packages"]["jax"],
        "date": run["started"][:10],
        "commit": run["commit"],
        "command": run["command"],
    }


def add(workdir: pathlib.Path) -> None:
    """Adds a run's row, in place of an earlier one of the same command."""
    row = {name: str(value) for name, value in row_of(workdir).items()}
    kept = [old for old in read() if old["command"] != row["command"]]
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, row], key=lambda row: (row["data"], row["command"])))


def read(path: pathlib.Path = CSV) -> list[dict[str, str]]:
    """Returns the rows of a CSV."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def classification_table() -> str:
    """Returns the table of single runs, in Markdown."""
    lines = [
        "| data | model | parameters | top-1 | examples | seed | wall time | hardware | commit |",
        "|---" * 9 + "|",
    ]
    commands = []
    for number, row in enumerate(read(), start=1):
        seconds = float(row["seconds"] or 0)
        minutes = "several starts" if not seconds else f"{seconds / 60:.0f} min" if seconds > 180 else f"{seconds} s"
        lines.append(
            f"| {row['data']} {row['split']} <sup>{number}</sup> | {row['model']} | {int(row['parameters']):,} "
            f"| {float(row['top1']):.2%} | {row['examples']} (skipped {row['skipped']}) | {row['seed']} | {minutes} "
            f"| {row['hardware']}, JAX {row['jax']} | {row['commit']} |"
        )
        commands.append(f"<sup>{number}</sup> `{row['command']} --workdir=DIR`  ")
    return "\n".join([*lines, "", *commands])


def motion_table() -> str:
    """Returns a row for each scheme and labelling, with the numbers of its seeds."""
    lines = [
        "| learned | attention | seeds | top-1 | family right | of these, direction right (95 % interval) |",
        "|---" * 6 + "|",
    ]
    schemes: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read(MOTION):
        schemes.setdefault((row["learned"], row["scheme"]), []).append(row)
    for (learned, scheme), rows in schemes.items():
        attention = "of an image model, from which the next start" if scheme == "frames" else f"`{scheme}`"
        direction = "; ".join(map(_direction, rows)) if learned == "motion" else ""
        seeds = ", ".join(row["seed"] for row in rows)
        cells = [learned, attention, seeds, _percents(rows, "top1"), _percents(rows, "family"), direction]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percents(rows: list[dict[str, str]], name: str) -> str:
    return ", ".join(f"{float(row[name]):.1%}" for row in rows)


def _direction(row: dict[str, str]) -> str:
    value, low, high = (float(row[name]) for name in ("direction", "direction_low", "direction_high"))
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def translation_table() -> str:
    """Returns a row for each method and split."""
    lines = ["| split | method | BLEU | chrF | perplexity | sentences |", "|---" * 6 + "|"]
    for row in read(TRANSLATION):
        method = row["method"]
        if row["parameters"]:
            method = f"Transformer of {int(row['parameters']) / 1e6:.1f} M parameters"
        if row["averaged"] not in ("", "1"):
            method += f", {row['averaged']} checkpoints averaged"
        perplexity = f"{float(row['perplexity']):.1f}" if row["perplexity"] else ""
        lines.append(
            f"| {row['split']} | {method} | {float(row['bleu']):.1f} | {float(row['chrf']):.1f} "
            f"| {perplexity} | {row['examples']} |"
        )
    return "\n".join(lines)


TABLES = {"classification": classification_table, "motion": motion_table, "translation": translation_table}


def readme_with_tables(text: str) -> str:
    """Returns the README's text with the tables of today."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("add", help="add a finished run").add_argument("workdir", type=pathlib.Path)
    actions.add_parser("readme", help="write the README's tables")
    args = parser.parse_args()
    if args.action == "add":
        add(args.workdir)
    else:
        README.write_text(readme_with_tables(README.read_text()))


if __name__ == "__main__":
    main()
