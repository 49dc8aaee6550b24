"""Names of parameters in foreign weight files: rules that map ours to theirs and back.

This module is the contract of the package. A `Rule` maps a few of our parameters, by path
(`encoder/block_0/mlp/in/kernel`), to a few tensors of a file, by name (`blocks.0.mlp.fc1.weight`), and back. It only
transposes, splits, joins and reshapes, so it loses no bits, and it maps gradients as it maps weights. A *table* is a
function that takes a model and returns a list of rules. A table may name parameters that the model lacks (a bias, a
layer scale, the head): rules for missing parameters are ignored.

Each family has modules in `formats/` (`formats/vit_huggingface.py` is the example), whose tuples `FORMATS` hold one
`Format` per file format. Nothing else in the package knows the name of a tensor. To add a family, write its module and
list it in `FAMILIES` (`formats/__init__.py`).

`to_params` and `to_tensors` apply a format to whole trees. They refuse tensors that are missing, left over or of the
wrong shape.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.errors import UserError

# fields that change training or speed, but not the function that the weights compute
NOT_THE_FUNCTION = (
    *("dropout_rate", "attention_dropout_rate", "drop_path_rate", "head_bias_init", "layer_scale_init", "weight_init"),
    *("scan_layers", "remat", "attention_kernel", "dtype", "param_dtype", "parent", "name"),
)
MOST_LAYERS = 256  # the deepest published ViT has 48; tracing a model of 256 takes seconds
_MOST_VALUES = 2**24  # of a parameter, beyond those in the file: shapes are compared by converting an empty array

Size = tuple[int, int]  # (height, width) in pixels
Tensors = Mapping[str, np.ndarray]
Params = dict[str, Any]
Config = Mapping[str, Any]  # what the folder says next to the tensors: its config.json; empty for a bare file


class Rule(NamedTuple):
    """Paths of ours, names of theirs, and the two linear maps, which take and return one array for each."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Sequence[np.ndarray]]  # theirs -> ours
    write: Callable[..., Sequence[np.ndarray]]  # ours -> theirs


@dataclasses.dataclass(frozen=True)
class Format:
    """Everything that is known about one family's weights in one file format.

    Attributes:
      name: As in `save_pretrained(format=...)`; several families may share a name.
      model: The class of the family's models.
      variants: The family's sizes: the fields that each name stands for, such as `B`.
      base: The model whose fields are the defaults for what the file does not say, for example `vit:B/16`.
      recognise: Returns whether a file has this format, given the names of its tensors and its config.
      architecture: Returns the model's fields that tensors and config determine. It reads shapes and names only, never
        values. The fields in `given` may be missing, and no others.
      rules: The table: returns the rules for a model.
      given: Fields that a file may leave open, so that the caller has to give them.
      implied: Returns the fields that the name of the architecture in a config implies; what the caller says wins.
      complete: Returns the fields, once those in `given` are known, with the ones that depend on them.
      positions: Returns how many patch positions the file stores, which are checked against the grid of the image; {}
        if it stores none. Where other tokens may have positions too, there are several readings, and each maps its
        number of patches to the fields that it implies.
      preprocessing: Returns the chain of transforms for an image size and a config; None if the file does not say it.
      resample: How the authors resample positions: a method of `models.positions.resample`, or a function that returns
        it, given the tensors with their values and the config.
      notes: Returns lines for the report, given the tensors and the config.
      config: Returns the `config.json` from which a reader can rebuild the model; None if the format has none.
      container: `npz` (one file) or `folder` (`config.json` and `model.safetensors`); None if the format is read-only.
      normalise: Renames and reshapes the tensors of other versions of the format to those of the table.
      ignored: Regular expression for tensors outside the table that the model does not need.
      wrapper: Prefix of all names in the authors' files. Files of another family with the same tensors may have it too:
        the format is recognised by it only if the caller wants its family.
    """

    name: str
    model: type[nn.Module]
    variants: Mapping[str, Mapping[str, Any]]
    base: str
    recognise: Callable[[Collection[str], Config], bool]
    architecture: Callable[[Tensors, Config], dict[str, Any]]
    rules: Callable[[Any], list[Rule]]
    given: tuple[str, ...]
    positions: Callable[[Tensors], Mapping[int, dict[str, Any]]]
    preprocessing: Callable[[Size, Config], str | None]
    resample: str | Callable[[Tensors, Config], str]
    implied: Callable[[Config], dict[str, Any]] = lambda config: {}
    complete: Callable[[dict[str, Any], Tensors], dict[str, Any]] = lambda fields, tensors: fields
    notes: Callable[[Tensors, Config], tuple[str, ...]] = lambda tensors, config: ()
    config: Callable[[Any], dict[str, Any]] | None = None
    container: str | None = None
    normalise: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: str = r"(?!)"
    wrapper: str | None = None


# rules: layouts


def same(ours: str, theirs: str) -> Rule:
    """Maps an array unchanged."""
    return Rule((ours,), (theirs,), lambda x: (x,), lambda x: (x,))


