"""Names of parameters in foreign weight files: rules that map ours to theirs and back.

The contract of this package. A `Rule` maps a few of our parameters, by path (`encoder/block_0/mlp/in/kernel`), to a
few tensors of a file, by name (`blocks.0.mlp.fc1.weight`), and back. It only transposes, splits, joins and reshapes,
so that it loses no bit, and maps gradients as it maps weights. A *table* is a function of a model that lists rules; it
may name more than the model has, because rules whose parameters the model lacks do not apply (a bias, a layer scale,
the head).

Each family has a module here (`vit.py` is the example) that says in a tuple `FORMATS`, one `Format` a format, all that
is known of its weights. Nothing else of the package knows a tensor's name. A new module is listed in `FAMILIES`
(`formats.py`).

`to_params` and `to_tensors` apply a format to whole trees, and refuse what is missing, left over or of another shape.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax.errors import UserError

# fields that change training or speed, but not the function that the weights are
NOT_THE_FUNCTION = (
    *("dropout_rate", "attention_dropout_rate", "drop_path_rate", "head_bias_init", "layer_scale_init"),
    *("scan_layers", "remat", "attention_kernel", "dtype", "param_dtype", "parent", "name"),
)
_ACTIVATIONS = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}

Tensors = Mapping[str, np.ndarray]
Params = dict[str, Any]
Config = Mapping[str, Any]  # what stands beside the tensors: a config.json; empty for a bare file


class Rule(NamedTuple):
    """Paths of ours, names of theirs, and the two linear maps, which take and return one array for each."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Sequence[np.ndarray]]  # theirs -> ours
    write: Callable[..., Sequence[np.ndarray]]  # ours -> theirs


@dataclasses.dataclass(frozen=True)
class Format:
    """All that is known of one family's weights in one format.

    Attributes:
      name: As in `save_pretrained(format=...)`; several families may share it.
      base: Model that the file's fields are laid over, as `vit:B/16`; its class is the family's.
      recognise: Whether a file is of this format, from its names of tensors and its config.
      architecture: The model's fields that tensors and config tell (all of `given` may be missing, nothing else).
      rules: The table of a model.
      given: Fields that a file may not tell, so that the caller has to.
      positions: How many positions of patches the file stores, None for none: checked against the grid of the image.
      preprocessing: The chain of `data.transforms` for a model of this config; None where the file cannot know it.
      resample: How the authors resample positions, as `models.positions.resample` calls it.
      config: What `config.json` must say for a reader to rebuild the model; None where the format has none.
      container: `npz` (a file), `folder` (`config.json` and `model.safetensors`), None if it is only read.
      normalise: Brings names and layouts of other versions of the format to the one of the table.
      ignored: Regular expression of tensors that the model does not need, beside those of the table.
    """

    name: str
    base: str
    recognise: Callable[[Collection[str], Config], bool]
    architecture: Callable[[Tensors, Config], dict[str, Any]]
    rules: Callable[[Any], list[Rule]]
    given: tuple[str, ...]
    positions: Callable[[Tensors], int | None]
    preprocessing: Callable[[Any, Config], str | None]
    resample: str
    config: Callable[[Any], dict[str, Any]] | None = None
    container: str | None = None
    normalise: Callable[[Tensors], Tensors] = lambda tensors: tensors
    ignored: str = r"(?!)"


# rules: layouts


def same(ours: str, theirs: str) -> Rule:
    """The array as it is."""
    return Rule((ours,), (theirs,), lambda x: (x,), lambda x: (x,))


def leading(ours: str, theirs: str, axes: int) -> Rule:
    """Theirs has so many more leading axes, of size 1."""
    return Rule(
        (ours,), (theirs,), lambda x: (x.reshape(x.shape[axes:]),), lambda x: (x.reshape((1,) * axes + x.shape),)
    )


