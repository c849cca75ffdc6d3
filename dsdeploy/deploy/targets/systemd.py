"""Units for each node: a service a process, and a target that holds them together."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from dsdeploy.deploy.launch import File, Launch, Node, Probe, Process, Secret, Word
from dsdeploy.deploy.targets.bash import known_symbols
from dsdeploy.deploy.targets.check import (
    check_bare,
    check_one_node_of_mpi,
    check_runs_on,
    one_line,
    plain,
)
from dsdeploy.deploy.targets.container import command, container_name
from dsdeploy.deploy.targets.place import Place, RenderedFile
from dsdeploy.deploy.targets.words import (
    comment,
    known,
    launch_name,
    part_name,
    peers_in,
    secrets_of,
    settings_of,
    spell,
)
from dsdeploy.errors import UsageError

# The kernel takes no longer word, and systemd no longer line than 1 MiB.
_LONGEST_WORD = 128 * 1024 - 1
_WRITE = 'mkdir -p -- "$(dirname -- "$2")" && printf %s "$3" >"$2.new" && chmod -- "$1" "$2.new" && mv -f -- "$2.new" "$2"'
_ASK = 'until curl --silent --fail --noproxy "*" --max-time "$1" --output /dev/null "$2"; do sleep "$3"; done'
_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelModules=yes
RestrictSUIDSGID=yes
LockPersonality=yes
LimitMEMLOCK=infinity
LimitNOFILE=1048576
"""


def render_systemd(
    launch: Launch, place: Place, header: tuple[str, ...]
) -> tuple[RenderedFile, ...]:
    check_bare(launch, "systemd")
    check_one_node_of_mpi(launch, "systemd")
    check_runs_on(launch, "systemd")
    _demand_addresses(launch, place)
    plain("The user", place.user)
    return tuple(
        RenderedFile(folder + name, comment(header) + content)
        for rank in range(len(launch.nodes))
        for folder in (f"node-{rank}/" if len(launch.nodes) > 1 else "",)
        for name, content in _units(launch, rank, place).items()
    )


def _demand_addresses(launch: Launch, place: Place) -> None:
    if (len(launch.nodes) > 1 or launch.group) and not place.addresses:
        raise UsageError("Units are written with addresses in them: give those of all nodes.")
    for peer in (peer for rank in range(len(launch.nodes)) for peer in peers_in(launch, rank)):
        if peer.launch not in place.peers:
            raise UsageError(
                f"Units are written with addresses in them: give that of {peer.launch} too."
            )


def _units(launch: Launch, rank: int, place: Place) -> dict[str, str]:
    name, node = launch_name(launch), launch.nodes[rank]
    services = {
        f"{container_name(launch, process)}.service": _service(launch, rank, process, place)
        for process in node.processes
    }
    prepared = {}
    if launch.prepare and rank == 0:
        prepared[f"{name}-prepare.service"] = _prepare(launch, place)
    return {f"{name}.target": _target(launch, list(services))} | prepared | services


