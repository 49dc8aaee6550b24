"""Measures train steps and inference beside other implementations, turn by turn in one run.

    python -m benchmarks.models                                           # every model, float32 and bfloat16
    python -m benchmarks.models --models vit:B/16 --what train --dtypes bfloat16 --profile profile.csv
    python -m benchmarks.models --tiny                                    # a try: small models, a minute or two

A train step is forward and backward pass and AdamW with float32 parameters, without data loading and dropout. This
project runs through `vit_jax.train.train_step` under `pmap`, on all devices that JAX sees. The peers run on one
device, with the batch of one device: timm (ViT, TnT) and transformers (TimeSformer, and Marian for the Transformer)
with torch's fused attention, fused AdamW, and autocast for bfloat16, compiled by `torch.compile` on a GPU; with
--google also google-research's ViT. A peer that is not installed is left out.

Each side has a process of its own, because their threads disturb each other. The sides take turns, so that the noise
of a machine meets all of them; each allocates what it needs at the start of its turn and frees it at the end. JAX
keeps the memory it has freed for itself: on a GPU too small for two sides, --fresh ends every process after its turn.
benchmarks/README.md explains the columns of the CSV file. Set BENCHMARK_TRACEBACK=1 to see why a side failed.
"""

import argparse
import ast
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import records
from benchmarks.cases import BATCHES, TINY_BATCH, Case
from benchmarks.profile import describe
from benchmarks.turns import LEFT_OUT, Side, SideError, ruler, turn_semaphores

COLUMNS = (
    "date", "commit", "device", "devices", "model", "what", "dtype", "batch", "side", "mode", "status", "turns",
    "seconds", "fastest", "slowest", "examples_per_second", "peak_gib", "gmacs", "product_tflops", "utilisation",
    "ratio", "versions",
)  # fmt: skip
PROFILE_COLUMNS = (
    "date", "commit", "device", "model", "what", "dtype", "batch", "kind", "kernel", "calls", "milliseconds", "share",
    "operation",
)  # fmt: skip
WHAT, DTYPES = ("train", "inference"), ("float32", "bfloat16")
PRODUCT_SIZE = {"cpu": 2048, "tiny": 256}  # else 8192
PROFILED_STEPS = 3


def main() -> None:
    args = _parse()
    args.cache = tempfile.TemporaryDirectory()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", args.cache.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    bench = Bench(args)
    cases = [bench.case(*row) for row in itertools.product(args.what, args.dtypes, args.models)]
    groups = [cases[start : start + args.group] for start in range(0, len(cases), args.group)]
    done = 0
    for group in groups:
        if bench.out_of_time(done, len(group)):
            print(f"{args.minutes:g} minutes are nearly over: {len(cases) - done} rows are left out", flush=True)
            break
        bench.announce(done, len(cases), group)
        bench.measure(group)
        done += len(group)
    print(f"\n{bench.table()}\n\nrows are in {bench.csv.path}, after {_clock(bench.elapsed())}")


