"""The command line as people and scripts see it."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsdeploy import __version__
from dsdeploy.cli.main import VERBS, cli

PROGRAM = [sys.executable, "-m", "dsdeploy"]


def run(*arguments, **options):
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    assert run("synth", str(folder), "--set", "num_hidden_layers=2").returncode == 0
    return folder


def test_help_names_every_verb_and_every_verb_has_help():
    listed = run("--help").stdout
    for verb, sentence in VERBS.items():
        assert verb in listed
        assert sentence in listed
        assert CliRunner().invoke(cli, [verb, "--help"]).exit_code == 0


def test_version():
    assert run("--version").stdout == f"dsdeploy {__version__}\n"


def test_data_go_to_stdout_and_progress_to_stderr(tiny, tmp_path):
    result = run("convert", str(tiny), str(tmp_path / "out"))
    assert result.stdout == f"{tmp_path / 'out'}: 1 files, {result.stdout.split(', ')[1]}, whole.\n"
    assert "write" in result.stderr
    assert "check" in result.stderr


def test_a_pipe_gets_plain_text(tiny):
    result = run("inspect", str(tiny))
    assert "\x1b" not in result.stdout + result.stderr


def test_a_terminal_gets_colours_unless_no_color_is_set(tiny):
    def on_a_terminal(**environment):
        output, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", **environment}
        environment.pop("CI", None)
        subprocess.run(
            [*PROGRAM, "inspect", str(tiny)], stdout=terminal, env=environment, check=True
        )
        os.close(terminal)
        text = b""
        while True:
            try:
                piece = os.read(output, 65536)
            except OSError:
                break
            if not piece:
                break
            text += piece
        os.close(output)
        return text.decode()

    assert "\x1b[36m" in on_a_terminal()
    assert "\x1b[36m" not in on_a_terminal(NO_COLOR="1")


def test_json_is_one_document_on_stdout(tiny):
    result = run("inspect", str(tiny), "--deep", "--json")
    document = json.loads(result.stdout)
    assert document["whole"] is True
    assert document["findings"] == []
    assert set(document["sha256"]) == {path.name for path in tiny.glob("*.safetensors")}
    assert result.stderr == ""


def test_quiet_prints_nothing_but_errors(tiny, tmp_path):
    assert run("inspect", str(tiny), "-q").stdout == ""
    result = run("inspect", str(tmp_path), "-q")
    assert result.stderr.startswith("error: ")


def test_an_error_is_a_sentence_a_fix_and_an_exit_code(tmp_path):
    result = run("inspect", str(tmp_path / "nowhere"))
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path / 'nowhere'} is not a folder.\n"
        "  fix: Give the folder that holds config.json.\n"
    )


def test_an_error_as_json(tmp_path):
    result = run("inspect", str(tmp_path / "nowhere"), "--json")
    assert json.loads(result.stdout)["error"]["exit_code"] == result.returncode == 2


def test_debug_shows_the_traceback(tmp_path):
    result = run("inspect", str(tmp_path / "nowhere"), "--debug")
    assert "Traceback" in result.stderr
    assert result.returncode == 2


def test_options_can_come_from_the_environment(tmp_path):
    environment = {**os.environ, "DSDEPLOY_SYNTH_PRECISION": "bf16"}
    arguments = ["synth", str(tmp_path / "out"), "--set", "num_hidden_layers=2", "-q"]
    assert run(*arguments, env=environment).returncode == 0
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


@pytest.mark.parametrize("verb", ["synth", "convert"])
def test_a_dry_run_writes_nothing(verb, tiny, tmp_path):
    source = [str(tiny)] if verb == "convert" else []
    result = run(verb, *source, str(tmp_path / "out"), "--dry-run")
    assert "space needed" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_foretells_the_files_exactly(tiny, tmp_path):
    foretold = json.loads(
        run("convert", str(tiny), str(tmp_path / "out"), "--dry-run", "--json").stdout
    )
    run("convert", str(tiny), str(tmp_path / "out"))
    written = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")}
    assert foretold["files"] == written


def test_a_closed_pipe_is_no_error_message(tiny):
    command = f"{' '.join(PROGRAM)} inspect {tiny} | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    assert "_DSDEPLOY_COMPLETE" in run("completion", shell).stdout


def test_completion_completes_verbs_and_options():
    def complete(line, word):
        environment = {
            **os.environ,
            "_DSDEPLOY_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(word),
        }
        program = Path(sys.executable).with_name("dsdeploy")
        return subprocess.run([program], env=environment, capture_output=True, text=True).stdout

    assert "plain,inspect" in complete("dsdeploy in", 1)
    assert "plain,--max-shard-size" in complete("dsdeploy convert --max", 2)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("5GB", 5 * 10**9),
        ("4.3 GB", 4_300_000_000),
        ("512MiB", 2**29),
        ("1000", 1000),
        ("2k", 2000),
    ],
)
def test_sizes(text, nbytes):
    from dsdeploy.units import parse_bytes

    assert parse_bytes(text) == nbytes


def test_a_size_that_is_none(tiny, tmp_path):
    result = run("convert", str(tiny), str(tmp_path / "out"), "--max-shard-size", "big")
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, "error: 'big' is not a size.")


@pytest.mark.parametrize("size", ["0", "0GB", "9" * 400])
def test_a_size_that_cannot_be(size, tiny, tmp_path):
    result = run("convert", str(tiny), str(tmp_path / "out"), "--max-shard-size", size)
    assert result.returncode == 2
    assert "is no possible size" in result.stderr


def test_quiet_still_tells_what_is_wrong(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "cut")
    shard = next(folder.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1)
    result = run("inspect", str(folder), "-q")
    assert (result.returncode, result.stdout) == (4, "")
    assert "is truncated" in result.stderr


def test_a_home_that_cannot_be_written_is_no_hindrance(tiny, tmp_path):
    """numba finds no place for compiled code: what a read-only container gives."""
    code = (
        "import numba.core.caching as caching; caching.CacheImpl._locator_classes.clear()\n"
        "from dsdeploy.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "convert", str(tiny), str(tmp_path / "out"), "-q"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("option", ["--cache-memory", "--expert-memory"])
def test_a_size_that_is_none_is_one_sentence(option, tiny):
    result = run("generate", str(tiny), "hello", option, "much")
    assert result.returncode == 2
    assert result.stderr.startswith("error: 'much' is not a size.")
