"""What jaxlib logs about a lost coordinator becomes one line, however it arrives; everything else is copied."""

import pytest

from vit_jax.devices.job_log import MESSAGE, Copy

NOISE = b"""\
W1126 22:13:19.672437   24025 preemption_sync_manager.cc:147] Failed to retrieve preemption notice: Socket closed
Additional GRPC error information from remote target coordination_service while calling GetKeyValue:
:UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}.
E1126 22:13:19.672678   24025 coordination_service_agent.cc:289] Polled an error from coordination service.
"""
TRACED = b"""\
W1127 16:20:28.469520    9950 preemption_sync_manager.cc:147] Failed to retrieve preemption notice: Socket closed
Additional GRPC error information from remote target coordination_service while calling GetKeyValue:
:UNAVAILABLE:Stream removed (Socket closed)
=== Source Location Trace: ===\x20
external/xla+/xla/tsl/distributed_runtime/rpc/grpc_util.h:89
. This is only expected if one of the tasks is unhealthy. Check the logs for the actual root cause.
E1127 16:20:28.469554    9950 preemption_sync_manager.cc:159] Failed to cancel preemption barrier
=== Source Location Trace: ===\x20
external/xla+/xla/util.h:302

E1127 16:20:28.469590    9950 coordination_service_agent.cc:288] Polled an error from coordination service
"""  # as jaxlib 0.12 has it
FATAL = b"""\
F1126 22:14:15.900146   24677 client.h:80] Terminating process because the JAX distributed service detected fatal \
errors. This most likely indicates that another task died.
*** Check failure stack trace: ***
    @     0x7fd63af20634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
OURS = b"vit_jax: runs/a/checkpoints/3 is damaged\nW1126 22:13:19.6 24025 pjrt.cc:1] Something else\n 50%|##  |\r"


def copied(data, size):
    written = []
    copy = Copy(written.append)
    for start in range(0, len(data), size):
        copy.add(data[start : start + size])
    return b"".join(written)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_only_the_lost_coordinator_is_shortened(size):
    assert copied(OURS, size) == OURS
    assert copied(b"begun\n" + NOISE + b"ended\n", size) == b"begun\nended\n"
    assert copied(b"begun\n" + NOISE + FATAL, size) == b"begun\n" + MESSAGE
    assert copied(b"begun\n\n" + TRACED + b"ended\n\n", size) == b"begun\n\nended\n\n"
    assert copied(TRACED + FATAL, size) == MESSAGE


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_it_is_said_once(size):
    own = b"vit_jax: lost the connection to another process of the job (reset by peer).\n"
    assert copied(own + NOISE + FATAL, size) == own


def test_a_prompt_is_copied_at_once():
    written = []
    Copy(written.append).add(b"continue? ")
    assert written == [b"continue? "]
