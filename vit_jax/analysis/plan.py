"""What a training run needs, found by compiling its step without allocating anything: memory, products, time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from vit_jax import config as schema
from vit_jax import state as states
from vit_jax.analysis.cost import count_macs, plain
from vit_jax.config import Config
from vit_jax.data.loading.levels import as_floats
from vit_jax.data.modality import get_modality, open_data
from vit_jax.data.unread import unread_data
from vit_jax.devices.recompute import compiler_options
from vit_jax.errors import UserError
from vit_jax.experiment import Experiment, complete
from vit_jax.tasks import group_of
from vit_jax.train import compile_step

_LARGEST = 2**24  # of `config.batch_size`


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device during a training step, by XLA's analysis of the compiled program.

    Attributes:
      state: Parameters, optimizer state and moving average; the step overwrites them in place.
      batch: The device's share of the batch.
      temporary: Activations, gradients and other intermediate values at their peak.
      peak: All of the above, and outputs that do not take the place of an input.
    """

    state: int
    batch: int
    temporary: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """The memory of one way to run the step.

    Attributes:
      strategy, remat: `config.parallel` and `config.model.remat`.
      memory: That of `config.batch_size`.
      largest_batch: The largest global batch that fits into the memory that was asked about; 0 if none does, None if
        nothing was asked.
    """

    strategy: str
    remat: str
    memory: Memory
    largest_batch: int | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run needs: see `make_plan`.

    Attributes:
      params: Number of parameters.
      macs: Multiply-accumulates of the forward pass of one global batch, attention included.
      batch_size: Global batch size, in `unit`.
      unit: What a batch is counted in: "images", "clips" or "tokens per side".
      rows: Examples of a global batch.
      steps: Updates of the run.
      devices: Number of devices, and their kind.
      seconds_per_step: 6 * macs / (devices * peak * utilisation); None without a peak.
      layouts: One for each strategy and remat that was asked for.
    """

    params: int
    macs: int
    batch_size: int
    unit: str
    rows: int
    steps: int
    devices: int
    device_kind: str
    seconds_per_step: float | None
    layouts: tuple[Layout, ...]

    @property
    def hours(self) -> float | None:
        """Duration of the run without evaluations."""
        return None if self.seconds_per_step is None else self.seconds_per_step * self.steps / 3_600

    @property
    def rows_per_second(self) -> float | None:
        """Examples that the input must supply per second, over all processes."""
        return None if self.seconds_per_step is None else self.rows / self.seconds_per_step

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible values."""
        return {**dataclasses.asdict(self), "hours": self.hours, "rows_per_second": self.rows_per_second}


def make_plan(
    config: Config,
    *,
    strategies: tuple[str, ...] = (),
    remats: tuple[str, ...] = (),
    num_classes: int | None = None,
    examples: int | None = None,
    memory: float | None = None,
    peak_tflops: float | None = None,
    utilisation: float = 0.4,
) -> Plan:
    """Plans the run of a config on the devices that JAX has, which may be simulated.

    The step is `train_step`, compiled by the same strategy as in training, on shapes instead of arrays. Its time is
    estimated as 6 * macs: 2 for each multiply-accumulate of the forward pass, twice as many for the backward pass.

    Args:
      strategies, remats: Values of `config.parallel` and `config.model.remat` to compare; those of the config if empty.
      num_classes, examples: Number of classes and of training examples. With them, the data are not read.
      memory: Bytes of one device, for which the largest batch is searched.
      peak_tflops: Peak of one device, in 10^12 operations per second, for the time of a step.
      utilisation: Fraction of the peak that the run reaches.

    Raises:
      UserError: A key has a wrong value, or the data must be read and cannot be.
    """
    schema.check(config)
    config = complete(config)
    data = unread_data(config, num_classes, examples) or _read(config)
    experiment = Experiment.assemble(config, data)
    shapes = data.batch_shapes(config.batch_size)
    macs = max(batch_macs(experiment, batch) for batch in shapes)
    seconds = None
    if peak_tflops:
        seconds = 6 * macs / (jax.device_count() * peak_tflops * 1e12 * utilisation)
    layouts = []
    for strategy in strategies or (config.parallel,):
        for remat in remats or (config.model.remat or "none",):
            changed = schema.copy(config)
            changed.parallel, changed.model.remat = strategy, remat
            layouts.append(_layout(Experiment.assemble(changed, data), memory))
    params = states.abstract_state(experiment).params
    return Plan(
        params=sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        macs=macs,
        batch_size=config.batch_size,
        unit=get_modality(data.encoder.key).unit,
        rows=max(batch["mask"].shape[0] for batch in shapes),
        steps=experiment.plan.total,
        devices=jax.device_count(),
        device_kind=jax.devices()[0].device_kind,
        seconds_per_step=seconds,
        layouts=tuple(layouts),
    )


