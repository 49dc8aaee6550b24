"""What there is: the models with their costs, and the recipes in `configs/` with their expected scores."""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from vit_jax.analysis.cost import cost
from vit_jax.architecture import title
from vit_jax.config import load_config
from vit_jax.errors import UserError
from vit_jax.models import build_model
from vit_jax.pretrained.formats import formats
from vit_jax.pretrained.names import Format, shapes_of
from vit_jax.pretrained.save import check_expressible

CONFIGS = pathlib.Path("configs")
# the sizes of the papers; every other patch size, such as vit:S/8, can be built as well
MODELS = (
    *(f"vit:{name}" for name in ("Ti/16", "S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")),
    *(f"vit:{name}" for name in ("R+Ti/16", "R26+S/32", "R50+B/32", "R50+B/16", "R50+L/32", "R50+L/16")),
    *(f"tnt:{name}" for name in ("Ti/16", "S/16", "B/16")),
    *(f"timesformer:{name}" for name in ("B/16", "B/16-HR", "B/16-L")),
    *(f"transformer:{name}" for name in ("base", "big")),
)
_TOKENS, _VOCABULARY = 64, 37_000  # of a sentence; of WMT14 English-German
_EXPECTED = re.compile(r"accuracy|BLEU|\bF1\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
      name: Family and variant.
      params, macs: See `cost.Cost`; for 1,000 classes, or 37,000 sub-words and sentences of 64 tokens.
      input: Shape of one input, in words.
      recipes: Configs that train it, such as "configs/vit.py:B/16,imagenet2012".
      formats: Formats of foreign weights that its family can be read from; those that can also be written have a "*".
    """

    name: str
    params: int
    macs: int
    input: str
    recipes: tuple[str, ...]
    formats: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A file in `configs/`.

    Attributes:
      file: Its path, such as "configs/vit.py".
      title: The first line of its head.
      arguments: Arguments of `get_config` that stand for the others.
      expected: The paragraphs of the head that state scores.
      head: The whole head.
    """

    file: str
    title: str
    arguments: tuple[str, ...]
    expected: str
    head: str

    def names(self) -> tuple[str, ...]:
        """Returns what `--config` takes."""
        return tuple(f"{self.file}:{argument}" if argument else self.file for argument in self.arguments)


def recipes(folder: pathlib.Path = CONFIGS) -> list[Recipe]:
    """Reads the heads of the config files in a folder.

    Raises:
      UserError: There are none.
    """
    found = [_recipe(path) for path in sorted(folder.glob("*.py"))]
    if not found:
        raise UserError(f"{folder} has no config files. Run this command in a checkout of vit_jax, or give --folder.")
    return found


def _recipe(path: pathlib.Path) -> Recipe:
    module = ast.parse(path.read_text(encoding="utf-8"))
    head = ast.get_docstring(module) or ""
    arguments: Any = ("",)
    for node in module.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["ARGUMENTS"]:
            arguments = ast.literal_eval(node.value)
    first, *paragraphs = re.split(r"\n\s*\n", head)
    return Recipe(f"{path.parent.name}/{path.name}", first, tuple(arguments), "\n\n".join(_scores(paragraphs)), head)


def _scores(paragraphs: Sequence[str]) -> Iterator[str]:
    """Yields the paragraphs that state scores, each with the tables that follow it: indented paragraphs."""
    within = False
    for text in paragraphs:
        is_command = "python -m vit_jax" in text
        within = not is_command and (bool(_EXPECTED.search(text)) or (within and text.startswith("  ")))
        if within:
            yield text


def models(names: Sequence[str] = MODELS, folder: pathlib.Path = CONFIGS) -> Iterator[Entry]:
    """Yields what is known about models.

    Raises:
      UserError: There is no such model.
    """
    trained = _trained(folder)
    for name in names:
        is_text = name.startswith("transformer:")
        fields: dict[str, Any] = {"vocab_size": _VOCABULARY} if is_text else {"num_classes": 1000}
        try:
            model: Any = build_model(name, **fields)
        except ValueError as error:
            raise UserError(str(error)) from None
        shape = f"{_TOKENS} + {_TOKENS} tokens" if is_text else "x".join(map(str, model.input_shape))
        found = cost(model, *([(_TOKENS,), (_TOKENS,)] if is_text else []))
        carried = () if is_text else tuple(_carriers(name))
        yield Entry(name, found.params, found.macs, shape, trained.get(name, ()), carried)


def _trained(folder: pathlib.Path) -> dict[str, tuple[str, ...]]:
    """Returns the recipes by the model that they train, without those that change its sizes."""
    found: dict[str, list[str]] = {}
    for recipe in recipes(folder) if folder.is_dir() else []:
        for name in recipe.names():
            model = load_config(str(folder.parent / name), []).model
            if not model.name:
                continue
            fields = {key: value for key, value in model.items() if value is not None and key not in _NO_FIELDS}
            offered = {"vocab_size": _VOCABULARY} if model.name.startswith("transformer:") else {}
            built = build_model(model.name, offered, **fields)
            if title(model.name, built) == model.name:
                found.setdefault(model.name, []).append(name)
    return {model: tuple(names) for model, names in found.items()}


_NO_FIELDS = ("name", "dtype", "extra")


def _carriers(name: str) -> Iterator[str]:
    """Yields the formats of a vision model, tried with a single layer."""
    model: Any = build_model(name, num_classes=1000, num_layers=1)
    shapes = shapes_of(model)
    params = unflatten_dict({path: np.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}, sep="/")
    for known in formats():
        is_read_only = known.container is None and "+" not in name  # hybrids are in formats that are written, too
        if isinstance(model, known.model) and (is_read_only or _expresses(known, model, params)):
            yield known.name if known.container is None else f"{known.name}*"


def _expresses(known: Format, model: Any, params: Any) -> bool:
    try:
        check_expressible(known, model, params)
    except UserError:
        return False
    return known.container is not None


def models_table(entries: Sequence[Entry]) -> str:
    """Returns the models as a Markdown table."""
    lines = [
        "| model | parameters (M) | multiply-accumulates (G) | input | recipes | formats |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        cells = (
            f"`{entry.name}`",
            f"{entry.params / 1e6:,.1f}",
            f"{entry.macs / 1e9:,.1f}",
            entry.input,
            ", ".join(f"`{name}`" for name in entry.recipes),
            ", ".join(f"`{name}`" for name in entry.formats),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def recipes_text(found: Sequence[Recipe]) -> str:
    """Returns the recipes as Markdown: a section per file, with its arguments and expected scores."""
    parts = []
    for recipe in found:
        parts += [f"### {recipe.file}", "", recipe.title, ""]
        parts += ["; ".join(f"`{name}`" for name in recipe.names()), ""]
        parts += ["```text", recipe.expected, "```", ""] if recipe.expected else []
    return "\n".join(parts)
