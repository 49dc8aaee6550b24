"""Peers: independent implementations of the models, with random parameters, with which ours are compared.

timm, transformers and torch are installed by the extra `parity`. The authors' code cannot be installed as a package:
clone vision_transformer, TimeSformer and Efficient-AI-Backbones into one folder, and set `VIT_JAX_AUTHORS` to it.
Importing this module needs none of them, but building a peer does.
"""

import collections.abc
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict

Tensors = dict[str, np.ndarray]


class Case(NamedTuple):
    """A peer, and ours: `build_model(name, **fields)` with weights read as `format`."""

    peer: Callable[[], "TorchPeer | FlaxPeer"]
    format: str
    name: str
    fields: dict[str, Any]
    batch: int = 2


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Returns fixed values for tensors of these names, of a scale that keeps activations near 1."""

    def values(name, shape):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        noise = rng.standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            return noise * np.float32(np.prod(shape) ** -0.25)
        return 0.2 * noise + np.float32(name.rpartition(".")[2].rpartition("/")[2] in ("weight", "scale"))

    return {name: values(name, shape) for name, shape in sorted(shapes.items())}


def random_inputs(case: Case, input_shape: tuple[int, ...], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs (batch, *input_shape) and labels (batch,)."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((case.batch, *input_shape)).astype(np.float32)
    return inputs, rng.integers(num_classes, size=case.batch)


class TorchPeer:
    """A torch module.

    Args:
      layout: Axes of our inputs in the module's order.
      logits: Takes the logits from what the module returns.
    """

    def __init__(self, module: Any, layout: tuple[int, ...], logits: Callable = lambda out: out):
        self.module, self.layout, self.logits = module.eval(), layout, logits

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self.module.named_parameters()}

    def run(self, tensors: Tensors, inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Tensors]:
        """Returns the logits, and the gradient of their mean cross-entropy by name."""
        import torch

        parameters = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name]))
        logits = self.logits(self.module(torch.from_numpy(inputs.transpose(self.layout))))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        gradients = {
            name: np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
            for name, parameter in parameters.items()
        }
        return logits.detach().numpy(), gradients


class FlaxPeer:
    """A Linen module; names of its parameters are joined by `/`, and parts of them replaced by `renamed`."""

    def __init__(self, module: Any, input_shape: tuple[int, ...], renamed: dict[str, str]):
        import jax
        import jax.numpy as jnp

        self.module, self.renamed = module, renamed
        inputs = jnp.zeros((1, *input_shape))
        variables = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, train=False))
        self.tree = variables["params"]

    def _named(self, tree) -> dict[str, Any]:
        import jax

        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {"/".join(self.renamed.get(key.key, key.key) for key in path): leaf for path, leaf in leaves}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in self._named(self.tree).items()}

    def run(self, tensors: Tensors, inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Tensors]:
        """Returns the logits, and the gradient of their mean cross-entropy by name."""
        import jax
        import optax

        params = jax.tree.unflatten(jax.tree.structure(self.tree), [tensors[name] for name in self._named(self.tree)])

        @jax.jit
        def run(params):
            logits = self.module.apply({"params": params}, inputs, train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        (_, logits), gradients = jax.value_and_grad(run, has_aux=True)(params)
        return np.asarray(logits), {name: np.asarray(leaf) for name, leaf in self._named(gradients).items()}


IMAGES, VIDEOS = (0, 3, 1, 2), (0, 4, 1, 2, 3)


def timm_model(name: str, **options: Any) -> TorchPeer:
    with _stubs("torchvision"):
        import timm

    build = getattr(timm.models, name)  # not by timm's registry, where the authors' TNT enters itself as well
    return TorchPeer(build(pretrained=False, **options), IMAGES)


def hf_vit(**config: Any) -> TorchPeer:
    import transformers

    config = transformers.ViTConfig(**config, attn_implementation="eager")
    return TorchPeer(transformers.ViTForImageClassification(config), IMAGES, lambda out: out.logits)


def hf_timesformer(**config: Any) -> TorchPeer:
    import transformers

    model = transformers.TimesformerForVideoClassification(transformers.TimesformerConfig(**config, drop_path_rate=0))

    def average_frames(module, inputs, out):  # as the authors do before the last norm; transformers leaves it out
        return type(out)(out[0].unflatten(0, (-1, config["num_frames"])).mean(dim=1))

    if config["attention_type"] == "space_only":
        model.timesformer.encoder.register_forward_hook(average_frames)
    return TorchPeer(model, (0, 1, 4, 2, 3), lambda out: out.logits)


def google_vit(input_shape: tuple[int, ...], **options: Any) -> FlaxPeer:
    """google-research/vision_transformer's module."""
    with _authors("vision_transformer", package="vit_jax"):
        module = importlib.import_module("vit_jax.models_vit")
    patches = ConfigDict({"size": options.pop("patch_size")})
    if "resnet" in options:
        options["resnet"] = ConfigDict(options["resnet"])
    # Linen numbered a block's modules together when the weights were made, and numbers each class by itself today
    renamed = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1", "LayerNorm_1": "LayerNorm_2"}
    renamed |= {"MlpBlock_0": "MlpBlock_3"}
    return FlaxPeer(module.VisionTransformer(patches=patches, **options), input_shape, renamed)


