"""Clients that are too slow, too large or too many: each is let go, and nobody else notices.

The server behind most tests has one or two seconds of patience (`impatient.py`).
"""

import json
import socket
import statistics
import struct
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from ..waiting import until
from .impatient import BODY_SECONDS, HEAD_SECONDS, WRITE_SECONDS
from .tools import IMPATIENT, is_error, is_error_body

MIB = 1 << 20
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def impatient(serving, checkpoint):
    with serving(checkpoint, program=IMPATIENT) as running:
        yield running


@contextmanager
def others_are_served(server):
    """While this goes on somebody asks small questions, and is answered in normal time: one of them
    may wait while a large body is parsed, on cores that other tests use as well."""
    seconds, over = [], threading.Event()

    def ask():
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not over.is_set() or len(seconds) < 3:
                begun = time.monotonic()
                body = {"prompt": "a", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
                answer = client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                seconds.append(time.monotonic() - begun)
                time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
    assert statistics.median(seconds) < 1, "it takes 20 ms where nothing else runs"
    assert max(seconds) < 20


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 60)


def read_all(connection):
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def seconds_until_closed(connection, sending=b"", every=0.1):
    """`sending` is sent a byte at a time. Also gives what has come."""
    begun, rest = time.monotonic(), list(sending)
    connection.settimeout(every)
    received = b""
    while time.monotonic() < begun + 30:
        try:
            if rest:
                connection.sendall(bytes([rest.pop(0)]))
            part = connection.recv(1 << 16)
            if not part:
                return time.monotonic() - begun, received
            received += part
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return time.monotonic() - begun, received
    raise AssertionError("it is never closed")


HALF_A_HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-slow: "


@pytest.mark.parametrize(
    ("sent", "dribbled"),
    [(b"", b""), (b"P", b""), (HALF_A_HEAD, b""), (HALF_A_HEAD, b"a" * 999), (b"", HALF_A_HEAD)],
    ids=["nothing", "a letter", "half a head", "a head byte by byte", "all byte by byte"],
)
def test_a_head_has_its_time_and_no_more(impatient, sent, dribbled):
    with connect(impatient) as connection:
        connection.sendall(sent)
        seconds, received = seconds_until_closed(connection, dribbled)
    assert received == b""
    assert 0.5 * HEAD_SECONDS < seconds < HEAD_SECONDS + 5


def test_a_second_head_on_a_connection_has_its_time_as_well(impatient):
    with connect(impatient) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(HALF_A_HEAD)
        seconds, received = seconds_until_closed(connection, b"a" * 999)
    assert received == b""
    assert seconds < HEAD_SECONDS + 5


def test_a_hundred_half_heads_hinder_nobody_and_leave_nothing(impatient):
    before = impatient.inside.num_fds()
    with others_are_served(impatient), ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(impatient)).sendall(HALF_A_HEAD)
        until(lambda: impatient.inside.num_fds() > before + 90)
        until(lambda: impatient.inside.num_fds() <= before + 2)


def head(length, path="/v1/completions"):
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("dribbled", [b"", b" " * 999], ids=["half", "byte by byte"])
def test_a_body_has_its_time_and_no_more(impatient, dribbled):
    with connect(impatient) as connection:
        connection.sendall(head(5000) + b"{")
        seconds, received = seconds_until_closed(connection, dribbled)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in received
    is_error_body(json.loads(received.partition(b"\r\n\r\n")[2])["error"], 408, "timeout")
    assert 0.5 * BODY_SECONDS < seconds < BODY_SECONDS + 5


def test_whoever_leaves_in_a_body_is_forgotten(impatient):
    before = impatient.inside.num_fds()
    for _ in range(20):
        with connect(impatient) as connection:
            connection.sendall(head(5000) + b"{")
    until(lambda: impatient.inside.num_fds() <= before + 1)
    assert impatient.is_idle()


def mebibytes(count):
    yield from (b" " * MIB for _ in range(count))


@pytest.mark.parametrize("size", [9, 300])
@pytest.mark.parametrize("known", [True, False], ids=["of known length", "in chunks"])
def test_a_body_too_large_is_refused_and_takes_no_memory(impatient, size, known):
    before = impatient.inside.memory_info().rss
    headers = {**JSON, "content-length": str(size * MIB)} if known else JSON
    with others_are_served(impatient):
        answer = impatient.client.post("/v1/completions", content=mebibytes(size), headers=headers)
    message = is_error(answer, 413, "request_too_large")
    assert str(8 * MIB) in message
    assert impatient.inside.memory_info().rss < before + 40 * MIB


def test_a_client_that_asks_first_need_not_send_it(impatient):
    """As curl does with more than a megabyte: it then waits for `100 Continue`."""
    expecting = head(9 * MIB).replace(b"host: x", b"host: x\r\nexpect: 100-continue")
    with connect(impatient) as connection:
        connection.sendall(expecting)
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    with connect(impatient) as connection:
        connection.sendall(expecting.replace(str(9 * MIB).encode(), b"2"))
        assert connection.recv(99).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{}")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_a_head_too_large_is_refused_and_takes_no_memory(impatient):
    before, sent = impatient.inside.memory_info().rss, 0
    with others_are_served(impatient), connect(impatient) as connection:
        connection.sendall(HALF_A_HEAD)
        with suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"a" * MIB)
                sent += 1
        assert sent < 50
    assert impatient.inside.memory_info().rss < before + 40 * MIB
    is_error(impatient.client.get("/health", headers={"x": "a" * (200 << 10)}), 400)


