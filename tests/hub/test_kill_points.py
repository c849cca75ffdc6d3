"""kill -9 at every call that changes the disk, before or after it; the same command then goes on.

A copy of a folder takes the same steps as a download, without a server in this process: so it can
be forked. Chunks are 64 KiB.
"""

import shutil
from itertools import count

import pytest

from dsdeploy.hub import origin

from ..convert.test_kill import is_killed
from .conftest import write_files
from .tools import contents, is_whole, manifest_of

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")

SIZES = {"config.json": 700, "deep/down/a.safetensors": 150_000, "empty.json": 0}


def made_whole(hub, dsdeploy, tmp_path, name, sizes, seed):
    repository = f"owner/{name}"
    hub.add(repository, write_files(tmp_path / f"{name}-source", sizes, seed))
    target = tmp_path / name
    assert dsdeploy("download", repository, "--to", target).exit_code == 0
    return target


@pytest.fixture
def whole(hub, dsdeploy, tmp_path):
    return made_whole(hub, dsdeploy, tmp_path, "whole", SIZES, 0)


@pytest.fixture
def other(hub, dsdeploy, tmp_path):
    sizes = {"config.json": 700, "old.json": 5, "old.safetensors": 3000}
    return made_whole(hub, dsdeploy, tmp_path, "other", sizes, 1)


@pytest.fixture
def bytes_read(monkeypatch, tmp_path):
    """A function that tells how many bytes of sources were read since, in children as well."""
    log, pieces = tmp_path / "read", origin._pieces

    def counted(descriptor, start, stop):
        for piece in pieces(descriptor, start, stop):
            with log.open("ab") as file:
                file.write(b".%d" % len(piece))
            yield piece

    def total():
        lengths = log.read_text().split(".")[1:] if log.exists() else []
        log.unlink(missing_ok=True)
        return sum(map(int, lengths))

    monkeypatch.setattr(origin, "_pieces", counted)
    return total


@pytest.mark.parametrize(("workers", "before"), [(1, True), (3, False)], ids=["before", "after"])
def test_the_rerun_ends_with_the_same_tree_and_repeats_a_chunk_a_worker(
    whole, download, out, bytes_read, workers, before
):
    def work():
        return download("--workers", workers, source=whole)

    for at in count(1):
        killed = is_killed(work, at, before)
        if not killed:
            break
        if (out / "MANIFEST.json").exists():
            assert contents(out).items() >= contents(whole).items()
        assert work().exit_code == 0
        assert is_whole(out, whole)
        assert manifest_of(out) == manifest_of(whole)
        assert bytes_read() <= sum(SIZES.values()) + workers * (64 << 10)
        shutil.rmtree(out)
    assert at > 35
    assert is_whole(out, whole)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_overwritten_folder_claims_to_be_whole_only_when_it_is(
    whole, other, download, out, before
):
    def work():
        return download("--overwrite", source=whole)

    for at in count(1):
        shutil.copytree(other, out)
        killed = is_killed(work, at, before)
        if not killed:
            break
        if (out / "MANIFEST.json").exists():
            assert download("--verify", source=whole).exit_code == 0
        assert work().exit_code == 0
        assert is_whole(out, whole), at
        shutil.rmtree(out)
    assert at > 45
    assert is_whole(out, whole)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_files_added_to_a_whole_folder_do_not_unsettle_it(whole, download, out, before):
    def work(*options):
        return download(*options, source=whole)

    for at in count(1):
        assert work("--exclude", "*.safetensors").exit_code == 0
        killed = is_killed(work, at, before)
        if not killed:
            break
        assert download("--verify", source=whole).exit_code == 0
        assert work().exit_code == 0
        assert is_whole(out, whole)
        shutil.rmtree(out)
    assert at > 20
    assert is_whole(out, whole)