def linear(ours: str, theirs: str) -> list[Rule]:
    """A torch linear layer: weight (out, in)."""
    kernel = Rule((f"{ours}/kernel",), (f"{theirs}.weight",), lambda w: (w.T,), lambda k: (k.T,))
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def conv(ours: str, theirs: str) -> list[Rule]:
    """A torch convolution: weight (out, in, height, width)."""
    kernel = Rule(
        (f"{ours}/kernel",),
        (f"{theirs}.weight",),
        lambda w: (w.transpose(2, 3, 1, 0),),
        lambda k: (k.transpose(3, 2, 0, 1),),
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def norm(ours: str, theirs: str) -> list[Rule]:
    """A torch layer or group norm."""
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def heads_in(ours: Sequence[str], theirs: str, num_heads: int) -> list[Rule]:
    """Projections to heads, stacked in one torch linear layer: weight (projections * heads * head_dim, in)."""
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
    """The projection of the heads' values: a torch linear layer with weight (out, heads * head_dim)."""
    kernel = Rule(
        (f"{ours}/kernel",),
        (f"{theirs}.weight",),
        lambda w: (w.T.reshape(num_heads, -1, w.shape[0]),),
        lambda k: (k.reshape(-1, k.shape[-1]).T,),
    )
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def grid_positions(ours: str, theirs: str, grid: tuple[int, ...]) -> Rule:
    """Positions of the patches in raster order: (1, patches, hidden_dim)."""
    return Rule(
        (ours,),
        (theirs,),
        lambda x: (x.reshape(*grid, x.shape[-1]),),
        lambda x: (x.reshape(1, -1, x.shape[-1]),),
    )


def class_and_grid_positions(cls: str, ours: str, theirs: str, grid: tuple[int, ...]) -> Rule:
    """The class token's position, then those of the patches in raster order: (1, 1 + patches, hidden_dim)."""
    return Rule(
        (cls, ours),
        (theirs,),
        lambda x: (x[0, 0], x[0, 1:].reshape(*grid, x.shape[-1])),
        lambda c, x: (np.concatenate([c[None], x.reshape(-1, x.shape[-1])])[None],),
    )


def positions(model: Any, theirs: str) -> list[Rule]:
    """Positions of an image model: those of the patches, after the class token's if it has one."""
    if model.pool == "cls":
        return [class_and_grid_positions("cls_pos", "pos_embed", theirs, model.grid)]
    return [grid_positions("pos_embed", theirs, model.grid)]


def absent(ours: str, shape: tuple[int, ...]) -> Rule:
    """A parameter that the format has not: zero when read, refused when written unless it is zero."""
    return Rule((ours,), (), lambda: (np.zeros(shape, np.float32),), lambda x: ())


def unused(theirs: str, shape: tuple[int, ...]) -> Rule:
    """A tensor that the model has not: left out when read, zero when written."""
    return Rule((), (theirs,), lambda x: (), lambda: (np.zeros(shape, np.float32),))


def flax_layer(ours: str, theirs: str) -> list[Rule]:
    """A Linen layer, laid out as ours."""
    return [same(f"{ours}/{part}", f"{theirs}/{part}") for part in ("kernel", "scale", "bias")]


# whole trees


def to_params(format: Format, model: nn.Module, tensors: Tensors) -> Params:
    """Returns the parameters of `model` that tensors of this format hold, in their own dtypes.

    Raises:
      UserError: A tensor is missing, left over or of another shape; it is named.
    """
    tensors = format.normalise(tensors)
    shapes = shapes_of(model)
    rules = _applicable(format, model, shapes)
    wanted = [name for rule in rules for name in rule.theirs]
    if missing := sorted(set(wanted) - tensors.keys()):
        raise UserError(f"format {format.name!r}: missing {listed(missing)}")
    if extra := leftover(format, tensors, wanted):
        raise UserError(f"format {format.name!r}: tensors with no place in the model: {listed(extra)}")
    params = {}
    for rule in rules:
        _check_shapes(rule, shapes, tensors)
        params |= zip(rule.ours, rule.read(*(tensors[name] for name in rule.theirs)), strict=True)
    return unflatten_dict(params, sep="/")


def to_tensors(format: Format, model: nn.Module, params: Params) -> dict[str, np.ndarray]:
    """Returns the tensors of this format that hold the parameters of `model`: the inverse of `to_params`.

    Raises:
      UserError: The format has no place for a parameter; it is named.
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
    """Returns the tensors that neither the table nor `ignored` knows."""
    wanted = set(wanted)
    return sorted(name for name in tensors if name not in wanted and not re.fullmatch(format.ignored, name))


def shapes_of(model: nn.Module) -> dict[str, Any]:
    """Returns shape and dtype of every parameter by path, without computing."""
    inputs = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)  # pyright: ignore[reportAttributeAccessIssue]
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), inputs)
    return dict(flatten_dict(variables["params"], sep="/"))


def count(names: Iterable[str], pattern: str) -> int:
    """Returns the number of layers: one more than the largest index that `pattern` catches in a name."""
    return max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1) + 1


def shape(tensors: Tensors, name: str, rank: int) -> tuple[int, ...]:
    """Returns the shape of a tensor from which fields are read.

    Raises:
      UserError: It is missing, or has another number of axes.
    """
    if name not in tensors:
        raise UserError(f"tensor {name} is missing")
    if tensors[name].ndim != rank:
        raise UserError(f"tensor {name} has shape {tensors[name].shape}, not {rank} axes")
    return tensors[name].shape


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns (height, width) of what a config gives as one number or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def read_gelu(config: Config) -> str:
    """Returns the `gelu` that `hidden_act` of Hugging Face's config.json means.

    Raises:
      UserError: It is no GELU.
    """
    activation = config.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise UserError(f"hidden_act {activation!r} in config.json: known are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[activation]


def write_gelu(gelu: str) -> str:
    """Returns the `hidden_act` that means this `gelu`."""
    return next(activation for activation, meant in _ACTIVATIONS.items() if meant == gelu)


def listed(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _applicable(format: Format, model: nn.Module, ours: Mapping[str, Any]) -> list[Rule]:
    rules = [rule for rule in format.rules(model) if all(path in ours for path in rule.ours)]
    covered = {path for rule in rules for path in rule.ours}
    if homeless := sorted(ours.keys() - covered):
        raise UserError(f"format {format.name!r} has no place for {listed(homeless)}")
    return rules


def _check_shapes(rule: Rule, shapes: Mapping[str, Any], tensors: Tensors) -> None:
    expected = rule.write(*(np.empty(shapes[path].shape, np.int8) for path in rule.ours))
    for name, value in zip(rule.theirs, expected, strict=True):
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{' and '.join(rule.ours)}: the file's {name} has shape {tensors[name].shape}, "
                f"the model needs {value.shape}"
            )
