"""kill -9 at every call that changes the disk; the same command then goes on to the same bytes.

The kill comes just before or just after the n-th call, in a forked child, for n = 1, 2, 3, ...
until the child lives to its end. Windows are 64 KiB, so that small files have several.
"""

import os
import random
import shutil
import signal
import threading
from itertools import count

import pytest

from dsdeploy.checkpoint import direct

from .tools import counted_fills, intercepted, tree

pytestmark = pytest.mark.usefixtures("small_windows")


@pytest.fixture
def cached(monkeypatch):
    """A kill loses nothing that is in the page cache, so hundreds of runs need not wait for the
    disk; a sync is still a call to die at."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(direct, "_DIRECT", 0)


def is_killed(work, at, before):
    """Do the work in a child that dies at its `at`-th call; whether it came so far."""
    child = os.fork()
    if child == 0:
        outcome = 1
        try:
            with intercepted(dying(at, before)):
                outcome = work().exit_code
        finally:
            os._exit(outcome)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def dying(at, before):
    numbers, one_at_a_time = count(1), threading.Lock()

    def hook(_name, call, *_arguments):
        with one_at_a_time:
            last = next(numbers) == at
        if last and before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call()
        finally:
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


CASES = {
    "one worker": ("--workers", 1, "--max-shard-size", "200kB"),
    "two workers, the demo's layout": ("--workers", 2, "--layout", "demo", "--ranks", 2),
}


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_rerun_gives_the_same_tree_and_repeats_a_window_a_worker(
    fp8, convert, dsdeploy, tmp_path, options, before
):
    target, log = tmp_path / "out", tmp_path / "fills"
    expected = tree(convert(fp8, tmp_path / "undisturbed", *options))
    with counted_fills(log):
        convert(fp8, tmp_path / "counted", *options)
    windows = log.stat().st_size
    assert windows > 5
    for at in count(1):
        log.unlink()
        with counted_fills(log):
            killed = is_killed(lambda: dsdeploy("convert", fp8, target, *options), at, before)
            if not killed:
                break
            convert(fp8, target, *options)
        assert tree(target) == expected
        assert log.stat().st_size <= windows + options[1]
        shutil.rmtree(target)
    assert at > 50
    assert tree(target) == expected


@pytest.mark.parametrize("seed", range(8))
def test_killed_again_and_again(fp8, convert, dsdeploy, tmp_path, seed):
    options = ("--workers", 2, "--max-shard-size", "200kB")
    target, chance = tmp_path / "out", random.Random(seed)

    def work():
        return dsdeploy("convert", fp8, target, *options)

    while is_killed(work, chance.randint(1, 40), chance.random() < 0.5):
        pass
    assert tree(target) == tree(convert(fp8, tmp_path / "undisturbed", *options))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_parts_killed_one_after_the_other(fp8, convert, dsdeploy, tmp_path, order):
    options = ("--workers", 2, "--max-shard-size", "200kB")
    target, chance = tmp_path / "out", random.Random(order[0])

    def part(index):
        return lambda: dsdeploy("convert", fp8, target, *options, "--part", f"{index}/2")

    for index in order:
        while is_killed(part(index), chance.randint(1, 30), before=True):
            pass
    assert tree(target) == tree(convert(fp8, tmp_path / "undisturbed", *options))


@pytest.fixture(scope="module")
def another(synth, tmp_path_factory):
    """Another checkpoint, in more shards than the conversion has."""
    return synth(tmp_path_factory.mktemp("another") / "another", "--seed", 9)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_overwritten_checkpoint_claims_to_be_whole_only_when_it_is(
    fp8, another, convert, dsdeploy, tmp_path, before
):
    options = ("--overwrite", "--workers", 2, "--max-shard-size", "200kB")
    target, old = tmp_path / "out", tree(another)
    shutil.copytree(another, target)
    expected = tree(convert(fp8, target, *options))
    assert len([name for name in expected if name.endswith(".safetensors")]) < 5
    for at in count(1):
        shutil.rmtree(target)
        shutil.copytree(another, target)
        if not is_killed(lambda: dsdeploy("convert", fp8, target, *options), at, before):
            break
        if (target / "MANIFEST.json").exists():
            shown = {name: h for name, h in tree(target).items() if not name.startswith(".dsd")}
            assert shown in (old, expected)
        convert(fp8, target, *options)
        assert tree(target) == expected
    assert at > 50
    assert tree(target) == expected


# What a loss of power takes besides: pages that no sync has brought to the disk.


def test_a_window_that_the_disk_has_lost_is_made_again(fp8, convert, dsdeploy, tmp_path):
    options = ("--workers", 2, "--max-shard-size", "1GB")
    expected = tree(convert(fp8, tmp_path / "undisturbed", *options))
    for lost in range(3):
        target = tmp_path / f"{lost}"
        assert is_killed(lambda to=target: dsdeploy("convert", fp8, to, *options), 17, before=True)
        (staged,) = target.glob(".dsdeploy/model-*")
        with staged.open("r+b") as file:
            file.seek((lost << 16) + 100)
            assert file.read(5000) != bytes(5000)
            file.seek((lost << 16) + 100)
            file.write(bytes(5000))
        assert tree(convert(fp8, target, *options)) == expected


def test_a_file_that_the_disk_has_lost_is_made_again(fp8, convert, dsdeploy, tmp_path):
    options = ("--workers", 1, "--max-shard-size", "200kB", "--part", "1/2")
    dsdeploy("convert", fp8, tmp_path / "out", *options)
    (staged, *_) = (tmp_path / "out" / ".dsdeploy").glob("model-*")
    staged.unlink()
    convert(fp8, tmp_path / "out", *options)
    last = (*options[:-1], "2/2")
    assert tree(convert(fp8, tmp_path / "out", *last)) == tree(
        convert(fp8, tmp_path / "undisturbed", *options[:-2])
    )


def test_every_file_is_synced_before_its_rename_and_the_folder_around_the_manifest(
    fp8, convert, tmp_path
):
    target, events = tmp_path / "out", []

    def note(name, call, first, *more):
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(more[0])
        events.append((name, path.removesuffix(".new")))
        return call()

    with intercepted(note, ("write", "pwrite", "ftruncate", "fsync", "rename")):
        convert(fp8, target, "--workers", 2, "--max-shard-size", "200kB")
    renames = [path for name, path in events if name == "rename"]
    assert {os.path.basename(path) for path in renames} == set(os.listdir(target))
    for path in renames:
        staged = {str(target / ".dsdeploy" / (dot + os.path.basename(path))) for dot in ("", ".")}
        before = events[: events.index(("rename", path))]
        assert [name for name, changed in before if changed in staged][-1] == "fsync"
    manifest = str(target / "MANIFEST.json")
    assert renames[-1] == manifest
    folder, parent = ("fsync", str(target)), ("fsync", str(target.parent))
    assert events[-4:] == [folder, ("rename", manifest), folder, parent]
