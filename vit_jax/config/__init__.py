"""Configs: loading from a file and the command line, conversion to and from JSON, and comparison.

A file in `configs/` starts from `default_config()` and sets values; the command line overrides them
(`--config.batch_size=512`). `vit_jax/config/schema.py` declares the keys; any other key is an error. Configs state
intent (epochs, global batch size); steps are derived from the data after all overrides.

A duration is a string: `"300 epochs"`, `"0.5 epochs"`, `"10_000 steps"`.
"""

import ast
import inspect
import os
import re
import runpy
import traceback
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from ml_collections import ConfigDict, config_dict

from vit_jax.config.extensions import is_import_path
from vit_jax.config.forms import DURATION, DURATION_PATTERN, Choice, refusal
from vit_jax.config.key import Key
from vit_jax.config.schema import SCHEMA, keys
from vit_jax.errors import UserError, nearest

Config = Any  # a ConfigDict, whose declared types do not describe its keys
MAX_STEPS = 2**31 - 1  # the step is an int32 on the devices

_EXTRAS = tuple(name for name, key in keys().items() if key.default is dict)  # "model.extra", ...

# Keys that describe the model and its input, and that are unset by default: the weights in `init_from` may supply them.
FROM_WEIGHTS = tuple(
    name
    for name, key in keys().items()
    if key.unless_init is not None or (name.startswith("model.") and isinstance(key.default, type))
)


def default_config() -> Config:
    """Returns a config with the default of every key.

    It is locked, so that keys that are not in the schema cannot be set. The free dicts `extra` are not locked.
    """
    return _locked(_defaults(SCHEMA))


def _defaults(schema: dict[str, Any]) -> Config:
    def value(key: dict | Key) -> Any:
        if isinstance(key, dict):
            return _defaults(key)
        if key.default is dict:
            return ConfigDict(type_safe=False)
        return config_dict.placeholder(key.default) if isinstance(key.default, type) else key.default

    return ConfigDict({name: value(key) for name, key in schema.items()})


def _locked(config: Config) -> Config:
    """Locks a config except for its free dicts."""
    config.lock()
    for name in _EXTRAS:
        _get(config, name).unlock()
    return config


