"""The sides that compute with JAX: this project, and google-research's ViT."""

import contextlib
import functools
import importlib.util
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.cases import SENTENCE_LENGTH, Case

LEARNING_RATE = 1e-3


def set_up() -> None:
    """Prepares a process for JAX; to be called before JAX is imported."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other sides need memory too
    from vit_jax.commands.shared.common import keep_freed_memory, use_gpu_flags

    keep_freed_memory()
    use_gpu_flags()


class Ours:
    """This project: `train_step` with AdamW under the strategy `pmap`, over all devices."""

    version_of = "vit_jax"

    def __init__(self, case: Case):
        import optax

        from vit_jax.devices.parallel import make_parallel

        self.case, self.model = case, case.build()
        self.parallel, self.task, self.tx = make_parallel("pmap"), self._task(), optax.adamw(LEARNING_RATE)
        self.state = self._state()
        self.function = self._train() if case.what == "train" else self._inference()
        self.mode = (
            "pmap"
            + ", processor time" * case.processor_time
            + "".join(f", {name}={value}" for name, value in case.overrides.items())
        )

    def compile(self) -> None:
        """Compiles everything, so that the turns only read it from the compilation cache."""
        self.hold()
        self.text = self.function.lower(self.carry, self.batch).compile().as_text()
        self.release()

    def hold(self) -> None:
        """Allocates parameters, optimizer state and a batch."""
        import jax

        devices = jax.local_device_count()
        batch = {key: np.concatenate([values] * devices) for key, values in self.case.inputs(self.model).items()}
        state = self.parallel.put_state(self.state)
        self.carry = state if self.case.what == "train" else state.params
        self.batch = self.parallel.put_batch(batch)

    def release(self) -> None:
        """Frees what `hold` allocated."""
        del self.carry, self.batch

    def run(self, steps: int) -> float:
        """Returns the seconds that `steps` steps take."""
        import jax

        started, out = self.case.clock(), None
        for _ in range(steps):
            if self.case.what == "train":
                self.carry, out = self.function(self.carry, self.batch)
            else:
                out = self.function(self.carry, self.batch)
        jax.block_until_ready((self.carry, out))
        return self.case.clock() - started

    def peak_bytes(self) -> int:
        return jax_peak_bytes()

    def macs(self) -> int:
        """Returns the multiply-accumulates of a forward pass of one example."""
        from vit_jax.analysis.cost import cost

        length = SENTENCE_LENGTH[self.case.tiny]
        return cost(self.model, *([(length,)] * 2 if self.case.family == "transformer" else [])).macs

    def profile(self, steps: int) -> Any:
        """Traces `steps` steps; returns the kernels (see `benchmarks.profile`)."""
        from benchmarks.profile import trace

        return trace(lambda: self.run(steps), steps, self.text)

    def _task(self):
        if self.case.family != "transformer":
            from vit_jax.tasks.classification import Classification

            return Classification(self.model.num_classes)
        from vit_jax.tasks.translation import Translation

        vocabulary: Any = None  # only needed to score
        return Translation(vocabulary, max_length=SENTENCE_LENGTH[self.case.tiny], label_smoothing=0.0)

    def _state(self) -> Any:
        """Returns a state on the host, with random parameters: compiling the initializers takes a minute on a GPU."""
        import jax

        from vit_jax.state import TrainState

        def init():
            params = self.model.init(jax.random.key(0), *self.task.init_inputs(self.model), train=False)["params"]
            return params, self.tx.init(params)

        rng = np.random.default_rng(0)
        params, opt_state = jax.eval_shape(init)
        params = jax.tree.map(lambda x: np.float32(0.02) * rng.standard_normal(x.shape, np.float32), params)
        opt_state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), opt_state)
        return TrainState(np.int32(0), params, opt_state, None, np.zeros(2, np.uint32))

    def _train(self):
        from vit_jax.train import train_step

        axis_name = self.parallel.axis_name
        step = functools.partial(train_step, model=self.model, task=self.task, tx=self.tx, axis_name=axis_name)
        return self.parallel.compile(step)

    def _inference(self):
        predict = functools.partial(self.task.predict, self.model)
        if self.case.family == "transformer":  # the task would search for translations

            def predict(params, batch):
                inputs = batch["source"], batch["target"][:, :-1]
                return self.model.apply({"params": params}, *inputs, train=False)

        return self.parallel.compile_predict(predict)


class Google(Ours):
    """google-research/vision_transformer's module, under `jax.jit` on one device, with the same optimizer."""

    def __init__(self, case: Case):
        import jax
        import optax

        if case.dtype != "float32":
            raise LookupError("its modules compute in float32 only")
        self.case, self.model, self.tx = case, case.build(), optax.adamw(LEARNING_RATE)
        self.peer = google_module(case.google, self.model)
        self.function, self.mode = jax.jit(self._step, donate_argnums=0), "jit"
        if case.what == "inference":
            self.function = jax.jit(lambda params, batch: self._logits(params, batch["image"]))
        self.init = jax.jit(self._params)

    def hold(self) -> None:
        import jax

        params = self.init()
        self.carry = (params, self.tx.init(params)) if self.case.what == "train" else params
        self.batch = jax.device_put(self.case.inputs(self.model))

    def _params(self):
        import jax
        import jax.numpy as jnp

        return self.peer.init(jax.random.key(0), jnp.zeros((1, *self.model.input_shape)), train=False)["params"]

    def _logits(self, params, images):
        return self.peer.apply({"params": params}, images, train=False)  # without dropout, training is the same

    def _step(self, carry, batch):
        import jax
        import optax

        def loss(params):
            logits = self._logits(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        params, opt_state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = self.tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value


def google_module(clone: str, model: Any) -> Any:
    """Returns the clone's module of the sizes of `model`. The clone's package is called vit_jax too."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "vision_transformer").symlink_to(pathlib.Path(clone).expanduser().resolve())
        os.environ["VIT_JAX_AUTHORS"] = folder
        sizes = {"num_layers": model.num_layers, "mlp_dim": model.mlp_dim, "num_heads": model.num_heads}
        peer = parity_peers().google_vit(
            model.input_shape,
            patch_size=model.patch_size,
            num_classes=model.num_classes,
            hidden_size=model.hidden_dim,
            transformer={**sizes, "dropout_rate": 0.0, "attention_dropout_rate": 0.0},
        )
        return peer.module


def parity_peers() -> Any:
    """Returns the module with the peers that the parity tests compare with; other packages may be called `tests`."""
    path = pathlib.Path(__file__).parent.parent / "tests" / "parity" / "peers.py"
    spec = importlib.util.spec_from_file_location("parity_peers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jax_peak_bytes() -> int:
    """Returns the largest memory in use so far on any device, or of the process where devices do not tell."""
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max((stat.get("peak_bytes_in_use", 0) for stat in stats), default=0) or process_peak_bytes()


def process_peak_bytes() -> int:
    """Returns the largest resident memory of this process since `reset_process_peak`."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource

        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_process_peak() -> None:
    """Starts the peak of the resident memory anew, so that compiling does not count (Linux)."""
    with contextlib.suppress(OSError):  # without it, compiling counts
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def device() -> dict[str, Any]:
    """Returns the platform, kind and number of the devices."""
    import jax

    first = jax.devices()[0]
    return {"platform": jax.default_backend(), "kind": first.device_kind, "count": jax.device_count()}


def product_rate(dtype: str, size: int) -> float:
    """Measures a product of two square matrices of random numbers; returns multiplications and additions a second."""
    import jax
    import jax.numpy as jnp

    left, right = (jax.random.normal(jax.random.key(i), (size, size), jnp.dtype(dtype)) for i in range(2))
    product = jax.jit(jnp.matmul)
    product(left, right).block_until_ready()
    seconds, repeats = [], 10
    for _ in range(5):
        started, out = time.perf_counter(), None
        for _ in range(repeats):
            out = product(left, right)
        jax.block_until_ready(out)
        seconds.append((time.perf_counter() - started) / repeats)
    return 2 * size**3 / statistics.median(seconds)
