"""Files of a repository over HTTP, as the Hub serves them.

`/OWNER/NAME/resolve/COMMIT/PATH` answers with a small file itself, and for a large one with the
signed address of a storage server, which is kept until it expires. Only the Hub sees the token.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from dsdeploy.errors import DeployError, ExitCode, IntegrityError
from dsdeploy.hub.connections import Connections, origin_of, pieces_of
from dsdeploy.hub.listing import RemoteFile
from dsdeploy.hub.origin import PIECE, ContentChangedError, Stream
from dsdeploy.hub.retries import TransientError, retry_after

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_HOPS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {401, 403, 404, 410}
"""What a storage server says of an address that has expired."""


@dataclass
class _Place:
    """Where a file's bytes are now."""

    url: str
    etag: str | None = None
    """Of the first answer from there; quoted in If-Range, so that later ones are of one content."""


class HubOrigin:
    """One commit of a repository."""

    def __init__(
        self,
        endpoint: str,
        repository: str,
        commit: str,
        token: str | None,
        connections: Connections,
    ) -> None:
        self._base = f"{endpoint}/{repository}/resolve/{quote(commit, safe='')}/"
        self._endpoint, self._token = origin_of(endpoint), token
        self._repository, self._commit = repository, commit
        self._connections = connections
        self._places: dict[str, _Place] = {}
        self._mutex = threading.Lock()

    @contextmanager
    def stream(self, file: RemoteFile, start: int, stop: int) -> Iterator[Stream]:
        place = self._places.get(file.path) or _Place(self._base + quote(file.path))
        for _ in range(_HOPS):
            with self._connections.get(
                place.url, self._headers(place, file, start, stop)
            ) as response:
                if response.status in _REDIRECTS:
                    self._check_pinned(file, response)
                    place = _Place(urljoin(place.url, response.headers.get("location", "")))
                    continue
                self._require_content(place, file, response)
                first = _first_byte(response, file, start, stop)
                self._keep(place, file, response)
                yield Stream(first, pieces_of(response, origin_of(place.url)[1], PIECE))
                return
        raise TransientError(f"{file.path} is redirected again and again")

    def abort(self) -> None:
        self._connections.abort()

    def _headers(self, place: _Place, file: RemoteFile, start: int, stop: int) -> dict[str, str]:
        headers = {"accept-encoding": "identity"}
        if self._is_hub(place) and self._token:
            headers["authorization"] = f"Bearer {self._token}"
        if (start, stop) != (0, file.size):
            headers["range"] = f"bytes={start}-{stop - 1}"
            if place.etag:
                headers["if-range"] = place.etag
        return headers

    def _is_hub(self, place: _Place) -> bool:
        return origin_of(place.url) == self._endpoint

    def _keep(self, place: _Place, file: RemoteFile, response: BaseHTTPResponse) -> None:
        etag = response.headers.get("etag", "")
        if place.etag is not None and etag and etag != place.etag:
            self._forget(file)
            raise ContentChangedError
        if place.etag is None and etag and not etag.startswith("W/"):
            place.etag = etag
        with self._mutex:
            self._places[file.path] = place

    def _forget(self, file: RemoteFile) -> None:
        with self._mutex:
            self._places.pop(file.path, None)

    def _check_pinned(self, file: RemoteFile, response: BaseHTTPResponse) -> None:
        """The Hub repeats the content's hash with each redirect of a large file."""
        linked = response.headers.get("x-linked-etag", "").strip('"').lower()
        if file.sha256 and re.fullmatch(r"[0-9a-f]{64}", linked) and linked != file.sha256:
            raise IntegrityError(
                f"{file.path} is no longer what the repository's listing of commit "
                f"{self._commit[:12]} says: the server's content has changed.",
                "Start again in a new folder, from the Hub itself if this is a mirror.",
            )

    def _require_content(self, place: _Place, file: RemoteFile, response: BaseHTTPResponse) -> None:
        status = response.status
        if status in (200, 206):
            return
        what = f"{origin_of(place.url)[1]} answers {status} for {file.path}"
        if not self._is_hub(place):
            self._forget(file)  # another address may be signed for us
        elif status in _GONE:
            raise self._refused(file, status)
        if status in (408, 429) or status >= 500 or not self._is_hub(place):
            raise TransientError(what, retry_after(response.headers.get("retry-after")))
        raise DeployError(f"{what}.", "Try again later, or another --endpoint.", ExitCode.NETWORK)

    def _refused(self, file: RemoteFile, status: int) -> DeployError:
        if status in (404, 410):
            return DeployError(
                f"{file.path} of {self._repository} at {self._commit[:12]} is no longer there.",
                "Start again in a new folder.",
                ExitCode.NETWORK,
            )
        return DeployError(
            f"The Hub does not give out {file.path} of {self._repository} ({status}).",
            "Ask for access on the repository's page, then set HF_TOKEN or run `hf auth login`.",
            ExitCode.NETWORK,
        )


def _first_byte(response: BaseHTTPResponse, file: RemoteFile, start: int, stop: int) -> int:
    """Position of the answer's first byte in the file. Raises TransientError when the answer is of another
    length than the file's or another stretch than the one asked for."""
    said = response.headers.get("content-range", "")
    length = response.headers.get("content-length")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said.strip())
        expected = (str(start), str(stop - 1))
        if not match or match.groups()[:2] != expected or match[3] not in ("*", str(file.size)):
            raise TransientError(
                f"the server answers with another range of {file.path} ({said!r:.60})"
            )
        return start
    if length is not None and length != str(file.size):
        raise TransientError(f"the server has {length} bytes as {file.path}, not {file.size}")
    return 0
