"""Compiles steps for an H100 that need not be there, and says what their kernels read and write.

    python -m benchmarks.compiled --models vit:B/16 tnt:S/16 --layers 2
    python -m benchmarks.compiled --models vit:B/16 --set attention_kernel=xla --largest 40

Needs JAX's plugin for CUDA (extra `cuda`) and no GPU: XLA compiles for the description of one, without trying which of
several kernels is fastest there. The step is that of `benchmarks.models`, in bfloat16 with the flags of
`vit_jax.commands`. The bytes that a kernel reads and writes, over the bandwidth of the memory, are the least time that
it can take, unless its operands are still in the cache; a product takes longer if its arithmetic does. What a profile
on a GPU takes beyond that is what there is to gain.
"""

import argparse
import functools
import math
import os
import re
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import records
from benchmarks.cases import BATCHES, Case
from benchmarks.models import parse_fields
from benchmarks.profile import KINDS, kind_of, read_program

COLUMNS = (
    "date", "commit", "device", "model", "what", "dtype", "batch", "layers", "set", "kind", "kernels", "gigabytes",
    "milliseconds", "temporary_gib", "versions",
)  # fmt: skip
BANDWIDTH = 3.0e12  # bytes a second of an H100, as a copy measures
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_ARRAY = re.compile(rf"\b({'|'.join(_SIZES)})\[([\d,]*)\]")
_NO_KERNEL = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "opt-barrier", "partition-id"}


class Kernel(NamedTuple):
    """A kernel of the program: what it does, the bytes it reads and writes, what it returns, and where in the model."""

    name: str
    kind: str
    bytes: int
    shape: str
    operation: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=BATCHES, default=["vit:B/16"], metavar="MODEL", help=", ".join(BATCHES))
    add("--what", nargs="+", choices=("train", "inference"), default=["train"])
    add("--batch", type=int, help="examples [per model, see benchmarks/cases.py]")
    add("--layers", type=int, default=2, help="number of blocks: they are alike [2]")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="further fields of the model")
    add("--largest", type=int, default=20, metavar="N", help="kernels to list, those of all layers together [20]")
    add("--csv", default="/tmp/compiled.csv", help="rows are appended here [/tmp/compiled.csv]")
    args = parser.parse_args()
    fields = parse_fields(parser, args.set)
    table = records.Table(args.csv, COLUMNS)
    sharding = pretend()
    for model in args.models:
        for what in args.what:
            batch = args.batch or BATCHES[model][0]
            case = Case(model, what, "bfloat16", batch, overrides={"num_layers": args.layers, **fields})
            started = time.process_time()
            compiled = compile_step(case, sharding)
            seconds, found = time.process_time() - started, list(kernels(compiled.as_text()))
            temporary = compiled.memory_analysis().temp_size_in_bytes / 2**30
            row = {
                "date": records.today(), "commit": records.commit(), "device": "H100, described", "model": model,
                "what": what, "dtype": case.dtype, "batch": batch, "layers": args.layers, "set": " ".join(args.set),
                "temporary_gib": temporary, "versions": records.versions(["jax", "jaxlib"]),
            }  # fmt: skip
            print(
                f"\n{model} {what}, batch {batch}, {args.layers} layers: {len(found)} kernels, compiled in "
                f"{seconds:.0f} s of processor time; {temporary:.2f} GiB of temporary memory"
            )
            for kind in KINDS:
                if sizes := [kernel.bytes for kernel in found if kernel.kind == kind]:
                    total = sum(sizes)
                    table.add(
                        **row,
                        kind=kind,
                        kernels=len(sizes),
                        gigabytes=total / 1e9,
                        milliseconds=1e3 * total / BANDWIDTH,
                    )
                    print(f"  {kind:14} {len(sizes):5} kernels {total / 1e9:8.2f} GB {1e3 * total / BANDWIDTH:8.2f} ms")
            _list(found, args.largest)
    print(f"\nrows are in {table.path}")