def _get(config: Config, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def copy(config: Config) -> Config:
    """Returns a deep copy."""
    return deepcopy(config)


def fill(config: Config, values: Mapping[str, Any], names: Collection[str]) -> None:
    """Sets the keys in `names` that are unset, in place, from the flat form of another config.

    A free dict in `names` receives the fields that it does not have yet.
    """
    known = keys()
    for name, value in values.items():
        if name in names and name in known and known[name].default is not dict:
            if _get(config, name) is None and value is not None:
                _set(config, name, value)
        elif any(name.startswith(f"{extra}.") for extra in _EXTRAS if extra in names):
            _set(config, name, value, replace=False)


def resolve_defaults(config: Config) -> Config:
    """Returns a copy in which the keys of `FROM_WEIGHTS` that are still unset have their defaults.

    Call this after `fill` has set the keys that `init_from` supplies.
    """
    config = copy(config)
    fill(config, {name: key.unless_init for name, key in keys().items()}, FROM_WEIGHTS)
    return config


def load_config(path_and_args: str, overrides: list[str]) -> Config:
    """Loads `configs/FILE.py:ARGS`, applies `--config.key=value` overrides, and checks every value.

    The value of a declared key is parsed according to its type. Below `extra`, a value is parsed as a Python literal if
    possible, and is a string otherwise: `--config.model.extra.layers=(1,2)`, `--config.model.extra.activation=relu`.

    Raises:
      UserError: The file does not exist or raises an exception, or a key or a value is wrong; the message names it.
    """
    named = {override: _key_of(override) for override in overrides}  # a typing error shows before the file runs
    config = _run_file(path_and_args)
    for name in _EXTRAS:
        section, _, extra = name.rpartition(".")
        config[section][extra] = _stored_value(name, config[section][extra])
    for override, name in named.items():
        _override(config, name, override)
    check(config)
    return config


def _run_file(path_and_args: str) -> Config:
    """Runs a config file and returns what its `get_config` returns, locked.

    Raises:
      UserError: There is no such file, it takes no argument, or it raises an exception, which the message quotes with
        its line.
    """
    path, colon, arg = path_and_args.partition(":")
    if not os.path.isfile(path):
        raise UserError(f"no config file {path!r}; the configs of this project are in configs/")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise UserError(f"{path} must define a function get_config, which returns a config")
        given = [arg] if colon else []
        if not _can_call(get_config, *given):
            wrong = f"takes no argument, got {arg!r}" if colon else "needs an argument"
            raise UserError(f"{path} {wrong}. Write --config={path}{'' if colon else ':ARG'}")
        config: Any = get_config(*given)
    except (UserError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}{_line_in(path, error)}: {_mistake(error)}") from error
    if not isinstance(config, ConfigDict) or not set(SCHEMA) <= set(config):
        raise UserError(
            f"{path}: get_config must return a config made by default_config(), got {type(config).__name__}"
        )
    return _locked(config)


def _can_call(function: Any, *args: Any) -> bool:
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    return True


def _line_in(path: str, error: BaseException) -> str:
    """Returns the line of a file that raised an error, or that called what raised it, as ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.filename == path and error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _mistake(error: BaseException) -> str:
    """Returns in one line what a config file did wrong: an unknown key, a value of another type, or an exception."""
    unknown = re.search(r'Key "(.+?)" does not exist', str(error))
    if isinstance(error, AttributeError):  # reading `config.nothing`
        unknown = unknown or re.search(r"^[\"']+(\w+)[\"']+$", str(error))
    if unknown:
        return f"unknown key {unknown[1]!r}{nearest(unknown[1], {part for name in keys() for part in name.split('.')})}"
    if typed := re.search(r"Could not override field '(\w+)'.*?\. (.*) is of original type", str(error)):
        named = [name for name, key in keys().items() if name.split(".")[-1] == typed[1] and key.default is not dict]
        if len(named) == 1:
            return f"config.{named[0]} must be {keys()[named[0]].form}, got {typed[2]}"
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _key_of(override: str) -> str:
    """Returns the key that an override sets, or raises UserError."""
    match = re.match(r"--?config\.([^=]+)", override)
    if not match:
        raise UserError(f"unexpected argument {override!r}; write overrides as --config.key=value")
    name, known = match[1], keys()
    if name in _EXTRAS:
        raise UserError(f"config.{name} is a dict of fields; set them one by one, as --config.{name}.FIELD=VALUE")
    if name not in known and not _is_free(name):
        raise UserError(f"unknown config key {name!r}{nearest(name, known)}")
    return name


def _override(config: Config, name: str, override: str) -> None:
    """Sets the key `name` to the value in `--config.NAME=VALUE`."""
    _, equals, text = override.partition("=")
    if _is_free(name):
        _set_free(config, override)
        return
    form = keys()[name].form
    if not equals:
        raise UserError(f"{override} needs a value: {override}=VALUE, {form}")
    try:
        value = form.parse(text)
    except ValueError:
        raise UserError(refusal(f"config.{name}", form, text)) from None
    if not form.accepts(value):  # before the config would refuse its type in other words
        raise UserError(refusal(f"config.{name}", form, value))
    _set(config, name, value)


def check(config: Config, *names: str) -> None:
    """Checks that the keys `names`, or all keys, have legal values, as the schema declares them.

    A model of the user's own may give other meanings to the keys of `config.model` that are a choice of words.

    Raises:
      UserError: A value is not legal; the message says which values are.
    """
    is_own_model = is_import_path(config.model.name)
    known = keys()
    for name, key in ((name, known[name]) for name in names or known):
        if key.default is dict:
            continue
        value = _get(config, name)
        if value is None and key.is_optional:
            continue
        if is_own_model and name.startswith("model.") and isinstance(key.form, Choice):
            continue
        if not key.form.accepts(value):
            raise UserError(refusal(f"config.{name}", key.form, value))


def _is_free(name: str) -> bool:
    """Returns whether a key is below one of the free dicts."""
    return any(name.startswith(f"{extra}.") for extra in _EXTRAS)


def _set_free(config: Config, override: str) -> None:
    """Applies an override of a key below a free dict; the value is a Python literal, or else a string."""
    name, equals, text = _key_of(override), *override.partition("=")[1:]
    *parents, field = name.split(".")
    if not equals or not field.isidentifier():
        raise UserError(
            f"cannot read {override!r}; write fields of your own as --config.{'.'.join(parents)}.FIELD=VALUE"
        )
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    _set(config, name, value)


def _set(config: Config, name: str, value: Any, *, replace: bool = True) -> None:
    """Sets a key, and creates missing dicts above it. Lists become tuples."""
    *parents, field = name.split(".")
    for parent in parents:
        if not isinstance(config.get(parent), ConfigDict):
            config[parent] = ConfigDict(type_safe=False)
        config = config[parent]
    if replace or field not in config:
        config[field] = _stored_value(name, value)


def _stored_value(name: str, value: Any) -> Any:
    """Returns a value with lists replaced by tuples, because the fields of a module must be hashable.

    Raises:
      UserError: It cannot be saved as JSON.
    """
    if hasattr(value, "items"):
        return ConfigDict({key: _stored_value(f"{name}.{key}", item) for key, item in value.items()}, type_safe=False)
    if isinstance(value, list | tuple):
        return tuple(_stored_value(name, item) for item in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(
            f"config.{name} must be a number, a string, a bool, None, or a tuple or dict of these, "
            f"got {type(value).__name__}. Give a name, and let your own code look the object up."
        )
    return value


def differences(old: Config, new: Config) -> list[str]:
    """Returns `key: old -> new` for each key that differs between two configs and may change the results.

    A key that was added since the old config was saved counts as its default; keys that were removed are ignored.
    """
    defaults = flatten(default_config())
    was, now = defaults | flatten(old), defaults | flatten(new)
    known = keys()
    affecting = {
        name for name in was.keys() | now.keys() if _is_free(name) or (name in known and known[name].affects_results)
    }
    return [
        f"{name}: {was.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(affecting)
        if was.get(name) != now.get(name)
    ]


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Returns a config or its JSON form as a flat dict. Tuples become lists, so that the two forms compare equal."""

    def as_lists(value: Any) -> Any:
        return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value

    flat = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if hasattr(value, "items") else {prefix + name: as_lists(value)}
    return flat


def from_dict(saved: dict[str, Any]) -> Config:
    """Rebuilds a config from its JSON form.

    Keys that were added since it was saved take their defaults; keys that were removed are ignored.
    """
    config, known = default_config(), keys()
    for name, value in flatten(saved).items():
        if _is_free(name) or (name in known and value is not None):
            _set(config, name, value)
    return config


def steps(name: str, duration: str, steps_per_epoch: float) -> int:
    """Converts the duration of key `name` to steps, rounded to the nearest.

    Raises:
      UserError: It is not a number of steps or epochs, or is longer than `MAX_STEPS`.
    """
    match = DURATION_PATTERN.fullmatch(duration)
    if not match:
        raise UserError(refusal(f"config.{name}", DURATION, duration))
    count = float(match[1]) * (steps_per_epoch if match[2] == "epoch" else 1)
    if count > MAX_STEPS:
        raise UserError(f"config.{name}={duration!r} must be at most {MAX_STEPS:,} steps, got {count:.4g} steps")
    return round(count)
