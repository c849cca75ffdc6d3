"""`dsdeploy doctor` on this very machine."""

import json
import re

import pytest

from dsdeploy.doctor.gathering import disk


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The disk and the processor are measured, shortly."""
    measured = disk.measured
    monkeypatch.setattr(
        "dsdeploy.doctor.gathering.machine.measured", lambda folder: measured(folder, 0.1)
    )
    monkeypatch.setattr("dsdeploy.hardware.detect._memory_rate", lambda: 10**11)
    monkeypatch.setattr("dsdeploy.hardware.detect._teraflops", lambda: 0.5)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def test_json_has_all_that_is_shown(dsdeploy, tmp_path):
    result = dsdeploy("doctor", "--folder", tmp_path, "--json")
    found = json.loads(result.output)
    assert result.exit_code == (1 if found["state"] == "red" else 0)
    states = {check["state"] for check in found["checks"]}
    assert found["state"] == next(state for state in ("red", "yellow", "green") if state in states)
    for check in found["checks"]:
        assert set(check) == {"name", "state", "found", "wanted", "fix"}
        assert check["found"]
        # Whoever is told that something is wrong is told what to do.
        assert check["fix"] or check["state"] == "green"
    assert found["machine"]["nodes"] == 1


def test_a_page_for_people(dsdeploy, tmp_path):
    result = dsdeploy("doctor", "--folder", tmp_path)
    lines = result.output.splitlines()
    assert lines[0] == "this machine:"
    assert re.fullmatch(r"\d+ red, \d+ yellow, \d+ green", lines[-1])
    assert str(tmp_path) in result.output
    assert "what to do:" in lines


def test_red_ends_with_one(dsdeploy, tmp_path):
    """Of a machine with eight cards more than this one."""
    result = dsdeploy("doctor", "--folder", tmp_path, "--profile", "8xmi325x")
    assert result.exit_code == 1
    assert "8 x mi325x" in result.output
    assert "0 red" not in result.output


def test_an_engine_that_is_not_for_this_machine(dsdeploy, tmp_path):
    words = ("doctor", "--folder", tmp_path, "--backend", "mindie", "--json")
    found = {check["name"]: check for check in json.loads(dsdeploy(*words).output)["checks"]}
    assert found["engine takes them"]["state"] == "red"
    assert "dsdeploy plan" in found["engine takes them"]["fix"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--backend", "x"), "There is no backend 'x'"),
        (("--profile", "x"), "x"),
        (("--folder", "/no/such"), "There is no folder /no/such"),
        (("--engine-python", "/no/such"), "does not exist"),
    ],
)
def test_words_that_make_no_sense(dsdeploy, words, sentence):
    result = dsdeploy("doctor", *words)
    assert (result.exit_code, sentence in result.output) == (2, True)
