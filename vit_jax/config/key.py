"""What the schema declares of a key."""

from typing import Any, NamedTuple

from vit_jax.config.forms import BY_TYPE, SWITCH, TEXT, Form


class Key(NamedTuple):
    """One key of the schema.

    Attributes:
      default: The value of the key until it is set. If this is a type, the key accepts a value of that type and is None
        until it is set; `dict` makes it a free dict, which is empty at first.
      meaning: The description in `--help`.
      declared: The legal values; None if any value of the type is legal. Use `form` to read it.
      affects_results: Whether another value can change the results. A run cannot be resumed with another value of such
        a key.
      unless_init: For an optional key that `init_from` can supply: the value without `init_from`; see
        `resolve_defaults`.
    """

    default: Any
    meaning: str
    declared: Form | None = None
    affects_results: bool = True
    unless_init: Any = None

    @property
    def is_optional(self) -> bool:
        """Whether the key is unset by default."""
        return isinstance(self.default, type) and self.default is not dict

    @property
    def form(self) -> Form:
        """The legal values of a key that is not a free dict."""
        return self.declared or BY_TYPE[self.default if isinstance(self.default, type) else type(self.default)]

    @property
    def description(self) -> str:
        """The meaning and the legal values, as `--help` prints them."""
        return f"{self.meaning}; {self.values}" if self.values else self.meaning

    @property
    def values(self) -> str:
        """The legal values in words; empty if the type says as much."""
        return "" if self.default is dict or self.form in (TEXT, SWITCH) else str(self.form)