class Bench:
    """A run: the devices, the rate of a matrix product on them, and the rows so far."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.started = args, time.monotonic()
        self.lines: list[tuple[str, ...]] = []
        self.csv = records.Table(args.csv, COLUMNS)
        self.profile_csv = records.Table(args.profile, PROFILE_COLUMNS) if args.profile else None
        self.rates: dict[str, float] = {}
        with ruler("jax") as side:
            found = side.ask("device")
            self.platform, self.devices = found["platform"], found["count"]
            self.on_cpu = self.platform == "cpu"
            self._measure_products(side)
        with ruler("torch") as side, contextlib.suppress(SideError):
            self._measure_products(side)
        self.device = f"{records.processor()}, {records.cores()} cores" if self.on_cpu else found["kind"]
        self.row = {"date": records.today(), "commit": records.commit(), "device": self.device}
        self.versions = records.versions()
        rates = ", ".join(f"{dtype} {rate / 1e12:.3g} TFLOP/s" for dtype, rate in self.rates.items())
        print(f"{self.devices} x {self.device}; a matrix product: {rates}\n{self.versions}", flush=True)
        self.steps = args.steps or (2 if self.on_cpu else 10)
        self.turns = args.turns or (5 if self.on_cpu else 3)
        self.semaphores = turn_semaphores(not self.on_cpu)

    def case(self, what: str, dtype: str, model: str) -> Case:
        args = self.args
        batch = args.batch or (TINY_BATCH if args.tiny else BATCHES[model][self.on_cpu])
        compiled = {"always": True, "never": False, "auto": not self.on_cpu}[args.compile]
        return Case(
            model, what, dtype, batch, args.tiny, args.set, compiled, args.threads, args.google, args.processor_time
        )

    def measure(self, group: list[Case]) -> None:
        """Compiles the sides of all cases of a group, at once if there are several, then measures one by one."""
        if self.args.fresh:
            for case in group:
                self._fresh_turns(case)
            return
        with contextlib.ExitStack() as stack:
            started = [[self._start(stack, name, case) for name in case.sides] for case in group]
            if len(group) > 1:
                for side in itertools.chain.from_iterable(started):
                    side.tell("prepare")
            results = [Result(case) for case in group]
            for result, sides in zip(results, started, strict=True):  # nothing is measured while others compile
                for side in sides:
                    with result.failures(side.name):
                        if len(group) == 1:
                            side.tell("prepare")
                        result.prepared[side.name] = side.answer()
            for case, result, sides in zip(group, results, started, strict=True):
                for _ in range(self.turns):
                    for side in sides:
                        result.turn(side, self.steps)
                if self.profile_csv and sides[0].name in result.seconds:
                    self._profile(case, sides[0])
                self._record(result)
                for side in sides:
                    side.stop()

    def out_of_time(self, done: int, wanted: int) -> bool:
        """Says whether `wanted` more rows would probably end after the time allowed."""
        expected = self.elapsed() / done * wanted if done else 0.0
        return bool(self.args.minutes) and self.elapsed() + expected > 60 * self.args.minutes

    def announce(self, done: int, total: int, group: list[Case]) -> None:
        left = f"about {_clock(self.elapsed() / done * (total - done))} left" if done else "time left: not known yet"
        names = "; ".join(f"{case.model} {case.what} {case.dtype} {case.batch}" for case in group)
        print(f"\n[{done + 1}/{total}, {left}] {names}", flush=True)

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def table(self) -> str:
        """Returns the rows so far as a table for people."""
        head = ("model", "what", "dtype", "batch", "side", "ms a step", "GiB", "utilisation", "ratio")
        lines = (head, *self.lines)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    def _start(self, stack: contextlib.ExitStack, name: str, case: Case) -> Side:
        side = Side(name, case, self.platform, self.semaphores[name])
        stack.callback(side.stop)
        return side

    def _fresh_turns(self, case: Case) -> None:
        result = Result(case)
        for turn in range(self.turns):
            for name in case.sides:
                if name in result.failed:
                    continue
                with contextlib.ExitStack() as stack:
                    side = self._start(stack, name, case)
                    with result.failures(name):
                        result.prepared[name] = side.ask("prepare")
                    result.turn(side, self.steps)
                    if self.profile_csv and name == case.sides[0] and turn == 0 and name in result.seconds:
                        self._profile(case, side)
        self._record(result)

    def _measure_products(self, side: Side) -> None:
        size = self.args.product_size or PRODUCT_SIZE.get("tiny" if self.args.tiny else self.platform, 8192)
        for dtype in self.args.dtypes:
            rate = side.ask("product_rate", self.platform, dtype, size, self.args.threads)
            self.rates[dtype] = max(rate, self.rates.get(dtype, 0.0))

    def _profile(self, case: Case, side: Side) -> None:
        try:
            found = side.ask("profile", PROFILED_STEPS)
        except SideError as error:
            print(f"  no profile: {error}", flush=True)
            return
        total = sum(kernel.milliseconds for kernel in found) or 1.0
        assert self.profile_csv is not None
        for kernel in found:
            if (share := kernel.milliseconds / total) < 5e-4:
                continue
            self.profile_csv.add(
                **self.row, model=case.model, what=case.what, dtype=case.dtype, batch=case.batch, kind=kernel.kind,
                kernel=kernel.name, calls=kernel.calls, milliseconds=kernel.milliseconds, share=share,
                operation=kernel.operation,
            )  # fmt: skip
        print(describe(found), flush=True)

    def _record(self, result: "Result") -> None:
        case = result.case
        macs = result.prepared.get("vit_jax", {}).get("macs")
        medians = {name: statistics.median(seconds) for name, seconds in result.seconds.items()}
        for name in case.sides:
            if result.failed.get(name, "").startswith(LEFT_OUT):
                print(f"  {name} is {result.failed[name]}", flush=True)
                continue
            row = {
                **self.row, "devices": self.devices if name == "vit_jax" else 1, "model": case.model,
                "what": case.what, "dtype": case.dtype, "batch": case.batch, "side": name,
                "mode": result.prepared.get(name, {}).get("mode"), "status": result.failed.get(name, "ok"),
                "versions": self.versions, "product_tflops": self.rates[case.dtype] / 1e12,
            }  # fmt: skip
            if name in medians:
                flops = (6 if case.what == "train" else 2) * macs * case.batch if macs else None
                row |= {
                    "turns": len(result.seconds[name]), "seconds": medians[name],
                    "fastest": min(result.seconds[name]), "slowest": max(result.seconds[name]),
                    "examples_per_second": case.batch * row["devices"] / medians[name],
                    "peak_gib": result.peaks[name] / 2**30, "gmacs": macs and macs / 1e9,
                    "utilisation": flops / medians[name] / self.rates[case.dtype]
                    if flops and not case.processor_time else None,
                    "ratio": medians[name] / medians["vit_jax"] if name != "vit_jax" and "vit_jax" in medians else None,
                }  # fmt: skip
            self.csv.add(**row)
            self._say(row)

    def _say(self, row: dict[str, Any]) -> None:
        cells = [f"{row[key]}" for key in ("model", "what", "dtype", "batch", "side")]
        if row["status"] != "ok":
            print(f"  {row['side']}: {row['status']}", flush=True)
            cells += ["failed" if row["status"] != "out of memory" else "out of memory", "", "", ""]
        else:
            utilisation, ratio = (row[key] for key in ("utilisation", "ratio"))
            cells += [f"{row['seconds'] * 1e3:.2f}", f"{row['peak_gib']:.2f}"]
            cells += [f"{utilisation:.1%}" if utilisation else "", f"{ratio:.2f}" if ratio else ""]
            print(f"  {row['side']}: {cells[5]} ms a step, {cells[6]} GiB, ratio {cells[8] or '-'}", flush=True)
        self.lines.append(tuple(cells))


class Result:
    """What a case's sides answered: seconds per step of each turn, peaks in bytes, or why one failed."""

    def __init__(self, case: Case):
        self.case = case
        self.prepared: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    @contextlib.contextmanager
    def failures(self, name: str) -> Iterator[None]:
        """Notes that a side failed, and goes on without it."""
        try:
            yield
        except SideError as error:
            self.failed.setdefault(name, str(error))
            self.seconds.pop(name, None)

    def turn(self, side: Side, steps: int) -> None:
        if side.name in self.failed:
            return
        with self.failures(side.name):
            seconds, peak = side.ask("turn", 2 if side.name not in self.seconds else 1, steps)
            self.seconds.setdefault(side.name, []).append(seconds)
            self.peaks[side.name] = max(peak, self.peaks.get(side.name, 0))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=BATCHES, default=list(BATCHES), metavar="MODEL", help=", ".join(BATCHES))
    add("--what", nargs="+", choices=WHAT, default=WHAT, help="what to measure, in this order [train inference]")
    add("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="of the computation [float32 bfloat16]")
    add("--batch", type=int, help="examples per device [per model, see benchmarks/cases.py]")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of our model: attention_kernel=cudnn")
    add("--turns", type=int, help="turns of each side; their median counts [3; 5 on a CPU]")
    add("--steps", type=int, help="timed steps in a turn [10; 2 on a CPU]")
    add("--compile", choices=("auto", "always", "never"), default="auto", help="torch.compile [auto: on a GPU]")
    add("--threads", type=int, default=records.cores(), help="threads of torch on a CPU; JAX takes all cores [all]")
    add(
        "--processor_time", action="store_true", help="measure processor time: for one core of a machine that is shared"
    )
    add("--google", default="", metavar="DIR", help="clone of google-research/vision_transformer, another peer of ViT")
    add("--group", type=int, default=1, metavar="N", help="rows whose sides compile at the same time [1]")
    add("--fresh", action="store_true", help="end each process after its turn, so that one holds all the memory")
    add("--minutes", type=float, default=0, help="begin no row that would probably end later [no limit]")
    add("--product_size", type=int, help="rows of the matrices of the product measured [8192; 2048 on a CPU]")
    add("--csv", default="benchmarks/results/models.csv", metavar="FILE", help="to append rows to [%(default)s]")
    add("--profile", default="", metavar="FILE", help="trace our steps, and append their kernels to this CSV file")
    add("--tiny", action="store_true", help="small models and batches, one turn; for a try, rows in models_tiny.csv")
    args = parser.parse_args()
    if args.tiny:
        args.turns, args.steps = args.turns or 1, args.steps or 1
        if args.csv == parser.get_default("csv"):
            args.csv = os.path.join(tempfile.gettempdir(), "models_tiny.csv")
    args.set = parse_fields(parser, args.set)
    return args


def parse_fields(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, Any]:
    """Returns the fields of a model that --set gives."""
    fields: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            parser.error(f"--set takes FIELD=VALUE, got {text!r}")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return fields


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    main()
