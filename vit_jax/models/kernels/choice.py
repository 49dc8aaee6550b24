"""Which kernel `auto` is: a table by device, dtype, number of keys and width of a head."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from vit_jax.models.kernels.hardware import GENERATIONS, generation

_HALVES = ("bfloat16", "float16")
_MANY = (4097, float("inf"))
_TOO_LARGE = "not timed here; the weights of 4,096 queries, keys and 12 heads take 0.75 GiB a layer"
_ANY_GPU = tuple(name for name in GENERATIONS if name not in ("cpu", "tpu"))


class Rule(NamedTuple):
    """A row of the table: where it applies, the kernel, and who measured it.

    Attributes:
      devices: Generations of `vit_jax.models.kernels.hardware`.
      dtypes: Names of the dtypes of the queries.
      keys: Smallest and largest number of keys.
      head_dims: Smallest and largest width of a head, the wider of queries and values.
      multiple: Number that divides both widths.
      kernel: Name of the kernel.
      source: Who measured it, or why it is so.
    """

    devices: tuple[str, ...]
    kernel: str
    source: str
    dtypes: tuple[str, ...] = ("float32", *_HALVES)
    keys: tuple[int, float] = (1, float("inf"))
    head_dims: tuple[int, float] = (1, float("inf"))
    multiple: int = 1

    def applies(self, device: str, dtype: str, keys: int, qk_head_dim: int, v_head_dim: int) -> bool:
        widths = (qk_head_dim, v_head_dim)
        return (
            device in self.devices
            and dtype in self.dtypes
            and self.keys[0] <= keys <= self.keys[1]
            and self.head_dims[0] <= max(widths) <= self.head_dims[1]
            and not any(width % self.multiple for width in widths)
        )


# The first row that applies decides. cuDNN takes widths that are multiples of 8, up to 128.
RULES = (
    Rule(
        ("cpu",), "chunked",
        "benchmarks/results/attention.csv: 1.1 to 1.3 of the processor time of reference, a tenth of its memory",
        dtypes=("float64", "float32", *_HALVES), keys=(1025, float("inf")),
    ),
    Rule(GENERATIONS, "chunked", _TOO_LARGE, dtypes=("float64",), keys=_MANY),
    Rule(GENERATIONS, "reference", "the softmax of the libraries is float32", dtypes=("float64",)),
    Rule(("cpu",), "xla", "benchmarks/models.py: TNT's words and TimeSformer's frames", keys=(1, 16)),
    Rule(("cpu",), "reference", "benchmarks/models.py: the tokens of an image"),
    Rule(
        ("hopper",), "cudnn",
        "ViT-B/16 on an H100: 0.67 to 0.98 of timm, two other changes included; huggingface/transformers#48163: 1.7 to "
        "2.3 times FlashAttention",
        dtypes=_HALVES, keys=(65, float("inf")), head_dims=(8, 128), multiple=8,
    ),
    Rule(
        ("hopper",), "packed",
        "an attention layer with its backward pass on an H100: 2.0 times xla for TNT's words (16 keys, heads of width "
        "6), 1.4 times for 8 frames of TimeSformer (width 64), 2.5 times cudnn",
        dtypes=_HALVES, keys=(1, 16), head_dims=(1, 64),
    ),
    Rule(
        ("blackwell",), "cudnn", "sgl-project/sglang#33655: 1.24 to 1.98 times FlashAttention 4 on a B200",
        dtypes=_HALVES, keys=(1024, float("inf")), head_dims=(8, 128), multiple=8,
    ),
    Rule((*_ANY_GPU, "tpu"), "chunked", _TOO_LARGE, keys=_MANY),
    Rule(
        _ANY_GPU, "xla",
        "not measured here; huggingface/transformers#48163: cuDNN has 0.82 (A100), 0.93 (A10G), 1.00 (L40S) and 0.88 "
        "(RTX PRO 6000) of the speed of FlashAttention",
    ),
    Rule(("tpu",), "xla", "not measured"),
)  # fmt: skip


def choose(
    dtype: Any, keys: int, qk_head_dim: int, v_head_dim: int, device: str | None = None, *, packs: bool = True
) -> str:
    """Return the kernel of the first row of `RULES` that applies; `xla` if none does.

    Args:
      device: One of `GENERATIONS`; None for that of the default device.
      packs: Whether `packed` takes the inputs; else its rows are passed over.
    """
    given = (device or generation(), jnp.dtype(dtype).name, keys, qk_head_dim, v_head_dim)
    rules = (rule for rule in RULES if packs or rule.kernel != "packed")
    return next((rule.kernel for rule in rules if rule.applies(*given)), "xla")
