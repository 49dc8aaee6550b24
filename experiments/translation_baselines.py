"""Compares a trained model with two baselines of translation, on the same sentences and with the same scores.

python experiments/translation_baselines.py MESSAGES                     # the baselines
python experiments/translation_baselines.py MESSAGES --run=runs/messages --average=5
python experiments/translation_baselines.py MESSAGES --run=runs/messages --samples=experiments/translation_samples.txt

MESSAGES is a folder of parallel text, as made by `data prepare messages`. Rows are written to results/translation.csv
and replace earlier rows of the same method and split:

    copy                  the source, untranslated
    translation memory    the target of the training pair with the nearest source, by cosine similarity of the TF-IDF of
                          character n-grams (2 to 5, within words)
    MODEL                 a run, with the beam search of its config; --average averages its checkpoints

Every sentence of a split is scored, including those longer than the run's buckets. With --samples the run translates a
file with one sentence per line into results/translation_samples.tsv.
"""

import argparse
import csv
import dataclasses
import datetime
import pathlib
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from results import first_start

from vit_jax.data.text.batches import encode_pairs
from vit_jax.data.text.source import TextSource, open_text, text_splits
from vit_jax.errors import UserError
from vit_jax.experiment import make_task
from vit_jax.load import load_run
from vit_jax.run import Run
from vit_jax.tasks.translation import bleu_and_chrf
from vit_jax.workdir.provenance import commit

RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = (
    "method", "split", "bleu", "chrf", "perplexity", "examples", "skipped", "training_pairs", "parameters", "averaged",
    "seed", "steps", "seconds", "hardware", "python", "jax", "date", "commit", "command", "bleu_signature",
    "chrf_signature",
)  # fmt: skip
KEY = ("method", "averaged", "seed", "split")


def translation_memory(train: TextSource, sources: Sequence[str], at_once: int = 200) -> list[str]:
    """Returns the target of the nearest training source for each sentence; ties go to the first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    memory: Any = vectorizer.fit_transform(train.sources).T.tocsr()
    nearest = [
        (vectorizer.transform(sources[start : start + at_once]) @ memory).toarray().argmax(axis=1)
        for start in range(0, len(sources), at_once)
    ]
    return [train.targets[i] for i in np.concatenate(nearest)]


def baseline_rows(train: TextSource, splits: Sequence[TextSource]) -> Iterator[dict[str, Any]]:
    """Yields a row for each baseline and split."""
    measured = {
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "command": "python experiments/translation_baselines.py MESSAGES",
    }
    for split in splits:
        found = {"copy": split.sources, "translation memory": translation_memory(train, split.sources)}
        for method, translations in found.items():
            counts = {"examples": len(split), "skipped": len(split.skipped)}
            scores = bleu_and_chrf(translations, split.targets, split.languages[1])
            yield {"method": method, "split": split.split, **scores, **counts, **measured}


def run_rows(workdir: pathlib.Path, run: Run, averaged: int, splits: Sequence[TextSource]) -> Iterator[dict[str, Any]]:
    """Yields a row per split for a run; `seconds` is empty if it was trained in several starts."""
    start = first_start(workdir)
    described = {
        "method": run.config.model.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        "averaged": averaged,
        "seed": run.config.seed,
        "steps": run.step,
        "jax": start["packages"]["jax"],
        **{name: start[name] for name in ("seconds", "hardware", "python", "commit")},
        "date": start["started"][:10],
        "command": f"{start['command']} --workdir=DIR",
    }
    for split in splits:
        yield {"split": split.split, **score(run, split), **described}


def score(run: Run, split: TextSource) -> dict[str, Any]:
    """Scores a run on every sentence of a split.

    Buckets are added to the config, each twice as long as the one before, until the longest sentence fits.
    """
    config = run.config.copy_and_resolve_references()
    longest = int(encode_pairs(split, run.encoder).lengths().max())
    while max(config.data.buckets) < longest:
        config.data.buckets = (*config.data.buckets, 2 * max(config.data.buckets))
    run = dataclasses.replace(run, config=config, task=make_task(config, run.encoder))
    return run.evaluate(split, batch_size=max(config.batch_size, *config.data.buckets))


def write_samples(run: Run, sentences: pathlib.Path, out: pathlib.Path) -> None:
    """Translates a file with one sentence per line into a table of source and translation."""
    sources = sentences.read_text(encoding="utf-8").splitlines()
    rows = [
        ("source", "translation"),
        *zip(sources, (answer["translation"] for answer in run.predict(sources)), strict=True),
    ]
    out.write_text("".join(f"{source}\t{translation}\n" for source, translation in rows), encoding="utf-8")


def write_rows(rows: Sequence[dict[str, Any]], out: pathlib.Path) -> None:
    """Writes rows into a table; they replace rows with the same `KEY`."""
    new: list[dict[str, Any]] = [{name: str(row.get(name, "")) for name in COLUMNS} for row in rows]
    old: list[dict[str, Any]] = []
    if out.exists():
        with out.open(newline="") as file:
            old = list(csv.DictReader(file))
    keys = [[row[name] for name in KEY] for row in new]
    kept = [row for row in old if [row[name] for name in KEY] not in keys]
    with out.open("w", newline="") as file:
        writer: Any = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            sorted([*kept, *new], key=lambda row: (row["split"] != "test", row["split"], float(row["bleu"])))
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, metavar="MESSAGES", help="folder of parallel text")
    parser.add_argument("--languages", default="en,it", help="source and target [en,it]")
    parser.add_argument("--splits", default="test,heldout", help="splits to score, if they exist [test,heldout]")
    parser.add_argument(
        "--run", type=pathlib.Path, metavar="WORKDIR", help="score a trained run instead of the baselines"
    )
    parser.add_argument("--average", type=int, default=1, metavar="N", help="average its newest N checkpoints [1]")
    parser.add_argument(
        "--samples", type=pathlib.Path, metavar="FILE", help="also translate this file, one sentence per line"
    )
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, metavar="DIR", help="folder for the tables")
    args = parser.parse_args(arguments)
    languages = args.languages.split(",")
    try:
        known = text_splits(args.data, languages)
        train = open_text(args.data, "train", languages)
        splits = [open_text(args.data, name, languages) for name in args.splits.split(",") if name in known]
        if args.run:
            run = load_run(args.run, average=args.average)
            rows = list(run_rows(args.run, run, args.average, splits))
            if args.samples:
                write_samples(run, args.samples, args.results / "translation_samples.tsv")
        else:
            rows = list(baseline_rows(train, splits))
    except UserError as error:
        sys.exit(str(error))
    rows = [{**row, "training_pairs": len(train)} for row in rows]
    write_rows(rows, args.results / "translation.csv")
    for row in rows:
        perplexity = f"  perplexity {row['perplexity']:.2f}" if "perplexity" in row else ""
        print(
            f"{row['split']:8} {row['method']:20} BLEU {row['bleu']:5.2f}  chrF {row['chrf']:5.2f}{perplexity}  "
            f"({row['examples']} sentences, {row['skipped']} skipped)"
        )


if __name__ == "__main__":
    main()
