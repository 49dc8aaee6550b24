"""The layers that all families share: linear, patch embedding, MLP, drop path, layer scale."""

import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from vit_jax.devices.placement import flat_rows
from vit_jax.models.kernels.activations import GELU as GELU
from vit_jax.models.kernels.channels import joins_tokens, per_channel
from vit_jax.models.kernels.products import at_least_float32 as at_least_float32
from vit_jax.models.kernels.products import matrix_product


def check_choices(model: nn.Module, **choices: Collection[str]) -> None:
    """Check that each field named in `choices` has one of the values listed for it.

    Raises:
      ValueError: A field has another value. The message lists the known ones.
    """
    for field, known in choices.items():
        if getattr(model, field) not in known:
            raise ValueError(f"{field} must be one of {', '.join(known)}, got {getattr(model, field)!r}")


def torch_uniform(fan_in: int) -> Callable:
    """Return torch's default initializer, uniform within +-1 / sqrt(fan_in).

    torch uses it for the kernels and the biases of its convolutions and linear layers.
    """

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class TypedModule(nn.Module, kw_only=True):
    """Base class of the modules here: adds the dtypes of the computation and of the parameters.

    Attributes:
      dtype: Inputs and parameters are cast to it. Layer norms and softmax compute in float32 or wider all the same.
      param_dtype: Parameters are created and stored in it.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def types(self) -> dict[str, Any]:
        """Both dtypes, as the keyword arguments of a submodule."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class DenseParameters(TypedModule):
    """The parameters of a linear layer, for a caller that computes the product.

    Attributes:
      features: Output size, or a tuple of sizes for several output axes.
    """

    features: int | tuple[int, ...]
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, inputs: tuple[int, ...]
    ) -> tuple[Float[Array, "inputs outputs"], Float[Array, "outputs"] | None]:
        """Return the kernel as a matrix, and the bias as a vector or None.

        Args:
          inputs: Sizes of the input axes.
        """
        return _linear_parameters(self, inputs)