def authors_timesformer(**options: Any) -> TorchPeer:
    """facebookresearch/TimeSformer's module."""
    six = types.ModuleType("torch._six")  # gone from torch since 1.9
    six.container_abcs = collections.abc  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["torch._six"] = six
    with _authors("TimeSformer", package="timesformer"), _stubs("fvcore"):
        package = types.ModuleType("timesformer.models")  # its own __init__ imports all of SlowFast
        package.__path__ = [str(pathlib.Path(sys.path[0]) / "timesformer" / "models")]
        sys.modules["timesformer.models"] = package
        vit = importlib.import_module("timesformer.models.vit")
    return TorchPeer(vit.VisionTransformer(**options, drop_path_rate=0.0), VIDEOS)


def authors_tnt(**options: Any) -> TorchPeer:
    """huawei-noah/Efficient-AI-Backbones's module."""
    with _stubs("torchvision"):
        importlib.import_module("timm")
    with _authors("Efficient-AI-Backbones/tnt_pytorch", package="tnt"):
        module = importlib.import_module("tnt")
    return TorchPeer(module.TNT(**options), IMAGES)


@contextmanager
def _authors(folder: str, package: str) -> Iterator[None]:
    """Imports from a clone inside the block; `package` of the same name is put back after it."""
    root = os.environ.get("VIT_JAX_AUTHORS")
    if not root:
        pytest.skip("the authors' code: name the folder of its clones in VIT_JAX_AUTHORS")
    path = pathlib.Path(root) / folder
    if not path.is_dir():
        pytest.skip(f"the authors' code: no {path}")

    def ours():
        return {name for name in sys.modules if name == package or name.startswith(f"{package}.")}

    hidden = {name: sys.modules.pop(name) for name in ours()}
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        for name in ours():
            del sys.modules[name]
        sys.modules.update(hidden)


@contextmanager
def _stubs(*packages: str) -> Iterator[None]:
    """Imports of what is not installed, and never called, succeed inside the block."""
    missing = [name for name in packages if not _installed(name)]
    finder = _StubFinder(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


class _AnyAttribute(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls()


class _Anything(metaclass=_AnyAttribute):
    """Stands for a class, a decorator or a constant of a missing package."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and callable(args[0]) else _Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _StubFinder:
    def __init__(self, packages: list[str]):
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == package or name.startswith(f"{package}.") for package in self.packages):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        vars(module)["__getattr__"] = functools.partial(getattr, _Anything)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []
