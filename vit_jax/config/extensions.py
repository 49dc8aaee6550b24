"""Extensions: a user's own code, named by its import path, such as `mylab.nets:MyViT`.

`model.name`, `task.name`, `data.name` and `optimizer.name` accept `module:attribute`; a chain of transforms accepts
`module.attribute(arguments)`. Modules are looked up as `python -m` does: in the current directory, then among the
installed packages. The fields of the class, or the parameters of the function, are the legal keys of `extra` in the
same section of the config.

Importing a module runs its code, so only paths in the user's own config or on the command line are imported. Paths
that come from a checkpoint go through `check_trust` first, which imports nothing unless the user passed `--trust`.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlparse

from vit_jax.config.families import FAMILIES
from vit_jax.errors import UserError, nearest

NAME_KEYS = ("model.name", "task.name", "data.name", "optimizer.name")
CHAIN_KEYS = ("data.train_transforms", "data.eval_transforms")

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_import_path(name: Any) -> bool:
    """Returns whether a name has the form `module:attribute` and is not a model variant, such as `transformer:base`."""
    return isinstance(name, str) and _PATH.fullmatch(name) is not None and name.partition(":")[0] not in FAMILIES


def load_object(name: str, what: str) -> Any:
    """Imports the class or function at `module:attribute`, or `module.attribute` as in a chain of transforms.

    Args:
      what: The key that holds the name, for messages: `config.model.name`.

    Raises:
      UserError: The module or the attribute does not exist, the attribute cannot be called, or importing the module
        raises an exception.
    """
    module_name, _, attribute = name.rpartition(":" if ":" in name else ".")
    culprit = f"{what}={name!r}"
    try:
        module = _import(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            where = "in the current directory or among the installed packages"
            raise UserError(f"{culprit}: there is no module {missing!r} {where}") from error
        raise UserError(f"{culprit}: importing {module_name} raises {_one_line(error)}") from error
    if not hasattr(module, attribute):
        raise UserError(f"{culprit}: module {module_name!r} has no {attribute!r}{_nearest_in(module, attribute)}")
    found = getattr(module, attribute)
    if not callable(found):
        raise UserError(f"{culprit} must be a class or a function, got {type(found).__name__}")
    return found


def legal_fields(target: Any) -> tuple[str, ...] | None:
    """Returns the keyword arguments of a class or a function; None if it accepts any keyword.

    For a dataclass or a Linen module, these are its fields, except those that Linen adds (`parent` and `name`).
    """
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    added = ("parent", "name") if _is_linen(target) else ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return tuple(p.name for p in parameters if p.kind not in positional and p.name not in added)


def check_fields(
    target: Any, given: Iterable[str], key: str, ours: Collection[str] = (), name: str | None = None
) -> None:
    """Checks that `target` has the fields, or parameters, that a dict of the config sets.

    Args:
      key: The dict's key, for messages: `config.model.extra`.
      ours: Parameters that vit_jax sets, and the user must not.
      name: The import path as the user wrote it, for messages.

    Raises:
      UserError: It has no such field, or vit_jax sets the field; the message names the nearest field.
    """
    name = name or path_of(target)
    legal = legal_fields(target)
    for field in given:
        if field in ours:
            raise UserError(f"{key}.{field}: {name} is given {field!r} by vit_jax; remove the key")
        if legal is not None and field not in legal:
            kind = "field" if dataclasses.is_dataclass(target) else "parameter"
            known = [other for other in legal if other not in ours]
            hint = nearest(field, known) if known else "; it has none"
            raise UserError(f"{key}.{field}: {name} has no {kind} {field!r}{hint}")


def extra_fields(section: Any, key: str, ours: Collection[str] = ()) -> dict[str, Any]:
    """Returns `section.extra` as a dict, checked against the object that `section.name` names.

    Args:
      section: A section of the config with `name` and `extra`: `config.model`.
      key: The section's key, for messages: `config.model`.
      ours: Parameters that vit_jax sets, and the user must not.
    Raises:
      UserError: The object has no such field, cannot be imported, or the name is not an import path.
    """
    extra = section.extra.to_dict()
    if not is_import_path(section.name):
        if extra:
            raise UserError(
                f"{key}.extra.{next(iter(extra))}: `extra` holds fields of code of your own, but {key}.name is "
                f"{section.name!r}. Set {key}.name to an import path, such as 'mylab.module:Name'."
            )
    elif extra:
        check_fields(load_object(section.name, f"{key}.name"), extra, f"{key}.extra", ours, section.name)
    return extra


def accepted(target: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `offered` values for which a class or a function has a field or a parameter."""
    legal = legal_fields(target)
    return {name: value for name, value in offered.items() if legal is None or name in legal}


def construct(target: Any, values: Mapping[str, Any], key: str, name: str | None = None) -> Any:
    """Calls a user's class or function with keyword arguments.

    Args:
      key: The section of the config that names it, for messages: `config.model`.
      name: The import path as the user wrote it, for messages.

    Raises:
      UserError: An argument without a default is missing, or the call raises ValueError.
    """
    name = name or path_of(target)
    for parameter in inspect.signature(target).parameters.values():
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if is_named and parameter.default is parameter.empty and parameter.name not in values:
            raise UserError(f"{key}.extra.{parameter.name} must be set: {name} has no default for it")
    try:
        return target(**values)
    except ValueError as error:
        raise UserError(f"{key}: {name}: {error}") from error


def path_of(target: Any) -> str:
    """Returns the import path of a class or a function, as defined in its module."""
    return f"{getattr(target, '__module__', '?')}:{getattr(target, '__qualname__', repr(target))}"


