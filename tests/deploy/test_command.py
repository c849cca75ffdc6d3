"""dsdeploy render, as people use it."""

import json

import pytest
import yaml

RENDER = ("render", "DeepSeek-V3", "--profile", "8xh200", "--backend", "vllm")


def test_files_are_written_and_shown(dsdeploy, tmp_path):
    folder = tmp_path / "out"
    result = dsdeploy(*RENDER, "--target", "shell", "--out", folder)
    assert result.exit_code == 0, result.output
    (script,) = folder.iterdir()
    assert script.name in result.stdout
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "vllm serve deepseek-ai/DeepSeek-V3" in text
    assert "Made by dsdeploy" in text
    assert "TP8 on 8xh200" in text
    again = dsdeploy(*RENDER, "--target", "shell", "--out", folder)
    assert again.exit_code == 0


def test_nothing_is_written_by_stdout_dry_run_and_diff(dsdeploy, tmp_path):
    folder = tmp_path / "out"
    for option in ("--stdout", "--dry-run", "--diff"):
        result = dsdeploy(*RENDER, "--target", "compose", "--out", folder, option)
        assert result.exit_code == 0, result.output
        assert "compose.yaml" in result.stdout or "services:" in result.stdout
    assert not folder.exists()


def test_the_difference_is_empty_when_nothing_changes(dsdeploy, tmp_path):
    options = ("--target", "kubernetes", "--out", tmp_path / "out")
    dsdeploy(*RENDER, *options)
    # The header names the command, which has one option more.
    changed = dsdeploy(*RENDER, *options, "--diff").stdout.splitlines()
    assert all(
        "Made again by" in line
        for line in changed
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    )


def test_what_somebody_else_wrote_is_kept(dsdeploy, tmp_path):
    options = ("--target", "shell", "--out", tmp_path / "out")
    dsdeploy(*RENDER, *options)
    (script,) = (tmp_path / "out").iterdir()
    script.write_text("mine\n")
    result = dsdeploy(*RENDER, *options)
    assert result.exit_code == 2
    assert "dsdeploy did not make it" in result.stderr
    assert script.read_text() == "mine\n"
    assert dsdeploy(*RENDER, *options, "--overwrite").exit_code == 0


def test_a_saved_plan_is_rendered_as_it_is(dsdeploy, tmp_path):
    plan = tmp_path / "plan.yaml"
    dsdeploy(
        "plan", "DeepSeek-V3", "--profile", "2x8xh100", "--backend", "sglang", "--output", plan
    )
    result = dsdeploy("render", "--plan", plan, "--target", "slurm", "--stdout")
    assert result.exit_code == 0, result.output
    assert "#SBATCH --nodes=2" in result.stdout
    assert "--tp-size 16" in result.stdout


def test_json_has_the_files(dsdeploy):
    found = json.loads(dsdeploy(*RENDER, "--target", "compose", "--stdout", "--json").stdout)
    ((_, content),) = found["files"].items()
    assert found["release"]
    (service,) = yaml.safe_load(content)["services"].values()
    assert service["image"].startswith("vllm/vllm-openai:v")


def test_a_key_is_asked_for_and_never_written(dsdeploy, monkeypatch):
    monkeypatch.setenv("DSDEPLOY_API_KEY", "very-secret")
    monkeypatch.setenv("API_KEY", "very-secret")
    for target in ("shell", "docker", "compose", "kubernetes", "slurm"):
        result = dsdeploy(*RENDER, "--target", target, "--host", "0.0.0.0", "--stdout")
        assert result.exit_code == 0, result.output
        assert "VLLM_API_KEY" in result.stdout
        assert "very-secret" not in result.output


def test_what_the_release_does_not_know_is_a_note_and_passes(dsdeploy):
    result = dsdeploy(*RENDER, "--target", "shell", "--stdout", "--extra-arg", "--swap-space=4")
    assert result.exit_code == 0
    assert "--swap-space=4" in result.stdout
    assert "note: vllm" in result.stderr
    assert "--swap-space" in result.stderr


def test_the_installed_release_is_rendered_for(dsdeploy, tmp_path, monkeypatch):
    facts = tmp_path / "vllm-0.12.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.12.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = json.loads(dsdeploy(*RENDER, "--target", "shell", "--stdout", "--json").stdout)
    assert found["release"] == "0.12.0"
    options = ("--target", "shell", "--stdout", "--json", "--engine-version", "0.20.2")
    assert json.loads(dsdeploy(*RENDER, *options).stdout)["release"] == "0.20.2"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("render", "--target", "shell"), 2, "MODEL or a saved plan"),
        ((*RENDER, "--target", "shell", "--plan", "plan.yaml"), 2, "MODEL or a saved plan"),
        ((*RENDER, "--target", "shell", "--engine-version", "0.1.0"), 2, "too old"),
        ((*RENDER, "--target", "shell", "--extra-env", "1X=2"), 2, "is not NAME=VALUE"),
        ((*RENDER, "--target", "shell", "--precision", "bf16"), 3, "does not fit"),
        (
            ("render", "DeepSeek-V3", "--profile", "8xh200", "--backend", "sglang",
             "--target", "shell", "--host", "0.0.0.0"),
            2, "sglang is given no key",
        ),
        (
            ("render", "DeepSeek-V3", "--profile", "2x8xh200", "--target", "shell",
             "--precision", "bf16", "--backend", "sglang"),
            2, "--weights",
        ),
        (("render", "DeepSeek-V3", "--profile", "8xh100", "--target", "shell"), 3, "does not fit"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_with_a_sentence(dsdeploy, arguments, code, sentence):
    result = dsdeploy(*arguments)
    assert result.exit_code == code
    assert sentence in result.stderr
