"""Units, judged by systemd-analyze and started by a real systemd: its manager of a user's units, in
mount namespace of its own."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from dsdeploy.deploy.launch import File, Mount, Symbol
from dsdeploy.deploy.render import Place
from dsdeploy.errors import UsageError

from .conftest import launch, node, place_for, rendered, server
from .test_quoting import CONTROL, hostile, same

MANAGER = Path("/lib/systemd/systemd")
# Known from systemd 254 on.
NEWER = "Unknown key (name )?'(RestartSteps|RestartMaxDelaySec)' in section"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_no_fault(example, tmp_path):
    if example.launcher == "mpi" and len(example.nodes) > 1:
        with pytest.raises(UsageError, match="Ranks of MPI on 2 nodes"):
            rendered(example, "systemd")
        return
    for path, content in rendered(example, "systemd").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    for folder in {path.parent for path in tmp_path.rglob("*.target")}:
        units = [*folder.glob("*.service"), *folder.glob("*.target")]
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
        done = subprocess.run(command, capture_output=True, text=True)
        assert [line for line in done.stderr.splitlines() if not re.search(NEWER, line)] == []


def can_start_units():
    if not MANAGER.exists() or os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def start(base, units, unit, out):
    """Under a manager that believes it was booted; ends it once `out` is there."""
    folder = base / "run" / "systemd" / "user"
    folder.mkdir(parents=True)
    (base / "run").chmod(0o700)
    credential = base / "token"
    credential.write_text("s'e\"c $HOME")
    for path, content in units.items():
        # What only the system's own manager may do is left out.
        content = content.replace("DynamicUser=yes\n", "")
        content = content.replace("[Service]\n", f"[Service]\nStandardError=append:{base}/log\n")
        content = re.sub("(?m)^(LoadCredential=[^:]*):.*$", rf"\1:{credential}", content)
        (folder / path).write_bytes(content.encode())
    script = 'mount --make-rshared / && mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$@"'
    command = [MANAGER, "--user", f"--unit={unit}", "--log-target=console", "--log-level=notice"]
    variables = {"XDG_RUNTIME_DIR": base / "run", "XDG_CONFIG_HOME": base / "config"}
    with (base / "log").open("w") as log:
        manager = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", *command],
            env={"PATH": os.environ["PATH"], "HOME": str(base)} | variables,
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 20
        while not out.exists() and time.monotonic() < until and manager.poll() is None:
            time.sleep(0.05)
    finally:
        manager.terminate()
        manager.wait(10)
    assert out.exists(), (base / "log").read_text()


@pytest.fixture
def folder():
    """Not under /tmp, of which a unit has its own."""
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="dsdeploy-test-") as made:
        yield Path(made)


@pytest.mark.skipif(not can_start_units(), reason="no systemd, or no right to a mount namespace")
@pytest.mark.skipif(
    Path(__file__).is_relative_to("/tmp") or Path(__file__).is_relative_to("/var/tmp"),
    reason="a unit has a /tmp and a /var/tmp of its own, without this file",
)
def test_units_run_with_their_words(folder):
    out, table = folder / "out.json", folder / "table"
    made, words, values, files = hostile(out, in_values=CONTROL, files=30)
    made = dataclasses.replace(made, prepare=(("cp", "f0", str(table)),))
    units = rendered(made, "systemd")
    unit = next(name for name in units if name.endswith(".target"))
    start(folder, units, unit, out)
    same(json.loads(out.read_text()), words, values, files)
    assert table.exists()


def test_its_patience_is_that_of_the_startup_probe(example):
    if example.launcher == "each":
        units = rendered(example, "systemd").values()
        assert any("TimeoutStartSec=3600s\n" in text for text in units)


def test_what_a_unit_cannot_say():
    with pytest.raises(UsageError, match="control character in a variable"):
        rendered(launch(node(server(environment={"A": "\x01"}))), "systemd")
    with pytest.raises(UsageError, match="too long for a unit"):
        rendered(launch(node(server(files=(File("f", "x" * 200_000),)))), "systemd")
    two = launch(*[node(server(argv=("a", Symbol.HEAD)))] * 2)
    with pytest.raises(UsageError, match="give those of all nodes"):
        rendered(two, "systemd", Place())
    moved = dataclasses.replace(node(server()), mounts=(Mount("/a", "/b"),))
    with pytest.raises(UsageError, match="/a cannot be at /b"):
        rendered(launch(moved), "systemd")
    with pytest.raises(UsageError, match="The user"):
        rendered(launch(node(server())), "systemd", place_for(launch(node()), user="a\nb"))
