"""Times a float32 train step and inference of three models beside their peers, turn by turn in one run.

    python -m benchmarks.models [--models vit tnt timesformer] [--rounds 5] [--threads 2] [--csv FILE]

Needs the extra `parity`. The peers are timm (ViT-S/16, TnT-S) and transformers (TimeSformer-B, 8 frames, divided,
with its fused attention where it has one). A train step is loss, gradient and an AdamW update, without data loading.
Each side has a process of its own, because their threads disturb each other, and keeps the memory it frees, as the
commands of vit_jax do on a CPU. They take turns, so that a machine's noise meets both; the ratio of their medians is
what counts, and is above 1 where ours is faster.
"""

import argparse
import contextlib
import csv
import functools
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

MODELS = ("vit", "tnt", "timesformer")
BATCH = {"vit": 8, "tnt": 8, "timesformer": 1}
NAMES = {"vit": "vit:S/16", "tnt": "tnt:S/16", "timesformer": "timesformer:B/16"}


def ours(family: str):
    """Returns (train_step, inference), each a function without arguments that waits for its result."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from vit_jax import build_model

    model = build_model(NAMES[family], drop_path_rate=0.0)  # as the peers
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((BATCH[family], *model.input_shape)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, model.num_classes, BATCH[family]))
    tx = optax.adamw(1e-3)
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), inputs)["params"]
    state = {"params": params, "opt": tx.init(params)}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt, inputs, labels):
        def loss(params):
            logits = model.apply({"params": params}, inputs, train=True, rngs={"dropout": jax.random.key(0)})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(gradients, opt, params)
        return optax.apply_updates(params, updates), opt, value

    def train_step():
        state["params"], state["opt"], value = update(state["params"], state["opt"], inputs, labels)
        value.block_until_ready()

    predict = jax.jit(lambda params, inputs: model.apply({"params": params}, inputs, train=False))
    return train_step, lambda: predict(state["params"], inputs).block_until_ready()


def peer(family: str):
    """Returns the same of timm or transformers."""
    import numpy as np
    import torch

    from tests.parity.peers import hf_timesformer, timm_model

    if family == "timesformer":
        built = hf_timesformer(
            image_size=224, patch_size=16, num_frames=8, num_labels=1000, attention_type="divided_space_time"
        )
    else:
        built = timm_model({"vit": "vit_small_patch16_224", "tnt": "tnt_s_patch16_224"}[family])
    module, shape = built.module, {"timesformer": (8, 3, 224, 224)}.get(family, (3, 224, 224))
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((BATCH[family], *shape)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 1000, BATCH[family]))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)

    def train_step():
        module.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(built.logits(module(inputs)), labels).backward()
        optimizer.step()

    def inference():
        module.eval()
        with torch.inference_mode():
            built.logits(module(inputs))

    return train_step, inference


def work(side: str, family: str, threads: int, pipe: Any) -> None:
    """Builds one side, then runs its function of each index received and sends back the seconds."""
    from vit_jax.commands.common import keep_freed_memory

    keep_freed_memory()
    if side == "peer":
        import torch

        torch.set_num_threads(threads)
    functions = ours(family) if side == "ours" else peer(family)
    while (index := pipe.recv()) is not None:
        start = time.perf_counter()
        functions[index]()
        pipe.send(time.perf_counter() - start)


@contextlib.contextmanager
def workers(family: str, threads: int) -> Iterator[dict[str, Any]]:
    """Yields a pipe to the process of each side."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for side in ("ours", "peer"):
        pipes[side], theirs = context.Pipe()
        context.Process(target=work, args=(side, family, threads, theirs), daemon=True).start()
        theirs.close()
    yield pipes
    for pipe in pipes.values():
        pipe.send(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side, after two that are not")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch; JAX takes all")
    parser.add_argument("--csv", help="file to write the medians to")
    args = parser.parse_args()

    packages = ("jax", "flax", "torch", "timm", "transformers")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    print(f"Python {platform.python_version()}, {versions}, {args.threads} threads of {platform.machine()}")
    rows = []
    for family in args.models:
        with workers(family, args.threads) as pipes:
            for i, what in enumerate(("train step", "inference")):
                seconds = {side: [] for side in pipes}
                for turn in range(args.rounds + 2):
                    for side, pipe in pipes.items():
                        pipe.send(i)
                        elapsed = pipe.recv()
                        if turn > 1:
                            seconds[side].append(elapsed)
                median = {side: statistics.median(values) for side, values in seconds.items()}
                ratio = median["peer"] / median["ours"]
                spread = [b / a for a, b in zip(seconds["ours"], seconds["peer"], strict=True)]
                rows.append((NAMES[family], what, BATCH[family], median["ours"], median["peer"], ratio, versions))
                print(
                    f"{NAMES[family]:18} {what:10} batch {BATCH[family]}: ours {median['ours']:.3f} s, "
                    f"peer {median['peer']:.3f} s, {ratio:.2f}x ({min(spread):.2f} to {max(spread):.2f} by turn)",
                    flush=True,
                )
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("model", "what", "batch", "ours_seconds", "peer_seconds", "ratio", "versions"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
