"""A checkpoint of 370 kB that has all a large one has, and copies of it to damage."""

import shutil

import pytest


@pytest.fixture(scope="session")
def small(synth, tmp_path_factory):
    """The whole checkpoint, in five shards. Never write to it."""
    return synth(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "copy")
