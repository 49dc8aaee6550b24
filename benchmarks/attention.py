"""Time and memory of attention kernels by the number of tokens: forward, and forward with backward.

One sequence with the heads of ViT-B (12 of width 64) unless told otherwise. Memory is what XLA's analysis of the
compiled program says it needs besides inputs and outputs.

  python -m benchmarks.attention --tokens 197 1569 6273 --csv benchmarks/results/attention.csv
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax

from benchmarks import records
from vit_jax.commands.shared.common import keep_freed_memory
from vit_jax.models.kernels import dot_product_attention

COLUMNS = (
    "date", "commit", "device", "kernel", "dtype", "tokens", "batch", "heads", "head_dim", "what", "seconds",
    "cpu_seconds", "temporary_mib", "versions",
)  # fmt: skip
TOKENS = (197, 785, 1_569, 3_137, 6_273, 12_545, 18_817)


def kernel_of(name: str) -> Callable:
    """Returns attention by one of `KERNELS`, or by `tokamax`, which names its chunked XLA implementation."""
    if name != "tokamax":
        return functools.partial(dot_product_attention, kernel=name)
    import tokamax  # pyright: ignore[reportMissingImports]
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    return functools.partial(tokamax.dot_product_attention, implementation="xla_chunked")


def programs(attention: Callable, shape: tuple[int, ...], dtype: str) -> dict[str, Callable]:
    """Returns the compiled programs by what they compute; each takes four arrays."""
    x = jax.ShapeDtypeStruct(shape, dtype)

    def backward(query, key, value, gradient):
        return jax.vjp(attention, query, key, value)[1](gradient)

    forward = jax.jit(lambda query, key, value, gradient: attention(query, key, value))
    return {"forward": forward.lower(x, x, x, x).compile(), "backward": jax.jit(backward).lower(x, x, x, x).compile()}


def fastest(program: Callable, arrays: list[jax.Array], turns: int) -> tuple[float, float]:
    """Returns the least wall and processor time of some turns, after one that is not timed."""
    jax.block_until_ready(program(*arrays))
    times = []
    for _ in range(turns):
        started, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*arrays))
        times.append((time.perf_counter() - started, time.process_time() - used))
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--kernels", nargs="+", default=["reference", "xla", "chunked"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3, help="timed turns; 0 measures memory only")
    parser.add_argument("--most_mib", type=float, default=4_096, help="do not run what needs more than this")
    parser.add_argument("--csv", default="/tmp/attention.csv")
    args = parser.parse_args()
    table = records.Table(args.csv, COLUMNS)
    device = jax.devices()[0]
    kind = records.processor() if device.platform == "cpu" else device.device_kind
    for tokens in args.tokens:
        for dtype in args.dtypes:
            shape = (args.batch, tokens, args.heads, args.head_dim)
            arrays = [jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 4)]
            for kernel in args.kernels:
                for what, program in programs(kernel_of(kernel), shape, dtype).items():
                    mib = program.memory_analysis().temp_size_in_bytes / 2**20
                    runs = args.turns and mib <= args.most_mib
                    wall, cpu = fastest(program, arrays, args.turns) if runs else (None, None)
                    table.add(
                        date=records.today(), commit=records.commit(), device=kind, kernel=kernel, dtype=dtype,
                        tokens=tokens, batch=args.batch, heads=args.heads, head_dim=args.head_dim, what=what,
                        seconds=wall, cpu_seconds=cpu, temporary_mib=mib, versions=records.versions(["jax", "jaxlib"]),
                    )  # fmt: skip
                    timed = "not timed" if wall is None else f"{wall:9.4f} s {cpu:9.4f} s of CPU"
                    print(f"{tokens:>7} {dtype:<9} {kernel:<10} {what:<9} {timed} {mib:10.1f} MiB", flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    main()
