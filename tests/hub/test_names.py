"""Names in a repository are somebody else's: none leads out of the folder, or into our books."""

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsdeploy.errors import IntegrityError
from dsdeploy.hub.listing import UNWANTED, RemoteFile, check_path, choose

from .conftest import write_files
from .tools import contents, is_whole

pytestmark = pytest.mark.usefixtures("without_waiting", "cached")

OUT = "which leads out of the folder"
BOOKS = "where dsdeploy keeps its own books"
BAD = {
    **dict.fromkeys(("../up.json", "a/../../up.json", "..", "/etc/evil.json", "a//b.json"), OUT),
    **dict.fromkeys(
        ("./a.json", "a/.", "a\\..\\b.json", "C:\\a.json", "a\nb.json", "\x1b[2J"), OUT
    ),
    **dict.fromkeys(("a\0.json", "\u202egpj.json", "a/"), OUT),
    **dict.fromkeys((".dsdeploy/x.json", ".dsdeploy", "MANIFEST.json", "MANIFEST.json/x"), BOOKS),
}


@pytest.mark.parametrize(("path", "sentence"), BAD.items(), ids=map(repr, BAD))
def test_a_dangerous_name_is_refused_before_anything_is_written(
    hub, one_shard, download, tmp_path, path, sentence
):
    hub.repositories["owner/model"].extra.append(
        {"type": "file", "path": path, "size": 5, "oid": "0" * 40}
    )
    before = contents(tmp_path)
    result = download("--include", "*")
    assert result.exit_code == 4
    assert f"The repository has a file named {path!r}, {sentence}." in result.stderr
    assert "fix: Leave it out with --exclude" in result.stderr
    assert (contents(tmp_path), hub.sent) == (before, 0)


def test_a_manifest_that_somebody_has_uploaded_is_left_out(repository, download, out):
    repository({"MANIFEST.json": 50, "config.json": 700, "sub/manifest.json": 60})
    assert download().exit_code == 0
    assert contents(out).keys() == {"config.json"}


def test_a_dangerous_name_may_be_left_out(hub, one_shard, download, out):
    entry = {"type": "file", "path": "../up.json", "size": 5, "oid": "0" * 40}
    hub.repositories["owner/model"].extra.append(entry)
    assert download("--exclude", "../*").exit_code == 0
    assert is_whole(out, one_shard)


def test_a_link_in_the_target_is_not_written_through(repository, download, out, tmp_path):
    repository({"config.json": 700, "sub/model.safetensors": 3000})
    elsewhere = write_files(tmp_path / "elsewhere", {"mine.txt": 3})
    out.mkdir()
    (out / "sub").symlink_to(elsewhere)
    result = download()
    assert result.exit_code == 4
    assert f"{out}/sub is a link, and sub/model.safetensors would be written" in result.stderr
    assert contents(elsewhere).keys() == {"mine.txt"}


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(
    hub, one_shard, download, out, tmp_path
):
    precious = write_files(tmp_path, {"precious": 5}) / "precious"
    out.mkdir()
    (out / "config.json").symlink_to(precious)
    assert download("--overwrite").exit_code == 0
    assert is_whole(out, one_shard)
    assert precious.stat().st_size == 5
    assert not (out / "config.json").is_symlink()


def test_long_and_strange_but_harmless_names(repository, download, out):
    names = ("a b.json", "ü%20?#&=+.json", "深い/求索.json", "x" * 250, "d/" * 60 + "deep.json")
    source = repository({name: 2000 + index for index, name in enumerate(names)})
    result = download("--workers", 3)
    assert result.exit_code == 0, result.output
    assert is_whole(out, source)


PARTS = st.sampled_from(["..", ".", "", "a", "b.json", ".dsdeploy", "MANIFEST.json", "~", "\0"])
PATHS = st.lists(PARTS | st.text(max_size=6), min_size=1, max_size=6).map("/".join)


@given(PATHS)
@example("~/x")
def test_a_path_that_passes_stays_in_the_folder_and_out_of_our_books(path):
    try:
        check_path(path)
    except IntegrityError:
        return
    inside = os.path.normpath(f"/target/{path}")
    assert inside == f"/target/{path}"
    assert PurePosixPath(path).parts[0] not in ("/", ".dsdeploy", "MANIFEST.json")


PATTERNS = st.lists(st.text("ab.*?/[]!", max_size=5), max_size=3)
GOOD_PATHS = st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)


def distinct(paths):
    """None of them a folder of another."""
    return not any(other.startswith(f"{path}/") for path in paths for other in paths)


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b", "c", "a/b/c/d"]])
def test_a_listing_that_no_folder_can_hold_is_refused(paths):
    files = [RemoteFile(path, 1, None, None) for path in paths]
    with pytest.raises(
        IntegrityError, match=f"has '{paths[0]}' twice, or as a file and as a folder"
    ):
        choose(files, (), ())


@given(st.lists(GOOD_PATHS, unique=True, max_size=8).filter(distinct), PATTERNS, PATTERNS)
def test_whatever_the_patterns_a_choice_is_a_part_and_excluded_means_excluded(
    paths, include, exclude
):
    files = [
        RemoteFile(path, 1, None, None) for path in paths if {".", ".."}.isdisjoint(path.split("/"))
    ]
    chosen = choose(files, include, exclude)
    assert {*chosen} <= {*files}
    assert {*choose(files, include, ())} >= {*chosen}
    for pattern in exclude:
        assert not {*choose(chosen, [pattern], ())} & {*chosen} or not pattern
    assert choose(files, [*include, "*"], ()) == choose(files, ["*"], ())


@given(st.sampled_from(UNWANTED).map(lambda pattern: pattern.replace("*", "name")))
def test_what_is_unwanted_is_so_in_any_case_and_folder_unless_included(name):
    files = [RemoteFile(path, 1, None, None) for path in (name, f"sub/{name.upper()}")]
    assert choose(files, (), ()) == ()
    if "manifest" not in name:
        assert {*choose(files, ("*",), ())} == {*files}
