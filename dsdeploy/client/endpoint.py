"""An OpenAI-compatible endpoint, and single questions to it.

Proxies and .netrc of the environment are not used: an endpoint is asked directly, and its key goes
nowhere else. Certificates are checked against the system's authorities (`SSL_CERT_FILE` counts).
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from dsdeploy.client.failures import StatusError, of_status, of_transport
from dsdeploy.errors import DeployError, ExitCode, UsageError

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Endpoint:
    address: str
    """`http://127.0.0.1:8000`, without `/v1`."""
    key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: tuple[str, ...]
    """Their texts, where log-probabilities were asked for; with `echo` the prompt's come first."""
    logprobs: tuple[float | None, ...]
    """Of `tokens`; a prompt's first has none."""
    finish_reason: str | None
    usage: Mapping[str, Any]


def parse_address(text: str) -> str:
    """`localhost:8000`, `https://host/v1/` -> the address of an Endpoint."""
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or not full.isprintable() or " " in full:
        raise UsageError(f"{text!r} is no address.", "Write it as http://127.0.0.1:8000.")
    if parts.username is not None:
        raise UsageError("The address holds a password.", "Give a key with --api-key-file instead.")
    return full.rstrip("/").removesuffix("/v1").rstrip("/")


def get(endpoint: Endpoint, path: str, timeout: float = CONNECT_SECONDS) -> httpx.Response:
    """Raises DeployError where nothing answers, or answers with an error."""
    return _ask(endpoint, "GET", path, timeout, None)


def post(endpoint: Endpoint, path: str, body: Mapping[str, Any], timeout: float) -> httpx.Response:
    """As `get`. `timeout` counts seconds in which nothing comes, not the whole answer's."""
    return _ask(endpoint, "POST", path, timeout, body)


def models(endpoint: Endpoint, timeout: float = CONNECT_SECONDS) -> tuple[str, ...]:
    """The names that /v1/models lists."""
    document = read_object(endpoint, get(endpoint, "/v1/models", timeout))
    entries = document.get("data") or []
    return tuple(str(entry["id"]) for entry in entries if "id" in entry)


def first_model(endpoint: Endpoint) -> str:
    names = models(endpoint)
    if not names:
        raise DeployError(
            f"{endpoint.address} lists no model.", "Name it with --model.", ExitCode.ENGINE
        )
    return names[0]


def complete(
    endpoint: Endpoint,
    model: str,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 16,
    temperature: float = 0.0,
    logprobs: int | None = None,
    echo: bool = False,
    ignore_eos: bool = False,
    timeout: float = 600.0,
) -> Completion:
    """One answer of /v1/completions. A prompt of numbers is one of tokens."""
    body = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    wished = {"logprobs": logprobs, "echo": echo or None, "ignore_eos": ignore_eos or None}
    body |= {name: value for name, value in wished.items() if value is not None}
    answer = read_object(endpoint, post(endpoint, "/v1/completions", body, timeout))
    try:
        choice = answer["choices"][0]
        found = choice.get("logprobs") or {}
        return Completion(
            text=choice["text"],
            tokens=tuple(found.get("tokens") or ()),
            logprobs=tuple(found.get("token_logprobs") or ()),
            finish_reason=choice.get("finish_reason"),
            usage=answer.get("usage") or {},
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _not_as_openai(endpoint) from None


def read_object(endpoint: Endpoint, answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _not_as_openai(endpoint)
    return document


def session(endpoint: Endpoint, timeout: float | None) -> httpx.Client:
    return httpx.Client(
        headers=endpoint.headers,
        timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        trust_env=False,
        verify=tls(endpoint.address) or False,
    )


def tls(address: str) -> ssl.SSLContext | None:
    """None for plain HTTP."""
    return ssl.create_default_context() if address.startswith("https:") else None


def refused(endpoint: Endpoint, answer: httpx.Response) -> StatusError:
    """The error of an answer that has been read. For a 404 the endpoint is asked for its models."""
    names: tuple[str, ...] = ()
    if answer.status_code == 404 and answer.request.method == "POST":
        with contextlib.suppress(DeployError):
            names = models(endpoint)
    return of_status(endpoint.address, answer.status_code, answer.content, answer.headers, names)


def _ask(
    endpoint: Endpoint, method: str, path: str, timeout: float, body: Mapping[str, Any] | None
) -> httpx.Response:
    try:
        with session(endpoint, timeout) as client:
            answer = client.request(method, endpoint.address + path, json=body)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise of_transport(endpoint.address, error, timeout) from error
    if not answer.is_success:
        raise refused(endpoint, answer)
    return answer


def _not_as_openai(endpoint: Endpoint) -> DeployError:
    return DeployError(
        f"{endpoint.address} does not answer as OpenAI's API does.",
        "Check the address: it is the engine's own, without /v1.",
        ExitCode.ENGINE,
    )
