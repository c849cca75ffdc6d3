"""Real engines, started by `dsdeploy serve` as a user starts them, and gone without a trace."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dsdeploy.serving.processes import members

NAME = "tiny"
PATIENCE_S = 600
"""An engine imports for half a minute; on a busy machine, for several."""
PROGRAM = Path(sys.executable).with_name("dsdeploy")
SHARED = Path("/dev/shm")


def vllm(python):
    """Options of serve for vLLM in float32. Compiling would cost more than a few tokens do."""
    words = ["--backend", "vllm", "--engine-python", python]
    extra = ["--enforce-eager", "--dtype=float32"]
    return [
        *words,
        *_extra(extra),
        *_environment(TORCH_COMPILE_DISABLE="1", VLLM_NO_USAGE_STATS="1"),
    ]


def compiled_vllm(python):
    words = ["--backend", "vllm", "--engine-python", python]
    return [*words, *_extra(["--dtype=float32"]), *_environment(VLLM_NO_USAGE_STATS="1")]


def sglang(python):
    """SGLang in float32. Attention is plain torch's: its kernels for the CPU need AMX."""
    words = ["--backend", "sglang", "--engine-python", python]
    extra = [
        "--dtype=float32", "--attention-backend=torch_native", "--sampling-backend=pytorch",
        "--disable-overlap-schedule", "--disable-radix-cache",
    ]  # fmt: skip
    return [*words, *_extra(extra)]


def native():
    return ["--backend", "native", *_extra(["--dtype=float32"])]


def on_two(profile, **sizes):
    """On a machine of two devices; each engine's processes take a core of their own."""
    layout = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    cores = _environment(VLLM_CPU_OMP_THREADS_BIND="0|1", SGLANG_CPU_OMP_THREADS_BIND="0|1")
    return ["--profile", profile, *layout, *cores]


def _extra(words):
    return [f"--extra-arg={word}" for word in words]


def _environment(**variables):
    return [f"--extra-env={name}={value}" for name, value in variables.items()]


def surroundings(**variables):
    """Of an engine, whose kernels are compiled, whatever ours are."""
    return {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables


@dataclass(frozen=True)
class Server:
    url: str
    folder: Path
    """Of the deployment."""
    said: str
    """By serve, until it was ready."""
    phases: tuple[str, ...]

    def post(self, path, **body):
        try:
            answer = httpx.post(self.url + path, json=body, timeout=PATIENCE_S)
            return answer.raise_for_status().json()
        except httpx.HTTPError as error:
            last = (self.folder / "log").read_text(errors="replace").splitlines()[-60:]
            raise AssertionError("\n".join([str(error), *last])) from error


@dataclass(frozen=True)
class Commands:
    """`dsdeploy` with deployments of its own."""

    state: Path

    def run(self, *words, check=True, merged=True, **options):
        """`merged`: what it says on stderr is part of stdout."""
        environment = surroundings(HF_HUB_OFFLINE="1", DSDEPLOY_STATE=str(self.state))
        done = subprocess.run(
            [PROGRAM, *map(str, words)], env=environment, text=True, timeout=PATIENCE_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if merged else None, **options,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return done

    def deployment(self, name=NAME):
        found = json.loads(self.run("ps", "--json").stdout)["deployments"]
        return next(each for each in found if each["name"] == name)


@contextmanager
def served(commands, checkpoint, options) -> Iterator[Server]:
    shared = set(SHARED.iterdir())
    words = ["serve", checkpoint, *options, "--port", 0, "--context", "2K", "--detach"]
    started = commands.run(*words, "--name", NAME, "--served-name", NAME, check=False)
    try:
        assert started.returncode == 0, started.stdout
        status = commands.deployment()["status"]
        yield Server(
            url=commands.deployment()["deployment"]["address"],
            folder=commands.state / NAME,
            said=started.stdout,
            phases=tuple(name for name, _ in status["phases"]),
        )
    finally:
        commands.run("stop", "--all")
    assert not members(status["marker"])
    # SGLang kills the tracker that would remove its semaphores of 32 bytes, and nobody maps them.
    left = {path for path in SHARED.iterdir() if not path.name.startswith("sem.mp-")} - shared
    assert not left, left
