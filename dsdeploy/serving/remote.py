"""A node's script on another machine: brought there over ssh, and held by the connection."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dsdeploy.resources import read_template
from dsdeploy.serving.deployment import Deployment, NodeScript
from dsdeploy.ssh import remote_command, run

_RECEIVE = 'umask 077 && mkdir -p -- "${1%/*}" && cat >"$1"'


def start_remote(
    deployment: Deployment,
    node: NodeScript,
    script: str,
    environment: Mapping[str, str],
    marker: str,
) -> subprocess.Popen[bytes]:
    """It ends, with all its processes there, when its standard input is closed. Secrets go through
    the connection into a file that is gone when the script runs. Raises DeployError where ssh
    fails."""
    config = Path(deployment.ssh_config) if deployment.ssh_config else None
    # Homes may be one folder that all nodes share.
    folder, host = f".dsdeploy/{deployment.name}/{Path(node.file).stem}", node.host
    for name, text in (("start.sh", script), ("environment", _exports(deployment, environment))):
        path = f"{folder}/{name}"
        run(host, ["sh", "-c", _RECEIVE, "sh", path], config, stdin=text)
    held = read_template("serving/held.sh")
    grace = str(int(deployment.patience.grace))
    words = ["sh", "-c", held, "sh", folder, f"{marker}-{node.host}", grace]
    return subprocess.Popen(
        remote_command(host, words, config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _exports(deployment: Deployment, environment: Mapping[str, str]) -> str:
    """As a file of the shell. What is on PATH there stays on it."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if deployment.search_path:
        lines.append(f'export PATH={shlex.quote(deployment.search_path)}:"$PATH"')
    return "\n".join(lines) + "\n"
