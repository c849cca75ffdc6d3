"""What a deployment does, shown as it happens: to its being ready, and then its log."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.output import Output

if TYPE_CHECKING:
    from dsdeploy.serving.control import Supervised
    from dsdeploy.serving.log import LogReader
    from dsdeploy.serving.status import Status

_PERIOD = 0.2
_LAST_LINES = 20


def follow_start(out: Output, supervised: Supervised) -> Status:
    """Until it is ready. Raises DeployError, after the log's last lines, for one that will not be."""
    status = _until_ready(out, supervised)
    if status is None or status.state != "ready":
        fail(out, supervised.folder, status)
    _show_ready(out, supervised.folder, status)
    return status


def follow(out: Output, supervised: Supervised) -> None:
    """The log, until the deployment ends. Raises DeployError where it was not told to."""
    from dsdeploy.serving.log import LogReader

    reader = LogReader(supervised.folder / "log", from_end=True)
    while supervised.process.poll() is None:
        _print_new(out, reader)
        time.sleep(_PERIOD)
    _print_new(out, reader)
    status = _last_status(supervised)
    if status is None or status.state != "stopped":
        fail(out, supervised.folder, status)
    out.line("Stopped.")


def end(out: Output, supervised: Supervised) -> bool:
    """In good order; at once when Ctrl-C comes again. Whether it had been ready."""
    from dsdeploy.serving.status import read_status

    before = read_status(supervised.folder)
    out.remark("Stopping; Ctrl-C again ends it at once.")
    supervised.process.send_signal(signal.SIGTERM)
    try:
        _last_status(supervised)
    except KeyboardInterrupt:
        supervised.process.send_signal(signal.SIGTERM)
        _last_status(supervised)
    out.line("Stopped.")
    return before is not None and before.ready_since is not None


def fail(out: Output, folder: Path, status: Status | None) -> NoReturn:
    from dsdeploy.serving.log import last_attempt, last_lines

    for line in last_attempt(folder / "log", _LAST_LINES):
        out.remark(f"  | {line}")
    if status is None or not status.over:
        said = "".join(last_lines(folder / "supervisor.log", 1))
        raise DeployError(
            f"The supervisor of {folder.name} has died{f': {said}' if said else ''}.",
            f"dsdeploy restart {folder.name}",
            ExitCode.ENGINE,
        )
    raise DeployError(
        status.reason or "It was stopped before it was ready.",
        status.fix or f"dsdeploy logs {folder.name} shows all that the engine said.",
        ExitCode.ENGINE,
    )


def _until_ready(out: Output, supervised: Supervised) -> Status | None:
    from dsdeploy.serving.status import read_status

    shown = 0
    begun = time.monotonic()
    with out.status_line() as line:
        while True:
            ended = supervised.process.poll() is not None
            status = _last_status(supervised) if ended else read_status(supervised.folder)
            if status is not None:
                line.clear()
                for name, seconds in status.phases[shown:]:
                    out.line(f"  {name:<16} {seconds:6.1f} s")
                shown = max(shown, len(status.phases))
                passed = time.monotonic() - begun
                line.show(f"  {status.phase:<16} {passed:6.0f} s  {status.detail}")
                out.event({"event": "status", **_brief(status)})
            if ended or (status is not None and (status.state == "ready" or status.over)):
                return status
            time.sleep(_PERIOD)


def _brief(status: Status) -> dict[str, object]:
    fields = asdict(status)
    return {name: fields[name] for name in ("state", "phase", "detail", "attempt", "reason")}


def _show_ready(out: Output, folder: Path, status: Status) -> None:
    from dsdeploy.serving.deployment import address_in, read_deployment

    deployment = read_deployment(folder)
    address = address_in(folder, deployment)
    seconds = (status.ready_since or status.begun) - status.begun
    out.line(f"ready       in {seconds:.1f} s")
    out.line(f"answers     {status.smoke}")
    out.line(f"\n{deployment.model} is served at {address}/v1\n")
    body = {"model": deployment.model, "messages": [{"role": "user", "content": "Hello!"}]}
    key = '-H "Authorization: Bearer $DSDEPLOY_API_KEY" ' if deployment.needs_key else ""
    out.line(
        f"  curl {address}/v1/chat/completions {key}"
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}\n"
    )
    out.event(
        {
            "event": "ready",
            "name": folder.name,
            "model": deployment.model,
            "address": address,
            "seconds": seconds,
            "answer": status.smoke,
            "phases": dict(status.phases),
        }
    )


def _last_status(supervised: Supervised) -> Status | None:
    from dsdeploy.serving.control import wait_for_end

    return wait_for_end(supervised)


def _print_new(out: Output, reader: LogReader) -> None:
    for line in reader.new_lines():
        out.line(line)


def end_on_terminate() -> None:
    """TERM ends a deployment in the foreground as Ctrl-C does."""
    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        signal.signal(signal.SIGTERM, signal.default_int_handler)
