"""The model families, and the fields of their modules as the source declares them.

The keys `config.model.*` are these fields, each of which is declared once, in its module. Importing the modules also
imports JAX and Flax and takes seconds, but `--help` and the message for a mistyped key should appear at once. The
fields are therefore read from the syntax tree of the source, without importing it. A test compares them with
`dataclasses.fields` of the modules.
"""

import ast
import functools
import pathlib

FAMILIES = {family: f"vit_jax.models.{family}" for family in ("transformer", "vit", "tnt", "timesformer")}

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}


def module_fields(family: str) -> dict[str, type | None]:
    """Returns the fields of the module that a family's `build` returns, inherited ones included.

    A field maps to its type without parameters and without `None`: `tuple[int, int] | None` becomes `tuple`.
    Types other than int, float, str, bool and tuple become None.
    """
    module = FAMILIES[family]
    (build,) = (node for node in _source(module).body if isinstance(node, ast.FunctionDef) and node.name == "build")
    assert isinstance(build.returns, ast.Name)  # "-> ViT"
    return {name: _type(annotation) for name, annotation in _class_fields(module, build.returns.id).items()}


@functools.cache
def _source(module: str) -> ast.Module:
    root = pathlib.Path(__file__).parents[2]
    return ast.parse(root.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))


def _class_fields(module: str, name: str) -> dict[str, ast.expr]:
    """Returns the annotations of a class in this package by field: those of its bases, then its own."""
    body = _source(module).body
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields: dict[str, ast.expr] = {}
            for base in node.bases:
                if isinstance(base, ast.Name):  # "nn.Module" has no fields of interest
                    fields |= _class_fields(module, base.id)
            own = [line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
            return fields | {
                line.target.id: line.annotation  # pyright: ignore[reportAttributeAccessIssue]
                for line in own
                if not ast.unparse(line.annotation).startswith("ClassVar")
            }
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vit_jax."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class_fields(node.module, alias.name)
    return {}


def _type(annotation: ast.expr) -> type | None:
    if isinstance(annotation, ast.BinOp):  # "int | None"
        annotation = annotation.left
    if isinstance(annotation, ast.Subscript):  # "tuple[int, int]"
        annotation = annotation.value
    return _TYPES.get(ast.unparse(annotation))
