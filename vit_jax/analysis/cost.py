"""The cost of a model: parameters and multiply-accumulates, counted without running it."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# With these values of fields, every product occurs in the trace once, within the module that computes it.
_PLAIN = {"attention_kernel": "reference", "scan_layers": False, "remat": "none"}
_MARK = "module:"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a model, as in the papers' tables. `str` returns a table of its modules.

    Attributes:
      params: Number of parameters.
      macs: Multiply-accumulates in matrix products and convolutions, including attention, of a forward pass of one
        example. A product of matrices (m, k) and (k, n) takes m k n. The vision papers (DeiT, TNT, TimeSformer) print
        this number as "FLOPs"; counting additions and multiplications separately gives twice as many. Norms,
        activations, softmax, biases and residual connections are not counted.
      by_module: Multiply-accumulates of each module, including its submodules, by path:
        `{"encoder/block_0/attention/query": 2_359_296, ...}`. The path of the model is `""`. A module has more than the
        sum of its submodules if it computes products without a kernel, such as queries with keys.
      params_by_module: Parameters of each module in the same way. A module without a product, such as a norm, is in
        this table alone.
    """

    params: int
    macs: int
    by_module: dict[str, int]
    params_by_module: dict[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"parameters {self.params:,}", f"multiply-accumulates {self.macs:,}"]
        for row in self.table():
            if row.macs and row.module:
                *above, name = row.module.split("/")
                lines.append(f"{'  ' * len(above) + name:<36} {row.macs:>20,} {row.macs / self.macs:7.1%}")
        return "\n".join(lines)

    def table(self, depth: int | None = None) -> list["ModuleCost"]:
        """Returns the cost by module; all layers of a stack are one module, `block_*`.

        Modules are in the order of the computation, and those without products, such as norms, come last.

        Args:
          depth: Number of names in a module's path from which on submodules are left out; None for no limit.
        """
        macs: Counter[str] = Counter()
        params: Counter[str] = Counter()
        for found, counts in ((self.by_module, macs), (self.params_by_module, params)):
            for path, number in found.items():
                counts[re.sub(r"\d+", "*", path)] += number
        paths = [path for path in dict.fromkeys([*macs, *params]) if depth is None or len(path.split("/")) <= depth]
        return [ModuleCost(path, params[path], macs[path]) for path in paths]


class ModuleCost(NamedTuple):
    """A row of a table by module; the whole model is the module `""`."""

    module: str
    params: int
    macs: int


def cost_by_size(model: nn.Module, sides: Sequence[int] = (), frames: Sequence[int] = ()) -> dict[str, dict[int, Cost]]:
    """Returns the cost of an image or video model at other sizes of its input.

    Args:
      sides: Heights, which are also the widths, in pixels.
      frames: Numbers of frames, for a video model.

    Returns:
      The costs by side under `side`, and by number of frames under `frames`; the other size is the model's own.

    Raises:
      ValueError: The model has no such size, or a patch does not fit into it.
    """
    wanted: dict[str, list[tuple[str, int, Any]]] = {"side": [("image_size", side, (side, side)) for side in sides]}
    wanted["frames"] = [("num_frames", count, count) for count in frames]
    fields = {field.name for field in dataclasses.fields(model)}
    found: dict[str, dict[int, Cost]] = {}
    for axis, sizes in wanted.items():
        for field, number, value in sizes:
            if field not in fields:
                raise ValueError(f"{type(model).__name__} has no {field}, so its cost does not depend on it")
            changed: Any = {field: value}
            sized: Any = model.clone(**changed)
            sized.check()
            found.setdefault(axis, {})[number] = cost(sized)
    return found


