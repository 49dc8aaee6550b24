"""Clips whose frames are divided over devices: the same update as on one device, in less memory of each."""

import jax
import numpy as np
import pytest
from simulated import free_port, results, start

from vit_jax import build_model
from vit_jax.devices.parallel import batch_shares, check_batch_size, check_clips, make_parallel
from vit_jax.errors import UserError


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Returns an update with divided attention on 1 and on 8 devices."""
    out = tmp_path_factory.mktemp("clips") / "found.npz"
    return {devices: results(out, start("clips.py", out, devices, "divided")) for devices in (1, 8)}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Returns updates with other attentions on 1 and on 8 devices, and the checks on 8."""
    out = tmp_path_factory.mktemp("clips") / "found.npz"
    names = {1: "joint,whole,axial", 8: "joint,whole,axial,restored,memory"}
    return {devices: results(out, start("clips.py", out, devices, names[devices])) for devices in names}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Returns an update with divided attention on two processes of two devices."""
    out = tmp_path_factory.mktemp("clips") / "found.npz"
    port = free_port()
    return results(out, *(start("clips.py", out, 2, "divided,refusal", port, i) for i in range(2)))


def assert_same_update(case, ours, theirs):
    names = [name for name in theirs if name.startswith(f"{case}:gradient")]
    gradient = np.concatenate([theirs[name].ravel() for name in names])
    difference = np.concatenate([(ours[name] - theirs[name]).ravel() for name in names])
    assert np.linalg.norm(gradient) > 0.1
    assert np.linalg.norm(difference) < 1e-12 * np.linalg.norm(gradient)
    np.testing.assert_allclose(ours[f"{case}:loss"], theirs[f"{case}:loss"], rtol=1e-12)
    np.testing.assert_allclose(ours[f"{case}:logits"], theirs[f"{case}:logits"], rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(ours[f"{case}:id"], theirs[f"{case}:id"])


def test_a_divided_clip_has_the_loss_the_gradient_and_the_logits_of_a_whole_one(divided):
    assert_same_update("divided", divided[8], divided[1])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["joint", "whole", "axial"])
def test_so_it_has_with_every_attention(others, case):
    assert_same_update(case, others[8], others[1])


@pytest.mark.slow
def test_so_it_has_in_two_processes(processes, divided):
    assert_same_update("divided", processes, divided[1])


@pytest.mark.slow
def test_a_process_holds_whole_clips(processes):
    assert str(processes["refusal:"]) == (
        "config.devices_per_clip=4 does not divide the 2 devices of this process, which must hold whole clips; use one "
        "of 1, 2"
    )


@pytest.mark.slow
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time"])
def test_activations_take_less_of_a_device_if_eight_share_a_clip(others, attention_type):
    whole, eighth = others[8][f"memory:{attention_type}"]
    assert eighth < 0.35 * whole


@pytest.mark.slow
def test_a_checkpoint_is_restored_to_another_division(others):
    assert others[8]["restored:"]


def test_a_number_of_devices_that_does_not_divide_is_refused(monkeypatch):
    for count in ("device_count", "local_device_count"):
        monkeypatch.setattr(jax, count, lambda: 6)
    assert [batch_shares(n) for n in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UserError, match=r"devices_per_clip=4 does not divide the 6 devices .* use one of 1, 2, 3, 6"):
        batch_shares(4)
    check_batch_size(4, 2, devices_per_clip=3)
    with pytest.raises(UserError, match="batch_size=5 does not divide over 2 groups of 3 devices; try 4"):
        check_batch_size(5, 1, devices_per_clip=3)


def test_pmap_does_not_divide_clips():
    with pytest.raises(UserError, match=r"devices_per_clip=2 needs config\.parallel='fsdp', got 'pmap'"):
        make_parallel("pmap", 2)


SMALL = {"image_size": (8, 8), "num_layers": 1, "hidden_dim": 8, "mlp_dim": 8, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vit:Ti/2", {}),
        ("timesformer:Ti/2", {"attention_type": "space_only"}),
        ("timesformer:Ti/2", {"attention_type": "sparse_local_global"}),
    ],
)
def test_a_model_that_cannot_divide_clips_is_refused(name, fields):
    model = build_model(name, **SMALL, **fields)
    check_clips(model, 1)
    with pytest.raises(UserError, match=r"config\.devices_per_clip=2 needs a TimeSformer"):
        check_clips(model, 2)


def test_frames_that_the_devices_do_not_divide_are_refused():
    model = build_model("timesformer:Ti/2", **SMALL, num_frames=6)
    check_clips(model, 3)
    with pytest.raises(UserError, match=r"devices_per_clip=4 does not divide config\.data.num_frames=6"):
        check_clips(model, 4)
