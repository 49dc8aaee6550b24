"""One update, compared with its formulas in NumPy."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import Linear, SquaredError, new_state, update

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=3).astype(np.float32)
STILL = optax.sgd(0.0)
LAYOUTS = [(1, 1), (1, 4), (2, 1), (2, 2)]  # shards, micro-batches


def batch_of(examples=8, **more):
    """Returns a batch whose first rows are padding, so that shards and micro-batches weigh differently."""
    rng = np.random.default_rng(1)
    return {
        "inputs": rng.normal(size=(examples, 3)).astype(np.float32),
        "target": rng.normal(size=examples).astype(np.float32),
        "mask": np.float32([0, 1, 0, 0, 1, 1, 1, 1]),
        **more,
    }


def gradient_of(kernel, batch):
    """The mean over real examples of (inputs @ kernel - target) * inputs."""
    inputs, target, mask = (np.asarray(batch[name], np.float64) for name in ("inputs", "target", "mask"))
    return ((inputs @ kernel - target) * mask) @ inputs / mask.sum()


def kernel_of(tree):
    return np.asarray(tree["kernel"], np.float64)


@pytest.mark.parametrize(("shards", "accum_steps"), LAYOUTS)
def test_the_gradient_is_the_mean_over_all_real_examples(shards, accum_steps):
    tx, batch = optax.sgd(0.5), batch_of()
    state, _ = update(new_state({"kernel": KERNEL}, tx), batch, tx=tx, shards=shards, accum_steps=accum_steps)
    np.testing.assert_allclose(kernel_of(state.params), KERNEL - 0.5 * gradient_of(KERNEL, batch), rtol=1e-5)
    assert state.step == 1


def test_the_mean_is_clipped_and_the_optimizer_is_given_the_parameters():
    """Clipped at norm 0.1, decayed by 0.2 of the parameters, with momentum 0.9: two updates by hand."""
    tx = optax.chain(optax.clip_by_global_norm(0.1), optax.add_decayed_weights(0.2), optax.sgd(0.5, 0.9))
    batch, kernel, trace = batch_of(), KERNEL.astype(np.float64), np.zeros(3)
    state = new_state({"kernel": KERNEL}, tx)
    for _ in range(2):
        gradient = gradient_of(kernel, batch)
        assert np.linalg.norm(gradient) > 0.2
        trace = 0.9 * trace + 0.1 * gradient / np.linalg.norm(gradient) + 0.2 * kernel
        kernel = kernel - 0.5 * trace
        state, _ = update(state, batch, tx=tx, shards=2, accum_steps=2)
    np.testing.assert_allclose(kernel_of(state.params), kernel, rtol=1e-5)
    assert state.step == 2


def test_the_moving_average_is_of_the_new_parameters():
    tx, batch, average = optax.sgd(0.5), batch_of(), np.float32([5, -3, 1])
    state, _ = update(new_state({"kernel": KERNEL}, tx, ema={"kernel": average}), batch, tx=tx, ema_decay=0.9)
    new = KERNEL - 0.5 * gradient_of(KERNEL, batch)
    np.testing.assert_allclose(kernel_of(state.ema), 0.9 * average + (1 - 0.9) * new, rtol=1e-5)
    np.testing.assert_array_equal(state.eval_params["kernel"], state.ema["kernel"])


def test_without_a_moving_average_the_parameters_are_evaluated():
    tx = optax.sgd(0.5)
    state, _ = update(new_state({"kernel": KERNEL}, tx), batch_of(), tx=tx)
    assert state.ema is None
    np.testing.assert_array_equal(state.eval_params["kernel"], state.params["kernel"])


@pytest.mark.parametrize(("shards", "accum_steps"), LAYOUTS)
def test_every_metric_is_summed_over_shards_and_micro_batches(shards, accum_steps):
    tx, batch = optax.sgd(0.5), batch_of()
    state, sums = update(new_state({"kernel": KERNEL}, tx), batch, tx=tx, shards=shards, accum_steps=accum_steps)
    error = (batch["inputs"] @ KERNEL - batch["target"]) * batch["mask"]
    expected = {
        "loss": (0.5 * (error**2).sum(), 5),
        "absolute": (np.abs(error).sum(), 5),
        "double": (10, 15),
        "gradient_norm": (np.linalg.norm(gradient_of(KERNEL, batch)), 1),
        "parameter_norm": (np.linalg.norm(kernel_of(state.params)), 1),
    }
    assert sums.keys() == expected.keys()
    for name, (value, weight) in expected.items():
        np.testing.assert_allclose(sums[name].value, value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(sums[name].weight, weight, rtol=1e-6, err_msg=name)


def numbers(step, shards, accum_steps, seed=0):
    """Returns the random number that each of 8 examples was given for dropout, and the one for mixing."""
    state = new_state({"kernel": KERNEL}, STILL, step=step, seed=seed)
    state, sums = update(state, batch_of(slot=np.arange(8)), tx=STILL, shards=shards, accum_steps=accum_steps)
    np.testing.assert_array_equal(state.rng, jax.random.PRNGKey(seed))
    return tuple(np.asarray(sums[f"{name}_number"].value)[:8] for name in ("dropout", "mix"))


@pytest.mark.parametrize(("shards", "accum_steps"), LAYOUTS)
def test_every_shard_and_every_micro_batch_has_its_own_random_numbers(shards, accum_steps):
    dropout, mix = numbers(0, shards, accum_steps)
    values, counts = np.unique(dropout, return_counts=True)
    assert len(values) == shards * accum_steps
    assert set(counts) == {8 // len(values)}
    for share in dropout.reshape(shards, -1):  # each micro-batch is made of examples of one shard
        assert len(np.unique(share)) == accum_steps
    assert len(np.unique(mix)) == 1  # the whole global batch is mixed alike
    assert mix[0] not in values


def test_random_numbers_depend_on_the_step_and_on_the_seed():
    drawn = [numbers(step, 2, 2, seed) for step, seed in ((0, 0), (1, 0), (7, 0), (0, 1))]
    assert len(np.unique([dropout for dropout, _ in drawn])) == 4 * 4
    assert len(np.unique([mix for _, mix in drawn])) == 4
    for ours, theirs in zip(numbers(7, 2, 2), drawn[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_dropout_of_identical_shares_differs():
    """With inputs 1 and target 1 the gradient of a kernel of zeros is minus the share of inputs that are kept, times 2.

    Two identical halves that drop the same inputs would give every kernel entry an even count.
    """
    tx = optax.sgd(1.0)
    batch = {"inputs": np.ones((2, 64), np.float32), "target": np.ones(2, np.float32), "mask": np.ones(2, np.float32)}
    counts = []
    for step, layout in ((0, {"shards": 2}), (0, {"accum_steps": 2}), (1, {"accum_steps": 2})):
        state = new_state({"kernel": jnp.zeros(64)}, tx, step=step)
        state, _ = update(state, batch, tx=tx, model=Linear(0.5), **layout)
        counts.append(np.asarray(state.params["kernel"]))  # (0, 1 or 2 kept) * 2 / 2 examples
    for kept in counts:
        assert set(np.unique(kept)) == {0.0, 1.0, 2.0}
        assert 16 < (kept == 1).sum() < 48
    assert not np.array_equal(counts[1], counts[2])


def test_a_task_is_told_that_it_trains():
    class Asked(SquaredError):
        def loss(self, model, params, batch, *, rngs, train):
            assert train is True
            return super().loss(model, params, batch, rngs=rngs, train=train)

    update(new_state({"kernel": KERNEL}, STILL), batch_of(), tx=STILL, task=Asked())


def test_the_step_is_pure():
    tx, batch = optax.sgd(0.5, 0.9), batch_of()
    state = new_state({"kernel": KERNEL}, tx, ema={"kernel": KERNEL})
    before = jax.tree.map(np.array, state)
    first, second = (update(state, batch, tx=tx, ema_decay=0.5)[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    assert isinstance(first, harness.TrainState)
