"""A Hub, a repository on it, and the command that downloads."""

import os
import random

import pytest

from .stand_in import standing_in
from .tools import NAME


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with standing_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def write_files(folder, sizes, seed=0):
    chance = random.Random(seed)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    return folder


@pytest.fixture
def repository(hub, tmp_path):
    """Make `NAME` of files of these sizes, and give its folder."""

    def make(sizes, name=NAME, seed=0, **settings):
        folder = write_files(tmp_path / "repositories" / name / str(seed), sizes, seed)
        hub.add(name, folder, **settings)
        return folder

    return make


@pytest.fixture
def one_shard(repository):
    """300 kB from the storage server, and a small file from the Hub itself."""
    return repository({"config.json": 700, "model.safetensors": 300_000})


@pytest.fixture
def small_chunks(monkeypatch):
    """64 KiB instead of 32 MiB, read in pieces of 16 KiB."""
    for module in ("part", "folder"):
        monkeypatch.setattr(f"dsdeploy.hub.{module}.CHUNK", 64 << 10)
    for module in ("part", "resolving", "origin"):
        monkeypatch.setattr(f"dsdeploy.hub.{module}.PIECE", 16 << 10)


@pytest.fixture
def cached(monkeypatch):
    """What ends in the page cache has ended: no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def without_waiting(monkeypatch):
    """Tries follow one another at once, unless the server asks for a time."""
    monkeypatch.setattr("dsdeploy.hub.retries.random.uniform", lambda low, high: 0.0)


@pytest.fixture
def download(dsdeploy, tmp_path):
    """Download `NAME` into `out`, one connection unless said otherwise; exit code and output."""

    def run(*options, source=NAME, to=tmp_path / "out"):
        return dsdeploy("download", source, "--to", to, "--workers", 1, *options)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
