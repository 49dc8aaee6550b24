"""The attention kernels of JAX and of tokamax, an optional dependency that takes seconds to import."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

TOKAMAX = ("mosaic", "triton")
LIBRARIES = ("xla", "cudnn", *TOKAMAX)


def library_attention(
    name: str,
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    value: Float[Array, "*batch keys heads v_head_dim"],
    *,
    mask: Bool[Array, "*mask"] | None,
    bias: Float[Array, "*bias"] | None,
    is_causal: bool,
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Return the attention that the kernel `name` of `LIBRARIES` computes; see `dot_product_attention`.

    Raises:
      ValueError: The kernel does not support this device, this dtype or these sizes.
      ImportError: The kernel belongs to `tokamax`, which is not installed.
    """
    batch, (queries, heads, qk_head_dim) = query.shape[:-3], query.shape[-3:]
    v_head_dim = value.shape[-1]

    def fold(x):  # The kernels take one batch dimension and one head size. Padding with zeros changes no product.
        x = x.reshape(-1, *x.shape[-3:])
        return jnp.pad(x, ((0, 0),) * 3 + ((0, max(qk_head_dim, v_head_dim) - x.shape[-1]),))

    def spread(x):  # Masks and biases may omit or broadcast any dimension; the kernels want all of them.
        if x is None or (len(batch) == 1 and x.ndim == 4):
            return x
        x = x.reshape((1,) * (len(batch) + 3 - x.ndim) + x.shape)
        return jnp.broadcast_to(x, (*batch, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    arrays = (fold(query), fold(key), fold(value), spread(bias), spread(mask))
    options = {"is_causal": is_causal, "scale": qk_head_dim**-0.5}
    try:
        out = _kernel(name)(*arrays, **options)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"attention kernel {name!r} does not run on this {jax.default_backend()} with these inputs: {error}"
        ) from error
    return out.reshape(*batch, queries, heads, -1)[..., :v_head_dim]


@functools.cache
def _odd_lengths_accepted() -> bool:
    """Have JAX accept an odd number of tokens for cuDNN; return whether it does.

    JAX 0.10 to 0.12 refuse to train with an odd number of queries or keys, although cuDNN only refuses it together with
    a bias: they pass a bias of size 0 to this check. Here the check is told that there is none. Padding every layer
    instead takes 4 % of a train step of ViT-B/16 on an H100.
    """
    try:
        from jax._src.cudnn import fused_attention_stablehlo as cudnn

        check, names = cudnn.check_is_flash_attention, inspect.signature(cudnn.check_is_flash_attention)
    except (ImportError, AttributeError):  # another JAX
        return False
    if "has_bias" not in names.parameters:
        return False

    def without_bias(*args, **kwargs):
        given = names.bind(*args, **kwargs)
        given.arguments["has_bias"] = False
        return check(*given.args, **given.kwargs)

    cudnn.check_is_flash_attention = without_bias
    return True


def with_even_lengths(attention: Callable[..., Array], odd_accepted: bool = False) -> Callable[..., Array]:
    """Return `jax.nn.dot_product_attention` with one more token where a number of tokens is odd.

    The added token is excluded by the lengths of the sequences, and removed from the output.

    Args:
      odd_accepted: Whether `attention` takes odd numbers without a mask and a bias, which are then left as they are.
    """

    def padded(query, key, value, bias, mask, *, is_causal: bool, scale: float) -> Array:
        (batch, queries), keys = query.shape[:2], key.shape[1]
        more_queries, more_keys = queries % 2, keys % 2
        if not (more_queries or more_keys) or (odd_accepted and bias is None and mask is None):
            return attention(query, key, value, bias, mask, is_causal=is_causal, scale=scale)

        def pad(x: Any, axes: dict[int, int]) -> Any:
            if x is None:
                return None
            return jnp.pad(x, [(0, axes.get(axis, 0) if x.shape[axis] > 1 else 0) for axis in range(x.ndim)])

        key, value = (jnp.pad(x, ((0, 0), (0, more_keys), (0, 0), (0, 0))) for x in (key, value))
        bias, mask = (pad(x, {2: more_queries, 3: more_keys}) for x in (bias, mask))
        out = attention(
            jnp.pad(query, ((0, 0), (0, more_queries), (0, 0), (0, 0))), key, value, bias, mask,
            query_seq_lengths=jnp.full((batch,), queries, jnp.int32),
            key_value_seq_lengths=jnp.full((batch,), keys, jnp.int32),
            is_causal=is_causal, scale=scale,
        )  # fmt: skip
        return out[:, :queries]

    return padded


def _kernel(name: str) -> Callable[..., Array]:
    if name == "cudnn":
        cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        return with_even_lengths(cudnn, _odd_lengths_accepted())
    if name not in TOKAMAX:
        return functools.partial(jax.nn.dot_product_attention, implementation="xla")
    try:
        import tokamax  # pyright: ignore[reportMissingImports]
        from absl import flags
    except ImportError as error:
        raise ImportError(
            f"attention kernel {name!r} needs tokamax: pip install 'vit_jax[kernels]', or choose 'xla'"
        ) from error

    # tokamax parses sys.argv if nobody has, and exits at options it does not know, such as those of Jupyter and pytest.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def attention(query, key, value, bias, mask, *, is_causal, scale):
        return tokamax.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            mask=mask,
            is_causal=is_causal,
            scale=scale,
            implementation=name,
        )

    return attention
