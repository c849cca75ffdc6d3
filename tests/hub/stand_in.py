"""A Hub on loopback: what the real client needs of its API, on one origin, and a storage server for
large files on another, with faults on demand."""

import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = 1 << 10
"""Files of so many bytes are kept apart, as with Git LFS."""


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    folder: Path
    commit: str
    private: bool = False
    gated: bool = False
    """All may see what it holds; for the files they need a token."""
    extra: list = field(default_factory=list)
    """Entries of the tree beside the files, as dictionaries."""
    past: dict = field(default_factory=dict)
    """Commit -> folder, of those before."""

    def at(self, commit):
        """The folder of a commit, or None."""
        return {**self.past, self.commit: self.folder, "main": self.folder}.get(commit)


def paths_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Faults, each for one answer of the storage server.


@dataclass(frozen=True)
class Close:
    """The connection ends after so many bytes of the body, politely or with a reset."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class Stall:
    """After so many bytes of the body, or before the first word of the answer, nothing comes."""

    after: int | None


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple = ()
    body: bytes = b'{"error": "a fault"}'


@dataclass(frozen=True)
class Flip:
    """One bit of the byte at this place of the body."""

    at: int


@dataclass(frozen=True)
class OtherRange:
    """A 206 of another stretch than the one asked for, and shorter."""


@dataclass(frozen=True)
class Short:
    """An answer that claims the whole stretch and holds some bytes less."""

    by: int


@dataclass(frozen=True)
class Whole:
    """All of the file, whatever range was asked for."""


class StandIn:
    """`requests` holds (origin, method, path, headers), `faults` what happens to the next answers of
    the storage server; `hub_faults` likewise for the Hub's."""

    def __init__(self):
        self.repositories = {}
        self.faults, self.hub_faults = deque(), deque()
        self.requests, self.sent = [], 0
        self.ranges = True
        self.rate = None
        """Bytes a second of all answers together; None is as fast as it can."""
        self.chance = None
        """A function () -> fault or None, asked when `faults` is empty."""
        self.token = None
        self.versions = {}
        """Path -> a counter that is part of its ETag."""
        self.closing = threading.Event()
        self.mutex = threading.Lock()
        self.sent_of = {}

    def fault(self, of_hub=False):
        with self.mutex:
            queue = self.hub_faults if of_hub else self.faults
            if queue:
                return queue.popleft()
        return self.chance() if self.chance and not of_hub else None

    def count(self, path, nbytes):
        with self.mutex:
            self.sent += nbytes
            self.sent_of[path] = self.sent_of.get(path, 0) + nbytes

    def add(self, name, folder, commit="c0ffee" + "0" * 34, **settings):
        self.repositories[name] = Repository(Path(folder), commit, **settings)
        return self.repositories[name]

    def move(self, name, folder, commit):
        """The branch goes on; what was there before is still at its commit."""
        found = self.repositories[name]
        found.past[found.commit] = found.folder
        found.folder, found.commit = Path(folder), commit

    def of_origin(self, origin):
        return [request for request in self.requests if request[0] == origin]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stand_in: StandIn
    origin: str

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self):
        with self.stand_in.mutex:
            self.stand_in.requests.append(
                (self.origin, self.command, self.path, dict(self.headers))
            )
        self.answer()

    do_HEAD = do_GET  # noqa: N815

    def is_said(self, fault):
        """Whether the fault is all of the answer."""
        if isinstance(fault, Answer):
            self.send(fault.status, fault.body, fault.headers)
        elif isinstance(fault, Stall) and fault.after is None:
            self.stand_in.closing.wait()
        else:
            return False
        return True

    def say(self, status, document=None, headers=()):
        self.send(status, b"" if document is None else json.dumps(document).encode(), headers)

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.say(status, {"error": code}, [("x-error-code", code), ("x-error-message", code)])

    def content(self, path, etag, headers, fault):
        """A file, or a part of it, with what shall go wrong."""
        size = path.stat().st_size
        start, stop, status = 0, size, 200
        asked = self.headers.get("range")
        unchanged = self.headers.get("if-range") in (None, etag)
        ranges = self.stand_in.ranges and not isinstance(fault, Whole)
        if asked and ranges and unchanged:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(size, int(last) + 1), 206
        if isinstance(fault, OtherRange):
            stop = start + (stop - start) // 2
        self.send_response(status)
        for name, value in [*headers, ("etag", etag), ("accept-ranges", "bytes")]:
            self.send_header(name, value)
        if status == 206:
            self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
        if isinstance(fault, Short):
            stop -= fault.by
        self.send_header("content-length", str(stop - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            self.body(path, start, stop, fault)

    def body(self, path, start, stop, fault):
        with path.open("rb") as file:
            if isinstance(fault, Flip):
                file.seek(start)
                content = bytearray(file.read(stop - start))
                content[min(fault.at, len(content) - 1)] ^= 1
                self.stand_in.count(path.name, len(content))
                self.connection.sendall(content)
                return
            until = stop
            if isinstance(fault, (Close, Stall)):
                until = min(stop, start + fault.after)
            self.copy(file, path.name, start, until)
            if isinstance(fault, Stall):
                self.stand_in.closing.wait()
            if isinstance(fault, Close):
                if fault.reset:
                    now = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                self.close_connection = True

    def copy(self, file, name, start, stop):
        step = 64 << 10 if self.stand_in.rate else 4 << 20
        while start < stop:
            begun = time.monotonic()
            count = self.send_piece(file, name, start, min(step, stop - start))
            if not count:
                raise ConnectionError
            start += count
            if self.stand_in.rate:
                self.stand_in.pace(count, begun)

    def send_piece(self, file, name, start, most):
        """How many bytes went. They are counted before the client can have them, so that whoever
        sees its end finds all of them counted."""
        self.stand_in.count(name, most)
        sent = 0
        try:
            sent = os.sendfile(self.connection.fileno(), file.fileno(), start, most)
        finally:
            if sent < most:
                self.stand_in.count(name, sent - most)
        return sent


class _Hub(_Handler):
    origin = "hub"

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # the real client asks for it once a day
            self.say(200, {"harnesses": []})
            return
        fault = self.stand_in.fault(of_hub=True)
        if self.is_said(fault):
            return
        if isinstance(fault, Close):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        name, found = self.repository(path)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        known = token == self.stand_in.token and token
        if found is None or (found.private and not known):
            self.refuse(404 if token and known else 401, "RepoNotFound")
        elif token and not known:
            self.say(401, {"error": "Invalid credentials"})
        elif path.startswith("/api/"):
            self.metadata(name, found, path)
        elif found.gated and not known:
            self.refuse(401, "GatedRepo")
        else:
            self.resolve(name, found, path)

    def repository(self, path):
        words = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(words[:2])
        return name, self.stand_in.repositories.get(name)

    def metadata(self, name, found, path):
        what = path.removeprefix(f"/api/models/{name}").strip("/").split("/")
        if what[0] == "tree":
            folder = found.at(what[1])
            if folder is None:
                self.refuse(404, "RevisionNotFound")
                return
            self.say(200, [self.entry(folder, each) for each in paths_of(folder)] + found.extra)
            return
        revision = what[1] if what[0] == "revision" else "main"
        if found.at(revision) is None:
            self.refuse(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": each} for each in paths_of(found.folder)]
        self.say(200, {"id": name, "modelId": name, "sha": found.commit, "siblings": siblings, "tags": [], "private": found.private, "downloads": 0, "likes": 0})  # fmt: skip

    def entry(self, folder, path):
        place = folder / path
        size = place.stat().st_size
        entry = {"type": "file", "path": path, "size": size, "oid": "0" * 40}
        if size >= LARGE:
            entry["lfs"] = {"oid": self.stand_in.sha256(place), "size": size, "pointerSize": 130}
        else:
            entry["oid"] = git_oid(place.read_bytes())
        return entry

    def resolve(self, name, found, path):
        _, _, rest = path.partition(f"/{name}/resolve/")
        commit, _, file = rest.partition("/")
        folder = found.at(commit)
        place = (folder or found.folder) / file
        if folder is None:
            self.refuse(404, "RevisionNotFound")
        elif not place.is_file():
            self.refuse(404, "EntryNotFound")
        elif place.stat().st_size < LARGE:
            etag = f'"{git_oid(place.read_bytes())}"'
            self.content(place, etag, [("x-repo-commit", found.commit)], None)
        else:
            sha256 = self.stand_in.sha256(place)
            place_there = f"{name}/{commit}/{quote(file)}?signature={time.monotonic_ns()}"
            signed = f"{self.stand_in.storage_url}/{place_there}"
            headers = [
                ("location", signed),
                ("x-repo-commit", commit),
                ("x-linked-etag", f'"{sha256}"'),
                ("x-linked-size", str(place.stat().st_size)),
            ]
            self.say(302, None, headers)


class _Storage(_Handler):
    origin = "storage"

    def answer(self):
        url = urlsplit(self.path)
        owner, name, commit, file = unquote(url.path).strip("/").split("/", 3)
        path = self.stand_in.repositories[f"{owner}/{name}"].at(commit) / file
        fault = self.stand_in.fault()
        if callable(fault):
            fault = fault(path)
        if self.is_said(fault):
            return
        if "signature" not in parse_qs(url.query):
            self.say(403)
            return
        version = self.stand_in.versions.get(file, 0)
        self.content(path, f'"{quote(file)}-{version}"', [], fault)


@contextlib.contextmanager
def standing_in():
    stand_in = StandIn()
    hashes = {}

    def sha256(path):
        key = (path, path.stat().st_mtime_ns)
        if key not in hashes:
            with path.open("rb") as file:
                hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return hashes[key]

    pacing = threading.Lock()
    free_at = [0.0]

    def pace(count, begun):
        with pacing:
            # Sleeps are long by a little: what they lose, up to 50 ms, is made good.
            free_at[0] = max(free_at[0], begun - 0.05) + count / stand_in.rate
            rest = free_at[0] - time.monotonic()
        if rest > 0:
            time.sleep(rest)

    stand_in.sha256, stand_in.pace = sha256, pace
    servers = []
    for handler in (_Hub, _Storage):
        bound = type(handler.__name__, (handler,), {"stand_in": stand_in})
        server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    stand_in.url = f"http://127.0.0.1:{servers[0].server_port}"
    stand_in.storage_url = f"http://localhost:{servers[1].server_port}"
    try:
        yield stand_in
    finally:
        stand_in.closing.set()
        for server in servers:
            server.shutdown()
            server.server_close()
