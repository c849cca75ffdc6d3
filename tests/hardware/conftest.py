"""An empty folder to stand in, an empty home, and a way to write profiles into both."""

from pathlib import Path

import pytest

from dsdeploy.strict_yaml import dump_yaml

MACHINE = {
    "name": "mine",
    "description": "A test.",
    "accelerator": "h200",
    "nodes": 1,
    "accelerators_per_node": 8,
    "host_memory": "2TB",
    "disk": {"space": "28TB", "read": "27GB/s"},
}


@pytest.fixture(autouse=True)
def nobodys_profiles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def user_profiles(tmp_path):
    return tmp_path / "config/dsdeploy/profiles"


@pytest.fixture
def write():
    """Write fields, or text, to a path below the folder: `write("profiles/mine.yaml", {...})`."""

    def into(path, fields):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fields if isinstance(fields, str) else dump_yaml(fields), encoding="utf-8")
        return path

    return into


@pytest.fixture
def machine_file(write):
    """A whole machine's file but for `changes`; a field that is None is left out."""

    def make(path="profiles/mine.yaml", **changes):
        fields = {name: value for name, value in (MACHINE | changes).items() if value is not None}
        return write(path, fields)

    return make
