"""The model card: a README.md that goes with exported weights and says what they are and where they come from.

A card has the front matter that model hubs read (`license`, `library_name`, `tags`), then sections in a fixed order:
model, metrics with the number of examples scored, training, preprocessing, how to load it, and classes. A number that
is not recorded is left out.
"""

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from vit_jax.architecture import title
from vit_jax.errors import UserError

UNKNOWN_LICENSE = "unknown"  # the identifier that model hubs use
_COUNTS = ("examples", "skipped", "views")  # in the table of metrics, next to the scores
_PLACES = ("step", "split")
_SEVERAL_LINES = 20  # classes above this number are folded


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
      name: The model's name, such as `vit:B/16`, or that of its class.
      step: Number of updates; None for foreign weights.
      data: The data set and its splits; empty for foreign weights.
      metrics: The rows of `metrics.jsonl` that hold scores of this step, without averages of several checkpoints.
      start: The newest finished line of `runs.jsonl`: command, commit, packages, hardware, seconds.
      notes: Further lines, such as assumptions made when foreign weights were read.
    """

    name: str
    step: int | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()


def origin_of_run(run: Any) -> Origin:
    """Describes a run: its data, and what its workdir records about this step and how it was trained."""
    from vit_jax.workdir.metrics import read_metrics  # with Orbax, which foreign weights do not need
    from vit_jax.workdir.provenance import read_runs

    data, workdir = run.config.data, run.workdir
    sets = {"set": data.name, "path": data.path, "train_split": data.train_split, "eval_split": data.eval_split}
    rows, starts = (read_metrics(workdir), read_runs(workdir)) if workdir else ([], [])
    scored = [row for row in rows if row["step"] == run.step and row["split"] != "train" and "examples" in row]
    finished = [start for start in starts if start.get("status") == "finished"]
    return Origin(
        name=title(run.config.model.name, run.model),
        step=run.step,
        data={key: value for key, value in sets.items() if value},
        metrics=scored,
        start=(finished or starts or [{}])[-1],
    )


def model_card(
    model: Any,
    params: Any,
    origin: Origin,
    *,
    labels: Sequence[str] = (),
    encoder: Any = None,
    license: str = UNKNOWN_LICENSE,
    loading: str = "",
) -> str:
    """Returns the text of a model card.

    Args:
      model, params: The module and its parameters.
      labels: Class names, in the order of the logits.
      encoder: What turns an image, clip or sentence into the model's input; None if it is not known.
      license: A licence identifier, such as `apache-2.0`.
      loading: Markdown that shows how to load the files next to the card.

    Raises:
      UserError: The licence is not an identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.\-]*", license):
        raise UserError(f"license must be an identifier such as apache-2.0 or cc-by-4.0, got {license!r}")
    family = type(model).__name__
    header = f"---\nlicense: {license}\nlibrary_name: vit_jax\ntags:\n- jax\n- {family.lower()}\n---\n"
    sections = {
        "Model": _model(model, params, origin, labels),
        "Metrics": _metrics(origin),
        "Training": _training(origin),
        "Preprocessing": _preprocessing(encoder),
        "How to load": loading,
        "Classes": _classes(labels),
    }
    body = "\n".join(f"## {heading}\n\n{text.strip()}\n" for heading, text in sections.items() if text.strip())
    return f"{header}\n# {origin.name}\n\n{body}"


def _model(model: Any, params: Any, origin: Origin, labels: Sequence[str]) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    facts = {
        "architecture": f"{type(model).__name__} of vit_jax {importlib.metadata.version('vit_jax')}",
        "parameters": f"{count:,}",
        "input": " x ".join(map(str, model.input_shape)) if hasattr(model, "input_shape") else "",
        "classes": f"{len(labels):,}" if labels else "",
        "step": "" if origin.step is None else f"{origin.step:,}",
    }
    return _table(("property", "value"), [(key, value) for key, value in facts.items() if value])


def _metrics(origin: Origin) -> str:
    if not origin.metrics:
        return ""
    names = [name for name, value in origin.metrics[-1].items() if isinstance(value, float)]
    columns = [*_PLACES, *_COUNTS, *names]
    columns = [name for name in columns if any(name in row for row in origin.metrics)]
    cells = [[_cell(row.get(name, "")) for name in columns] for row in origin.metrics]
    return _table(columns, cells) + "\nEvery example of a split is scored exactly once; `examples` counts them."


def _training(origin: Origin) -> str:
    lines = [f"- {key}: `{value}`" for key, value in origin.data.items()]
    start = origin.start
    lines += [f"- {key}: `{start[key]}`" for key in ("command", "commit", "python", "hardware") if start.get(key)]
    if "seconds" in start:
        lines.append(f"- wall time of this start: {start['seconds']:,} s")
    if packages := start.get("packages"):
        lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    return "\n".join([*lines, *(f"- {note}" for note in origin.notes)])


def _preprocessing(encoder: Any) -> str:
    steps = getattr(encoder, "steps", ())
    if not steps:
        return ""
    listed = "\n".join(f"{number}. `{step}`" for number, step in enumerate(steps, start=1))
    return f"`{encoder.transforms}`, which is, on images of {encoder.channels} channel(s):\n\n{listed}"


def _classes(labels: Sequence[str]) -> str:
    listed = "\n".join(f"- {number}: {label}" for number, label in enumerate(labels))
    if len(labels) <= _SEVERAL_LINES:
        return listed
    return f"<details><summary>{len(labels):,} classes</summary>\n\n{listed}\n\n</details>"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def write_labels(path: epath.PathLike, labels: Sequence[str]) -> None:
    """Writes class names as a JSON list, in the order of the logits."""
    epath.Path(path).write_text(json.dumps(list(labels), ensure_ascii=False, indent=1) + "\n")
