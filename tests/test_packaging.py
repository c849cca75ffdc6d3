"""The wheel holds everything, under one name; and it installs and runs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dsdeploy import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "build", "demo-output", ".*cache"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    subprocess.run([*command, source], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_one_package_and_every_file_of_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "dsdeploy",
        f"dsdeploy-{__version__}.dist-info",
    }
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "dsdeploy").rglob("*.py")}
    wanted |= {str(p.relative_to(ROOT)) for p in (ROOT / "dsdeploy").rglob("*.json")}
    for top in ("backends", "templates", "profiles"):
        files = [p for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix != ".pyc"]
        wanted |= {f"dsdeploy/{p.relative_to(ROOT)}" for p in files}
    assert wanted | {"dsdeploy/py.typed"} <= set(names)


def test_the_installed_wheel_makes_and_inspects_a_checkpoint(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def run(*arguments):
        code = f"import sys; sys.path.insert(0, {str(site)!r}); from dsdeploy.cli.main import main; main()"
        command = [sys.executable, "-P", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    made = run("synth", "made", "--set", "num_hidden_layers=2", "--set", "n_routed_experts=8")
    assert made.returncode == 0, made.stderr
    assert "Whole" in run("inspect", "--deep", "made").stdout
    assert __version__ in run("--version").stdout
