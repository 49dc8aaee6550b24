"""A stack of blocks: unrolled or scanned, rematerialised or not, with captured values."""

from collections.abc import Callable, Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from vit_jax.models.kernels.chunked import ATTENDED
from vit_jax.models.kernels.products import row_major_on_gpu
from vit_jax.models.layers import TypedModule

_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_ATTENTION = jax.checkpoint_policies.save_only_these_names(ATTENDED)
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": _DOTS,
    "attention": _ATTENTION,
    "dots_attention": jax.checkpoint_policies.save_from_both_policies(_DOTS, _ATTENTION),
    "branches": jax.checkpoint_policies.nothing_saveable,  # and see `ResidualBlock`
}

_PRODUCTS = ("dot_general", "conv_general_dilated", "pallas_call", "dot_product_attention")  # the last: cuDNN's


def _products_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keep the results of products and of attention kernels. All else is cheap to compute again."""
    return primitive.name.startswith(_PRODUCTS)


class ResidualBlock(TypedModule, kw_only=True):
    """Base class of the blocks.

    Attributes:
      remat_branches: Whether the backward pass computes each residual branch from its input when it has the gradient of
        the branch's output, so that it holds the values of one branch at a time. When a block is only computed again
        as a whole, XLA keeps those of all its branches.
    """

    remat_branches: bool = False

    def _branch(self, branch: Callable, x: Array, *constants: Any) -> Any:
        """Return `branch(self, x, *constants)`, for a method of the block."""

        def call(block, x):
            return branch(block, row_major_on_gpu(x), *constants)

        return (nn.remat(call) if self.remat_branches else call)(self, x)


class BlockStack(nn.Module):
    """Runs `num_layers` blocks in sequence; their parameters are `block_0`, `block_1`, ...

    The parameter tree is the same with and without `scan_layers`: scanning stacks the parameters inside the compiled
    step. Initial values, checkpoints, layer decay, freezing and conversion therefore know one tree only.

    Attributes:
      block: Factory of a block, called as `block(name=...)` or `block(parent=None)`. The block is called as
        `block(x, drop_path_rate, return_weights=..., train=...)` and returns `(x, weights)`, both any pytree. Blocks
        that differ from each other are given as a tuple of factories, one per layer, and are never scanned.
      drop_path_rate: Rate of the last block. It rises linearly over depth: block i of n has i / (n - 1) of it.
      scan_layers: Whether to compile one block and loop over the layers. Capturing runs the unrolled blocks.
      remat: What the forward pass of a block keeps for the backward pass, which recomputes the rest from the input of
        the block. `none`: everything, except that scanned blocks keep products only; `full`: nothing, so that the whole
        block is computed again; `branches`: nothing either, and each residual branch is computed once more from its own
        input, see `ResidualBlock`; `dots`: products with kernels; `attention`: the outputs of attention;
        `dots_attention`: both.
    """

    block: Callable[..., nn.Module] | tuple[Callable[..., nn.Module], ...]
    num_layers: int
    drop_path_rate: float = 0.0
    scan_layers: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: PyTree[Array], *, train: bool, capture: Collection[str] = ()
    ) -> tuple[PyTree[Array], dict[str, Any]]:
        """Return the output of the last block, and a dict of what `capture` names.

        Args:
          capture: `tokens/i` is the output of layer i, `attention/i` its attention weights. Other names are ignored.
        """
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
        # The barrier is for the gradients, which pass it on their way back. Without it, XLA fuses the slicing of the
        # stacked gradients into the update of each parameter, and takes half as long again to compile for a GPU.
        blocks = jax.lax.optimization_barrier(blocks)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        block = make_block(parent=None)
        # A model without dropout trains without a "dropout" rng, as it does when its blocks are unrolled.
        has_rng = train and self.has_rng("dropout")
        rngs = jax.random.split(self.make_rng("dropout"), self.num_layers) if has_rng else None
        # If no path is dropped, blocks get the constant 0, which keeps random draws out of the compiled loop.
        ramp = jnp.asarray(rates) if self.drop_path_rate else None

        def call(x, layer):
            params, rate, rng = layer
            rngs = None if rng is None else {"dropout": rng}
            x, _ = block.apply({"params": params}, x, 0.0 if rate is None else rate, train=train, rngs=rngs)
            return x, None

        # A loop stores all that its backward pass needs once per layer, with nothing fused or shared. Element-wise
        # results are computed again instead: without this, scanning takes a third more memory than unrolled blocks.
        policy = REMAT[self.remat] or _products_saveable
        call = jax.checkpoint(call, policy=policy, prevent_cse=False)
        return jax.lax.scan(call, x, (stacked, ramp, rngs))[0]


def with_captured(output: Any, captured: dict[str, Any], capture: Collection[str], num_layers: int) -> Any:
    """Return `output`, or with `capture` the pair of it and a dict of the values named.

    Raises:
      ValueError: `capture` names what is not in `captured`.
    """
    if unknown := set(capture) - set(captured):
        raise ValueError(f"capture names {sorted(unknown)}; layers are 0 to {num_layers - 1}")
    return (output, {name: captured[name] for name in capture}) if capture else output
