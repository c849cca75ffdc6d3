"""One HTTP exchange: through the proxy that the environment names, faults told apart.

urllib3, because it hands bytes on at 1.3 GB/s a core; httpx, which the Hub's client uses, at 0.3.
"""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
    TimeoutError,
)

from dsdeploy import __version__
from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.hub.retries import TransientError

_CONNECT_SECONDS = 20.0
_NEARLY = 1 << 16


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a browser's rules, and ours for tokens, call an origin."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


class Connections:
    """Kept open between requests; safe to use from several threads."""

    def __init__(self, stall: float, most: int) -> None:
        self._timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, stall), read=stall)
        self._most = most
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._mutex = threading.Lock()
        self._open: set[Callable[[], object]] = set()
        """What ends each wait for bytes."""
        self._aborted = False

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """Redirects are the caller's to follow: it knows who may see which header."""
        host = urlsplit(url).hostname or ""
        with told_apart(host):
            pool = self._pool(url)
            response = pool.request(
                "GET",
                url,
                headers={"user-agent": f"dsdeploy/{__version__}", **headers},
                timeout=self._timeout,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        try:
            with self._abortable(response.shutdown):
                yield response
        finally:
            _give_back(response)

    def abort(self) -> None:
        with self._mutex:
            self._aborted = True
            waiting = list(self._open)
        for end in waiting:
            self._end_if_aborted(end)

    @contextmanager
    def _abortable(self, end: Callable[[], object]) -> Iterator[None]:
        with self._mutex:
            self._open.add(end)
        try:
            self._end_if_aborted(end)
            yield
        finally:
            with self._mutex:
                self._open.discard(end)

    def _end_if_aborted(self, end: Callable[[], object]) -> None:
        if self._aborted:
            with suppress(OSError, ValueError, RuntimeError):
                end()

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = _proxy_for(url)
        with self._mutex:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str) -> urllib3.PoolManager:
        # httpx's choice of certificates: SSL_CERT_FILE, SSL_CERT_DIR, else certifi's.
        options: dict[str, Any] = {
            "maxsize": self._most,
            "ssl_context": httpx.create_ssl_context(),
        }
        try:
            pool = (
                urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
            )
        except (HTTPError, ValueError) as error:
            raise DeployError(
                f"The environment names a proxy that is none: {error}.",
                "Set HTTPS_PROXY to http://HOST:PORT, or unset it.",
            ) from None
        pool.pool_classes_by_scheme = _pool_classes(self._abortable)
        return pool


def _pool_classes(
    abortable: Callable[[Callable[[], object]], AbstractContextManager[None]],
) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Pools whose wait for the first word of an answer can be ended, as that for its bytes."""

    class Plain(HTTPConnection):
        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
            with abortable(partial(self.sock.shutdown, socket.SHUT_RD)):
                return super().getresponse()

    class Encrypted(HTTPSConnection):
        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
            with abortable(partial(self.sock.shutdown, socket.SHUT_RD)):
                return super().getresponse()

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def pieces_of(response: urllib3.BaseHTTPResponse, host: str, nbytes: int) -> Iterator[bytes]:
    """The answer's bytes, so many at once."""
    with told_apart(host):
        yield from response.stream(nbytes)


def _give_back(response: urllib3.BaseHTTPResponse) -> None:
    """A connection whose answer is read, or nearly, is used again; else it is closed. An answer
    that nobody reads, be it empty, would keep the next request from getting its own."""
    left = response.length_remaining
    if left is None or left > _NEARLY:
        response.close()
    else:
        response.drain_conn()
        response.release_conn()


def _proxy_for(url: str) -> str:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all") or ""


@contextmanager
def told_apart(host: str) -> Iterator[None]:
    """urllib3's faults in our words; their own hold addresses that may be signed."""
    try:
        yield
    except SSLError as error:
        if "CERTIFICATE" in str(error).upper():
            raise _not_trusted(host) from None
        raise TransientError(f"the encrypted connection to {host} broke") from None
    except ProxyError:
        raise TransientError("the proxy does not answer") from None
    except NameResolutionError:
        raise TransientError(f"the name {host} cannot be resolved") from None
    except NewConnectionError:
        raise TransientError(f"{host} cannot be reached") from None
    except TimeoutError:
        raise TransientError(f"{host} sent no byte for too long") from None
    except LocationValueError:
        raise TransientError("the server sends us to what is no address") from None
    except (HTTPError, OSError):
        raise TransientError(f"the connection to {host} broke") from None


def _not_trusted(host: str) -> DeployError:
    return DeployError(
        f"The certificate of {host} is not trusted by this machine.",
        "If a proxy of yours opens TLS, set SSL_CERT_FILE to its certificate.",
        ExitCode.NETWORK,
    )
