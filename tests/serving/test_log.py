"""The log: bounded, readable over its turns, and without secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.serving.log import LineSplitter, LogFile, LogReader, Redactor, last_lines, secrets_in


@given(st.lists(st.binary(max_size=40)), st.integers(1, 9))
def test_lines_do_not_depend_on_how_a_stream_is_cut(lines, size):
    lines = [line.replace(b"\r", b"").replace(b"\n", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    found = [line for piece in pieces for line in splitter.feed(piece)]
    assert found + splitter.end() == lines


def test_a_progress_bar_is_a_line_for_each_step():
    splitter = LineSplitter()
    assert splitter.feed(b"\r 50%|") == [b""]
    assert splitter.feed(b"\r100%|\nready") == [b" 50%|", b"100%|"]
    assert splitter.end() == [b"ready"]


def test_a_log_keeps_its_size_and_the_newest_lines(tmp_path):
    log = LogFile(tmp_path / "log", largest=1000, kept=2)
    for number in range(1000):
        log.write([b"line %d" % number])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert last_lines(tmp_path / "log", 3) == ["line 997", "line 998", "line 999"]
    assert len(last_lines(tmp_path / "log", 10**6)) > 100


def test_a_reader_goes_on_over_a_turn(tmp_path):
    log, found = LogFile(tmp_path / "log", largest=200, kept=1), []
    reader = LogReader(tmp_path / "log")
    for number in range(100):
        log.write([b"line %d" % number])
        if number % 7 == 0:
            found += reader.new_lines()
    assert [*found, *reader.new_lines()] == [f"line {number}" for number in range(100)]


def test_a_log_that_found_no_room_says_how_many_lines_are_lost(tmp_path, monkeypatch):
    log = LogFile(tmp_path / "log")
    log.write([b"before"])
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda *_: (_ for _ in ()).throw(full))
        log.write([b"one", b"two"])
        log.write([b"three"])
    log.write([b"after"])
    assert log.lost == 3
    told = "[dsdeploy: 3 lines are lost: no room for them]"
    assert last_lines(tmp_path / "log", 9) == ["before", told, "after"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"token hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.", b"token [secret]."),
        (b"Authorization: Bearer abcdefghijklmnop", b"Authorization: Bearer [secret]"),
        (b"args: api_key=['sk-0123456789abcdef']", b"args: api_key=['[secret]']"),
        (b"--api-key sk-0123456789abcdef --port 1", b"--api-key [secret] --port 1"),
        (b"the key is correct horse", b"the key is [secret]"),
        (b"api_key=None, max_model_len=4096", b"api_key=None, max_model_len=4096"),
    ],
)
def test_secrets_are_left_out(line, shown):
    assert Redactor(["correct horse"])(line) == shown


def test_which_variables_hold_secrets():
    environment = {"HF_TOKEN": "a", "API_KEY": "b", "KEYBOARD": "c", "TOKENIZERS_PARALLELISM": "d"}
    assert secrets_in(environment) == ["a", "b"]
