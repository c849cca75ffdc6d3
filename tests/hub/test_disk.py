"""Disks that are full or damaged: exit code 6, what has come stays, and the rerun goes on."""

import errno
import os
import subprocess
from itertools import count
from types import SimpleNamespace

import pytest

from ..convert.tools import failing, intercepted
from .tools import is_whole

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")

FREE_SPACE = "fix: Free some space, then run the same command: what is done stays."


@pytest.mark.parametrize(
    ("code", "workers"), [(errno.ENOSPC, 1), (errno.EIO, 4)], ids=["no space", "damaged"]
)
def test_a_fault_at_any_call_ends_with_6_and_the_rerun_goes_on(
    repository, download, tmp_path, code, workers
):
    source = repository({"config.json": 700, "deep/down/model.safetensors": 130_000})
    for at in count(1):
        target = tmp_path / str(at)
        calls = ("write", "pwrite", "fsync", "ftruncate", "replace", "mkdir")
        with intercepted(failing(at, code), calls):
            result = download("--workers", workers, to=target)
        if result.exit_code == 0:
            break
        assert result.exit_code == 6, result.output
        assert os.strerror(code) in result.stderr
        assert code != errno.ENOSPC or FREE_SPACE in result.stderr
        assert download(to=target).exit_code == 0
        assert is_whole(target, source)
    assert at > 30
    assert is_whole(target, source)


def test_too_little_space_is_told_before_the_work(hub, one_shard, download, out, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=25, f_frsize=4096))
    result = download()
    assert result.exit_code == 6
    assert f"{out} has 102.40 kB free and 300.70 kB are to come." in result.stderr
    assert "fix: Free some space, or give --to another disk." in result.stderr
    assert hub.sent == 0


def test_space_that_a_part_holds_is_not_asked_for_again(hub, one_shard, download, out, monkeypatch):
    with intercepted(failing(15, errno.ENOSPC), ("pwrite",)):
        assert download().exit_code == 6
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=2_000, f_frsize=1))
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_reserving_shows_a_full_disk_before_a_byte_comes(
    hub, one_shard, download, out, monkeypatch
):
    def full(_descriptor, _size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dsdeploy.hub.part.preallocate", full)
        result = download()
    assert (result.exit_code, hub.sent) == (6, 0)
    assert FREE_SPACE in result.stderr
    assert download().exit_code == 0


@pytest.fixture
def small_disk(tmp_path):
    """256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ("-t", "tmpfs", "-o", "size=256k", "none", place)
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_while_bytes_come(hub, one_shard, download, out, small_disk, monkeypatch):
    """Nothing was reserved, as where the file system cannot, and somebody else takes the space."""
    monkeypatch.setattr("dsdeploy.hub.part.preallocate", lambda *_: None)
    monkeypatch.setattr("dsdeploy.hub.folder.free_bytes", lambda _: 1 << 40)
    result = download(to=small_disk / "out")
    assert result.exit_code == 6
    assert f"No space left on device.\n  {FREE_SPACE}" in result.stderr
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    hub.sent_of.clear()
    assert download(to=small_disk / "out").exit_code == 0
    assert is_whole(small_disk / "out", one_shard)
    assert hub.sent_of["model.safetensors"] < 300_000


def test_a_target_that_is_too_small_is_told_at_once(hub, one_shard, download, small_disk):
    result = download(to=small_disk / "out")
    assert (result.exit_code, hub.sent) == (6, 0)
    assert "kB free and 300.70 kB are to come." in result.stderr
