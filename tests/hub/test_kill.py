"""kill -9 of real processes at a hundred random moments; the same command goes on."""

import filecmp
import multiprocessing
import random
import shutil
import signal
import sys

import pytest

from dsdeploy.cli.main import main

from .tools import NAME, start, wait_until

WORKERS, CHUNK = 2, 32 << 20
SIZES = {
    **{f"{index}.json": 700 for index in range(10)},
    **{f"model-{index:05}.safetensors": 2_000_000 + index for index in range(60)},
    "model-of-three-chunks.safetensors": 80_000_000,
}


@pytest.fixture
def large(repository):
    return repository(SIZES)


class Forked:
    """The command in a process that is forked from one that has imported it already."""

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["dsdeploy.cli.download", "dsdeploy.hub.download", "huggingface_hub.hf_api"]
    )

    def __init__(self, words, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["dsdeploy", *map(str, words)])
            self._process = self.context.Process(target=main)
            self._process.start()
        self.kill = self._process.kill

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def assert_whole(target, source):
    for name in SIZES:
        assert filecmp.cmp(target / name, source / name, shallow=False), name
    assert {path.name for path in target.iterdir()} == {*SIZES, "MANIFEST.json"}


def ends_by_itself(process, hub, nbytes):
    """Kill it when so many bytes have been sent to it, if it lives so long."""
    goal = hub.sent + nbytes
    wait_until(lambda: hub.sent >= goal, process)
    process.kill()
    code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code == 0


def test_killed_a_hundred_times(hub, large, tmp_path, monkeypatch):
    hub.rate = 200_000_000
    size, chance = sum(SIZES.values()), random.Random(11)
    kills = folders = killed_of_this = begun_at = 0
    while kills < 100 or killed_of_this:
        target = tmp_path / f"out-{folders}"
        words = ("download", NAME, "--to", target, "--workers", WORKERS, "--endpoint", hub.url)
        most = chance.choice([1, 1 << 20, 4 << 20, 8 << 20, 90 << 20])
        nbytes = chance.randint(1, most) if kills < 100 else 10 * size
        # Every tenth starts as a user starts it; that takes the most of a second.
        fresh = kills % 10 == 9
        process = start(*words, "-q") if fresh else Forked([*words, "-q"], monkeypatch)
        if not ends_by_itself(process, hub, nbytes):
            kills, killed_of_this = kills + 1, killed_of_this + 1
            continue
        assert_whole(target, large)
        assert hub.sent - begun_at <= size + killed_of_this * WORKERS * CHUNK
        shutil.rmtree(target)
        folders, killed_of_this, begun_at = folders + 1, 0, hub.sent
