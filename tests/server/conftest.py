"""Servers to talk to: `dsdeploy native`, each in a process of its own, as a user starts it."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = (sys.executable, "-m", "dsdeploy")
ADDRESS = re.compile(r"http://([\w.]+|\[[\w:]+\]):\d+")
START_S = 180
"""A machine under load starts slowly."""


class Server:
    """A server that runs. `url` has no path; `client` knows it."""

    def __init__(self, process, url, folder):
        self.process, self.url, self._folder = process, url, folder
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=60)
        self.inside = psutil.Process(process.pid)

    def post(self, path, body, **options):
        return self.client.post(path, json=body, **options)

    def complete(self, prompt="Hello", **fields):
        """The first choice of a text completion, which succeeds."""
        answer = self.post("/v1/completions", {"prompt": prompt, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def metrics(self, **options):
        """Name of a sample -> its value; a labelled one goes by `name{value of its last label}`."""
        answer = self.client.get("/metrics", **options)
        assert answer.status_code == 200, answer.text
        found = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
                suffix = "".join(f"{{{value}}}" for value in labels.values())
                found[sample.name.removeprefix("vllm:") + suffix] = sample.value
        return found

    def is_idle(self, **options):
        found = self.metrics(**options)
        return not (
            found["num_requests_running"]
            or found["num_requests_waiting"]
            or found["kv_cache_usage_perc"]
        )

    def said(self):
        return (self._folder / "stdout").read_text() + (self._folder / "stderr").read_text()

    def end(self, signal_number=signal.SIGTERM, seconds=60):
        """Tell it to end, and wait; the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(seconds)


@pytest.fixture(scope="session")
def checkpoint(synth, tmp_path_factory):
    """Never write to it."""
    return synth(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def serving(tmp_path_factory):
    """`with serving(folder, *options) as server`; it must end well if it has not been ended."""

    @contextmanager
    def start(checkpoint, *options, program=PROGRAM, **environment):
        folder = tmp_path_factory.mktemp("server")
        command = [
            *program,
            "native",
            checkpoint,
            "--port",
            "0",
            "--cache-memory",
            "16MiB",
            *options,
        ]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
            )
        try:
            end = time.monotonic() + START_S
            said = folder / "stdout"
            while not (found := ADDRESS.search(said.read_text())):
                assert process.poll() is None, (folder / "stderr").read_text()
                assert time.monotonic() < end, f"no address in {START_S} s"
                time.sleep(0.02)
            server = Server(process, found[0], folder)
            yield server
            if process.poll() is None:
                assert server.end() == 0
                assert "Traceback" not in server.said(), server.said()
        finally:
            process.kill()
            process.wait()

    return start


@pytest.fixture(scope="session")
def server(serving, checkpoint):
    """Open to all; shared by most tests. In the end it must not have failed anywhere."""
    with serving(checkpoint, "--context", "1024") as running:
        yield running


KEY = "a-secret-of-the-tests"


@pytest.fixture(scope="session")
def locked(serving, checkpoint):
    """Wants a key; works on one request at a time and lets two wait."""
    options = ("--max-sequences", "1", "--max-waiting", "2")
    with serving(checkpoint, *options, DSDEPLOY_API_KEY=KEY) as running:
        running.key = KEY
        running.headers = {"authorization": f"Bearer {KEY}"}
        yield running
