"""The plugin of docs/plugins.md, installed from that page and used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "toml": "pyproject.toml",
    "yaml": "dsdeploy_vllm_cpu/rules.yaml",
    "python": "dsdeploy_vllm_cpu/__init__.py",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run("plan", ...)`: the command in a process that has the plugin."""
    source, site = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    page = (ROOT / "docs" / "plugins.md").read_text()
    for language, name in FILES.items():
        (text,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        file = source / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, source], check=True, capture_output=True)

    def dsdeploy(*arguments):
        command = [sys.executable, "-m", "dsdeploy", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return dsdeploy


def test_it_is_listed_and_shown(run):
    assert "vllm-cpu" in run("backends", "list").stdout
    assert "this build is for processors" in run("backends", "show", "vllm-cpu").stdout


def test_it_plans_and_renders(run, synth, tmp_path):
    folder = synth(tmp_path / "small", "--precision", "bf16")
    planned = run("plan", folder, "--backend", "vllm-cpu", "--profile", "laptop", "--context", 256)
    assert planned.returncode == 0, planned.stderr
    assert "vllm-cpu" in planned.stdout
    script = run(
        "render", folder, "--backend", "vllm-cpu", "--profile", "laptop", "--context", 256,
        "--target", "shell", "--stdout",
    )  # fmt: skip
    assert script.returncode == 0, script.stderr
    assert f"vllm serve {folder}" in script.stdout
    assert "VLLM_CPU_KVCACHE_SPACE=" in script.stdout


def test_its_flags_are_checked_by_the_catalogue_that_it_names(run, synth, tmp_path):
    folder = synth(tmp_path / "small", "--precision", "bf16")
    script = run(
        "render", folder, "--backend", "vllm-cpu", "--profile", "laptop", "--context", 256,
        "--target", "shell", "--stdout", "--extra-arg=--enable-reasoning",
    )  # fmt: skip
    assert script.returncode == 0
    assert "--enable-reasoning" in script.stderr
