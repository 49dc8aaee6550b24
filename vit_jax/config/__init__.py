"""Configs: loading from a file and the command line, conversion to and from JSON, and comparison.

A file in `configs/` starts from `default_config()` and sets values; the command line overrides them
(`--config.batch_size=512`). `vit_jax/config/schema.py` declares the keys; any other key is an error. Configs state
intent (epochs, global batch size); steps are derived from the data after all overrides.

A duration is a string: `"300 epochs"`, `"0.5 epochs"`, `"10_000 steps"`.
"""

import ast
import os
import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from ml_collections import ConfigDict, config_dict

from vit_jax.config.schema import SCHEMA, Key, keys
from vit_jax.errors import UserError, nearest

Config = Any  # a ConfigDict, whose declared types do not describe its keys

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
    """Loads `configs/FILE.py:ARGS` and applies `--config.key=value` overrides.

    The value of a declared key is parsed according to its type. Below `extra`, a value is parsed as a Python literal if
    possible, and is a string otherwise: `--config.model.extra.layers=(1,2)`, `--config.model.extra.activation=relu`.

    Raises:
      UserError: The file does not exist, or a key or a value is wrong; the message names it.
    """
    from absl import flags
    from ml_collections import config_flags

    free = [override for override in overrides if _is_free(_key_of(override))]
    declared = [override for override in overrides if override not in free]
    path = path_and_args.partition(":")[0]
    if not os.path.isfile(path):
        raise UserError(f"no config file {path!r}; the configs of this project are in configs/")
    argv = ["vit_jax", f"--config={path_and_args}", *map(_with_words, declared)]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config = _locked(values.config)
    except flags.Error as error:
        raise UserError(f"{path_and_args}: {_cause(error)}") from error
    except (AttributeError, KeyError) as error:
        if key := re.search(r'Key "(.+?)" does not exist', str(error)):
            names = {name.rpartition(".")[2] for name in keys()}
            raise UserError(f"{path} sets an unknown key {key[1]!r}{nearest(key[1], names)}") from error
        raise
    _check_free(config)
    for override in free:
        _set_free(config, override)
    return config


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


def _with_words(override: str) -> str:
    """Turns words separated by commas into a tuple, for keys that hold words: `--config.data.languages=en,de`."""
    name, _, text = override.partition("=")
    default = keys()[_key_of(override)].default
    if isinstance(default, tuple) and default and isinstance(default[0], str) and re.fullmatch(r"[\w,-]+", text):
        return f"{name}={tuple(text.split(','))!r}"
    return override


def _cause(error: BaseException) -> str:
    """Returns the first line of what went wrong in a config file, without the layers that loaded it."""
    message = str(error).splitlines()[0]
    while "parsing config file" in message and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
        message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return message


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


def _check_free(config: Config) -> None:
    """Checks the values that a config file sets in the free dicts, and turns their lists into tuples."""
    for name in _EXTRAS:
        section, _, extra = name.rpartition(".")
        config[section][extra] = _stored_value(name, config[section][extra])


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
      UserError: It is not a number of steps or epochs.
    """
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?|\.\d+)\s*(step|epoch)s?\s*", duration)
    if not match:
        raise UserError(f"config.{name} must be a duration, such as '90 epochs' or '10_000 steps', got {duration!r}")
    return round(float(match[1]) * (steps_per_epoch if match[2] == "epoch" else 1))
