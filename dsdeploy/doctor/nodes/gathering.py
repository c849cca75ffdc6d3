"""An agent on each node, and the measurements that it is told to make."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path as File
from signal import SIGKILL
from threading import Timer
from typing import IO, Any, cast

from dsdeploy.doctor.nodes.facts import Fault, Nodes, Path
from dsdeploy.doctor.nodes.pairs import rounds
from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.ssh import address_of, failure, remote_command

_SECONDS = 1.0
"""That data flow, of each path."""
_PATIENCE = 30
"""Seconds for an answer."""
_PYTHON = "python3"
_ASKED = 8
"""Times; the quickest answer tells a clock best."""


class Agent:
    """On a node, as long as it is held. Raises DeployError where ssh or python3 fails."""

    port: int
    """On which it listens."""
    clock: float
    """Seconds that it is before ours; half a round trip is the doubt."""

    def __init__(self, host: str, config: File | None) -> None:
        self.host = host
        self.address = address_of(host, config)
        text = files(__package__).joinpath("agent.py").read_text(encoding="utf-8")
        self._process = process = subprocess.Popen(
            remote_command(host, [_PYTHON, "-u", "-c", text], config),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._orders = cast("IO[str]", process.stdin)
        self._answers = cast("IO[str]", process.stdout)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self) -> None:
        self.port = self.ask(do="listen")["port"]
        answers = []
        for _ in range(_ASKED):
            before = time.time()
            there = self.ask(do="time")["time"]
            after = time.time()
            answers.append((after - before, there - (before + after) / 2))
        self.clock = min(answers)[1]

    def ask(self, **order: Any) -> dict[str, Any]:
        limit = Timer(_PATIENCE, self._process.kill)
        limit.start()
        try:
            print(json.dumps(order), file=self._orders, flush=True)
            for line in self._answers:
                if line.startswith("{"):  # what a login shell says comes before it
                    found: dict[str, Any] = json.loads(line)
                    return found
        except (BrokenPipeError, ValueError):  # it has ended, now or before
            pass
        finally:
            limit.cancel()
        raise self._failure()

    def _failure(self) -> DeployError:
        _, stderr = self._process.communicate()
        if self._process.returncode == -SIGKILL:
            return DeployError(
                f"{self.host} has not answered in {_PATIENCE} s.", "See what keeps it busy."
            )
        known = failure(self.host, _PYTHON, self._process.returncode, stderr)
        last = (stderr.strip().splitlines() or ["it gives no reason"])[-1]
        return known or DeployError(
            f"{_PYTHON} on {self.host} fails: {last}.",
            "It must be 3.7 or later.",
            ExitCode.NETWORK,
        )


def gather_nodes(hosts: Sequence[str], config: File | None) -> Nodes:
    """In rounds of pairs that have no node in common; about two seconds a round."""
    with ExitStack() as held, ThreadPoolExecutor(max(1, len(hosts))) as pool:
        started = list(pool.map(lambda host: _started(host, config), hosts))
        agents = [held.enter_context(one) for one in started if isinstance(one, Agent)]
        clocks = {agent.host: agent.clock for agent in agents}
        paths: list[Path] = []
        for pairs in rounds(len(agents)):
            for one_way in (pairs, [(b, a) for a, b in pairs]):
                paths += pool.map(lambda pair: _path(agents[pair[0]], agents[pair[1]]), one_way)
    faults = {host: one for host, one in zip(hosts, started, strict=True) if isinstance(one, Fault)}
    return Nodes(tuple(hosts), tuple(paths), clocks, faults)


def _started(host: str, config: File | None) -> Agent | Fault:
    try:
        agent = Agent(host, config)
        agent.start()
    except DeployError as error:  # and no process is left
        return Fault(error.message, error.hint)
    return agent


def _path(source: Agent, target: Agent) -> Path:
    try:
        found = source.ask(do="measure", address=target.address, port=target.port, seconds=_SECONDS)
    except DeployError as error:  # it has ended since
        found = {"error": error.message}
    if "error" in found:
        return Path(source.host, target.host, problem=found["error"])
    return Path(source.host, target.host, **found)
