"""From the first line to the last: a server begins whole, and ends without breaking its word."""

import json
import shutil
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager
from functools import partial

import httpx
import pytest

from dsdeploy.cli.native import _endpoint
from dsdeploy.runner.server.run import ServerOptions, bind, serve
from dsdeploy.runner.start import Settings, start

from ..waiting import until
from .tools import events, is_error, is_error_body

GREEDY = {"prompt": "a", "temperature": 0, "ignore_eos": True}


class Asking(threading.Thread):
    """A request in a thread of its own: its answer, or what became of it."""

    def __init__(self, server, headers=None, **fields):
        super().__init__()
        self.begun, self.content, self.error = threading.Event(), b"", None
        self._request = {"json": {**GREEDY, **fields}, "headers": headers}
        self._url = f"{server.url}/v1/completions"
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", self._url, timeout=60, **self._request) as self.answer:
                for part in self.answer.iter_raw():
                    self.content += part
                    self.begun.set()
        except httpx.HTTPError as error:
            self.error = error

    def result(self):
        self.join(60)
        assert not self.is_alive()
        return httpx.Response(
            self.answer.status_code, headers=self.answer.headers, content=self.content
        )


@contextmanager
def signalled(server, number, *more):
    """Within, the server has been told to end; after it, it has ended well."""
    for each in (number, *more):
        server.process.send_signal(each)
        time.sleep(0.1)
    yield
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.said()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", server.port))


def test_what_runs_is_finished_and_what_comes_is_sent_elsewhere(serving, checkpoint, tmp_path):
    """The way of a rolling update. The key is in a file this time."""
    file = tmp_path / "key"
    file.write_text("a-key-in-a-file\n")
    headers = {"authorization": "Bearer a-key-in-a-file"}
    with serving(checkpoint, "--api-key-file", file, "--drain-seconds", "60") as server:
        is_error(server.client.get("/v1/models"), 401, "invalid_api_key")
        streams = [Asking(server, headers, max_tokens=1500, stream=True) for _ in range(3)]
        whole = Asking(server, headers, max_tokens=1500)
        until(lambda: server.metrics(headers=headers)["num_requests_running"] == 4)
        with signalled(server, signal.SIGTERM):
            until(lambda: server.client.get("/health").status_code == 503)
            for answer in (
                server.client.get("/v1/models", headers=headers),
                server.post("/v1/completions", GREEDY, headers=headers),
                server.post("/v1/completions", {**GREEDY, "stream": True}, headers=headers),
            ):
                is_error(answer, 503, "shutting_down")
                assert int(answer.headers["retry-after"]) > 0
            assert server.client.get("/metrics", headers=headers).status_code == 200
            assert any(stream.is_alive() for stream in streams), "it was over too soon to prove it"
            texts = {
                "".join(piece["choices"][0]["text"] for piece in events(stream.result()))
                for stream in streams
            }
            document = whole.result().json()
        assert texts == {document["choices"][0]["text"]}
        assert document["usage"]["completion_tokens"] == 1500
        assert "Ended.\n" in server.said()
        assert "a-key-in-a-file" not in server.said()


def test_what_is_not_finished_in_time_is_told_so(serving, checkpoint):
    options = ("--drain-seconds", "0.5", "--max-sequences", "2")
    with serving(checkpoint, *options) as server:
        running = Asking(server, max_tokens=8000, stream=True, n=2)
        assert running.begun.wait(30)
        waiting = Asking(server, max_tokens=8000, stream=True)
        whole = Asking(server, max_tokens=8000)
        until(lambda: server.metrics()["num_requests_waiting"] == 2)
        told = time.monotonic()
        with signalled(server, signal.SIGTERM):
            for asking in (running, waiting):
                content = asking.result().content
                last = content.removesuffix(b"\n\n").rpartition(b"data: ")[2]
                message = is_error_body(json.loads(last)["error"], 503, "engine_error")
                assert message == "The server is shutting down."
                assert b"[DONE]" not in content
            answer = whole.result()
            assert is_error(answer, 503, "engine_error") == "The server is shutting down."
            assert int(answer.headers["retry-after"]) > 0
        assert time.monotonic() - told < 20


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_told_twice_it_ends_at_once(serving, checkpoint, first):
    with serving(checkpoint, "--drain-seconds", "300") as server:
        asking = Asking(server, max_tokens=8000, stream=True)
        assert asking.begun.wait(30)
        told = time.monotonic()
        with signalled(server, first, signal.SIGINT):
            asking.join(60)
        assert time.monotonic() - told < 20
        assert b"[DONE]" not in asking.content


def test_with_nothing_to_do_it_ends_at_once_whoever_is_connected(serving, checkpoint):
    """Also with `--json`, on IPv6."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("needs IPv6")
    with serving(checkpoint, "--json", "--host", "::1", "--name", "deepseek-ai/V3") as server:
        (line,) = server.said().splitlines()
        event = json.loads(line)
        assert event["event"] == "ready"
        assert event["model"] == "deepseek-ai/V3"
        assert event["address"] == server.url == f"http://[::1]:{server.port}"
        assert server.client.get("/v1/models/deepseek-ai/V3").json()["id"] == "deepseek-ai/V3"
        body = {**GREEDY, "model": "deepseek-ai/V3", "max_tokens": 1}
        assert server.post("/v1/completions", body).status_code == 200  # stays connected
        with socket.create_connection(("::1", server.port)) as half_sent:
            half_sent.sendall(b"GET / HT")
            told = time.monotonic()
            assert server.end(signal.SIGINT) == 0
            assert time.monotonic() - told < 20


# What does not begin.


def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_tensor(dsdeploy, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    (shard,) = [path for path in folder.glob("*.safetensors") if name.encode() in path.read_bytes()]
    content = bytearray(shard.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    begin, end = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    content[8 + length + begin : 8 + length + end] = b"\x7f" * (end - begin)  # NaN in FP8
    shard.write_bytes(content)
    result = dsdeploy("native", folder, "--port", 0, "--cache-memory", "1MiB")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-2].startswith(f"error: {name} holds values that are NaN")
    assert "is served at" not in result.stdout


def test_a_checkpoint_cut_off_is_refused(dsdeploy, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "cut")
    shard = sorted(folder.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    result = dsdeploy("native", folder, "--port", 0)
    assert result.exit_code == 4
    assert f"{shard.name} is truncated" in result.stderr


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json"])
def test_a_folder_without_what_is_needed_is_refused(dsdeploy, checkpoint, tmp_path, lost):
    folder = shutil.copytree(checkpoint, tmp_path / "partial")
    (folder / lost).unlink()
    result = dsdeploy("native", folder, "--port", 0)
    assert result.exit_code in (2, 4)
    assert lost in result.stderr
    assert "fault of dsdeploy" not in result.stderr


def test_a_server_that_cannot_listen_does_not_say_that_it_does(checkpoint):
    """Two may bind a port, while neither listens: the model of one is loaded meanwhile."""
    settings = Settings(context=64, cache_memory=1 << 20)
    runner = start(checkpoint, settings, lambda nbytes: lambda done, detail: None)
    options, said = ServerOptions(port=0), []
    with bind(options) as listener, bind(ServerOptions(port=listener.getsockname()[1])) as other:
        other.listen()
        with pytest.raises(OSError, match="in use"):
            serve(listener, partial(_endpoint, runner, "tiny", 10), options, lambda: said.append(1))
    assert said == []
