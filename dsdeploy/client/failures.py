"""What goes wrong on the way to an endpoint, as sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from dsdeploy.errors import DeployError, ExitCode

_LONGEST = 400


class StatusError(DeployError):
    """The endpoint answered with an error."""

    def __init__(self, status: int, message: str, hint: str, exit_code: ExitCode) -> None:
        super().__init__(message, hint, exit_code)
        self.status = status


def of_status(
    address: str,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    models: Sequence[str] = (),
) -> StatusError:
    """`models` are those that the endpoint serves, where they are known."""
    said = sentence(body) or f"HTTP {status}."
    message = f"{address} refuses the request: {said}"
    match status:
        case 401 | 403:
            hint = "Set DSDEPLOY_API_KEY to its key, or give --api-key-file."
            return StatusError(status, message, hint, ExitCode.USAGE)
        case 404 if models:
            hint = f"Models there: {', '.join(models)}."
            return StatusError(status, message, hint, ExitCode.USAGE)
        case 404:
            hint = "Check the address: it is the engine's own, without /v1."
            return StatusError(status, message, hint, ExitCode.ENGINE)
        case 429 | 503:
            wait = headers.get("retry-after", "")
            when = f"in {wait} s" if wait.isdecimal() else "later"
            message = f"{address} takes no more requests: {said}"
            return StatusError(status, message, f"Try again {when}.", ExitCode.ENGINE)
    if status >= 500:
        message = f"{address} has failed: {said}"
        return StatusError(status, message, "Look into the engine's log.", ExitCode.ENGINE)
    return StatusError(status, message, "", ExitCode.FAILED)


def of_transport(
    address: str, error: httpx.RequestError | httpx.InvalidURL, timeout: float | None
) -> DeployError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        reason = str(error) or "no answer to the connection"
        return nobody_there(address, reason)
    if isinstance(error, httpx.TimeoutException):
        sentence = f"{address} has said nothing for {timeout:g} s."
        hint = "Look whether the engine is busy, stuck or still loading."
        return DeployError(sentence, hint, ExitCode.ENGINE)
    return broken_off(address, str(error))


def nobody_there(address: str, reason: str) -> DeployError:
    return DeployError(
        f"Nothing can be asked at {address}: {reason.rstrip('.')}.",
        "Check the address and whether the engine runs; dsdeploy serve starts one.",
        ExitCode.NETWORK,
    )


def broken_off(address: str, reason: str) -> DeployError:
    return DeployError(
        f"The answer of {address} broke off: {reason.rstrip('.')}.",
        "Look into the engine's log.",
        ExitCode.ENGINE,
    )


def sentence(body: bytes) -> str:
    """What an error says: OpenAI's form, those of older engines, or a line of plain text."""
    try:
        said = _said(json.loads(body))
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        said = "" if text.lstrip().startswith("<") else text
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    if len(line) > _LONGEST:
        line = line[:_LONGEST].rstrip() + "…"
    return line if not line or line[-1] in ".!?…" else line + "."


def _said(document: Any) -> str:
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        return ""
    for name in ("error", "message", "detail"):
        found = document.get(name)
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return found if isinstance(found, str) else json.dumps(found)
    return ""
