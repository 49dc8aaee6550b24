"""Compute embeddings of a split: to a file, as a map, with numbers for their separation, or next to another model's.

  python -m vit_jax analyze embed runs/motion --out=features.parquet
  python -m vit_jax analyze embed runs/motion --out=map.pdf --knn=20 --probe
  python -m vit_jax analyze embed runs/space_only runs/divided --out=maps.pdf --knn=20 --json
  python -m vit_jax analyze embed features.npz --method=pca --out=map.svg
  python -m vit_jax analyze embed runs/quickstart --cka --out=layers.pdf
  python -m vit_jax analyze embed runs/small runs/large --cka --out=models.pdf --csv=models.csv
  python -m vit_jax analyze embed runs/quickstart --nearest=5 --out=neighbours.png

The suffix of --out decides: .npz and .parquet hold features, ids and labels; .png, .pdf and .svg are figures. A figure
is a map with one panel per run, coloured by class; with --cka the similarity of layers, of one model or of two; with
--nearest the most similar examples of some queries. --knn and --probe measure on the same examples how well classes are
separated: each example is classified by the others.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vit_jax.commands.analyze import numbers
from vit_jax.commands.shared import checkpoints, common
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HELP = "write or draw features, and measure how well they separate classes"
_QUERIES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option, count = parser.add_argument, common.at_least(1)
    option("runs", nargs="+", metavar="RUN", type=common.given, help="a workdir, a checkpoint, or a file of features")
    option("--out", required=True, metavar="FILE", type=common.given, help="features or figure, by suffix")
    option("--trust", action="store_true", help="import code outside vit_jax that a checkpoint names")
    split = "split, in TFDS syntax (default: the run's evaluation split)"
    option("--split", metavar="SPLIT", type=common.given, help=split)
    examples = "number of examples, spread evenly over the split (default: 2000 for figures, all for files)"
    option("--examples", metavar="N", type=count, help=examples)
    layer = "block whose output is taken, negative from the end, or final (default: final)"
    option("--layer", type=_layer, default="final", metavar="I", help=layer)
    kind = "input of the head, class token, or mean of the patches (default: pooled, or mean for a block)"
    option("--kind", choices=("pooled", "class", "mean"), help=kind)
    method = "how a map is made; umap needs umap-learn (default: tsne)"
    option("--method", choices=("tsne", "pca", "umap"), default="tsne", help=method)
    option("--seed", type=common.at_least(0), default=0, metavar="N", help="seed of the map (default: 0)")
    option("--knn", type=count, metavar="K", help="measure the accuracy of the K nearest neighbours")
    option("--probe", action="store_true", help="measure the accuracy of a linear probe, in five folds")
    option("--cka", action="store_true", help="draw the similarity of all layers, of one run or between two")
    option("--nearest", type=count, metavar="N", help=f"draw the N nearest neighbours of {_QUERIES} examples")
    numbers.add_arguments(parser)


def _layer(text: str) -> int | str:
    if text == "final":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be the number of a block or final, got {text!r}") from None


def run(args: argparse.Namespace) -> int:
    """Writes the features or the figure; returns 0."""
    action = _action(args)
    common.start_jax(args)
    numbers.write(args, action(args))
    return 0


def _action(args: argparse.Namespace) -> Callable[[argparse.Namespace], Iterator[dict[str, Any]]]:
    """Returns what is to be done, after checking that the options fit together."""
    from vit_jax.analysis.embedding import stored_features
    from vit_jax.plots import check_path

    to_file = args.out.endswith(stored_features.SUFFIXES)
    (stored_features.check_path if to_file else check_path)(args.out, "--out")
    if sum((to_file, args.cka, args.nearest is not None)) > 1:
        raise UserError("give at most one of a file of features, --cka and --nearest; run the command once for each")
    most = 2 if args.cka else 1 if to_file or args.nearest else 4
    if len(args.runs) > most:
        raise UserError(f"at most {most} runs fit here, got {len(args.runs)}")
    return _write if to_file else _cka if args.cka else _nearest if args.nearest else _map


def _load(args: argparse.Namespace, path: str, examples: int | None) -> tuple[Any, Any]:
    """Returns a run, and the examples asked for as a source."""
    import numpy as np

    from vit_jax.data.source import Subset
    from vit_jax.load import load_run

    run = load_run(path, trust=args.trust)
    source = run.open_split(args.split)
    if examples is not None and examples < len(source):
        source = Subset(source, np.linspace(0, len(source) - 1, examples).round().astype(int).tolist())
    return run, source


def _rows(args: argparse.Namespace, run: Any, source: Any, layer: int | str, kind: str | None) -> Iterator[Any]:
    from vit_jax.analysis.embedding.stored_features import stream

    kind = kind or ("pooled" if layer == "final" else "mean")
    return stream(run, source, layer=layer, kind=kind, track=checkpoints.tracked("computing features"))


def _features(args: argparse.Namespace, path: str) -> dict[str, Any]:
    """Returns the features of a run, or of a file."""
    from vit_jax.analysis.embedding import stored_features
    from vit_jax.evaluate import in_order

    if path.endswith(stored_features.SUFFIXES):
        return stored_features.read(path)
    run, source = _load(args, path, args.examples or 2000)
    return {**in_order(_rows(args, run, source, args.layer, args.kind)), "classes": tuple(source.labels)}


def _scores(args: argparse.Namespace, found: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns the number of examples and, if asked for, the accuracies of neighbours and probe."""
    from vit_jax.analysis.embedding.embeddings import knn_accuracy, probe_accuracy

    if (args.knn or args.probe) and "label" not in found:
        raise UserError(f"{path} has no labels, which --knn and --probe need")
    scores: dict[str, Any] = {"examples": len(found["id"])}
    if args.knn:
        scores[f"knn_{args.knn}"] = knn_accuracy(found["features"], found["label"], args.knn)
    if args.probe:
        scores["probe"] = probe_accuracy(found["features"], found["label"])
    return scores