# Bodies of eight megabytes, as many as are taken, that are wrong or strange throughout.
STRANGE = {
    "numbers for tokens": b'{"prompt": [' + b"1.5," * 2_000_000 + b"1]}",
    "prompts of nothing": b'{"prompt": [' + b"[]," * 2_500_000 + b"[]]}",
    "stop strings": b'{"prompt": "a", "stop": [' + b"1," * 4_000_000 + b"1]}",
    "messages": b'{"messages": [' + b"{}," * 2_500_000 + b"{}]}",
    "parts": b'{"messages": [{"role": "user", "content": [' + b"{}," * 2_500_000 + b"{}]}]}",
    "biases": b'{"prompt": "a", "logit_bias": {' + b'"x":"",' * 1_000_000 + b'"x":""}}',
    "different biases": json.dumps(
        {"prompt": "a", "logit_bias": {str(token): "" for token in range(500_000)}}
    ).encode(),
    "unknown fields": json.dumps({str(field): 0 for field in range(500_000)}).encode(),
    "depth": b'{"prompt": ' + b"[" * 4_000_000 + b"]" * 4_000_000 + b"}",
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_a_large_body_that_is_wrong_throughout_costs_little(impatient, content):
    """An error for each of a million items took minutes and gigabytes, while all waited."""
    assert len(content) < 8 * MIB
    path = "/v1/chat/completions" if b'"messages"' in content else "/v1/completions"
    before = impatient.inside.memory_info().rss
    with others_are_served(impatient):
        answer = impatient.client.post(path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 500
    assert impatient.inside.memory_info().rss < before + 400 * MIB


def test_a_prompt_of_eight_megabytes_is_refused_while_others_are_served(impatient):
    text = {"prompt": "a b\n" * 1_600_000}
    chat = {"messages": [{"role": "user", "content": "a b\n" * 1_600_000}]}
    with others_are_served(impatient):
        answer = impatient.post("/v1/completions", text)
        is_error(answer, 400, "context_length_exceeded", "prompt")
        answer = impatient.post("/v1/chat/completions", chat)
        is_error(answer, 400, "context_length_exceeded", "messages")


@pytest.mark.parametrize("depth", [10, 200, 300, 900, 980, 990, 1_000, 10_000])
@pytest.mark.parametrize("field", ["chat_template_kwargs", "messages", "unknown"])
def test_json_of_any_depth_is_answered_or_refused(impatient, field, depth):
    """What Python's parser takes may be too deep for what comes after it."""
    deep = "[" * depth + "]" * depth
    fields = {
        "chat_template_kwargs": f'"chat_template_kwargs": {{"x": {deep}}}, ',
        "messages": "",
        "unknown": f'"unknown": {deep}, ',
    }
    extra = f', "extra": {deep}' if field == "messages" else ""
    content = (
        f'{{{fields[field]}"max_tokens": 1, '
        f'"messages": [{{"role": "user", "content": "a"{extra}}}]}}'
    )
    answer = impatient.client.post("/v1/chat/completions", content=content, headers=JSON)
    if depth < 500 or answer.status_code == 200:
        assert answer.status_code == 200, answer.text
        assert depth < 1_000
    else:
        assert "nested too deeply" in is_error(answer, 400, "invalid_json")


# Readers.


def torrent(**fields):
    """An answer of megabytes, as a stream."""
    asked = {"prompt": "a", "n": 16, "logprobs": 20, "max_tokens": 4000, "temperature": 0}
    return json.dumps({**asked, "ignore_eos": True, "stream": True, **fields}).encode()


def slow_reader(server):
    """It takes little, so that what it is sent piles up soon."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    return connection


def test_whoever_takes_nothing_of_an_answer_is_let_go(impatient):
    """Its place in the engine is freed, and its connection, though it stays on the line."""
    fds, memory = impatient.inside.num_fds(), impatient.inside.memory_info().rss
    with others_are_served(impatient), ExitStack() as stack:
        for _ in range(3):
            body = torrent()
            stack.enter_context(slow_reader(impatient)).sendall(head(len(body)) + body)
        until(lambda: impatient.metrics()["num_requests_running"] >= 48)
        until(lambda: impatient.metrics()["num_requests_running"] <= 1, WRITE_SECONDS + 30)
        until(lambda: impatient.inside.num_fds() <= fds + 2, WRITE_SECONDS + 30)
    assert impatient.inside.memory_info().rss < memory + 200 * MIB


def test_whoever_takes_a_little_now_and_then_gets_it_all(impatient):
    body = torrent(n=1, max_tokens=600)
    with slow_reader(impatient) as connection:
        connection.sendall(head(len(body)) + body)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):  # the last chunk
            received += connection.recv(1 << 14)
            time.sleep(0.01)
    assert received.count(b"data: {") == 600
    assert b"data: [DONE]" in received


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_whoever_leaves_as_soon_as_it_has_asked_is_not_answered(impatient, path):
    """At every moment: while the body is read, the template rendered, the stream begun."""
    fields = {"prompt": None, "messages": [{"role": "user", "content": "a"}], "logprobs": None}
    body = torrent(n=1) if path == "/v1/completions" else torrent(**fields, n=1)
    before = impatient.metrics()["generation_tokens_total"]
    for turn in range(60):
        with connect(impatient) as connection:
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.sendall(head(len(body), path) + body)
            time.sleep(turn % 20 / 2000)
    until(impatient.is_idle, seconds=5)
    assert impatient.metrics()["generation_tokens_total"] < before + 4000
