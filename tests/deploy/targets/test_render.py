"""Checks before anything is rendered, and files as they are written."""

import dataclasses
import os

import pytest

from dsdeploy.deploy.launch import Container, File, Mount, Secret
from dsdeploy.deploy.render import TARGETS, Place, RenderedFile, difference, render, write
from dsdeploy.errors import UsageError

from .conftest import HEADER, launch, node, ranks, rendered, server

ONE = launch(node(server()))
HERE = Place()


def changed(**changes):
    return launch(node(server(**changes)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (changed(argv=("a", "b\0c")), "holds a NUL"),
        (changed(argv=("a", "\ud800")), "half a character"),
        (changed(argv=()), "without a program"),
        (changed(argv=("", "a")), "without a program"),
        (changed(environment={"A": "\0"}), "holds a NUL"),
        (changed(environment={"A=B": "x"}), "no name of an environment variable"),
        (changed(environment={"A\n": "x"}), "no name of an environment variable"),
        (changed(environment={"": "x"}), "no name of an environment variable"),
        (changed(environment={"UID": "0"}), "belongs to the shell"),
        (changed(environment={"DSDEPLOY_HEAD": "x"}), "belongs to the shell"),
        (changed(files=(File("f", "\0"),)), "holds a NUL"),
        (changed(files=(File("../f", "x"),)), "outside of its working folder"),
        (changed(files=(File("/f", "x"),)), "outside of its working folder"),
        (changed(files=(File("a//f", "x"),)), "outside of its working folder"),
        (changed(files=(File("a\nb", "x"),)), "control character"),
        (changed(files=(File("f", "x"), File("f", "y"))), "two files of one name"),
        (changed(files=(File("f", "x", 0o4755),)), "cannot have the mode"),
        (changed(name="$"), "needs a name"),
        (changed(copies=2), "Only MPI starts copies"),
        (launch(node(server(), server())), "needs a name"),
        (launch(), "nothing to run"),
        (changed(environment={"A": Secret("a b")}), "no name of a secret"),
        (changed(environment={"A": Secret("a-b"), "B": Secret("a.b")}), "one variable"),
        (dataclasses.replace(ONE, container=Container("a b")), "no name of an image"),
        (dataclasses.replace(ONE, container=Container("--rm")), "no name of an image"),
        (dataclasses.replace(ONE, container=Container("a", ("x",))), "no device"),
        (launch(dataclasses.replace(node(server()), mounts=(Mount("a b", "/a"),))), "no mount"),
        (launch(dataclasses.replace(node(server()), mounts=(Mount("/a", "a"),))), "no mount"),
        (launch(dataclasses.replace(node(server()), mounts=(Mount("/a\n", "/a"),))), "control"),
    ],
)
def test_what_nothing_can_be_given(target, made, sentence):
    with pytest.raises(UsageError, match=sentence):
        rendered(made, target, HERE)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (Place(addresses=("a", "b")), "has 1 nodes, and 2 addresses"),
        (Place(addresses=("-x",)), "no address"),
        (Place(addresses=("a b",)), "no address"),
        (Place(folder="here"), "not an absolute path"),
        (Place(namespace="a b"), "The namespace"),
    ],
)
def test_places_that_are_none(place, sentence):
    with pytest.raises(UsageError, match=sentence):
        rendered(ONE, "shell", place)


def test_an_unknown_target():
    with pytest.raises(UsageError, match="no target 'nomad'"):
        render(ONE, "nomad", HERE, HEADER)


def test_ranks_are_of_one_process():
    made = launch(node(*ranks().head.processes, server(name="b")), launcher="mpi")
    with pytest.raises(UsageError, match="this launch has several"):
        rendered(made, "shell", HERE)


def test_files_are_written_with_their_modes(tmp_path):
    files = render(ONE, "shell", HERE, HEADER)
    write(files, tmp_path)
    assert (tmp_path / "start.sh").read_text() == files[0].content
    assert (tmp_path / "start.sh").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["start.sh"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_of_ours_is_written_again_and_no_other(target, tmp_path):
    files = render(ONE, target, HERE, HEADER)
    write(files, tmp_path)
    write(files, tmp_path)
    (tmp_path / files[-1].path).write_text("mine\n")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UsageError, match="dsdeploy did not make it"):
        write(files, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    write(files, tmp_path, overwrite=True)
    assert (tmp_path / files[-1].path).read_text() == files[-1].content


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "start.sh").symlink_to("elsewhere")
    write(render(ONE, "shell", HERE, HEADER), tmp_path, overwrite=True)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_no_half_of_a_file_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (file,) = render(ONE, "shell", HERE, HEADER)
    write([file], tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write([dataclasses.replace(file, content=file.content + "new")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["start.sh"]
    assert (tmp_path / "start.sh").read_text() == file.content


def test_the_difference(tmp_path):
    files = render(ONE, "shell", HERE, HEADER)
    assert difference(files, tmp_path).startswith("--- /dev/null\n+++ start.sh\n@@ -0,0 +1,")
    write(files, tmp_path)
    assert difference(files, tmp_path) == ""
    more = RenderedFile("start.sh", files[0].content + "echo more\r\n")
    assert difference([more], tmp_path).endswith("\n+echo more\r\n")