def import_paths(config: Mapping[str, Any], chains: Iterable[str] = ()) -> dict[str, str]:
    """Returns the import paths that a config names, each with the key that names it.

    Args:
      config: A config, or its JSON form.
      chains: Further chains of transforms that may name code, such as the one a checkpoint stores with its encoder.
    """
    found = {name: f"config.{key}" for key in NAME_KEYS if is_import_path(name := _lookup(config, key))}
    written = [(f"config.{key}", chain) for key in CHAIN_KEYS if isinstance(chain := _lookup(config, key), str)]
    for key, chain in (*written, *(("transforms", chain) for chain in chains)):
        found = dict.fromkeys(_paths_in_chain(chain), key) | found
    return found


def describe(paths: Iterable[str]) -> list[dict[str, str | None]]:
    """Returns what a checkpoint records about the user's own code, as JSON-compatible values.

    Each dict has `path`; `version` of the installed distribution that holds the module, or None; and `sha256` of the
    source file that defines the object, or None if it has no source. The hash covers that file only, not its imports.

    Raises:
      UserError: A path cannot be imported.
    """
    return [_described(path, load_object(path, "import path")) for path in sorted(paths)]


def check_trust(meta: Mapping[str, Any], trust: bool, *, source: Any, own: Collection[str] = ()) -> None:
    """Decides whether the code that a checkpoint names may be imported, and imports it if so.

    The paths are taken from the stored config and encoder, because these are what would be imported. The list in
    `meta["extensions"]` only supplies versions and hashes: it comes with the checkpoint, and so it cannot grant trust.
    A warning is logged for code whose source has changed since the checkpoint was written.

    Args:
      meta: The checkpoint's JSON: `config`, `preprocessing`, and `extensions` as returned by `describe`.
      trust: Whether the user passed `--trust`.
      source: The checkpoint's path, for messages.
      own: Import paths in the user's own config, which need no trust.

    Raises:
      UserError: The checkpoint names code that is not trusted, or that cannot be imported.
    """
    recorded = {described.get("path"): described for described in meta.get("extensions", ())}
    chain = meta.get("preprocessing", {}).get("transforms")
    paths = import_paths(meta["config"], [chain] if isinstance(chain, str) else [])
    if foreign := [path for path in sorted(paths) if path not in own and not trust]:
        uses = ", ".join(f"{path} ({_summary(recorded.get(path, {}))})" for path in foreign)
        advice = "Pass --trust (in Python, trust=True) to import it."
        raise UserError(f"{source} uses {uses}, which is code outside vit_jax. {advice}")
    for path, key in paths.items():
        stored = recorded.get(path, {})
        found = _described(path, load_object(path, f"{source}: {key}"))
        if stored.get("sha256") and found["sha256"] != stored["sha256"]:
            logging.warning(
                "%s was written with %s (%s), whose source has changed since (%s): its results may differ",
                *(source, path, _summary(stored), _summary(found)),
            )


def _import(module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # it is not removed, because the module may import more later
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    return importlib.import_module(module_name)


def _one_line(error: BaseException) -> str:
    """Returns the exception's type, the first line of its message, and where it was raised."""
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = last.filename, last.lineno
    message = str(error.msg if isinstance(error, SyntaxError) else error).partition("\n")[0]
    return f"{type(error).__name__}: {message} ({file}, line {line})"


def _nearest_in(module: Any, attribute: str) -> str:
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    if difflib.get_close_matches(attribute, public, n=1):
        return nearest(attribute, public)
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    return nearest(attribute, own) if own else ""


def _is_linen(target: Any) -> bool:
    return any(base.__module__.startswith("flax.linen") for base in getattr(target, "__mro__", ()))


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a dotted key; None if it, or its section, is missing."""
    section, _, name = key.partition(".")
    return (config.get(section) or {}).get(name)


def _paths_in_chain(chain: str) -> Iterator[str]:
    """Yields `mylab.transforms:Solarize` for each `mylab.transforms.Solarize` in a chain."""
    try:
        tree = ast.parse(chain, mode="eval")
    except (SyntaxError, ValueError):
        return  # the error is reported when the chain is built, which then imports nothing
    nodes: list[ast.AST] = [tree.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Attribute):
            yield f"{ast.unparse(node.value)}:{node.attr}"
        else:
            nodes += ast.iter_child_nodes(node)


def _described(path: str, found: Any) -> dict[str, str | None]:
    module = sys.modules[path.partition(":")[0]]
    try:
        file = inspect.getsourcefile(inspect.unwrap(found))
    except TypeError:  # for example a callable object: use the file of its module
        file = getattr(module, "__file__", None)
    source = pathlib.Path(file) if file and os.path.isfile(file) else None
    return {
        "path": path,
        "version": _version(module),
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source else None,
    }


def _version(module: Any) -> str | None:
    """Returns the version of the installed distribution that holds a module, editable installs included."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    top = module.__name__.partition(".")[0]
    for name in importlib.metadata.packages_distributions().get(top, ()):
        distribution = importlib.metadata.distribution(name)
        roots = [pathlib.Path(str(distribution.locate_file("")))]
        if origin := distribution.read_text("direct_url.json"):
            roots.append(pathlib.Path(unquote(urlparse(json.loads(origin)["url"]).path)))
        if any(pathlib.Path(file).resolve().is_relative_to(root.resolve()) for root in roots):
            return distribution.version
    return None


def _summary(described: Mapping[str, str | None]) -> str:
    version, sha256 = described.get("version"), described.get("sha256")
    return f"version {version or 'unknown'}, sha256 {sha256[:12] if sha256 else 'unknown'}"
