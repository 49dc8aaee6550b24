"""Forms: the legal values of a key, as a check, as a parser of the command line, and in words.

The schema gives every key a form. Error messages, `--help` and the config reference all print its words, so that what
they say is what is checked. The words complete the sentence "config.KEY must be ...".
"""

import ast
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Protocol

from vit_jax.errors import nearest

# "90 epochs", "0.5 epochs", "10_000 steps", "1e4 steps"
DURATION_PATTERN = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?|\.\d+)\s*(step|epoch)s?\s*")


class Form(Protocol):
    """The legal values of a key. `str(form)` puts them in words."""

    def accepts(self, value: Any) -> bool:
        """Returns whether a value, of any type, is legal."""
        ...

    def parse(self, text: str) -> Any:
        """Returns the value that a user typed; it may not be legal.

        Raises:
          ValueError: The text is not a value of this type.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, both included; None for no limit.

    `zero` says what 0 means, if it is a special case: "disables clipping".
    """

    low: int | None = None
    high: int | None = None
    zero: str = ""

    def accepts(self, value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def parse(self, text: str) -> int:
        return int(text, 0)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            limits = f" from {self.low:,} to {self.high:,}"
        else:
            limits = "" if self.low is None else f" of at least {self.low:,}"
        return f"a whole number{limits}{_special(self.zero)}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number in an interval, written as in mathematics: "[0, 1)" includes 0 and excludes 1.

    `zero` says what 0 means, if it is a special case.
    """

    interval: str = "(-inf, inf)"
    zero: str = ""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        low, high, with_low, with_high = self._limits()
        above = value >= low if with_low else value > low
        return above and (value <= high if with_high else value < high)

    def parse(self, text: str) -> float:
        return float(text)

    def __str__(self) -> str:
        low, high, with_low, with_high = self._limits()
        parts = []
        if low > -math.inf:
            parts.append(f"{'at least' if with_low else 'above'} {low:g}")
        if high < math.inf:
            parts.append(f"{'at most' if with_high else 'below'} {high:g}")
        return (" and ".join(parts) or "a finite number") + _special(self.zero)

    def _limits(self) -> tuple[float, float, bool, bool]:
        low, high = self.interval[1:-1].split(",")
        return float(low), float(high), self.interval[0] == "[", self.interval[-1] == "]"


@dataclasses.dataclass(frozen=True, init=False)
class Choice:
    """One of several values of one type; `notes` are words, each with what it means: `gap="global average"`.

    With `path`, an import path such as `mylab.nets:MyViT` is legal as well.
    """

    values: tuple[Any, ...]
    notes: tuple[str, ...]
    path: bool

    def __init__(self, *values: Any, path: bool = False, **notes: str):
        object.__setattr__(self, "values", (*values, *notes))
        object.__setattr__(self, "notes", (*("",) * len(values), *notes.values()))
        object.__setattr__(self, "path", path)

    def accepts(self, value: Any) -> bool:
        from vit_jax.config.extensions import is_import_path

        known = type(value) is type(self.values[0]) and value in self.values
        return known or (self.path and is_import_path(value))

    def parse(self, text: str) -> Any:
        return type(self.values[0])(text)

    def __str__(self) -> str:
        words = [
            f"{value} ({note})" if note else str(value) for value, note in zip(self.values, self.notes, strict=True)
        ]
        words += ["an import path"] if self.path else []
        return f"{', '.join(words[:-1])} or {words[-1]}"


@dataclasses.dataclass(frozen=True)
class Items:
    """A tuple of items of one form.

    Attributes:
      item: The form of each item.
      words: The tuple in words: "(height, width)".
      length: Number of items; None for any.
      or_empty: Whether the empty tuple is legal too.
      order: A relation that every item must have to the next one, such as `operator.lt` for increasing items.
    """

    item: Form
    words: str
    length: int | None = None
    or_empty: bool = False
    order: Callable[[Any, Any], bool] | None = None

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, tuple | list) or not all(map(self.item.accepts, value)):
            return False
        if not value:
            return self.or_empty
        ordered = self.order is None or all(map(self.order, value[:-1], value[1:]))
        return ordered and self.length in (None, len(value))

    def parse(self, text: str) -> Any:
        """Accepts a Python tuple or list, or items separated by commas, which need no quotes or parentheses."""
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = tuple(self.item.parse(part.strip()) for part in text.strip("()[] ").split(","))
        return tuple(value) if isinstance(value, list | tuple) else value

    def __str__(self) -> str:
        return f"{self.words}{' or ()' if self.or_empty else ''}, each {self.item}"


@dataclasses.dataclass(frozen=True)
class Match:
    """Text of which the whole matches a regular expression; `words` describe it."""

    pattern: re.Pattern[str]
    words: str

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and self.pattern.fullmatch(value) is not None

    def parse(self, text: str) -> str:
        return text

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Interval(Match):
    """A duration that is longer than nothing."""

    def accepts(self, value: Any) -> bool:
        return super().accepts(value) and any(digit in "123456789" for digit in value.split("e")[0])


class Switch:
    """True or False."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def parse(self, text: str) -> bool:
        if text.lower() not in ("true", "t", "1", "false", "f", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "t", "1")

    def __str__(self) -> str:
        return "true or false"


class Regex:
    """A regular expression."""

    def accepts(self, value: Any) -> bool:
        try:
            return isinstance(value, str) and re.compile(value) is not None
        except (re.error, OverflowError, RecursionError):
            return False

    def parse(self, text: str) -> str:
        return text

    def __str__(self) -> str:
        return "a regular expression"


DURATION = Match(DURATION_PATTERN, "a duration, such as '90 epochs' or '10_000 steps'")
INTERVAL = Interval(DURATION_PATTERN, "a duration above 0, such as '90 epochs' or '10_000 steps'")
TEXT = Match(re.compile(r"[^\x00-\x1f\x7f]*"), "text without control characters")
SWITCH, REGEX = Switch(), Regex()
SIDES = Items(Whole(1, 16_384), "(height, width)", length=2)  # pixels
BY_TYPE: dict[type, Form] = {int: Whole(), float: Number(), str: TEXT, bool: SWITCH}  # for keys that declare no form


def refusal(name: str, form: Form, value: Any) -> str:
    """Returns the message for an illegal value of a key or an option: what it must be, and what it is."""
    if isinstance(form, Choice) and isinstance(value, str) and isinstance(form.values[0], str):
        return f"unknown {name} {value!r}{nearest(value, form.values)}"
    return f"{name} must be {form}, got {value!r}"


def _special(zero: str) -> str:
    return f" (0 {zero})" if zero else ""
