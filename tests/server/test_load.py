"""A thousand clients at once, half of whom leave in the middle: the others notice nothing, and what
the thousand needed is given back."""

import asyncio
import json
import resource

import pytest

from ..waiting import until
from .tools import BABBLE

CLIENTS = 1000
TOKENS = 16
MIB = 1 << 20


@pytest.fixture
def many_files():
    """A client is a file, here as in the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def busy(serving, checkpoint):
    with serving(checkpoint, "--max-waiting", "1000", "--mtp", "1") as running:
        yield running


def question(number):
    """(path, body): chats and completions, of a few kinds."""
    fields = {"stream": True, "max_tokens": TOKENS, "seed": number % 5, **BABBLE}
    if number % 4 == 0:
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], **fields}
    return "/v1/completions", {"prompt": "a" * (number % 3 * 50 + 1), **fields}


async def ask(port, number, leaving):
    """The whole stream; or its first events, of one who leaves then: politely, or not."""
    path, body = question(number)
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        if not leaving:
            return await reader.read()
        received = b""
        while received.count(b"data: ") <= number % 6:
            received += await reader.read(1 << 12)
        if number % 2:
            writer.transport.abort()
        return received
    finally:
        writer.close()


def text_of(stream):
    """Of a whole stream, in chunks as it comes over the wire."""
    head, _, rest = stream.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), stream[:500]
    events = [
        line.removeprefix(b"data: ") for line in rest.split(b"\r\n") if line.startswith(b"data: ")
    ]
    assert events[-1].strip() == b"[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert choices[-1]["finish_reason"] == "length"
    return "".join(c.get("text") or c.get("delta", {}).get("content", "") for c in choices)


async def stampede(port):
    """Every second client leaves; the streams of the others."""
    asking = (ask(port, number, leaving=number % 4 > 1) for number in range(CLIENTS))
    streams = await asyncio.gather(*asking)
    return {number: stream for number, stream in enumerate(streams) if number % 4 <= 1}


def test_a_thousand_clients_of_whom_half_leave(busy, many_files):
    async def one(number):
        return text_of(await ask(busy.port, number, leaving=False))

    expected = {number: asyncio.run(one(number)) for number in range(60)}
    assert {len(text) for text in expected.values()} == {TOKENS}
    assert len(set(expected.values())) > 5
    fds, memory = busy.inside.num_fds(), []
    for _ in range(3):
        streams = asyncio.run(stampede(busy.port))
        assert len(streams) == CLIENTS / 2
        for number, stream in streams.items():
            assert text_of(stream) == expected[number % 60]
        until(busy.is_idle, seconds=5)
        until(lambda: busy.inside.num_fds() <= fds + 2, seconds=5)
        memory.append(busy.inside.memory_info().rss / MIB)
    found = busy.metrics()
    assert found["spec_decode_num_accepted_tokens_total"] > 0
    assert found["request_success_total{length}"] == 60 + 3 * CLIENTS / 2
    # The first round makes room for a thousand at once, which is kept.
    assert memory[2] - memory[1] < 15, memory
    assert memory[2] - memory[0] < 40, memory
