"""Scaled dot-product attention by any of the kernels."""

from jaxtyping import Array, Bool, Float

from vit_jax.devices.placement import is_whole
from vit_jax.models.kernels.choice import choose
from vit_jax.models.kernels.chunked import chunked_attention
from vit_jax.models.kernels.libraries import TOKAMAX, library_attention
from vit_jax.models.kernels.packed import packable, packed_attention
from vit_jax.models.kernels.reference import attention_weights, causal_mask, weigh

KERNELS = ("auto", "reference", "xla", "cudnn", "chunked", "packed", *TOKAMAX)


def dot_product_attention(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    value: Float[Array, "*batch keys heads v_head_dim"],
    *,
    mask: Bool[Array, "*mask"] | None = None,
    bias: Float[Array, "*bias"] | None = None,
    is_causal: bool = False,
    kernel: str = "auto",
    joint: Float[Array, "*batch tokens joint_dim"] | None = None,
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Return softmax(Q K^T / sqrt(d) + bias) V (equation 1) for any leading dimensions.

    All kernels give the same values and gradients within the accuracy of the dtype:

    - `reference`: plain einsums. The weights of all pairs are held in memory.
    - `xla`, `cudnn`: the implementations of `jax.nn.dot_product_attention`. For cuDNN, an odd number of tokens is
      padded by one.
    - `chunked`: blocks of queries and keys in plain XLA, see `chunked_attention`. Its memory is linear in the number of
      tokens, on all devices.
    - `mosaic`, `triton`: the implementations of `tokamax` (extra `kernels`), also linear.
    - `packed`: a Pallas kernel for self-attention within sequences of at most 32 tokens, without mask and bias, where
      the compiler does not divide arrays over devices; for all else `auto`.
    - `auto`: the kernel that the table `vit_jax.models.kernels.choice.RULES` has for the default device, the dtype, the
      number of keys and the width of a head.

    A query whose keys are all masked attends to all of them equally.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts to the same shape.
      is_causal: Query i attends to keys 0 to i only.
      kernel: One of `KERNELS`.
      joint: See `packed_attention`.

    Raises:
      ValueError: The kernel is unknown, or it does not support this device, this dtype or these sizes.
      ImportError: The kernel belongs to `tokamax`, which is not installed.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown attention kernel {kernel!r}; known: {', '.join(KERNELS)}")
    plain = mask is None and bias is None and not is_causal
    packs = plain and packable(query, key, value) and is_whole()
    if kernel == "auto" or (kernel == "packed" and not packs):
        kernel = choose(query.dtype, key.shape[-3], query.shape[-1], value.shape[-1], packs=packs)
    if kernel == "packed":
        return packed_attention(query, key, value, joint)
    if kernel == "reference":
        if is_causal:
            mask = causal_mask(query.shape[-3], key.shape[-3], mask)
        return weigh(attention_weights(query, key, mask, bias), value)
    if kernel == "chunked":
        return chunked_attention(query, key, value, bias, mask, is_causal=is_causal)
    return library_attention(kernel, query, key, value, mask=mask, bias=bias, is_causal=is_causal)