def pretend() -> Any:
    """Has JAX and the models take the device for an H100; returns the sharding that compiles for it.

    Raises:
      SystemExit: JAX's plugin for CUDA is not installed.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed
    import jax
    import jax._src.cudnn.fused_attention_stablehlo as cudnn
    from jax._src.pallas.triton import pallas_call_registration as pallas
    from jax.experimental import topologies

    import vit_jax.train  # noqa: F401, imports the kernels

    try:
        topology = topologies.get_topology_desc("h100", "cuda", target_config=_H100, topology="1x1x1")
    except Exception as error:  # of several kinds
        sys.exit(f"JAX cannot compile for a GPU here: {error}\nInstall its plugin: pip install 'vit_jax[cuda]'.")
    # These ask a device for what it is.
    cudnn.check_compute_capability = lambda capability: True
    cudnn.is_cuda_compute_capability_equal = lambda capability: False
    cudnn.check_cudnn_version = lambda: 91300
    pallas.gpu_info_lib = types.SimpleNamespace(get_gpu_info=lambda: types.SimpleNamespace(compute_capability=90))
    for name, module in list(sys.modules.items()):
        if name.startswith("vit_jax.") and hasattr(module, "generation"):
            module.generation = lambda: "hopper"  # pyright: ignore[reportAttributeAccessIssue]
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compile_step(case: Case, sharding: Any) -> Any:
    """Compiles what `benchmarks.models` measures as this project's side of a case."""
    import jax

    from benchmarks.jax_sides import Ours
    from vit_jax.commands.shared.common import GPU_FLAGS
    from vit_jax.devices.placement import mapped
    from vit_jax.train import train_step

    side = Ours(case)
    step: Any = functools.partial(side.task.predict, side.model)
    if case.what == "train":
        step = functools.partial(train_step, model=side.model, task=side.task, tx=side.tx, axis_name=None)
    carry = side.state if case.what == "train" else side.state.params
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (carry, case.inputs(side.model))
    )
    donated = (0,) if case.what == "train" else ()
    flags = {name: value == "true" if value in ("true", "false") else int(value) for name, value in GPU_FLAGS.items()}
    return jax.jit(mapped()(step), donate_argnums=donated).lower(*shapes).compile(compiler_options=flags)


def kernels(program: str) -> Iterator[Kernel]:
    """Reads the kernels of a compiled program, as XLA prints it."""
    instructions = read_program(program)
    shapes: dict[str, str] = {}
    for line in program[program.index("\nENTRY ") :].splitlines():
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z\-]*)\((.*)", line)
        if not found:
            continue
        name, shapes[name], opcode, rest = found[1], found[2], found[3], found[4]
        if opcode not in _NO_KERNEL:
            operands = re.findall(r"%([\w.\-]+)", rest.partition("), ")[0])
            size = size_of(shapes[name]) + sum(size_of(shapes.get(operand, "")) for operand in operands)
            instruction = instructions[name]
            yield Kernel(name, kind_of(instruction), size, shapes[name], instruction.operation)


def size_of(shape: str) -> int:
    """Returns the bytes of an array or a tuple of arrays, such as `(bf16[256,768]{1,0}, f32[])`."""
    arrays = _ARRAY.findall(shape)
    return sum(_SIZES[dtype] * math.prod(int(size) for size in sizes.split(",") if size) for dtype, sizes in arrays)


def _list(found: list[Kernel], largest: int) -> None:
    sizes: Counter[tuple[str, ...]] = Counter()
    calls: Counter[tuple[str, ...]] = Counter()
    for kernel in found:
        operation = re.sub(r"block_\d+", "*", kernel.operation)[-64:]
        key = (
            kernel.kind,
            re.sub(r"[.\d]+$", "", kernel.name)[:28],
            re.sub(r"\{[^}]*\}", "", kernel.shape)[:40],
            operation,
        )
        sizes[key] += kernel.bytes
        calls[key] += 1
    for key, size in sizes.most_common(largest):
        kind, name, shape, operation = key
        print(f"  {1e3 * size / BANDWIDTH:7.3f} ms {calls[key]:3} x {kind:13} {name:28} {shape:40} {operation}")


if __name__ == "__main__":
    main()