def cost(model: nn.Module, *input_shapes: Sequence[int]) -> Cost:
    """Counts the parameters, and the multiply-accumulates for one example, from shapes alone.

        cost(build_model("vit:B/16")).macs                     # 17.6e9
        cost(build_model("transformer:base"), (70,), (70,))    # 70 source and 70 target tokens

    For a convolution, every element of its kernel is counted at every position, including those on padding, as in the
    tools of the papers' authors. Products with a constant, such as resampling, are not counted. For attention, every
    pair of tokens that is computed is counted, masked or not.

    Args:
      input_shapes: Shape of each input, without the batch dimension. The default is `model.input_shape`, which image
        and video models have.

    Raises:
      ValueError: The model has no `input_shape` and no shapes are given, or it contains a loop of unknown length.
    """
    if not input_shapes:
        if not hasattr(model, "input_shape"):
            raise ValueError(
                f"{type(model).__name__} has no input_shape. Give the shape of each input, without the batch dimension."
            )
        input_shapes = (model.input_shape,)
    model = plain(model)
    inputs = [
        jax.ShapeDtypeStruct((1, *shape), jnp.float32 if len(shape) > 1 else jnp.int32)  # one axis: token ids
        for shape in input_shapes
    ]
    variables = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs, train=False), *inputs)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))

    def forward(variables, *inputs):
        with nn.intercept_methods(_marked):
            return model.apply(variables, *inputs, train=False)

    own = count_macs(forward, variables, *inputs)
    leaves: dict[str, Any] = flatten_dict(variables["params"], sep="/")
    own_params: Counter[str] = Counter()
    for path, leaf in leaves.items():
        own_params[path.rpartition("/")[0]] += math.prod(leaf.shape)
    return Cost(params, own.total(), _with_submodules(own), _with_submodules(own_params))


def _with_submodules(own: Counter[str]) -> dict[str, int]:
    """Adds the numbers of each module to those of all modules that it belongs to."""
    total: Counter[str] = Counter()
    for path, number in own.items():
        parts = path.split("/") if path else []
        for depth in range(len(parts) + 1):
            total["/".join(parts[:depth])] += number
    return dict(total)


def plain(model: nn.Module) -> nn.Module:
    """Returns a model that computes the same function, with every product in its trace once."""
    fields = {field.name for field in dataclasses.fields(model)}
    return model.clone(**{name: value for name, value in _PLAIN.items() if name in fields})


def count_macs(function: Callable, *args: Any) -> Counter[str]:
    """Counts the multiply-accumulates of `function(*args)` by the path of the module; `""` is outside of all modules.

    Nothing is computed, so the arguments can be `jax.ShapeDtypeStruct`s.

    Raises:
      ValueError: A product is in a loop of unknown length or in a hand-written kernel.
    """
    closed = jax.make_jaxpr(function)(*args)
    return _count(closed.jaxpr, [True] * len(closed.jaxpr.invars), "")


def _marked(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    with jax.named_scope(_MARK + ".".join(context.module.path)):
        return call(*args, **kwargs)


def _count(jaxpr: Jaxpr, varying: Sequence[bool], module: str) -> Counter[str]:
    """Counts the multiply-accumulates in `jaxpr`, which is called within `module`.

    Args:
      varying: For each input of `jaxpr`, whether it depends on the arguments of the traced function.
    """
    counts: Counter[str] = Counter()
    varies = dict(zip(jaxpr.invars, varying, strict=True))
    for eqn in jaxpr.eqns:
        operands = [not isinstance(var, Literal) and varies.get(var, False) for var in eqn.invars]
        marks = re.findall(rf"{_MARK}([^/]*)", str(eqn.source_info.name_stack))
        here = marks[-1].replace(".", "/") if marks else module
        name = eqn.primitive.name
        if name in _PRODUCTS:
            counts[here] += _PRODUCTS[name](eqn) if all(operands) else 0
        elif name == "cond":
            branches = [_count(branch.jaxpr, operands[1:], here) for branch in eqn.params["branches"]]
            counts += max(branches, key=Counter.total)
        elif name == "scan":  # a carried value that is constant in the first iteration can vary in later ones
            inside = _count(eqn.params["jaxpr"].jaxpr, [any(operands)] * len(operands), here)
            counts += Counter({path: macs * eqn.params["length"] for path, macs in inside.items()})
        else:
            for inner in _inner(eqn):
                same = len(inner.invars) == len(operands) and name != "while"
                inside = _count(inner, operands if same else [True] * len(inner.invars), here)
                if inside.total() and name in ("while", "pallas_call", "shard_map"):
                    raise ValueError(
                        f"cannot count the products in {name!r} in {here or 'the function'}: the number of its "
                        "iterations is not known when it is traced"
                    )
                counts += inside
        varies |= dict.fromkeys(eqn.outvars, any(operands))
    return counts


def _inner(eqn: JaxprEqn) -> list[Jaxpr]:
    closed = [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in eqn.params.values()]
    return [jaxpr for jaxpr in closed if isinstance(jaxpr, Jaxpr)]


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def _dot_general(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    return math.prod(_shape(eqn.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    kernel = _shape(eqn.invars[1])  # its input features are those of one group
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // features


_PRODUCTS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
