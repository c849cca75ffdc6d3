"""The rules of the house: which folder may import which, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "dsdeploy").rglob("*.py"))

# Each folder may import those after it; shared leaves are errors, units, output, resources, jit,
# strict_yaml, whole_files, json_lines and ssh.
ORDER = [
    "cli",
    "doctor",
    "serving",
    "deploy",
    "runner",
    "convert",
    "synth",
    "building",
    "planning",
    "hardware",
]
ORDER += ["hub", "checkpoint", "model", "client"]
LEAVES = {"errors", "units", "output", "resources", "jit", "strict_yaml", "whole_files"}
LEAVES |= {"json_lines", "ssh"}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    folder = path.relative_to(ROOT / "dsdeploy").parts[0].removesuffix(".py")
    for name in imports_of(path):
        if not name.startswith("dsdeploy.") or folder not in ORDER:
            continue
        other = name.split(".")[1]
        assert other not in ("backends", "templates", "profiles")
        if other not in LEAVES:
            assert ORDER.index(folder) <= ORDER.index(other), f"{folder} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_runner_imports_torch(path):
    in_runner = "runner" in path.relative_to(ROOT / "dsdeploy").parts
    heavy = {name.split(".")[0] for name in imports_of(path)} & {"torch", "transformers", "triton"}
    assert in_runner or not heavy


def test_importing_the_commands_loads_nothing_heavy():
    code = "import sys, dsdeploy.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {
        "torch",
        "numba",
        "numpy",
        "llvmlite",
        "rich",
        "huggingface_hub",
        "jinja2",
        "yaml",
        "httpx",
    }
    assert not heavy & set(loaded.stdout.split())


def test_files_and_functions_stay_short():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 80, f"{path}: {node.name} has {lines} lines"