def _linear_parameters(layer: Any, inputs: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Create the parameters of a `Dense` or `DenseParameters`; return the kernel as a matrix, the bias as a vector."""
    outputs = layer.features if isinstance(layer.features, tuple) else (layer.features,)
    matrix = math.prod(inputs), math.prod(outputs)

    def init(rng, shape, dtype):
        return layer.kernel_init(rng, matrix, dtype).reshape(shape)

    # parameters may be NumPy arrays, which promote types in another way
    kernel = jnp.asarray(layer.param("kernel", init, (*inputs, *outputs), layer.param_dtype)).reshape(matrix)
    bias = layer.param("bias", layer.bias_init, outputs, layer.param_dtype) if layer.use_bias else None
    return kernel, None if bias is None else jnp.asarray(bias).reshape(-1)


class Dense(TypedModule):
    """Linear layer on the last axes: y = x W + b.

    Its parameters and initial values are those of `nn.DenseGeneral`.

    The product is always one of two matrices: batch axes, input axes and output axes are each flattened first. Its
    gradients are then products of matrices too, and a CPU need not copy tokens and kernels into another layout for
    them, which makes a train step about 5 % faster there.

    Attributes:
      features: Output size, or a tuple of sizes for several output axes.
      num_axes: Number of input axes, counted from the last.
      out_dtype: Dtype in which products are summed and returned, if wider than `dtype`; None for `dtype`.
      activation: A function f(x W, b) that is returned in place of x W + b, such as one of `GELU`; None for the sum.
    """

    features: int | tuple[int, ...]
    num_axes: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    out_dtype: Any = None
    activation: Callable | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch_and_inputs"]) -> Float[Array, "*batch_and_outputs"]:
        batch, inputs = x.shape[: -self.num_axes], x.shape[-self.num_axes :]
        outputs = self.features if isinstance(self.features, tuple) else (self.features,)
        x, kernel, bias = promote_dtype(x, *_linear_parameters(self, inputs), dtype=self.dtype)
        out = matrix_product(flat_rows(x.reshape(*batch, len(kernel))), kernel, self.out_dtype)
        if self.activation is not None:
            out = self.activation(out, bias)
        elif bias is not None:
            out = per_channel(jnp.add, out.reshape(*batch, -1), bias)
        return out.reshape(*batch, *outputs)


class PatchEmbed(TypedModule):
    """Splits images into patches and projects each: y = flatten(patch) W + b (ViT, equation 1).

    This is a convolution whose stride is its kernel size, computed as one matrix product: several times faster than a
    convolution on a CPU, equally fast elsewhere. Pixels to the right of the last whole patch and below it are dropped,
    as the VALID padding of the authors' code does.
    """

    patch_size: tuple[int, int]
    hidden_dim: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, images: Float[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch grid_height grid_width hidden_dim"]:
        *batch, height, width, channels = images.shape
        ph, pw = self.patch_size
        gh, gw = height // ph, width // pw
        kernel = self.param("kernel", self.kernel_init, (ph, pw, channels, self.hidden_dim), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.hidden_dim,), self.param_dtype) if self.use_bias else None
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        patches = images[..., : gh * ph, : gw * pw, :].reshape(*batch, gh, ph, gw, pw, channels)
        patches = flat_rows(jnp.moveaxis(patches, -4, -3).reshape(*batch, gh, gw, ph * pw * channels))
        out = matrix_product(patches, kernel.reshape(-1, self.hidden_dim)).reshape(*batch, gh, gw, self.hidden_dim)
        return out if bias is None else out + bias


class MLP(TypedModule):
    """Two-layer perceptron: y = dropout(dropout(GELU(x W_in + b_in)) W_out + b_out).

    Dropout follows both layers, as in google-research/vision_transformer.

    Attributes:
      mlp_dim: Width of the hidden layer.
      gelu: Key of `GELU`: `exact` is x Phi(x), with the normal distribution function Phi; `tanh` is its approximation
        x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2; `quick` is the coarser x sigmoid(1.702 x) of CLIP.
    """

    mlp_dim: int
    gelu: str = "tanh"
    dropout_rate: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"], *, train: bool) -> Float[Array, "*batch hidden_dim"]:
        dense = functools.partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init, **self.types)
        hidden = dense(self.mlp_dim, activation=GELU[self.gelu], name="in")(x)
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=not train)
        out = dense(x.shape[-1], name="out")(hidden)
        return nn.Dropout(self.dropout_rate)(out, deterministic=not train)


class LayerNorm(TypedModule):
    """Layer norm: y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias, over the last axis.

    It is `nn.LayerNorm`, except that a GPU gets narrow tokens as `per_channel` joins them.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"]) -> Float[Array, "*batch hidden_dim"]:
        if not joins_tokens(x):
            norm = nn.LayerNorm(epsilon=self.epsilon, **self.types)
            nn.share_scope(self, norm)  # the parameters are named as if it were this module
            return norm(x)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        wide = at_least_float32(self.dtype)
        normal = nn.LayerNorm(epsilon=self.epsilon, use_scale=False, use_bias=False, dtype=wide)(x)
        return per_channel(lambda x, scale, bias: x * scale + bias, normal, scale, bias).astype(self.dtype)


class DropPath(nn.Module):
    """Drops a residual branch for whole examples (stochastic depth, arXiv:1603.09382), or for their sequences.

    While training, y = x k / (1 - rate), where k is drawn once for each of them: 0 with probability `rate`, else 1. The
    mean of y is x, so evaluation leaves x as it is.

    Attributes:
      num_axes: Number of leading axes along which k is drawn: 1 for whole examples, 2 for each sequence of an example.
    """

    num_axes: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest"], rate: float | Float[Array, ""], *, train: bool
    ) -> Float[Array, "batch *rest"]:
        if not train or (isinstance(rate, float) and rate == 0.0):
            return x
        shape = x.shape[: self.num_axes] + (1,) * (x.ndim - self.num_axes)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, shape)
        return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), 0)


class LayerScale(nn.Module):
    """Multiplies each channel by a learned scale: y_c = s_c x_c (CaiT, arXiv:2103.17239).

    Attributes:
      init_value: Initial value of all scales; None makes the layer the identity, without parameters.
    """

    init_value: float | None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"]) -> Float[Array, "*batch hidden_dim"]:
        if self.init_value is None:
            return x
        scale = self.param("scale", nn.initializers.constant(self.init_value), x.shape[-1:], self.param_dtype)
        return x * scale.astype(x.dtype)
