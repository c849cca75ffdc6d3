"""What goes wrong between a storage server and the disk, and that it does not show in the files."""

import email.utils
import json
import time

import pytest

from dsdeploy.hub.retries import retry_after

from .stand_in import Answer, Close, OtherRange, Short, Stall, Whole
from .tools import asked, is_whole

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")

CHUNK, SIZE = 64 << 10, 300_000

ONCE = {
    "end before the first byte": Close(0),
    "end in a chunk": Close(CHUNK // 2),
    "end at a chunk's last byte": Close(CHUNK - 1),
    "reset before the first byte": Close(0, reset=True),
    "reset in a chunk": Close(20_000, reset=True),
    "stall before the answer": Stall(None),
    "stall before the first byte": Stall(0),
    "stall in a chunk": Stall(20_001),
    "too many requests": Answer(429),
    "too late": Answer(408),
    "not available": Answer(503, (("retry-after", "0"),)),
    "broken gateway": Answer(502, body=b"<html>Bad gateway</html>"),
    "an answer that is too short": Short(1000),
    "another range": OtherRange(),
    "an address that has expired": Answer(403),
    "an object that has gone from there": Answer(404),
    "a range that cannot be": Answer(416),
}


@pytest.mark.parametrize("at", [0, 1, 3], ids="chunk {}".format)
@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_one_fault_costs_one_retry(hub, one_shard, download, out, fault, at):
    hub.faults.extend([None] * at + [fault])
    result = download("--json", "--stall-seconds", 0.5)
    assert result.exit_code == 0, result.output
    assert is_whole(out, one_shard)
    assert json.loads(result.stdout)["retries"] >= 1
    assert len(asked(hub, "storage")) >= 5 + 1


def test_what_came_before_a_drop_is_not_asked_for_again(hub, one_shard, download, out):
    hub.faults.extend([None, Close(40_000)])
    assert download().exit_code == 0
    ranges = [headers["range"] for _, _, _, headers in hub.of_origin("storage")]
    assert ranges[1:3] == ["bytes=65536-131071", "bytes=105536-131071"]


def test_many_faults_in_any_order(hub, one_shard, download, out):
    for fault in ONCE.values():
        hub.faults.extend([fault, None])
    result = download("--workers", 4, "--stall-seconds", 0.5)
    assert result.exit_code == 0, result.output
    assert is_whole(out, one_shard)


def test_an_expired_address_is_asked_for_anew_and_only_then(hub, one_shard, download, out):
    hub.faults.extend([None, None, Answer(403)])
    assert download().exit_code == 0
    assert len(asked(hub, "hub", "/model.safetensors")) == 2
    signatures = [request[2].partition("?")[2] for request in hub.of_origin("storage")]
    assert len({*signatures[:3]}) == 1
    assert signatures[3] != signatures[2]
    assert is_whole(out, one_shard)


@pytest.mark.parametrize("written", ["seconds", "date"])
def test_the_time_that_a_server_asks_for_is_waited(hub, one_shard, download, out, written):
    # A date has whole seconds: two from now are more than one.
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    hub.faults.append(Answer(429, (("retry-after", "1" if written == "seconds" else date),)))
    begun = time.monotonic()
    assert download().exit_code == 0
    assert time.monotonic() - begun >= (1 if written == "seconds" else 0.9)
    assert is_whole(out, one_shard)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((None, 0), ("", 0), ("7", 7), ("0.5", 0.5), ("-3", 0), ("1e9", 600), ("soon", 0)),
        *(("nan", 0), ("inf", 600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)),
        ("Wed, 21 Oct 2999 07:28:00 GMT", 600),
    ],
)
def test_a_retry_after_is_a_time_in_reason(text, seconds):
    assert retry_after(text) == seconds


@pytest.mark.parametrize("workers", [1, 4])
def test_a_server_without_ranges_is_asked_once_more_and_not_once_a_chunk(
    hub, one_shard, download, out, workers
):
    hub.ranges = False
    assert download("--workers", workers).exit_code == 0
    assert is_whole(out, one_shard)
    assert len(asked(hub, "storage")) <= workers + 2


def test_a_server_that_forgets_ranges_in_the_middle_of_a_file(hub, one_shard, download, out):
    hub.faults.extend([None, None, Whole(), Whole()])
    assert download().exit_code == 0
    assert is_whole(out, one_shard)
    assert len(asked(hub, "storage")) == 4


def test_a_server_without_ranges_that_drops_is_read_again_up_to_there(
    hub, one_shard, download, out
):
    hub.ranges = False
    hub.faults.extend([None, None, Close(100_000), Close(200_000, reset=True)])
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_a_server_without_ranges_still_resumes_between_runs(hub, one_shard, download, out):
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    hub.ranges = False
    hub.requests.clear()
    assert download("--workers", 4).exit_code == 0
    assert is_whole(out, one_shard)
    assert len(asked(hub, "storage")) <= 5


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Answer(403), "localhost answers 403 for model.safetensors, 2 times in a row."),
        (Answer(503), "localhost answers 503 for model.safetensors, 2 times in a row."),
        (Close(0, reset=True), "the connection to localhost broke, 2 times in a row."),
        (OtherRange(), "the server answers with another range of model.safetensors"),
        (Stall(None), "localhost sent no byte for too long, 2 times in a row."),
    ],
    ids=["403", "503", "reset", "another range", "silence"],
)
def test_a_fault_that_stays_ends_it_and_a_rerun_goes_on(
    hub, one_shard, download, out, fault, sentence
):
    hub.faults.extend([None] * 3)
    hub.chance = lambda: fault
    seconds = 1 if fault == Stall(None) else 60
    result = download("--attempts", 2, "--stall-seconds", seconds)
    assert result.exit_code == 5
    assert sentence in result.stderr
    assert "fix: Run the same command again when the network is back: it goes on" in result.stderr
    assert not (out / "MANIFEST.json").exists()
    assert not (out / "model.safetensors").exists()
    hub.chance = None
    hub.sent_of.clear()
    assert download().exit_code == 0
    assert is_whole(out, one_shard)
    assert hub.sent_of["model.safetensors"] == SIZE - 3 * CHUNK


def test_progress_resets_the_count_of_attempts(hub, one_shard, download, out):
    hub.faults.extend([Close(1000)] * 20)
    assert download("--attempts", 2).exit_code == 0
    assert is_whole(out, one_shard)


def test_a_rate_is_kept_below(hub, one_shard, download, out):
    begun = time.monotonic()
    assert download("--workers", 4, "--max-rate", "300kB").exit_code == 0
    assert time.monotonic() - begun >= 1
    assert is_whole(out, one_shard)


def test_a_rate_holds_for_small_files_as_well(hub, repository, download, out):
    source = repository({f"{index}.json": 10_000 for index in range(20)})
    begun = time.monotonic()
    assert download("--workers", 4, "--max-rate", "400kB").exit_code == 0
    assert time.monotonic() - begun >= 0.5
    assert is_whole(out, source)
