"""Results: measured numbers as CSV in `experiments/results/`, and the tables of the documentation made from them.

python experiments/results.py add WORKDIR     # add a finished run to results/classification.csv
python experiments/results.py tables          # write the tables into docs/results.md and README.md

A table stands between two markers, `<!-- NAME: begin -->` and `<!-- NAME: end -->`. `motion.py` and
`translation_baselines.py` write the other CSVs.
"""

import argparse
import csv
import json
import pathlib
import re
import sys
from collections.abc import Iterable
from typing import Any

import jax

from vit_jax.workdir.checkpoint import load_checkpoint
from vit_jax.workdir.metrics import read_metrics
from vit_jax.workdir.provenance import read_runs

HERE = pathlib.Path(__file__).parent
PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "results.md")  # the pages that contain tables
CSV, MOTION, TRANSLATION = (HERE / "results" / f"{name}.csv" for name in ("classification", "motion", "translation"))
COLUMNS = (
    "data", "split", "model", "parameters", "top1", "loss", "examples", "skipped", "seed", "steps", "seconds",
    "hardware", "python", "jax", "date", "commit", "command",
)  # fmt: skip


def is_finished(workdir: pathlib.Path) -> bool:
    return (workdir / "runs.jsonl").exists() and read_runs(workdir)[-1]["status"] == "finished"


def first_start(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the first line of a run's `runs.jsonl`; `seconds` is empty if the run was resumed."""
    start = read_runs(workdir)[0]
    in_one_go = start["status"] == "finished" and not start.get("resumed_from")
    command = re.sub(r" --(workdir|config\.data\.(data_dir|path)|config\.compilation_cache)=\S+", "", start["command"])
    return {**start, "command": command, "seconds": start["seconds"] if in_one_go else ""}


def row_of(workdir: pathlib.Path) -> dict[str, object]:
    """Returns the row of a finished run.

    Raises:
      SystemExit: The run is not finished.
    """
    if not is_finished(workdir):
        sys.exit(f"{workdir} has no finished run. Run its training command again to resume it.")
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
    """Adds the row of a run, which replaces an earlier row with the same command."""
    row = {name: str(value) for name, value in row_of(workdir).items()}
    kept = [old for old in read() if old["command"] != row["command"]]
    with CSV.open("w", newline="") as file:
        writer: Any = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, row], key=lambda row: (row["data"], row["command"])))