def leading(ours: str, theirs: str, axes: int) -> Rule:
    """Maps an array that has `axes` more leading axes of size 1 in the file."""
    return Rule(
        (ours,), (theirs,), lambda x: (x.reshape(x.shape[axes:]),), lambda x: (x.reshape((1,) * axes + x.shape),)
    )


def linear(ours: str, theirs: str) -> list[Rule]:
    """Maps a torch linear layer: weight (out, in)."""
    kernel = Rule((f"{ours}/kernel",), (f"{theirs}.weight",), lambda w: (w.T,), lambda k: (k.T,))
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def conv(ours: str, theirs: str) -> list[Rule]:
    """Maps a torch convolution: weight (out, in, height, width)."""
    kernel = Rule(
        (f"{ours}/kernel",),
        (f"{theirs}.weight",),
        lambda w: (w.transpose(2, 3, 1, 0),),
        lambda k: (k.transpose(3, 2, 0, 1),),
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def norm(ours: str, theirs: str) -> list[Rule]:
    """Maps a torch layer norm or group norm."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def heads_in(ours: Sequence[str], theirs: str, num_heads: int) -> list[Rule]:
    """Maps projections to heads, stacked in one torch linear layer: weight (projections * heads * head_dim, in)."""
    parts = len(ours)
    kernel = Rule(
        tuple(f"{path}/kernel" for path in ours),
        (f"{theirs}.weight",),
        lambda w: [part.T.reshape(w.shape[1], num_heads, -1) for part in np.split(w, parts)],
        lambda *k: (np.concatenate([part.reshape(part.shape[0], -1).T for part in k]),),
    )
    bias = Rule(
        tuple(f"{path}/bias" for path in ours),
        (f"{theirs}.bias",),
        lambda b: [part.reshape(num_heads, -1) for part in np.split(b, parts)],
        lambda *b: (np.concatenate([part.reshape(-1) for part in b]),),
    )
    return [kernel, bias]


def heads_out(ours: str, theirs: str, num_heads: int) -> list[Rule]:
    """Maps the output projection of the heads: a torch linear layer with weight (out, heads * head_dim)."""
    kernel = Rule(
        (f"{ours}/kernel",),
        (f"{theirs}.weight",),
        lambda w: (w.T.reshape(num_heads, -1, w.shape[0]),),
        lambda k: (k.reshape(-1, k.shape[-1]).T,),
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def grid_positions(ours: str, theirs: str, grid: tuple[int, ...]) -> Rule:
    """Maps patch positions in raster order: (1, patches, hidden_dim)."""
    return Rule(
        (ours,),
        (theirs,),
        lambda x: (x.reshape(*grid, x.shape[-1]),),
        lambda x: (x.reshape(1, -1, x.shape[-1]),),
    )


def class_and_grid_positions(cls: str, ours: str, theirs: str, grid: tuple[int, ...]) -> Rule:
    """Maps the class token's position followed by those of the patches: (1, 1 + patches, hidden_dim)."""
    return Rule(
        (cls, ours),
        (theirs,),
        lambda x: (x[0, 0], x[0, 1:].reshape(*grid, x.shape[-1])),
        lambda c, x: (np.concatenate([c[None], x.reshape(-1, x.shape[-1])])[None],),
    )


def positions(model: Any, theirs: str) -> list[Rule]:
    """Maps the positions of an image model: patches, preceded by those tokens before them that learn one."""
    prefix = [(name, axes) for name, axes in model.prefix if name is not None]
    ends = np.cumsum([math.prod(axes) for _, axes in prefix])

    def read(x):
        *first, grid = np.split(x[0], ends)
        tokens = [part.reshape(*axes, -1) for part, (_, axes) in zip(first, prefix, strict=True)]
        return (*tokens, grid.reshape(*model.grid, -1))

    names = (*(name for name, _ in prefix), "pos_embed")
    return [Rule(names, (theirs,), read, lambda *x: (np.concatenate([a.reshape(-1, a.shape[-1]) for a in x])[None],))]


def absent(ours: str, shape: tuple[int, ...]) -> Rule:
    """A parameter this format does not store: read as zeros; saving raises unless it is all zeros."""
    return Rule((ours,), (), lambda: (np.zeros(shape, np.float32),), lambda x: ())


def unused(theirs: str, shape: tuple[int, ...]) -> Rule:
    """A tensor that our model does not have: ignored when read, written as zeros."""
    return Rule((), (theirs,), lambda x: (), lambda: (np.zeros(shape, np.float32),))


def flax_layer(ours: str, theirs: str) -> list[Rule]:
    """Maps a Linen layer, whose arrays are laid out as ours."""
    return [same(f"{ours}/{part}", f"{theirs}/{part}") for part in ("kernel", "scale", "bias")]


# whole trees


def to_params(format: Format, model: nn.Module, tensors: Tensors, shapes: Mapping[str, Any] | None = None) -> Params:
    """Returns the parameters of `model` from tensors in this format, in the dtypes of the tensors.

    Args:
      shapes: `shapes_of(model)`, if the caller has computed it already.

    Raises:
      UserError: A tensor is missing, left over or of the wrong shape; the message names it.
    """
    tensors = format.normalise(tensors)
    shapes = shapes or shapes_of(model)
    rules = _applicable(format, model, shapes)
    wanted = [name for rule in rules for name in rule.theirs]
    if missing := sorted(set(wanted) - tensors.keys()):
        raise UserError(f"format {format.name!r} needs tensors that the file does not have: {listed(missing)}")
    if extra := leftover(format, tensors, wanted):
        raise UserError(f"format {format.name!r} has no place in the model for the file's tensors {listed(extra)}")
    params = {}
    for rule in rules:
        _check_shapes(rule, shapes, tensors)
        params |= zip(rule.ours, rule.read(*(tensors[name] for name in rule.theirs)), strict=True)
    return unflatten_dict(params, sep="/")


def to_tensors(format: Format, model: nn.Module, params: Params) -> dict[str, np.ndarray]:
    """Returns the tensors in this format that hold the parameters of `model`: the inverse of `to_params`.

    Raises:
      UserError: The format cannot store a parameter; the message names it.
    """
    flat = {path: np.asarray(value) for path, value in flatten_dict(params, sep="/").items()}
    tensors = {}
    for rule in _applicable(format, model, flat):
        if not rule.theirs and any(flat[path].any() for path in rule.ours):
            raise UserError(f"format {format.name!r} has no place for {', '.join(rule.ours)}, which is not zero")
        arrays = rule.write(*(flat[path] for path in rule.ours))
        tensors |= {name: np.ascontiguousarray(x) for name, x in zip(rule.theirs, arrays, strict=True)}
    return tensors


def leftover(format: Format, tensors: Iterable[str], wanted: Collection[str]) -> list[str]:
    """Returns the tensors that are neither wanted nor covered by `format.ignored`."""
    wanted = set(wanted)
    return sorted(name for name in tensors if name not in wanted and not re.fullmatch(format.ignored, name))


def shapes_of(model: nn.Module) -> dict[str, Any]:
    """Returns shape and dtype of every parameter by path, without computing anything."""
    inputs = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)  # pyright: ignore[reportAttributeAccessIssue]
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), inputs)
    return dict(flatten_dict(variables["params"], sep="/"))


