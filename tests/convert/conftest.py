"""Small checkpoints to convert, and the command that converts them."""

import pytest

from dsdeploy.building import build, output, writer


@pytest.fixture(scope="session")
def fp8(synth, tmp_path_factory):
    """370 kB in five shards. Never write to it."""
    return synth(tmp_path_factory.mktemp("fp8") / "fp8")


@pytest.fixture(scope="session")
def bf16(synth, tmp_path_factory):
    """The same model in BF16. Never write to it."""
    return synth(tmp_path_factory.mktemp("bf16") / "bf16", "--precision", "bf16")


@pytest.fixture(scope="module")
def small_windows():
    """Windows of 64 KiB, so that small files have several."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (build, output, writer):
            patch.setattr(module, "WINDOW", 1 << 16)
        yield