def read(path: pathlib.Path = CSV) -> list[dict[str, str]]:
    """Returns the rows of a CSV."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def classification_table() -> str:
    """Returns a table with a row for each command of the classification runs, with the numbers of its seeds."""
    lines = [
        "| data | model | parameters | seeds | top-1 | examples | wall time | hardware | commit |",
        "|---" * 9 + "|",
    ]
    runs: dict[str, list[dict[str, str]]] = {}
    for row in read():
        runs.setdefault(re.sub(r" --config\.seed=\d+", "", row["command"]), []).append(row)
    for number, rows in enumerate(runs.values(), start=1):
        first = rows[0]
        cells = [
            f"{first['data']} {first['split']} <sup>{number}</sup>",
            f"`{first['model']}`",
            f"{int(first['parameters']):,}",
            ", ".join(row["seed"] for row in rows),
            ", ".join(f"{float(row['top1']):.2%}" for row in rows),
            _distinct(f"{row['examples']} (skipped {row['skipped']})" for row in rows),
            ", ".join(_wall_time(row["seconds"]) for row in rows),
            _distinct(f"{row['hardware']}, JAX {row['jax']}" for row in rows),
            _distinct(row["commit"] for row in rows),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    commands = [f"<sup>{number}</sup> `{command} --workdir=DIR`  " for number, command in enumerate(runs, start=1)]
    return "\n".join([*lines, "", *commands])


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _wall_time(seconds: str) -> str:
    if not seconds:
        return "several starts"
    return f"{float(seconds) / 60:.0f} min" if float(seconds) > 180 else f"{seconds} s"


def motion_table() -> str:
    """Returns a table with a row for each label and attention scheme, with the numbers of its seeds."""
    lines = [
        "| label | attention | seeds | top-1 | family correct | direction correct, given the family (95 % interval) |",
        "|---" * 6 + "|",
    ]
    for (learned, scheme), rows in _by_scheme().items():
        attention = "image model from which the five below start" if scheme == "frames" else f"`{scheme}`"
        direction = "; ".join(map(_direction, rows)) if learned == "motion" else ""
        seeds = ", ".join(row["seed"] for row in rows)
        cells = [learned, attention, seeds, _percents(rows, "top1"), _percents(rows, "family"), direction]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline_table() -> str:
    """Returns the README's table, with one row for each experiment."""
    lines = ["| question | data | result |", "|---" * 3 + "|"]
    for row in read():
        if row["data"] == "fashion_mnist":
            model = f"`{row['model']}`, {int(row['parameters']) / 1e6:.1f} M parameters"
            result = f"{float(row['top1']):.2%} of {int(row['examples']):,} test images"
            lines.append(f"| How good is a small ViT trained from scratch? | Fashion-MNIST | {model}: {result} |")
    motion = {scheme: rows for (learned, scheme), rows in _by_scheme().items() if learned == "motion"}
    schemes = ("space_only", "joint_space_time", "divided_space_time")
    results = "; ".join(f"`{scheme}` {_range(motion[scheme])}" for scheme in schemes)
    seeds = len(motion["space_only"])
    lines.append(
        f"| Which attention tells a motion from its reverse? | 40,000 clips of moving garments, 6 motions, {seeds} "
        f"seeds | {results} |"
    )
    bleu = {row["method"]: float(row["bleu"]) for row in read(TRANSLATION) if row["split"] == "test"}
    ours = next(row for row in read(TRANSLATION) if row["split"] == "test" and row["parameters"])
    lines.append(
        f"| Does a small Transformer translate better than a translation memory? | {int(ours['training_pairs']):,} "
        f"pairs of interface strings, English to Italian | BLEU {float(ours['bleu']):.1f} against "
        f"{bleu['translation memory']:.1f} |"
    )
    return "\n".join(lines)


def _by_scheme() -> dict[tuple[str, str], list[dict[str, str]]]:
    schemes: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read(MOTION):
        schemes.setdefault((row["learned"], row["scheme"]), []).append(row)
    return schemes


def _percents(rows: list[dict[str, str]], name: str) -> str:
    return ", ".join(f"{float(row[name]):.1%}" for row in rows)


def _range(rows: list[dict[str, str]]) -> str:
    low, high = (100 * bound(float(row["top1"]) for row in rows) for bound in (min, max))
    return f"{low:.0f} to {high:.0f} %"


def _direction(row: dict[str, str]) -> str:
    value, low, high = (float(row[name]) for name in ("direction", "direction_low", "direction_high"))
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def translation_table() -> str:
    """Returns a table with a row for each method and split."""
    lines = ["| split | method | BLEU | chrF | perplexity | sentences |", "|---" * 6 + "|"]
    for row in read(TRANSLATION):
        method = row["method"]
        if row["parameters"]:
            method = f"Transformer, {int(row['parameters']) / 1e6:.1f} M parameters"
        if row["averaged"] not in ("", "1"):
            method += f", {row['averaged']} checkpoints averaged"
        perplexity = f"{float(row['perplexity']):.1f}" if row["perplexity"] else ""
        lines.append(
            f"| {row['split']} | {method} | {float(row['bleu']):.1f} | {float(row['chrf']):.1f} "
            f"| {perplexity} | {row['examples']} |"
        )
    return "\n".join(lines)


TABLES = {
    "headline": headline_table,
    "classification": classification_table,
    "motion": motion_table,
    "translation": translation_table,
}


def with_tables(text: str) -> str:
    """Returns the text of a page with every table between its markers regenerated."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        if found:
            text = f"{before}{begin}\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("add", help="add a finished run").add_argument("workdir", type=pathlib.Path)
    actions.add_parser("tables", help="write the tables into the README and docs/results.md")
    args = parser.parse_args()
    if args.action == "add":
        add(args.workdir)
    else:
        for page in PAGES:
            page.write_text(with_tables(page.read_text()))


if __name__ == "__main__":
    main()
