"""Results: measured numbers as CSV in `experiments/results/`, and the README's table made from them.

python experiments/results.py add WORKDIR     # a finished run becomes a row of results/classification.csv
python experiments/results.py readme          # write the table between the README's markers
"""

import argparse
import csv
import json
import pathlib
import re
import sys

import jax

from vit_jax.checkpoint import load_checkpoint

HERE = pathlib.Path(__file__).parent
README = HERE.parent / "README.md"
CSV = HERE / "results" / "classification.csv"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
COLUMNS = (
    "data", "split", "model", "parameters", "top1", "loss", "examples", "skipped", "seed", "steps", "seconds",
    "hardware", "python", "jax", "date", "commit", "command",
)  # fmt: skip


def row_of(workdir: pathlib.Path) -> dict[str, object]:
    """Returns the row of a run that was trained from start to end by one command.

    Raises:
      SystemExit: It is not finished, or was made in several starts, whose seconds say nothing.
    """
    config = json.loads((workdir / "config.json").read_text())
    runs = [json.loads(line) for line in (workdir / "runs.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    if runs[0]["status"] != "finished":
        sys.exit(f"{workdir} was not trained in one go: {runs[0]['status']}")
    run, result = runs[0], [row for row in rows if row["split"] == "eval"][-1]
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
        "command": re.sub(r" --(workdir|config\.data\.data_dir|config\.compilation_cache)=\S+", "", run["command"]),
    }


def add(workdir: pathlib.Path) -> None:
    """Adds a run's row, in place of an earlier one of the same command."""
    row = {name: str(value) for name, value in row_of(workdir).items()}
    kept = [old for old in read() if old["command"] != row["command"]]
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*kept, row], key=lambda row: (row["data"], row["command"])))


def read() -> list[dict[str, str]]:
    """Returns the rows of the CSV."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """Returns the README's table, in Markdown."""
    lines = [
        "| data | model | parameters | top-1 | examples | seed | wall time | hardware | commit |",
        "|---" * 9 + "|",
    ]
    commands = []
    for number, row in enumerate(read(), start=1):
        minutes = f"{float(row['seconds']) / 60:.0f} min" if float(row["seconds"]) > 180 else f"{row['seconds']} s"
        lines.append(
            f"| {row['data']} {row['split']} <sup>{number}</sup> | {row['model']} | {int(row['parameters']):,} "
            f"| {float(row['top1']):.2%} | {row['examples']} (skipped {row['skipped']}) | {row['seed']} | {minutes} "
            f"| {row['hardware']}, JAX {row['jax']} | {row['commit']} |"
        )
        commands.append(f"<sup>{number}</sup> `{row['command']} --workdir=DIR`  ")
    return "\n".join([*lines, "", *commands])


def readme_with_table(text: str) -> str:
    """Returns the README's text with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("add", help="add a finished run").add_argument("workdir", type=pathlib.Path)
    actions.add_parser("readme", help="write the README's table")
    args = parser.parse_args()
    if args.action == "add":
        add(args.workdir)
    else:
        README.write_text(readme_with_table(README.read_text()))


if __name__ == "__main__":
    main()
