"""When tokens came and how requests failed, over real HTTP."""

import asyncio
import itertools
import threading
import time

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.client.bench.exchange import Received
from dsdeploy.client.bench.load import Concurrency, Rate
from dsdeploy.client.bench.prompts import Question
from dsdeploy.client.bench.reading import read
from dsdeploy.client.bench.run import Asking, measure
from dsdeploy.client.endpoint import Endpoint

from .stand_in import DONE, event, finish, piece, says, standing_in


@pytest.fixture
def stand_in():
    with standing_in() as found:
        yield found


def ask(stand_in, *questions, load=Concurrency(1), **settings):  # noqa: B008
    asking = Asking(Endpoint(stand_in.url, "secret"), "first", **{"timeout": 30, **settings})
    return measure(asking, questions or [Question("Hello", 5)], load)


def failure(stand_in, **settings):
    (sample,) = ask(stand_in, **settings).samples
    assert sample.texts == ()
    return sample.failure


def test_what_is_sent(stand_in):
    stand_in.answers = [says("a"), says("b")]
    chat = ({"role": "user", "content": "Hi"},)
    ask(stand_in, Question("Hello", 5), Question(chat, 6), ignore_eos=True, temperature=0.5)
    (path, headers, body), (chat_path, _, chat_body) = stand_in.asked
    assert (path, chat_path) == ("/v1/completions", "/v1/chat/completions")
    assert headers["authorization"] == "Bearer secret"
    assert body == {
        "model": "first",
        "prompt": "Hello",
        "max_tokens": 5,
        "temperature": 0.5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (chat_body["messages"], chat_body["max_tokens"]) == (list(chat), 6)


def test_tokens_are_those_with_text_and_their_number_the_servers(stand_in):
    role = piece(role="assistant", content="")
    thought, said = piece(reasoning_content="Hm."), piece(content="Yes")
    text = event({"choices": [{"index": 0, "text": " more", "finish_reason": None}]})
    stand_in.answers = [[role, thought, said, text, finish(tokens=7)]]
    (sample,) = ask(stand_in).samples
    assert sample.failure is None
    assert len(sample.texts) == 3
    assert sample.sent <= sample.texts[0] <= sample.texts[-1] <= sample.ended
    assert (sample.prompt_tokens, sample.output_tokens) == (None, 7)


def test_an_answer_without_usage_has_no_count(stand_in):
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stand_in.answers = [[piece(content="a"), last, DONE]]
    (sample,) = ask(stand_in).samples
    assert (sample.failure, sample.output_tokens, len(sample.texts)) == (None, None, 1)


def test_a_pause_is_between_its_two_tokens(stand_in):
    stand_in.answers = [[piece(content="a"), 0.2, *says("b")]]
    (sample,) = ask(stand_in).samples
    assert sample.texts[1] - sample.texts[0] > 0.05


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((401, {"error": {"message": "wrong key"}}), "HTTP 401", "wrong key"),
        ((429, {"error": {"message": "queue is full"}}), "HTTP 429", "takes no more requests"),
        ((500, {"detail": "CUDA error"}), "HTTP 500", "CUDA error"),
        ([piece(content="a"), event({"error": {"message": "lost"}})], "error in mid-answer", "lost"),
        ([piece(content="a"), b"data: <html>\n\n"], "error in mid-answer", "not as OpenAI"),
        ([piece(content="a")], "broken off", "without its last event"),
        ([], "broken off", "without its last event"),
        ([finish(tokens=0)], "empty", "without a single token"),
        ([b"\n"], "broken off", "without its last event"),
    ],
)  # fmt: skip
def test_failures_are_of_a_kind(stand_in, answer, kind, said):
    stand_in.answers = [answer]
    found = failure(stand_in)
    assert found.kind == kind
    assert said in found.error.message
    assert "secret" not in f"{found.error.message} {found.error.hint}"


def test_an_answer_that_takes_too_long(stand_in):
    stand_in.answers = [[piece(content="a"), threading.Event()]]
    assert failure(stand_in, timeout=0.3).kind == "time-out"
    assert stand_in.gone.wait(20)


def test_nobody_there(stand_in):
    with standing_in() as other:
        pass
    found = failure(other)
    assert found.kind == "no connection"
    assert "Nothing can be asked at" in found.error.message


def test_one_failure_does_not_spoil_the_others(stand_in):
    stand_in.answers = [says("a"), (503, {}), says("b")]
    samples = ask(stand_in, *[Question("Hello", 5)] * 3).samples
    assert [sample.failure and sample.failure.kind for sample in samples] == [
        None,
        "HTTP 503",
        None,
    ]


def under_way(samples):
    """The most at any time."""
    times = [(s.sent, 1) for s in samples] + [(s.ended, -1) for s in samples]
    now = most = 0
    for _, change in sorted(times):
        now += change
        most = max(most, now)
    return most


def test_so_many_at_a_time(stand_in):
    stand_in.answers = [says(*"abcdefgh") for _ in range(12)]
    told = []
    asking = Asking(Endpoint(stand_in.url), "first", 30)
    found = measure(asking, [Question("x", 1)] * 12, Concurrency(3), tell=told.append)
    assert under_way(found.samples) <= 3
    assert told == list(range(1, 13))
    assert found.late == 0


def test_a_rate_does_not_wait_for_answers(stand_in):
    together = threading.Barrier(5, timeout=60)
    stand_in.answers = [[piece(content="a"), together, *says("b")] for _ in range(5)]
    found = ask(stand_in, *[Question("x", 1)] * 5, load=Rate(1000.0))
    assert [s.failure for s in found.samples] == [None] * 5
    assert under_way(found.samples) == 5
    assert [s.sent for s in found.samples] == sorted(s.sent for s in found.samples)


def test_nothing_is_collected_or_left_running_after_a_measurement(stand_in):
    import gc

    stand_in.answers = [says("a")]
    ask(stand_in)
    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


TEXTS = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6)


def chunked(body):
    return b"%x\r\n%b\r\n" % (len(body), body)


@given(TEXTS, st.booleans(), st.data())
def test_a_token_comes_with_the_last_byte_of_its_event_however_the_network_cuts(
    texts, chunks, data
):
    """Each piece comes a second after the one before."""
    frame = chunked if chunks else bytes
    coding = b"transfer-encoding: chunked\r\n" if chunks else b""
    written = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + coding + b"\r\n"
    ends = []
    for text in texts:
        written += frame(piece(content=text))
        ends.append(len(written) - (2 if chunks else 0))
    written += frame(finish(tokens=len(texts))) + (b"0\r\n\r\n" if chunks else b"")

    cuts = data.draw(st.sets(st.integers(1, len(written) - 1), max_size=12))
    edges = [0, *sorted(cuts), len(written)]
    pieces = [written[a:b] for a, b in itertools.pairwise(edges)]
    protocol = h11.Connection(h11.CLIENT)
    protocol.send(h11.Request(method="POST", target="/", headers=[("host", "h")]))
    protocol.send(h11.EndOfMessage())
    times = [float(second) for second in range(1, len(pieces) + 1)]
    sample = read("http://h", Received(0.0, times, pieces, protocol, None))

    arrived = [next(t for t, edge in zip(times, edges[1:], strict=True) if edge >= e) for e in ends]
    assert sample.texts == tuple(arrived)
    assert sample.output_tokens == len(texts)


def test_times_are_of_the_monotonic_clock(stand_in):
    before = time.monotonic()
    stand_in.answers = [says("a")]
    (sample,) = ask(stand_in).samples
    assert before <= sample.sent <= sample.ended <= time.monotonic()
