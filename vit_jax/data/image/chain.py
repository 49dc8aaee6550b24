"""The notation of a chain of transforms, `"resize(256)|center_crop|normalize(mean=0.5, std=0.5)"`, as in big_vision.

A chain is parsed, never evaluated, and arguments are literals. A name with dots is imported:
`mylab.transforms.Solarize(threshold=0.5)`.
"""

import ast
import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from vit_jax.errors import UserError, nearest

Built = TypeVar("Built")


class Call(NamedTuple):
    """A step as written: its name, positional arguments and keyword arguments."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]


def parse(chain: str, what: str = "transforms") -> Iterator[Call]:
    """Yields the steps of a chain, called `what` in messages.

    Raises:
      UserError: The chain has another form, or an argument is not a literal.
    """
    try:
        tree = ast.parse(chain, mode="eval").body
    except SyntaxError as error:
        raise UserError(f"{what} {chain!r}: {error.msg} at character {error.offset}") from None
    yield from _calls(tree, what)


def import_path(name: str) -> str:
    """Converts the name of a step, `mylab.transforms.Solarize`, to an import path, `mylab.transforms:Solarize`."""
    module, _, attribute = name.rpartition(".")
    return f"{module}:{attribute}"


def build(classes: Mapping[str, type[Built]], what: str, call: Call) -> Built:
    """Returns the instance of one of `classes` that a step describes; `what` is the word for it in messages.

    Raises:
      UserError: The name is unknown, or an argument is.
    """
    if call.name not in classes:
        raise UserError(f"unknown {what} {call.name!r}{nearest(call.name, classes)}")
    return construct(classes[call.name], call)


def construct(cls: type[Built], call: Call) -> Built:
    """Calls a class with the arguments of a step.

    Raises:
      UserError: There is no such argument, or the class raises `TypeError` or `ValueError`.
    """
    known = inspect.signature(cls).parameters
    for word in call.kwargs:
        if word not in known:
            raise UserError(f"{call.name}: unknown argument {word!r}{_nearest_argument(word, list(known))}")
    try:
        return cls(*call.args, **call.kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{call.name}: {_without_class(error)}") from None


def _calls(tree: ast.expr, what: str) -> Iterator[Call]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        yield from _calls(tree.left, what)
        yield from _calls(tree.right, what)
    elif name := _dotted(tree):
        yield Call(name, [], {})
    elif isinstance(tree, ast.Call) and (name := _dotted(tree.func)):
        args = [_literal(name, arg) for arg in tree.args]
        yield Call(name, args, {str(word.arg): _literal(name, word.value) for word in tree.keywords})
    else:
        raise UserError(f"{what}: {ast.unparse(tree)!r} is not of the form name(argument=value)")


def _dotted(tree: ast.expr) -> str:
    """Returns `flip` or `mylab.transforms.Solarize`; an empty string for any other expression."""
    if isinstance(tree, ast.Name):
        return tree.id
    before = _dotted(tree.value) if isinstance(tree, ast.Attribute) else ""
    return f"{before}.{tree.attr}" if isinstance(tree, ast.Attribute) and before else ""


def _literal(name: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise UserError(f"{name}: {ast.unparse(value)!r} is not a number, a string or a tuple of them") from None


def _nearest_argument(word: str, known: list[str]) -> str:
    if not known:
        return "; it takes none"
    return nearest(word, known) if difflib.get_close_matches(word, known) else f"; it takes {', '.join(known)}"


def _without_class(error: Exception) -> str:
    return str(error).split("__init__() ")[-1].replace("__post_init__() ", "")
