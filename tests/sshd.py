"""A server of ssh on this very machine stands in for others; skipped where there is no sshd."""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from .ports import free_port
from .waiting import until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd (openssh-server)")


class Keys:
    """Of hosts and of the user, in a folder; `host` is what ssh's configuration says of one."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
            )
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "known").write_text(f"stand-in {(folder / 'host.pub').read_text()}")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)

    def host(self, names, address, **settings):
        common = {
            "HostName": address, "User": getpass.getuser(), "IdentityFile": self.folder / "user",
            "HostKeyAlias": "stand-in", "UserKnownHostsFile": self.folder / "known",
        }  # fmt: skip
        lines = [f" {key} {value}" for key, value in (common | settings).items()]
        return "\n".join([f"Host {names}", *lines, ""])

    def server(self, name, *settings):
        """The configuration of a server."""
        path = self.folder / name
        own = (
            f"HostKey {self.folder}/host", f"AuthorizedKeysFile {self.folder}/authorized",
            "StrictModes no", "UsePAM no", "PidFile none", "PermitUserEnvironment no",
        )  # fmt: skip
        path.write_text("\n".join([*own, *settings, ""]))
        return path

    def proxy(self, server):
        """A ProxyCommand: a server of its own for each connection, wherever its address leads."""
        return shlex.join([SSHD, "-i", "-e", "-f", str(server)]) + " 2>/dev/null"


@contextmanager
def listening(keys, port):
    settings = keys.server("sshd_config", f"Port {port}", "ListenAddress 127.0.0.1")
    with subprocess.Popen([SSHD, "-D", "-e", "-f", settings], stderr=subprocess.DEVNULL) as sshd:
        until(lambda: _listens(port))
        yield
        sshd.terminate()


@contextmanager
def two_hosts(folder):
    """ssh's configuration with hosts `one` and `two`, and `gone` where nobody listens."""
    keys = Keys(folder)
    port = free_port()
    config = keys.folder / "config"
    config.write_text(
        keys.host("one two", "127.0.0.1", Port=port)
        + keys.host("gone", "127.0.0.1", Port=free_port())
    )
    with listening(keys, port):
        yield config


def _listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