def _write(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.embedding import stored_features

    (path,) = args.runs
    run, source = _load(args, path, args.examples)
    count = stored_features.write(args.out, _rows(args, run, source, args.layer, args.kind), tuple(source.labels))
    print(f"{args.out}: features of {count:,} examples")
    yield {
        "run": path,
        **_scores(args, stored_features.read(args.out) if args.knn or args.probe else {"id": range(count)}, path),
    }


def _map(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from vit_jax.analysis.embedding.embeddings import check_same_examples, project
    from vit_jax.plots.embeddings import plot_map

    found = {path: _features(args, path) for path in args.runs}
    (first, one), *_ = found.items()
    for path, each in found.items():
        check_same_examples(one["id"], each["id"], (first, path))
    panels, rows = {}, []
    for path, each in found.items():
        scores = _scores(args, each, path)
        rows.append({"run": path, **scores})
        title = path.rstrip("/").rpartition("/")[2]
        if args.knn:
            title += f"\n{args.knn} nearest neighbours: {scores[f'knn_{args.knn}']:.1%}"
        panels[title] = project(each["features"], args.method, args.seed)
    plot_map(args.out, panels, one.get("label"), one["classes"])
    if not (args.json or args.csv):
        for row in rows:
            print(
                "  ".join(
                    f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in row.items()
                )
            )
    yield from rows


def _cka(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import numpy as np

    from vit_jax.analysis.embedding.embeddings import check_same_examples, cka_matrix
    from vit_jax.evaluate import in_order
    from vit_jax.plots.embeddings import plot_cka

    layers, ids = [], []
    for path in args.runs:
        run, source = _load(args, path, args.examples or 2000)
        found = [
            in_order(_rows(args, run, source, layer, args.kind or "mean")) for layer in range(run.model.num_layers)
        ]
        layers.append([each["features"] for each in found])
        ids.append(found[0]["id"])
    check_same_examples(ids[0], ids[-1], (args.runs[0], args.runs[-1]))
    values = cka_matrix(layers[0], layers[-1])
    names = [f"block of {path.rstrip('/').rpartition('/')[2]}" for path in args.runs]
    plot_cka(args.out, values, names[0], names[-1])
    for (row, column), value in np.ndenumerate(values):
        yield {"block": row, "other_block": column, "cka": value, "examples": len(ids[0])}


def _nearest(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import numpy as np

    from vit_jax.analysis.attention.pictures import as_pictures
    from vit_jax.analysis.embedding.embeddings import nearest
    from vit_jax.evaluate import in_order
    from vit_jax.plots.embeddings import plot_nearest

    (path,) = args.runs
    run, source = _load(args, path, args.examples or 2000)
    found = in_order(_rows(args, run, source, args.layer, args.kind))
    queries = np.linspace(0, len(found["id"]) - 1, min(_QUERIES, len(found["id"]))).round().astype(int)
    order, similarity = nearest(found["features"], found["features"][queries], args.nearest, leave_out=queries)
    shown = np.concatenate([queries[:, None], order], axis=1)
    inputs = _inputs(run.one_view(), source, np.unique(shown))
    pictures = as_pictures(run.encoder, np.stack([[inputs[i] for i in row] for row in shown]))

    def title(index: int) -> str:
        label = found["label"][index] if "label" in found else None
        return f"id {found['id'][index]}" if label is None else source.labels[label]

    plot_nearest(args.out, pictures, [[title(index) for index in row] for row in shown])
    for (query, rank), index in np.ndenumerate(order):
        yield {
            "query": found["id"][queries[query]],
            "rank": rank + 1,
            "neighbour": found["id"][index],
            "similarity": similarity[query, rank],
        }


def _inputs(run: Any, source: Any, indices: "np.ndarray") -> "dict[int, np.ndarray]":
    """Returns the model's inputs for some examples of a source, by index."""
    from vit_jax.data.loading.levels import as_floats
    from vit_jax.data.source import Subset

    chosen, inputs = Subset(source, indices.tolist()), []
    for batch in run.batches(chosen)[0]:
        inputs.extend(run.task.model_inputs(as_floats(batch))[0][batch["mask"] > 0])
    return dict(zip(indices.tolist(), inputs, strict=True))
