"""Scaled dot-product attention, the kernels that compute it, and the choice among them.

Attention Is All You Need (arXiv:1706.03762), equation 1. `choice` is the table behind `auto`, `reference` the plain
formulation, `chunked` the one of linear memory, `libraries` the kernels of JAX and tokamax.
"""

from vit_jax.models.kernels.attention import KERNELS as KERNELS
from vit_jax.models.kernels.attention import dot_product_attention as dot_product_attention
from vit_jax.models.kernels.reference import attention_weights as attention_weights
from vit_jax.models.kernels.reference import weigh as weigh
