"""Deployments of the stand-in engine, watched by real supervisors; nothing of them may be left."""

import os
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dsdeploy.serving import control, processes
from dsdeploy.serving.deployment import (
    Deployment,
    HealthCheck,
    NodeScript,
    Patience,
    write_deployment,
)
from dsdeploy.serving.registry import entry
from dsdeploy.serving.status import read_status

from ..ports import free_ports
from ..waiting import until

STAND_IN = Path(__file__).with_name("stand_in.py")
QUICK = Patience(
    startup=60, answer=5, deep_period=0.6, deep_timeout=1.5, deep_failures=2, grace=1,
    restarts=1, backoff=0.1, backoff_most=0.2, steady=600,
)  # fmt: skip
PHASES = {}


@dataclass
class Running:
    folder: Path
    port: int

    @property
    def status(self):
        return read_status(self.folder)

    @property
    def entry(self):
        return entry(self.folder)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def until(self, *states, seconds=60, also=lambda status: True):
        """The status when it is one of these."""

        def reached():
            status = self.status
            return status and status.state in states and also(status) and status

        try:
            return until(reached, seconds)
        except AssertionError as error:
            raise AssertionError(f"{self.status}\n{self.log()[-2000:]}") from error


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("DSDEPLOY_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def standing_in(state):
    """`with standing_in(engine, failure, **patience) as running`: started, and gone after it."""

    @contextmanager
    def run(engine="vllm", failure="none", name="tried", environment=None, **patience):
        folder, port = state / name, free_ports(2)[0]
        folder.mkdir(parents=True)
        write(folder, engine, failure, port, patience)
        control.launch(folder, {**os.environ, **(environment or {})}, detached=True)
        running = Running(folder, port)
        try:
            yield running
            left = running.until("failed", "stopped", "ready", "starting", "waiting")
        finally:
            control.stop(entry(folder))
        assert not processes.members(left.marker), processes.members(left.marker)
        assert not entry(folder).watched

    return run


def write(folder, engine, failure, port, patience):
    words = [sys.executable, STAND_IN, engine, port, failure]
    script = "exec " + shlex.join(map(str, words)) + "\n"
    (folder / "start.sh").write_text(script)
    ready, alive = (
        ("/v2/health/ready", "/v2/health/live") if engine == "mindie" else ("/health",) * 2
    )
    probed = port + 1 if engine == "mindie" else port
    deployment = Deployment(
        name=folder.name,
        backend=engine,
        release="1.0",
        model="m",
        weights="/models/m",
        address=f"http://127.0.0.1:{port}",
        nodes=(NodeScript("start.sh"),),
        ready=HealthCheck(ready, probed, 1, 1, 3),
        alive=HealthCheck(alive, probed, 0.2, 0.6, 3),
        patience=Patience(**{**QUICK.__dict__, **patience}),
        phases=phases_of(engine),
    )
    write_deployment(folder, deployment)


def phases_of(engine):
    from importlib import import_module

    package = engine.replace("-", "_")
    return import_module(f"dsdeploy.backends.{package}.phases").PHASES
