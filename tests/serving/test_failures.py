"""A hundred failures of engines, each in the log, the probes and the manner of five of them."""

import time
from pathlib import Path

import pytest

ENGINES = ("vllm", "sglang", "lmdeploy", "tensorrt-llm", "mindie")

# What happens, the state it ends in, how often it was started again, and words of the reason.
FAILED = [
    ("crash at start", 0, "exit status 2"),
    ("crash in the load", 0, "memory"),
    ("killed in the load", 0, "SIGKILL"),
    ("never ready", 0, "not ready after"),
    ("answers 500", 0, "has failed"),
    ("nan", 0, "no numbers below zero"),
    ("repeats itself", 0, "again and again"),
    ("says nothing", 0, "without a single token"),
    ("crash while serving", 1, "memory"),
    ("killed while serving", 1, "SIGKILL"),
    ("ends well", 1, "exit status 0"),
    ("hangs", 1, "does not answer"),
    ("hangs behind the port", 1, "it hangs"),
    ("leaves shared memory", 1, "exit status 1"),
]
LITTLE_PATIENCE = {"never ready": {"startup": 1}, "hangs": {"answer": 2}}
SURVIVED = ["none", "slow probe", "ignores TERM", "orphans", "floods 8", "no logprobs"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("failure", "restarts", "reason"), FAILED)
def test_an_engine_that_fails_is_told_of_and_gone(standing_in, engine, failure, restarts, reason):
    with standing_in(engine, failure, **LITTLE_PATIENCE.get(failure, {})) as running:
        status = running.until("failed")
        assert reason in status.reason, status
        assert (status.restarts, status.attempt) == (restarts, restarts + 1)
        assert not shared_memory_of(running)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("failure", SURVIVED)
def test_an_engine_that_is_only_difficult_stays_and_can_be_stopped(standing_in, engine, failure):
    with standing_in(engine, failure) as running:
        ready = running.until("ready")
        time.sleep(1)
        assert running.until("ready").attempt == 1
        assert next(name for name, _ in ready.phases) == "spawn"
    assert running.status.state == "stopped"


def shared_memory_of(running):
    """Each stand-in names it after its port."""
    return list(Path("/dev/shm").glob(f"stand_in_{running.port}"))
