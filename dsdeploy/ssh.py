"""Commands on other machines, by OpenSSH's client: it never asks, and it says why it cannot."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dsdeploy.errors import DeployError, ExitCode, UsageError

CONFIG_VARIABLE = "DSDEPLOY_SSH_CONFIG"
"""Names a file of settings for every command that has --ssh-config."""

_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
}
_OWN_FAILURE = 255
_NOT_FOUND = 127

# What the client prints, what it means, and what mends it; the first that is found counts.
_FAILURES = (
    (
        "IDENTIFICATION HAS CHANGED",
        "The host key of {host} is another than the one that is known here.",
        "Where the machine was set up anew: ssh-keygen -R {name}, then ssh {host} true",
    ),
    (
        "Host key verification failed",
        "The host key of {host} is not known here.",
        "Compare it and accept it once: ssh {host} true",
    ),
    (
        "Permission denied",
        "{host} refuses this user or key.",
        "Bring your key there: ssh-copy-id {host}",
    ),
    (
        "Could not resolve hostname",
        "There is no host {host}.",
        "Look at its spelling, or name it in ~/.ssh/config or --ssh-config.",
    ),
    (
        "Connection refused",
        "{host} is there, but no ssh server answers.",
        "Start sshd there, or set its port in ~/.ssh/config or --ssh-config.",
    ),
    (
        "timed out",
        "{host} does not answer over ssh.",
        "See that it is up, and that no firewall drops its ssh port.",
    ),
    (
        r"No route to host|Network is unreachable",
        "No network leads to {host}.",
        "See that it is up and in a network of this machine.",
    ),
    (
        r"Can't open user config file|Bad (owner|configuration)|terminating, \d+ bad config",
        "ssh does not take its configuration: {line}.",
        "Put that file right, or give another with --ssh-config.",
    ),
)


def ssh_command(host: str, config: Path | None = None) -> list[str]:
    """The words that stand before the remote command, which is one word more. `host` as ssh takes
    it: a name, user@name, or an alias of the configuration."""
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*", host):
        raise UsageError(f"{host!r} is no host that ssh could take.", "Write name or user@name.")
    words = ["ssh", "-T"]
    if config is not None:
        words += ["-F", str(config)]
    for name, value in _OPTIONS.items():
        words += ["-o", f"{name}={value}"]
    return [*words, "--", host]


def remote_command(host: str, argv: Sequence[str], config: Path | None = None) -> list[str]:
    """To run `argv` there, through the remote shell."""
    return [*ssh_command(host, config), shlex.join(argv)]


def run(
    host: str, argv: Sequence[str], config: Path | None = None, stdin: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """What `argv` answers there, whatever its exit status. Raises DeployError where ssh itself
    fails, or where the program is not there."""
    done = _done(remote_command(host, argv, config), host, stdin, timeout)
    error = failure(host, argv[0], done.returncode, done.stderr)
    if error is not None:
        raise error
    return done


def address_of(host: str, config: Path | None = None) -> str:
    """By which ssh would reach `host`: its HostName in the configuration, else the name itself."""
    *words, end, name = ssh_command(host, config)
    done = _done([*words, "-G", end, name], host, "", timeout=20)
    if done.returncode != 0:
        raise _explained(host, done.stderr)
    found = re.search(r"^hostname (.+)$", done.stdout, re.MULTILINE)
    return found[1] if found else host.rpartition("@")[2]


def failure(host: str, program: str, returncode: int, stderr: str) -> DeployError | None:
    """Why a remote command did not run at all; None where it ran, well or not."""
    if returncode == _OWN_FAILURE:
        return _explained(host, stderr)
    if returncode == _NOT_FOUND:
        name = Path(program).name
        return _network_error(
            f"There is no {program} on {host}.",
            f"Install it there, or put it on the PATH of a shell that is not interactive: {name}.",
        )
    return None


def _done(
    words: list[str], host: str, stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except FileNotFoundError:
        raise DeployError(
            "There is no ssh here.", "Install OpenSSH's client: sudo apt install openssh-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise _network_error(
            f"{host} has not answered in {timeout:.0f} s.", "See what keeps it busy."
        ) from None


def _explained(host: str, stderr: str) -> DeployError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    line = lines[-1].rstrip(".") if lines else "it gives no reason"
    fields = {"host": host, "name": host.rpartition("@")[2], "line": line}
    for pattern, sentence, hint in _FAILURES:
        if re.search(pattern, stderr):
            return _network_error(sentence.format(**fields), hint.format(**fields))
    return _network_error(f"ssh to {host} fails: {line}.", f"Try it by hand: ssh {host} true")


def _network_error(message: str, hint: str) -> DeployError:
    return DeployError(message, hint, ExitCode.NETWORK)
