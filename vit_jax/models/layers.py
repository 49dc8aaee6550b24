"""The layers every family shares: patches, MLP, drop path, the pre-norm block and a stack of them."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.dense import Dense

# for the backward pass only their input is kept, not the three to five arrays of its size that cost more than the GELU
GELU = {
    "tanh": jax.checkpoint(functools.partial(nn.gelu, approximate=True)),  # google-research, Flax's default
    "exact": jax.checkpoint(functools.partial(nn.gelu, approximate=False)),  # timm, Hugging Face, TNT, TimeSformer
}
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_choices(model: nn.Module, **choices: Collection[str]) -> None:
    """Raises ValueError, with what is known, where a field is not one of its choices."""
    for field, known in choices.items():
        if getattr(model, field) not in known:
            raise ValueError(f"{field}={getattr(model, field)!r}: one of {', '.join(known)}")


def torch_uniform(fan_in: int) -> Callable:
    """Initial values of torch's convolutions and linear layers, kernel and bias alike: uniform, +-1 / sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class PatchEmbed(nn.Module):
    """Splits images into patches and projects each (ViT, equation 1).

    A strided convolution, computed as one matrix product: several times faster than a convolution on a CPU,
    equal elsewhere. As with the authors' VALID padding, pixels right and below of the last whole patch are dropped.
    """

    patch_size: tuple[int, int]
    hidden_dim: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch grid_height grid_width hidden_dim"]:
        *batch, height, width, channels = images.shape
        ph, pw = self.patch_size
        gh, gw = height // ph, width // pw
        kernel = self.param("kernel", self.kernel_init, (ph, pw, channels, self.hidden_dim), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.hidden_dim,), self.param_dtype)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        patches = images[..., : gh * ph, : gw * pw, :].reshape(*batch, gh, ph, gw, pw, channels)
        patches = jnp.moveaxis(patches, -4, -3).reshape(*batch, gh, gw, ph * pw * channels)
        return patches @ kernel.reshape(-1, self.hidden_dim) + bias


class MLP(nn.Module):
    """Two-layer perceptron; dropout after each layer, as in google-research/vision_transformer."""

    mlp_dim: int
    gelu: str = "tanh"
    dropout_rate: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"], *, train: bool) -> Float[Array, "*batch hidden_dim"]:
        dense = functools.partial(
            Dense,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        hidden = GELU[self.gelu](dense(self.mlp_dim, name="in")(x))
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=not train)
        out = dense(x.shape[-1], name="out")(hidden)
        return nn.Dropout(self.dropout_rate)(out, deterministic=not train)


class DropPath(nn.Module):
    """Drops a residual branch for a whole example (Deep Networks with Stochastic Depth, arXiv:1603.09382).

    Survivors are scaled by 1 / (1 - rate), so that evaluation needs no correction.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest"], rate: float | Float[Array, ""], *, train: bool
    ) -> Float[Array, "batch *rest"]:
        if not train or (isinstance(rate, float) and rate == 0.0):
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), 0)


class LayerScale(nn.Module):
    """Scales each channel of a residual branch (CaiT, arXiv:2103.17239); the identity when `init_value` is None."""

    init_value: float | None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch hidden_dim"]) -> Float[Array, "*batch hidden_dim"]:
        if self.init_value is None:
            return x
        scale = self.param("scale", nn.initializers.constant(self.init_value), x.shape[-1:], self.param_dtype)
        return x * scale.astype(x.dtype)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention, then MLP (ViT, equations 2 and 3).

    Attributes:
      num_heads, mlp_dim: Heads, and width of the MLP's hidden layer.
      dropout_rate: After the attention's output projection and in the MLP.
      layer_scale_init: Initial scale of the residual branches; None for none.
      norm_epsilon: Of the layer norms; they and the softmax compute in float32.
      mlp_gate: Makes a module, from `name`, whose output for that of the MLP is added to it; None for none.
      kernel_init, bias_init: Of attention and MLP, and of the MLP.
    """

    num_heads: int
    mlp_dim: int
    gelu: str = "tanh"
    qkv_bias: bool = True
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    layer_scale_init: float | None = None
    norm_epsilon: float = 1e-6
    mlp_gate: Callable[..., nn.Module] | None = None
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    attention_kernel: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens hidden_dim"],
        drop_path_rate: float | Float[Array, ""] = 0.0,
        *,
        mask: Bool[Array, "*mask"] | None = None,
        relative: Float[Array, "tokens tokens head_dim"] | None = None,
        return_weights: bool = False,
        train: bool,
    ) -> tuple[Float[Array, "batch tokens hidden_dim"], Float[Array, "batch heads tokens tokens"] | None]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_epsilon, **types)
        scale = functools.partial(LayerScale, self.layer_scale_init, param_dtype=self.param_dtype)

        y, weights = MultiHeadAttention(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            kernel=self.attention_kernel,
            kernel_init=self.kernel_init,
            name="attention",
            **types,
        )(norm(name="attention_norm")(x), mask=mask, relative=relative, return_weights=return_weights, train=train)
        y = nn.Dropout(self.dropout_rate)(y, deterministic=not train)
        x = x + DropPath()(scale(name="attention_scale")(y), drop_path_rate, train=train)

        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        mlp = MLP(self.mlp_dim, self.gelu, self.dropout_rate, **inits, name="mlp", **types)
        y = mlp(norm(name="mlp_norm")(x), train=train)
        if self.mlp_gate is not None:
            y = y + self.mlp_gate(name="mlp_gate")(y)
        x = x + DropPath()(scale(name="mlp_scale")(y), drop_path_rate, train=train)
        return x, weights


