"""Where a step's time goes: the kernels of JAX's trace, sorted into kinds.

`benchmarks.models --profile` traces the train step that it measures and prints

    kind          what is counted
    products      linear layers, convolutions and their gradients
    attention     products of queries, keys and values, softmax and masks; fused attention kernels
    reductions    sums and means: layer norms, gradients of biases
    transposes    kernels that only move data, or change its order besides
    element-wise  activations, residuals, dropout, the optimizer
    other         random numbers, communication, and what could not be told apart
    idle          the device waited (accelerators only)

On accelerators a kernel's time is the device's. On a CPU, where kernels run in several threads at once, it is the sum
over the threads, and may exceed the step's.
"""

import dataclasses
import glob
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

KINDS = ("products", "attention", "reductions", "transposes", "element-wise", "other", "idle")

_MOVES = {
    "parameter", "constant", "copy", "bitcast", "bitcast-convert", "reshape", "transpose", "broadcast", "slice",
    "concatenate", "pad", "dynamic-slice", "dynamic-update-slice", "gather", "reverse", "convert", "tuple",
    "get-tuple-element", "iota", "copy-start", "copy-done",
}  # fmt: skip
_CONTAINERS = ("while", "conditional", "call", "async-start", "async-done")
_OTHER = ("rng", "rng-bit-generator", "all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_ATTENTION = re.compile(r"(^|[/(])(\w+_)?attention\)*/(?!(query|key|value|out|qkv)\b)")  # but its linear layers
_FUSED_ATTENTION = re.compile(r"sdpa|fmha|flash|attention")
# names of kernels that the program does not explain, such as those of cuBLAS in a graph
_BY_NAME = (
    ("reductions", r"triton_softmax"),  # XLA's name for all fusions around a sum, such as layer norms
    ("attention", _FUSED_ATTENTION.pattern + "|softmax"),
    ("other", r"nccl|all_reduce|all_gather|memset|rng|threefry"),
    ("products", r"gemm|gemv|nvjet|cutlass|xmma|wgmma|matmul|(^|_)dot|conv(?!ert)"),
    ("reductions", r"reduce|norm"),
    ("transposes", r"transpose|copy|memcpy|concatenate|slice|pad|gather|scatter"),
    ("element-wise", r"fusion|loop|elementwise"),
)


@dataclasses.dataclass
class Kernel:
    """The kernels of one kind that come from the same operation, in all layers.

    Attributes:
      name: The name of the first of them, without its number.
      calls, milliseconds: How often they run in a step, and how long.
      operation: Where the operation is in the model, such as `jvp(ViT)/encoder/block_*/mlp/in/dot_general`.
    """

    name: str
    kind: str
    calls: float
    milliseconds: float
    operation: str = ""


@dataclasses.dataclass
class Instruction:
    """An instruction of the compiled program.

    Attributes:
      opcodes: Its own, and those of the computation it calls.
      text: The line, and those of the products in the computation it calls.
    """

    opcode: str
    opcodes: set[str]
    operation: str
    text: str


def trace(run: Callable[[], Any], steps: int, program: str) -> list[Kernel]:
    """Runs under JAX's profiler; returns the kernels of a step by descending time.

    Args:
      run: Takes `steps` steps and waits for them.
      program: The compiled step as text, which tells what a kernel computes.
    """
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        return kernels(jax.profiler.ProfileData.from_file(path), steps, program)


def kernels(profile: Any, steps: int, program: str) -> list[Kernel]:
    """Reads the kernels of the first device from a trace."""
    instructions = read_program(program)
    mangled: dict[str, str] = {re.sub(r"[.\-]", "_", name): name for name in instructions}
    planes = list(profile.planes)
    devices = sorted((plane for plane in planes if plane.name.startswith("/device:")), key=lambda plane: plane.name)
    devices = [plane for plane in devices if any(True for line in plane.lines for _ in line.events)]
    found: dict[tuple[str, str], Kernel] = {}
    spans = []
    for line in _lines(devices[0]) if devices else [line for plane in planes for line in plane.lines]:
        for event in line.events:
            name = str(dict(event.stats).get("hlo_op", ""))
            if not devices and not name:
                continue  # the host's own work
            if name not in instructions or instructions[name].opcode in _CONTAINERS:
                name = mangled.get(str(event.name), str(event.name))
            instruction = instructions.get(name)
            if instruction and instruction.opcode in _CONTAINERS:
                continue  # what is in it has events of its own
            kind = kind_of(instruction, str(event.name)) if instruction else kind_by_name(str(event.name))
            operation = _of_all_layers(instruction.operation) if instruction else ""
            short = re.sub(r"[._]\d+$", "", name)
            kernel = found.setdefault((kind, operation or short), Kernel(short, kind, 0, 0.0, operation))
            kernel.calls += 1 / steps
            kernel.milliseconds += event.duration_ns / steps / 1e6
            spans.append((event.start_ns, event.start_ns + event.duration_ns))
    rows = list(found.values())
    if devices and spans:
        idle = max(end for _, end in spans) - min(start for start, _ in spans) - _covered(spans)
        rows.append(Kernel("idle", "idle", 1, idle / steps / 1e6))
    return sorted(rows, key=lambda kernel: -kernel.milliseconds)


def read_program(text: str) -> dict[str, Instruction]:
    """Parses a compiled program, as XLA prints it, into its instructions by name."""
    bodies: dict[str, list[tuple[str, str, str]]] = {}
    body: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            body = bodies.setdefault(head[1], [])
        elif found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = .*?\s([a-z][a-z\-]*)\(", line):
            body.append((found[1], found[2], line))
    instructions = {}
    for name, opcode, line in (row for body in bodies.values() for row in body):
        called = re.search(r"calls=%?([\w.\-]+)", line)
        inside = bodies.get(called[1], []) if called else []
        named = [line, *(text for _, _, text in reversed(inside))]  # a fusion may have no name of its own
        operation = next(filter(None, (re.search(r'op_name="([^"]*)"', text) for text in named)), None)
        products = [text for _, code, text in inside if code in ("dot", "convolution")]
        instructions[name] = Instruction(
            opcode, {opcode, *(code for _, code, _ in inside)}, operation[1] if operation else "",
            "\n".join([line, *products]),
        )  # fmt: skip
    return instructions


def kind_of(instruction: Instruction, kernel: str = "") -> str:
    """Returns the kind of an instruction's kernel."""
    text, codes = instruction.text, instruction.opcodes
    target = re.search(r'custom_call_target="([^"]*)"', text)
    call = target[1] if target else ""
    in_attention = bool(_ATTENTION.search(instruction.operation))
    if _FUSED_ATTENTION.search(call.lower()) or _FUSED_ATTENTION.search(kernel.lower()):
        return "attention"
    if codes & {"dot", "convolution"} or re.search("gemm|matmul|conv", call):
        batched = re.search(r'lhs_batch_dim(s=\{\d|ensions":\["\d)', text)
        return "attention" if in_attention and batched else "products"
    if call and in_attention:
        return "attention"  # a kernel of our own
    if codes & set(_OTHER) or call:
        return "other"
    if codes - {"fusion"} <= _MOVES:
        return "transposes"
    if in_attention and codes & {"exponential", "reduce", "divide", "maximum", "select"}:
        return "attention"
    if codes & {"reduce", "reduce-window"}:
        return "reductions"
    return "transposes" if "transpose" in codes else "element-wise"


def kind_by_name(kernel: str) -> str:
    """Returns the kind that the name of a kernel suggests."""
    return next((kind for kind, pattern in _BY_NAME if re.search(pattern, kernel.lower())), "other")


def by_kind(found: Iterable[Kernel]) -> dict[str, float]:
    """Returns the milliseconds of each kind in a step."""
    sums: Counter[str] = Counter()
    for kernel in found:
        sums[kernel.kind] += kernel.milliseconds  # pyright: ignore[reportArgumentType]
    return {kind: sums[kind] for kind in KINDS if kind in sums}


def describe(found: list[Kernel], largest: int = 8) -> str:
    """Returns a table of the kinds, and of the largest kernels."""
    kinds, total = by_kind(found), sum(kernel.milliseconds for kernel in found) or 1.0
    lines = [f"    {kind:14} {value:10.2f} ms {value / total:6.1%}" for kind, value in kinds.items()]
    for kernel in found[:largest]:
        where = kernel.operation[-66:]
        lines.append(f"      {kernel.milliseconds:8.2f} ms {kernel.calls:6.1f} x {kernel.name[:44]:44} {where}")
    return "\n".join(lines)


def _of_all_layers(operation: str) -> str:
    """Shortens the name of an operation to one that all layers share."""
    return re.sub(r"\bjit\(_?\w+\)/", "", re.sub(r"block_\d+", "block_*", operation.partition(";")[0]))


def _lines(device: Any) -> list[Any]:
    """Returns the lines of a device that hold each kernel once: of a GPU its streams, of a TPU its operations."""
    lines = list(device.lines)
    for name in ("Stream", "XLA Ops"):
        if chosen := [line for line in lines if line.name.startswith(name)]:
            return chosen
    return lines


def _covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of spans."""
    covered, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered
