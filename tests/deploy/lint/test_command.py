"""dsdeploy lint, as people and scripts use it."""

import json

import pytest

GOOD = "vllm serve deepseek-ai/DeepSeek-V3 --host 127.0.0.1\n"
BAD = "#!/bin/sh\nvllm serve m --host ::1 \\\n  --swap-spaces 4 --gpu-mem 0.9\n"


@pytest.fixture
def write(tmp_path):
    def make(text, name="run.sh"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return make


def test_nothing_found(dsdeploy, write):
    result = dsdeploy("lint", write(GOOD))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "vLLM 0.33.0, the newest that is known" in result.stderr


def test_findings_look_like_a_compilers(dsdeploy, write):
    file = write(BAD)
    result = dsdeploy("lint", file)
    assert result.exit_code == 1
    assert f"{file}:3: error: vLLM 0.33.0 has no --swap-spaces. [unknown-flag]" in result.stdout
    assert "  fix: use --gpu-memory-utilization" in result.stdout


def test_json(dsdeploy, write):
    (file,) = json.loads(dsdeploy("lint", write(BAD), "--json").stdout)["files"]
    assert file["format"] == "shell"
    assert file["commands"][0]["line"] == 2
    assert [(one["rule"], one["fixable"]) for one in file["findings"]] == [
        ("unknown-flag", False),
        ("abbreviated-flag", True),
    ]


def test_the_release_may_be_given(dsdeploy, write):
    file = write("vllm serve m --host ::1 --swap-space 4")
    assert dsdeploy("lint", file).exit_code == 1
    assert dsdeploy("lint", file, "--engine-version", "0.10.2").exit_code == 0
    later = dsdeploy("lint", file, "--engine-version", "0.10.3")
    assert "those of 0.10.2 are used" in later.stderr
    assert dsdeploy("lint", file, "--engine-version", "0.1").exit_code == 2


def test_a_file_without_an_engine(dsdeploy, write):
    result = dsdeploy("lint", write("ls\n"), write(GOOD, "good.sh"))
    assert result.exit_code == 2
    assert "no engine's command line found, read as shell" in result.stdout


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        ("kind: Pod\n  x: {{ .Values }}\n", "x.yaml:2:4: this is no YAML"),
        ("x" * (1 << 20) + "y", "no script that people write"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_be_read(dsdeploy, write, tmp_path, content, sentence):
    file = tmp_path / "x.yaml" if content is None else write(content, "x.yaml")
    result = dsdeploy("lint", file)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_ends_of_lines_are_kept(dsdeploy, write):
    file = write(b"vllm serve m --host ::1 \\\r\n  --gpu-mem 0.9\r\n")
    assert dsdeploy("lint", file, "--fix").exit_code == 0
    fixed = b"vllm serve m --host ::1 \\\r\n  --gpu-memory-utilization 0.9\r\n"
    assert file.read_bytes() == fixed


def test_standard_input(dsdeploy):
    from click.testing import CliRunner

    from dsdeploy.cli.main import cli

    result = CliRunner().invoke(cli, ["lint", "-"], input=BAD)
    assert "-:3: error:" in result.stdout
    assert dsdeploy("lint", "-", "--fix").exit_code == 2


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("bash -c 'vllm serve m --gpu-mem 1'", "bash -c 'vllm serve m --gpu-memory-utilization 1'"),
        ('vllm serve m "--gpu-mem=1"', 'vllm serve m "--gpu-memory-utilization=1"'),
        ("vllm serve m --gpu-m\\em 1", None),
        ("vllm serve m --cuda-graph-sizes 4", "vllm serve m --cudagraph-capture-sizes 4"),
        ("vllm serve m --max-seq-len-to-capture 4", None),
        ("vllm serve m --enable-reasoning", None),
        (
            'a=(\n --disable-frontend-multiprocessing # x\n)\nvllm serve m "${a[@]}"',
            None,
        ),
    ],
)
def test_what_is_certain_is_mended(dsdeploy, write, text, fixed):
    file = write(text)
    dsdeploy("lint", file, "--fix")
    assert file.read_text() == (fixed or text)
