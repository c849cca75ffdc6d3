"""What a download shows while it goes on, and how Ctrl-C ends it."""

import os
import pty
import re
import signal
import threading

import pytest

from .stand_in import Answer, Close, Stall
from .tools import NAME, asked, is_whole, start, wait_until

LINE = r"download [\d.]+ .?B of 10\.00 MB \(\d+ %\) [\d.]+ .?B/s ETA \d+:\d\d:\d\d"
MOST = 60
"""Seconds, against the 600 after which a connection would be given up."""


@pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")
def test_a_log_shows_where_a_download_ended(hub, one_shard, download):
    hub.faults.extend([None, Close(0), None] + [Answer(503)] * 3)
    result = download("--attempts", 3)
    assert result.exit_code == 5
    assert re.search(
        r"^download 131\.77 kB of 300\.70 kB \(44 %\) [\d.]+ .B/s ETA \d:\d\d:\d\d "
        r"1/2 files, 3 retries: model\.safetensors$",
        result.stderr,
        re.MULTILINE,
    )


@pytest.mark.usefixtures("cached")
def test_quiet_and_json_show_no_progress(hub, one_shard, download):
    assert download("-q").output == ""
    assert download("--json", "--include", "*").stderr == ""


class Terminal:
    """Collects what a process writes to it."""

    def __init__(self):
        self._ours, self.theirs = pty.openpty()
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                self.text += os.read(self._ours, 1 << 16).decode()
            except OSError:  # nobody writes any more
                return

    def shows(self, pattern):
        return re.search(pattern, self.text) is not None

    def end(self):
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)


def test_a_terminal_shows_files_bytes_rate_time_left_and_retries(hub, repository, out):
    source = repository({"config.json": 700, "model.safetensors": 10_000_000})
    hub.faults.append(Close(100_000))
    hub.rate = 1_000_000
    terminal = Terminal()
    words = ("download", NAME, "--to", out, "--workers", 1)
    process = start(*words, stderr=terminal.theirs, COLUMNS="200")
    wait_until(lambda: terminal.shows(LINE + r" 1/2 files, 1 retries: model\.safetensors"), process)
    assert process.poll() is None, terminal.text
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=MOST)
    terminal.end()
    assert process.returncode == 130
    assert f"error: Interrupted; what has come stays in {out}." in terminal.text
    assert "fix: Run the same command again to go on." in terminal.text
    hub.rate = None
    again = start(*words)
    assert again.wait(MOST) == 0
    again.communicate()
    assert is_whole(out, source)


@pytest.mark.parametrize("fault", [Stall(1000), Stall(0), Stall(None)], ids=repr)
def test_an_interrupt_ends_it_while_connections_stall(hub, one_shard, out, fault):
    hub.faults.extend([fault] * 4)
    process = start("download", NAME, "--to", out, "--workers", 4, "--stall-seconds", 600)
    wait_until(lambda: asked(hub, "storage"), process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=MOST)
    assert process.returncode == 130
    assert "fix: Run the same command again to go on." in errors


def test_an_interrupt_ends_it_while_the_hub_is_silent(hub, one_shard, out):
    hub.hub_faults.append(Stall(None))
    process = start("download", NAME, "--to", out)
    wait_until(lambda: asked(hub, "hub", "/revision/main"), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=MOST)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not out.exists()
