"""The next batch is on its way to the devices before the sums of a step are waited for."""

from harness import tiny_config, train, write_images

from vit_jax.data.loading.levels import Levels
from vit_jax.devices.parallel import DataParallel


def test_a_batch_is_put_before_the_step_before_it_has_ended(tmp_path, monkeypatch):
    events, put, fetch = [], DataParallel.put_batch, DataParallel.fetch

    def recording_put(self, batch):
        assert isinstance(batch["image"], Levels)
        events.append("put")
        return put(self, batch)

    def recording_fetch(self, tree):
        if isinstance(tree, dict) and "loss" in tree:
            events.append("fetch")
        return fetch(self, tree)

    monkeypatch.setattr(DataParallel, "put_batch", recording_put)
    monkeypatch.setattr(DataParallel, "fetch", recording_fetch)
    config = tiny_config(write_images(tmp_path / "data"), duration="4 steps", eval_every="4 steps")
    config.checkpoint.every = "4 steps"
    train(config, tmp_path / "run")
    steps = events[: events.index("fetch") + 5]
    assert steps == [
        "put",
        "put",
        "fetch",
        "put",
        "fetch",
        "put",
        "fetch",
    ]  # one step behind, until the last is flushed
