"""Servers as processes of their own: started, waited for, asked, and ended with all their children."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

NAME = "tiny"
PATIENCE_S = 600
"""An engine imports for half a minute; on a busy machine, for several."""
GRACE_S = 20


def vllm(python, checkpoint):
    """(command, environment) of vLLM in float32. Compiling would cost more than a few tokens do."""
    command = [python, "-m", "vllm.entrypoints.cli.main", "serve", checkpoint, "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "2048", "--served-model-name", NAME]
    environment = {"TORCH_COMPILE_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return command, environment | {"VLLM_CPU_KVCACHE_SPACE": "1"}


def sglang(python, checkpoint):
    """SGLang in float32. Attention is plain torch's: its kernels for the CPU need AMX."""
    command = [python, "-m", "sglang.launch_server", "--model-path", checkpoint, "--device", "cpu"]
    command += ["--dtype", "float32", "--context-length", "2048", "--served-model-name", NAME]
    command += ["--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    command += ["--max-total-tokens", "8192", "--mem-fraction-static", "0.3"]
    command += ["--disable-overlap-schedule", "--disable-radix-cache"]
    return command, {"SGLANG_USE_CPU_ENGINE": "1"}


def native(checkpoint):
    command = [sys.executable, "-m", "dsdeploy", "serve", checkpoint, "--backend", "native"]
    return [*command, "--dtype", "float32", "--name", NAME], {}


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen
    url: str
    log: Path

    def post(self, path, **body):
        try:
            answer = httpx.post(self.url + path, json=body, timeout=PATIENCE_S)
            return answer.raise_for_status().json()
        except httpx.HTTPError as error:
            raise self.failed(str(error)) from error

    def failed(self, what):
        last = self.log.read_text(errors="replace").splitlines()[-60:]
        return AssertionError("\n".join([f"{what} The end of {self.log}:", *last]))

    def wait(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise self.failed(f"It ended with exit code {self.process.returncode}.")
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health").is_success:
                    return
            time.sleep(0.5)
        raise self.failed(f"It was not ready after {PATIENCE_S} s.")

    def end(self):
        """Workers may outlive the process that started them, so the whole group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_S)


@contextmanager
def served(command, environment, log) -> Iterator[Server]:
    port = _free_port()
    words = [*map(str, command), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait()
        yield server
    finally:
        server.end()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