def _target(launch: Launch, services: list[str]) -> str:
    return (
        f"[Unit]\nDescription={_title(launch)}\nWants={' '.join(services)}\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _title(launch: Launch) -> str:
    return one_line("The name", launch.name).replace("%", "%%").rstrip("\\") + ", by dsdeploy"


def _unit(launch: Launch, process: str, after: str = "") -> str:
    return (
        f"[Unit]\nDescription={_title(launch)}: {process}\n"
        f"PartOf={launch_name(launch)}.target\n"
        "Wants=network-online.target\n"
        f"After=network-online.target{f' {after}' if after else ''}\n"
        + (f"Requires={after}\n" if after else "")
        + "StartLimitIntervalSec=0\n\n"
    )


def _service(launch: Launch, rank: int, process: Process, place: Place) -> str:
    after = f"{launch_name(launch)}-prepare.service" if launch.prepare and rank == 0 else ""
    startup = process.probes.startup if process.probes else None
    patience = f"{startup.seconds}s" if startup else "infinity"
    return (
        _unit(launch, part_name(process.name), after)
        + "[Service]\nType=exec\n"
        + _surroundings(launch, rank, process, place)
        + _run("ExecStart", launch, rank, process, place, command(launch, process))
        + (_waiting(startup) if startup else "")
        + f"TimeoutStartSec={patience}\nTimeoutStopSec={place.stop_seconds}s\n"
        + "KillMode=mixed\nRestart=on-failure\n"
        + "RestartSec=10s\nRestartSteps=5\nRestartMaxDelaySec=10min\n"
        + _HARDENING
    )


def _prepare(launch: Launch, place: Place) -> str:
    first = launch.head.processes[0]
    return (
        _unit(launch, "prepare")
        + "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        + _surroundings(launch, 0, first, place)
        + "".join(_run("ExecStart", launch, 0, first, place, argv) for argv in launch.prepare)
        + "TimeoutStartSec=infinity\n"
        + _HARDENING
    )


def _surroundings(launch: Launch, rank: int, process: Process, place: Place) -> str:
    """User, folder, files, environment and devices."""
    state = f"{launch_name(launch)}/{part_name(process.name)}"
    home = {} if "HOME" in process.environment else {"HOME": f"%S/{state}"}
    named = known(known_symbols(launch, rank, place), lambda peer: place.peers[peer.launch])
    settings = {
        name: _assigned(spell(value, lambda text: text, named))
        for name, value in settings_of(process).items()
    }
    return (
        (f"User={place.user}\n" if place.user else "DynamicUser=yes\n")
        + f"StateDirectory={state}\nWorkingDirectory=%S/{state}\n"
        + "".join(f'Environment="{n}={v}"\n' for n, v in (home | settings).items())
        + "".join(
            f"LoadCredential={secret.name}:/etc/credstore/{launch_name(launch)}.{secret.name}\n"
            for secret in dict.fromkeys(secrets_of(process).values())
        )
        + _access(launch.nodes[rank])
        + "".join(_written(file) for file in process.files)
    )


def _access(node: Node) -> str:
    groups = {"amd": "video render"}.get(node.devices.kind, "")
    writable = [m.source for m in node.mounts if m.source.startswith("/") and not m.read_only]
    return (f"SupplementaryGroups={groups}\n" if groups else "") + "".join(
        f'ReadWritePaths="{_escaped(path)}"\n' for path in writable
    )


def _written(file: File) -> str:
    return _command_line("ExecStartPre", _WRITE, f"{file.mode:o}", file.path, file.content)


def _run(
    key: str, launch: Launch, rank: int, process: Process, place: Place, argv: tuple[Word, ...]
) -> str:
    """Through a shell, which finds the program by PATH and reads the secrets."""
    named = known(known_symbols(launch, rank, place), lambda peer: place.peers[peer.launch])
    script = "".join(_read(name, secret) for name, secret in secrets_of(process).items())
    words = (spell(word, lambda text: text, named) for word in argv)
    return _command_line(key, script + 'exec "$@"', *words)


def _read(name: str, secret: Secret) -> str:
    return f'{name}="$(cat "$CREDENTIALS_DIRECTORY"/{quote(secret.name)})" && export {name} && '


def _waiting(probe: Probe) -> str:
    """The unit has started when it answers."""
    url = f"http://127.0.0.1:{probe.port}{probe.path}"
    return _command_line("ExecStartPost", _ASK, str(probe.timeout), url, str(probe.period))


def _command_line(key: str, script: str, *words: str) -> str:
    return f"{key}=/bin/sh -c {_line((script, 'sh', *words))}\n"


def _line(words: Iterable[str]) -> str:
    return " ".join(map(_exec_word, words))


def _exec_word(text: str) -> str:
    """In a command, a dollar begins a variable."""
    if len(text.encode()) > _LONGEST_WORD:
        raise UsageError(f"A word of {len(text.encode()):,} bytes is too long for a unit.")
    return f'"{_escaped(text).replace("$", "$$")}"'


def _assigned(text: str) -> str:
    """In Environment=, a dollar is a dollar, and systemd takes no control character but two."""
    if any((ord(c) < 32 and c not in "\t\n") or ord(c) == 127 for c in text):
        raise UsageError(f"systemd takes no control character in a variable: {text!r}.")
    return _escaped(text)


def _escaped(text: str) -> str:
    """Between double quotes: `%` begins a specifier, a backslash an escape."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or ord(c) == 127 else c for c in text)