def step_memory(experiment: Experiment, batch_size: int) -> Memory:
    """Returns the memory of a step with this `config.batch_size`; of the largest kind of batch, if there are several.

    Raises:
      UserError: The batch does not divide over the devices.
    """
    compiled = compile_step(experiment)
    state = states.abstract_state(experiment)
    found = []
    for batch in experiment.data.batch_shapes(batch_size):
        lowered = experiment.parallel.lower(compiled, state, batch)
        program = lowered.compile(compiler_options=compiler_options(experiment.config, jax.default_backend()))
        found.append(memory_of(program, batch, jax.device_count()))
    return max(found, key=lambda memory: memory.peak)


def memory_of(program: Any, batch: Any, shares: int) -> Memory:
    """Returns the memory of a compiled step that takes a state and this global batch, divided into shares."""
    stats = program.memory_analysis()
    inputs = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(batch)) // shares
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        state=stats.argument_size_in_bytes - inputs,
        batch=inputs,
        temporary=stats.temp_size_in_bytes,
        peak=stats.argument_size_in_bytes + stats.temp_size_in_bytes + new,
    )


def batch_macs(experiment: Experiment, batch: Any) -> int:
    """Returns the multiply-accumulates of the forward pass of a global batch, given by its shapes."""
    model, task = plain(experiment.model), experiment.task
    group = group_of(task)
    few = jax.tree.map(lambda x: jax.ShapeDtypeStruct((group, *x.shape[1:]), x.dtype), batch)
    key = jax.ShapeDtypeStruct((2,), "uint32")
    params = states.abstract_state(experiment).params

    def loss(params, batch, key):
        return task.loss(model, params, as_floats(batch), rngs={"dropout": key, "mix": key}, train=False)[0].value

    return count_macs(loss, params, few, key).total() * batch["mask"].shape[0] // group


def largest_batch(memory_at: Callable[[int], int], limit: float, unit: int, first: int = 1) -> int:
    """Returns a multiple of `unit` whose memory is within `limit` while that of the next multiple is not; or 0.

    Memory is nearly linear in the batch, so that a few evaluations suffice: the next guess is where the line through
    two known points crosses the limit.

    Args:
      memory_at: Returns the bytes that a batch of a size needs. It is called once for each size.
      first: The first size to try.
    """
    known: dict[int, int] = {0: 0}  # multiples of the unit -> bytes
    low, high = 0, _LARGEST // unit + 1  # low fits; high does not, or is too large to ask
    guess, stride = max(first // unit, 1), 1
    while high - low > 1:
        guess = min(max(guess, low + stride), high - 1)
        known[guess] = memory_at(guess * unit)
        fits = known[guess] <= limit
        low, high = (guess, high) if fits else (low, guess)
        stride = 2 * stride if fits else 1  # in case the line keeps falling short
        near, far = low, high if high in known else max((count for count in known if count < low), default=0)
        if near == 0:
            guess = high // 2
        elif far == 0:
            guess = low + 1
        else:
            slope = (known[far] - known[near]) / (far - near)
            guess = near + int((limit - known[near]) / slope) if slope > 0 else 2 * near
    return low * unit


def _layout(experiment: Experiment, limit: float | None) -> Layout:
    config = experiment.config
    memory = step_memory(experiment, config.batch_size)
    largest = None
    if limit is not None:
        found = {config.batch_size: memory.peak}

        def memory_at(batch_size: int) -> int:
            if batch_size not in found:
                found[batch_size] = step_memory(experiment, batch_size).peak
            return found[batch_size]

        unit = experiment.data.batch_unit * group_of(experiment.task)
        largest = largest_batch(memory_at, limit, unit, first=config.batch_size)
    return Layout(config.parallel, config.model.remat or "none", memory, largest)


def _read(config: Config) -> Any:
    try:
        return open_data(config)
    except UserError as error:
        raise UserError(
            f"{error} To plan without the data, give --num_classes (images and clips), and --examples unless "
            "config.duration is in steps."
        ) from error
