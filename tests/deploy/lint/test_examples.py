"""Scripts and manifests as people have them: what is found, on which line, and what --fix leaves."""

import shutil
from pathlib import Path

import pytest

from dsdeploy.deploy.lint.check import lint
from dsdeploy.deploy.lint.fixes import apply
from dsdeploy.deploy.lint.formats import guess_format

EXAMPLES = Path(__file__).parent / "examples"
FOUND = {
    "vllm-old.sh": [
        (4, "dead-variable"),
        (5, "dead-variable"),
        (6, "secret-in-argv"),
        (10, "removed-flag"),
        (13, "removed-flag"),
        (15, "removed-flag"),
        (16, "trust-remote-code"),
        (17, "abbreviated-flag"),
        (18, "open-without-key"),
        (19, "removed-flag"),
    ],
    "sglang-docker.sh": [
        (3, "dead-variable"),
        (6, "abbreviated-flag"),
        (6, "removed-flag"),
        (6, "fp8-quantization-flag"),
        (7, "unknown-flag"),
        (7, "removed-flag"),
        (8, "open-without-key"),
    ],
    "compose.yaml": [
        (10, "open-without-key"),
        (10, "missing-shm"),
        (21, "removed-flag"),
        (24, "removed-flag"),
        (25, "abbreviated-flag"),
        (27, "impatient-probe"),
    ],
    "leader-worker-set.yaml": [
        (16, "missing-shm"),
        (27, "fp8-tensor-parallel"),
        (30, "removed-flag"),
        (31, "unknown-flag"),
        (32, "open-without-key"),
        (34, "impatient-probe"),
    ],
    "trtllm.sbatch": [
        (6, "unknown-flag"),
        (11, "mpi-launcher-missing"),
        (11, "unknown-flag"),
        (11, "flag-value"),
    ],
    "lmdeploy.service": [
        (6, "dead-variable"),
        (7, "open-without-key"),
        (7, "engine-backend"),
        (10, "unknown-flag"),
    ],
}
MENDED = {
    "vllm-old.sh": {10, 15, 17},
    "sglang-docker.sh": {6, 7},
    "compose.yaml": {21, 25},
    "leader-worker-set.yaml": {30},
    "trtllm.sbatch": {6, 11},
    "lmdeploy.service": {10},
}


def checked(text, name):
    return lint(text, name, guess_format(text, name))


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_where(name):
    report = checked((EXAMPLES / name).read_text(), name)
    assert [(report.line(one.at), one.rule) for one in report.findings] == FOUND[name]


@pytest.mark.parametrize("name", FOUND)
def test_a_fix_leaves_only_what_it_cannot_know(name):
    report = checked((EXAMPLES / name).read_text(), name)
    fixable = [one for one in report.findings if one.edit is not None]
    assert {report.line(one.at) for one in fixable} == MENDED[name]
    again = checked(apply(report.text, report.edits), name)
    assert again.edits == []
    rest = [one.message for one in report.findings if one.edit is None]
    assert [one.message for one in again.findings] == rest


def test_a_file_is_mended_in_place(dsdeploy, tmp_path):
    file = tmp_path / "compose.yaml"
    shutil.copy(EXAMPLES / "compose.yaml", file)
    file.chmod(0o750)
    shown = dsdeploy("lint", file, "--diff")
    assert "-      - --enable-chunked-prefil\n" in shown.stdout
    assert file.read_text() == (EXAMPLES / "compose.yaml").read_text()
    assert dsdeploy("lint", file, "--fix").exit_code == 1
    before, after = (EXAMPLES / "compose.yaml").read_text(), file.read_text()
    assert after == before.replace("prefil\n", "prefill\n").replace(
        "      - --enable-reasoning   # thoughts apart\n", ""
    )
    assert file.stat().st_mode & 0o777 == 0o750
    assert list(tmp_path.iterdir()) == [file]
