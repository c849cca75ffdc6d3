"""Shards on their way through a conversion, with an origin that a test holds back."""

import hashlib
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from dsdeploy.hub.listing import RemoteFile
from dsdeploy.hub.origin import Stream
from dsdeploy.hub.retries import Retries, TransientError
from dsdeploy.hub.stage import Stage

CONTENTS = {name: name.encode() * 1000 for name in ("first", "second", "third")}


class HeldBack:
    """Serves a file once it is let go; an abort ends all waits."""

    def __init__(self):
        self.let_go = {name: threading.Event() for name in CONTENTS}
        self.asked = []
        self.aborted = False

    @contextmanager
    def stream(self, file, start, stop):
        self.asked.append(file.path)
        self.let_go[file.path].wait(60)
        if self.aborted:
            raise TransientError("aborted")
        yield Stream(start, iter([CONTENTS[file.path][start:stop]]))

    def abort(self):
        self.aborted = True
        for event in self.let_go.values():
            event.set()


class Silent:
    def advance(self, nbytes, name):
        pass

    def remark(self, text):
        raise AssertionError(text)

    def retried(self):
        pass


def remote(name):
    content = CONTENTS[name]
    return RemoteFile(name, len(content), hashlib.sha256(content).hexdigest(), None)


@pytest.fixture
def origin():
    return HeldBack()


@pytest.fixture
def stage(origin, tmp_path):
    files = {name: remote(name) for name in CONTENTS}
    made = Stage(origin, files, tmp_path / "stage", 100_000, Retries(first_wait=0.0), Silent())
    yield made
    made.close()


def read(stage, name):
    target = np.zeros(len(CONTENTS[name]), np.uint8)
    stage.read(remote(name), [(target, 0)])
    return target.tobytes()


def test_what_is_read_is_waited_for_and_what_is_used_up_is_removed(stage, origin, tmp_path):
    stage.begin([("a", frozenset({"first"})), ("b", frozenset({"first", "second"}))])
    origin.let_go["first"].set()
    origin.let_go["second"].set()
    assert read(stage, "first") == CONTENTS["first"]
    stage.finished("a")
    assert read(stage, "second") == CONTENTS["second"]
    assert len(list((tmp_path / "stage").glob("*.part"))) == 2
    stage.finished("b")
    assert list((tmp_path / "stage").glob("*.part")) == []
    stage.close()
    assert not (tmp_path / "stage").exists()
    assert origin.asked == ["first", "second"]


def test_an_output_that_is_made_without_its_shard_does_not_wait_for_it(stage, origin, tmp_path):
    """As one does that an earlier run has written."""
    stage.begin([("a", frozenset({"first"})), ("b", frozenset({"second"}))])
    stage.finished("a")
    origin.let_go["second"].set()
    assert read(stage, "second") == CONTENTS["second"]
    origin.let_go["first"].set()
    stage.finished("b")
    stage.close()
    assert not (tmp_path / "stage").exists()


def test_an_abort_wakes_whoever_reads(stage, origin):
    stage.begin([("a", frozenset({"first"}))])
    raised = []

    def reading():
        try:
            read(stage, "first")
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=reading)
    thread.start()
    stage.abort()
    thread.join(60)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_what_has_come_is_used_by_the_next_run(origin, tmp_path):
    files, needs = {name: remote(name) for name in CONTENTS}, [("a", frozenset({"first", "third"}))]
    for run in range(2):
        stage = Stage(origin, files, tmp_path / "stage", 100_000, Retries(first_wait=0.0), Silent())
        stage.begin(needs)
        origin.let_go["first"].set()
        assert read(stage, "first") == CONTENTS["first"]
        stage.close()
        assert (tmp_path / "stage").exists()
        origin.aborted = False
        origin.let_go["third"].clear()
        assert origin.asked.count("first") == 1, run
