"""Names of classes: files that list them, and finding the classes of one list in another."""

import json
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from vit_jax.errors import UserError

_WORDNET = re.compile(r"(n\d{8})(?:[\s,]+(.+))?")  # "n01440764" or "n01440764 tench, Tinca tinca"


def aliases(label: str) -> list[str]:
    """Returns the names by which a class may be called: its label, and of "n01440764 tench" each of the two parts."""
    match = _WORDNET.fullmatch(label)
    return [label, *filter(None, match.groups())] if match and match[2] else [label]


def places(wanted: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Returns the index in `known` of each class in `wanted`; None for one that is absent, or that two may mean.

    The label itself comes before a WordNet number, and this before the words that follow it.
    """
    names = [name for label in known for name in dict.fromkeys(aliases(label))]
    unique = {name for name, count in Counter(names).items() if count == 1}
    index = {name: i for i, label in enumerate(known) for name in aliases(label) if name in unique}
    return [next((index[name] for name in aliases(label) if name in index), None) for label in wanted]


def indices_of(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the index in `known` of each class in `wanted`; None unless all are found, at different places."""
    found = [place for place in places(wanted, known) if place is not None]
    return tuple(found) if len(set(found)) == len(wanted) else None


def read_labels(path: str) -> tuple[str, ...]:
    """Reads the names of classes, in the order of a model's outputs.

    A text file has one name per line, such as "n01440764" or "n01440764 tench, Tinca tinca". A `.json` file holds a
    list of names, or an object by index, `{"0": "tench"}` or `{"0": ["n01440764", "tench"]}` as Keras has it.

    Args:
      path: The file, or `imagenet2012` for the WordNet numbers of ImageNet's 1,000 classes in their usual order.

    Raises:
      UserError: The file cannot be read, or is not such a list.
    """
    if path == "imagenet2012":
        return _imagenet()
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"--labels={path}: {reason}. Name a file of class names, or imagenet2012.") from None
    return _from_json(path, text) if path.endswith(".json") else tuple(filter(None, map(str.strip, text.split("\n"))))


def _imagenet() -> tuple[str, ...]:
    import tensorflow_datasets

    folder = pathlib.Path(str(tensorflow_datasets.__file__)).parent / "datasets" / "imagenet2012"
    return tuple((folder / "labels.txt").read_text().split())


def _from_json(path: str, text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(i)] for i in range(len(found))]
        return tuple(" ".join(name) if isinstance(name, list) else str(name) for name in found)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"--labels={path} must hold a JSON list of names, or an object that numbers them from 0"
        ) from None