def count(names: Iterable[str], pattern: str) -> int:
    """Returns the number of layers: one more than the largest index that `pattern` captures in a name.

    Raises:
      UserError: There are more than `MOST_LAYERS`, or indices are left out (0 may be: some formats start at 1).
    """
    found = {int(match[1]) for name in names if (match := re.match(pattern, name))}
    number = max(found, default=-1) + 1
    if number > min(len(found) + 1, MOST_LAYERS):
        raise UserError(
            f"the file has tensors of {len(found)} layers, numbered up to {number - 1}: layers must be numbered "
            f"without gaps, and at most {MOST_LAYERS} are supported"
        )
    return number


def shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    """Returns the shape of a tensor that determines fields of the model.

    Raises:
      UserError: The tensor is missing or does not have `rank` axes.
    """
    if name not in tensors:
        raise UserError(f"tensor {name} is missing")
    if tensors[name].ndim != rank:
        raise UserError(f"tensor {name} has shape {tensors[name].shape}, expected {rank} axes")
    return tensors[name].shape


def pair(size: int | Sequence[int]) -> Size:
    """Returns (height, width) for what a config gives as one number or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Joins names for a message, and counts those beyond the first `limit`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _applicable(format: Format, model: nn.Module, ours: Mapping[str, Any]) -> list[Rule]:
    rules = [rule for rule in format.rules(model) if all(path in ours for path in rule.ours)]
    covered = {path for rule in rules for path in rule.ours}
    if homeless := sorted(ours.keys() - covered):
        raise UserError(f"format {format.name!r} has no place for {listed(homeless)}")
    return rules


def _check_shapes(rule: Rule, shapes: Mapping[str, Any], tensors: Tensors) -> None:
    ours = [shapes[path].shape for path in rule.ours]
    if sum(map(math.prod, ours)) > _MOST_VALUES + 2 * sum(tensors[name].size for name in rule.theirs):
        raise UserError(
            f"the file's {' and '.join(rule.theirs)} has far fewer values than {' and '.join(rule.ours)} of the model, "
            f"of shape {', '.join(map(str, ours))}"
        )
    for name in rule.theirs:
        if not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            raise UserError(f"tensor {name} has dtype {tensors[name].dtype}, but weights are floating-point numbers")
    expected = rule.write(*(np.empty(shape, np.int8) for shape in ours))
    for name, value in zip(rule.theirs, expected, strict=True):
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{' and '.join(rule.ours)}: the file's {name} has shape {tensors[name].shape}, "
                f"the model needs {value.shape}"
            )
