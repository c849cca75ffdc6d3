"""dsdeploy profiles, as people and scripts see it."""

import json

import pytest

from dsdeploy.errors import ExitCode
from dsdeploy.hardware.profile import Machine
from dsdeploy.hardware.profiles import load_accelerator, load_machine
from dsdeploy.strict_yaml import load_yaml


def words_of(output, name):
    """The row of a table that begins with the name."""
    return next(line.split() for line in output.splitlines() if line.split()[:1] == [name])


def test_list_has_every_profile_with_its_owner(dsdeploy, machine_file, user_profiles):
    machine_file("profiles/near.yaml")
    machine_file(user_profiles / "far.yaml")
    result = dsdeploy("profiles", "list")
    assert result.exit_code == ExitCode.DONE
    assert words_of(result.stdout, "8xh200")[-4:] == ["8", "150.11", "GB", "shipped"]
    assert words_of(result.stdout, "near")[-1] == "project"
    assert words_of(result.stdout, "far")[-1] == "user"
    assert words_of(result.stdout, "mi300x")[1:3] == ["amd", "gfx942"]
    assert result.stderr == ""


def test_list_gives_the_names_that_a_plan_takes(dsdeploy, write):
    write("profiles/mine.yaml", {"extends": "8xh200"})
    document = json.loads(dsdeploy("profiles", "list", "--json").stdout)
    names = [machine["name"] for machine in document["machines"]]
    assert names.count("8xh200") == names.count("mine") == 1
    assert {"h200", "cpu-laptop"} <= {chip["name"] for chip in document["accelerators"]}
    assert document["left_out"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: 1\nnodes: 2\n", ":2:1: 'nodes' is written twice."),
        ("nodes: [", ":1:9: "),
        ("name: broken\n", ": description: Field required"),
        ("extends: nowhere\n", ": extends: there is no machine profile 'nowhere'."),
        ("", " is not a profile: it holds no fields."),
    ],
)
def test_list_shows_the_others_where_a_file_is_broken(text, words, dsdeploy, machine_file, write):
    machine_file("profiles/whole.yaml")
    path = write("profiles/broken.yaml", text)
    result = dsdeploy("profiles", "list")
    assert result.exit_code == ExitCode.DONE
    assert words_of(result.stdout, "whole")
    assert words_of(result.stdout, "8xh200")
    assert result.stderr.startswith(f"left out: {path}{words}")
    document = json.loads(dsdeploy("profiles", "list", "--json").stdout)
    assert document["left_out"] == [result.stderr.strip().removeprefix("left out: ")]


def test_list_shows_the_others_where_an_accelerator_is_broken(dsdeploy, machine_file, write):
    write("profiles/accelerators/h200.yaml", "extends: h200\nbandwidth: 5\u00a0TB\n")
    (path := write("profiles/accelerators/l20.yaml", "")).write_bytes(b"\xff")
    result = dsdeploy("profiles", "list")
    assert result.exit_code == ExitCode.DONE
    assert words_of(result.stdout, "8xh100")
    lines = result.stderr.splitlines()
    assert f"left out: {path}:1:1: this is not UTF-8." in lines
    assert all("h200.yaml: bandwidth" in line or "l20.yaml:1:1" in line for line in lines)


def test_a_folder_called_as_a_file_is_left_out(dsdeploy, write):
    write("profiles/broken.yaml/machine.txt", "")
    result = dsdeploy("profiles", "list")
    assert result.exit_code == ExitCode.DONE
    assert result.stderr == "left out: profiles/broken.yaml cannot be read: Is a directory.\n"


@pytest.mark.parametrize("name", ["8xh200", "2xatlas-800i-a2", "laptop"])
def test_show_prints_a_machine_that_loads_again(name, dsdeploy, write):
    shown = dsdeploy("profiles", "show", name)
    assert shown.exit_code == ExitCode.DONE
    assert load_machine(str(write("copy.yaml", shown.stdout))) == load_machine(name)
    document = json.loads(dsdeploy("profiles", "show", name, "--json").stdout)
    assert Machine.model_validate(document) == load_machine(name)
    assert document == load_yaml(shown.stdout, name)


def test_show_prints_an_accelerator(dsdeploy):
    document = json.loads(dsdeploy("profiles", "show", "mi300x", "--json").stdout)
    assert type(load_accelerator("mi300x")).model_validate(document) == load_accelerator("mi300x")


def test_show_takes_a_path(dsdeploy, machine_file):
    assert "name: mine" in dsdeploy("profiles", "show", machine_file("x/y.yaml")).stdout


def test_show_of_nothing_names_what_is_near(dsdeploy):
    result = dsdeploy("profiles", "show", "8xh20O")
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("error: There is no machine profile '8xh20O'.\n  fix: Did you")
    assert "8xh200" in result.stderr


def test_validate(dsdeploy, machine_file):
    path = machine_file("cluster.yaml")
    result = dsdeploy("profiles", "validate", path)
    assert (result.exit_code, result.stdout) == (
        ExitCode.DONE,
        "cluster.yaml: mine, 8 devices, is a machine's profile.\n",
    )
    document = json.loads(dsdeploy("profiles", "validate", path, "--json").stdout)
    assert document == {"valid": True, "name": "mine"}


def test_validate_takes_any_suffix(dsdeploy, machine_file):
    assert dsdeploy("profiles", "validate", machine_file("cluster")).exit_code == ExitCode.DONE


def test_validate_of_a_wrong_file_as_json(dsdeploy, machine_file):
    result = dsdeploy("profiles", "validate", machine_file("cluster.yaml", nodes=0), "--json")
    error = json.loads(result.stdout)["error"]
    assert error["exit_code"] == result.exit_code == ExitCode.USAGE
    assert error["message"].endswith("nodes: Input should be greater than or equal to 1.")
    assert error["hint"]


@pytest.mark.parametrize("path", ["nowhere.yaml", "/"])
def test_validate_of_no_file(path, dsdeploy):
    result = dsdeploy("profiles", "validate", path)
    assert (result.exit_code, result.stderr) == (
        ExitCode.USAGE,
        f"error: There is no file {path}.\n",
    )


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr("dsdeploy.hardware.detect._PROBES", ())
    monkeypatch.setattr("dsdeploy.hardware.detect._memory_rate", lambda: 10**11)
    monkeypatch.setattr("dsdeploy.hardware.detect._teraflops", lambda: 0.5)


def test_detect_as_json_is_what_it_writes(dsdeploy, unmeasured):
    result = dsdeploy("profiles", "detect", "--output", "here.yaml", "--json")
    assert Machine.model_validate(json.loads(result.stdout)) == load_machine("here.yaml")


def test_detect_says_where_it_has_written(dsdeploy, unmeasured):
    result = dsdeploy("profiles", "detect", "--output", "here.yaml")
    assert result.exit_code == ExitCode.DONE
    assert result.stdout.endswith("no accelerator, detected: written to here.yaml.\n")


def test_a_folder_that_is_not_there(dsdeploy, unmeasured):
    result = dsdeploy("profiles", "detect", "--output", "nowhere/here.yaml")
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr.startswith("error: nowhere/here.yaml: No such file or directory.\n")


def test_quiet_prints_nothing(dsdeploy, machine_file, unmeasured):
    for arguments in (["list"], ["show", "laptop"], ["validate", machine_file()], ["detect"]):
        result = dsdeploy("profiles", *arguments, "-q")
        assert (result.exit_code, result.output) == (ExitCode.DONE, "")
