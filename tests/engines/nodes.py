"""Scripts that `render` writes for several machines, run on this one."""

import os
import subprocess
import time
from contextlib import contextmanager, suppress

import httpx

from .servers import PATIENCE_S, surroundings


@contextmanager
def started(script, log, environment):
    with log.open("ab") as stream:
        process = subprocess.Popen(
            ["bash", script],
            env=surroundings(HF_HUB_OFFLINE="1", **environment),
            stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for number in (15, 9):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


def wait(url, nodes, logs):
    """Until it is healthy."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and all(node.poll() is None for node in nodes):
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(0.5)
    raise AssertionError("\n".join(log.read_text(errors="replace")[-4000:] for log in logs))
