"""Disks that are full, damaged or particular: exit code 6, nothing lost, the same bytes."""

import errno
import fcntl
import os
import shutil
import threading
from itertools import count
from types import SimpleNamespace

import pytest

from dsdeploy.checkpoint import direct

from .tools import counted_fills, failing, intercepted, tree

pytestmark = pytest.mark.usefixtures("small_windows")
OPTIONS = ("--workers", 2, "--max-shard-size", "200kB")


@pytest.fixture(scope="module")
def undisturbed(fp8, convert, tmp_path_factory, small_windows):
    return tree(convert(fp8, tmp_path_factory.mktemp("undisturbed") / "out", *OPTIONS))


FIXES = {
    errno.ENOSPC: "Free some space, then run the same command: what is done stays.",
    errno.EDQUOT: "Free some space, then run the same command: what is done stays.",
    errno.EIO: "See to the disk or the permissions, then run it again.",
}


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        (errno.ENOSPC, ("write", "pwrite", "mkdir")),
        (errno.EDQUOT, ("pwrite",)),
        (errno.EIO, ("write", "pwrite", "fsync", "ftruncate", "rename", "replace")),
    ],
    ids=["no space", "over quota", "damaged"],
)
def test_a_disk_fault_at_any_call_ends_with_6_and_the_rerun_goes_on(
    fp8, dsdeploy, convert, tmp_path, undisturbed, code, calls
):
    target, log = tmp_path / "out", tmp_path / "fills"
    with counted_fills(log):
        convert(fp8, tmp_path / "counted", *OPTIONS)
    windows = log.stat().st_size
    for at in count(1):
        log.unlink()
        with counted_fills(log):
            with intercepted(failing(at, code), calls):
                result = dsdeploy("convert", fp8, target, *OPTIONS)
            if result.exit_code == 0:
                break
            assert result.exit_code == 6, result.output
            assert f"{os.strerror(code)}.\n  fix: {FIXES[code]}" in result.stderr
            if (target / "MANIFEST.json").exists():
                assert tree(target).items() >= undisturbed.items()
            convert(fp8, target, *OPTIONS)
        assert tree(target) == undisturbed
        assert log.stat().st_size <= windows + 2
        shutil.rmtree(target)
    assert at > windows
    assert tree(target) == undisturbed


def test_reserving_the_space_shows_a_full_disk_before_the_work(
    fp8, dsdeploy, tmp_path, monkeypatch
):
    def full(_descriptor, _size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(direct, "preallocate", full)
    with counted_fills(tmp_path / "fills"):
        result = dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS)
    assert (result.exit_code, (tmp_path / "fills").stat().st_size) == (6, 0)


def test_too_little_free_space_is_told_before_anything_is_written(
    fp8, dsdeploy, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=25, f_frsize=4096))
    result = dsdeploy("convert", fp8, tmp_path / "a" / "b", *OPTIONS)
    assert result.exit_code == 6
    assert "has 102.40 kB free and the output needs 5" in result.stderr
    assert "fix: Free some space or give a target on another disk." in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_space_that_an_unfinished_output_holds_already_is_not_asked_for_again(
    fp8, dsdeploy, tmp_path, monkeypatch, undisturbed
):
    with intercepted(failing(5, errno.ENOSPC), ("pwrite",)):
        dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS)
    held = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("out/.dsdeploy/*.safetensors"))
    assert held
    free = SimpleNamespace(f_bavail=600_000 - held, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    assert dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS).exit_code == 0
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("share", [2, 3, 5000])
def test_short_writes_are_finished(fp8, convert, tmp_path, undisturbed, share):
    def half(_name, call, descriptor, data, *position):
        return call(descriptor, data[: max(1, len(data) // share)], *position)

    with intercepted(half, ("write",)):
        convert(fp8, tmp_path / "log", *OPTIONS)
    with intercepted(half, ("pwrite",)):
        convert(fp8, tmp_path / "data", *OPTIONS)
    assert tree(tmp_path / "log") == tree(tmp_path / "data") == undisturbed


def test_short_reads_are_finished(fp8, convert, tmp_path, undisturbed):
    def half(_name, call, descriptor, buffers, position):
        length = max(1, len(buffers[0]) // 2)
        return call(descriptor, [buffers[0][:length]], position)

    with intercepted(half, ("preadv",)):
        convert(fp8, tmp_path / "out", *OPTIONS)
    assert tree(tmp_path / "out") == undisturbed


def invalid():
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_a_file_system_that_does_not_open_for_direct_access(fp8, convert, tmp_path, undisturbed):
    refused = []

    def plain_only(_name, call, path, flags, *more, **options):
        if flags & os.O_DIRECT:
            refused.append(path)
            raise invalid()
        return call()

    with intercepted(plain_only, ("open",)):
        convert(fp8, tmp_path / "out", *OPTIONS)
    assert refused
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("refusing", ["pwrite", "preadv"])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_a_file_system_that_opens_for_direct_access_then_refuses_it(
    fp8, convert, tmp_path, undisturbed, refusing, workers
):
    refused = []

    def hook(_name, call, descriptor, *_arguments):
        if direct_access(descriptor):
            refused.append(descriptor)
            # Others come to the same refusal before the first has changed to plain access.
            threading.Event().wait(0.05)
            raise invalid()
        return call()

    with intercepted(hook, (refusing,)):
        convert(fp8, tmp_path / "out", "--workers", workers, "--max-shard-size", "1GB")
    assert refused
    expected = convert(fp8, tmp_path / "undisturbed", "--max-shard-size", "1GB")
    assert tree(tmp_path / "out") == tree(expected)


def direct_access(descriptor):
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT


def test_an_invalid_call_through_the_cache_is_an_error_and_no_endless_loop(fp8, dsdeploy, tmp_path):
    def hook(_name, _call, *_arguments):
        raise invalid()

    with intercepted(hook, ("pwrite",)):
        result = dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS)
    assert (result.exit_code, "Invalid argument." in result.stderr) == (1, True)


@pytest.mark.parametrize("check", [True, False])
def test_a_disk_that_loses_a_written_page_is_caught_by_the_check(fp8, dsdeploy, tmp_path, check):
    def lossy(_name, call, descriptor, data, position):
        if position == 1 << 16:
            return (
                call(descriptor, bytes(len(data)), position)
                if not direct_access(descriptor)
                else call(descriptor, direct.aligned_buffer(len(data)).data, position)
            )
        return call()

    options = [] if check else ["--no-check"]
    with intercepted(lossy, ("pwrite",)):
        result = dsdeploy("convert", fp8, tmp_path / "out", "--max-shard-size", "1GB", *options)
    if check:
        assert result.exit_code == 4
        assert "reads back other bytes than were written" in result.stderr
        result = dsdeploy("convert", fp8, tmp_path / "out", "--max-shard-size", "1GB")
        assert result.exit_code == 0
    whole = dsdeploy("inspect", tmp_path / "out", "--deep").exit_code
    assert whole == (0 if check else 4)