class BlockStack(nn.Module):
    """`num_layers` blocks in sequence, as parameters `block_0`, `block_1`, ...

    The parameters are the same tree with and without `scan_layers`: scanning stacks them inside the compiled
    step, so that initial values, checkpoints, layer decay, freezing and conversion know one tree only.

    Attributes:
      block: Makes a block from `name` or `parent`; called as
        `block(x, drop_path_rate, return_weights=..., train=...) -> (x, weights)`, both any pytree. Blocks that
        differ are given as a tuple, one a layer, and are never scanned.
      drop_path_rate: Of the last block; the rate rises linearly from 0 at the first.
      scan_layers: Compile one block instead of `num_layers`. Capturing runs the unrolled blocks.
      remat: `none`; `full` recomputes each block in the backward pass; `dots` keeps its matrix products.
    """

    block: Callable[..., nn.Module] | tuple[Callable[..., nn.Module], ...]
    num_layers: int
    drop_path_rate: float = 0.0
    scan_layers: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x: Any, *, train: bool, capture: Collection[str] = ()) -> tuple[Any, dict[str, Any]]:
        """Returns the output, and of layer i `tokens/i` (its output) and `attention/i` as named in `capture`."""
        ramp = self.drop_path_rate / max(self.num_layers - 1, 1)
        rates = [ramp * i for i in range(self.num_layers)]
        if self.scan_layers and callable(self.block) and not capture and not self.is_initializing():
            return self._scan(self.block, x, rates, train), {}

        captured = {}
        blocks = (self.block,) * self.num_layers if callable(self.block) else self.block
        for i, (block, rate) in enumerate(zip(blocks, rates, strict=True)):

            def call(block, x, i=i, rate=rate):
                return block(x, rate, return_weights=f"attention/{i}" in capture, train=train)

            if self.remat != "none":
                call = nn.remat(call, policy=REMAT[self.remat])
            x, weights = call(block(name=f"block_{i}"), x)
            captured |= {f"attention/{i}": weights, f"tokens/{i}": x}
        return x, {name: captured[name] for name in capture if name in captured}

    def _scan(self, make_block: Callable[..., nn.Module], x: Any, rates: list[float], train: bool) -> Any:
        blocks = [self.variables["params"][f"block_{i}"] for i in range(self.num_layers)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        block = make_block(parent=None)
        # a model without dropout trains without a "dropout" rng, as it does unrolled
        has_rng = train and self.has_rng("dropout")
        rngs = jax.random.split(self.make_rng("dropout"), self.num_layers) if has_rng else None
        # a rate that is a static 0 keeps the whole branch free of random draws
        ramp = jnp.asarray(rates) if self.drop_path_rate else None

        def call(x, layer):
            params, rate, rng = layer
            rngs = None if rng is None else {"dropout": rng}
            x, _ = block.apply({"params": params}, x, 0.0 if rate is None else rate, train=train, rngs=rngs)
            return x, None

        if self.remat != "none":
            call = jax.checkpoint(call, policy=REMAT[self.remat])
        return jax.lax.scan(call, x, (stacked, ramp, rngs))[0]
