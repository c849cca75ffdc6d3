"""When bytes came, whenever they are read."""

import asyncio
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

from dsdeploy.client.bench.exchange import NoConnectionError, exchange
from dsdeploy.client.bench.stamped_socket import StampedSocket
from dsdeploy.client.endpoint import Endpoint, tls

from .stand_in import DONE, says, standing_in

stamps = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel stamps")


@pytest.fixture
def pair():
    """The sending end and the one that is stamped."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        StampedSocket(socket.AF_INET, socket.SOCK_STREAM, 0) as reader,
    ):
        reader.connect(server.getsockname())
        writer, _ = server.accept()
        with writer:
            yield writer, reader


def recv(reader):
    return reader.recv(99)


def recv_into(reader):
    buffer = bytearray(99)
    return bytes(buffer[: reader.recv_into(buffer)])


@stamps
@pytest.mark.parametrize("read", [recv, recv_into])
def test_a_late_reader_learns_when_they_came(pair, read):
    writer, reader = pair
    before = time.monotonic()
    writer.sendall(b"hello")
    select.select([reader], [], [])
    after = time.monotonic()
    time.sleep(0.3)
    assert read(reader) == b"hello"
    assert before - 0.1 < reader.arrived < after + 0.1


@pytest.mark.parametrize("read", [recv, recv_into])
def test_without_a_stamp_they_came_when_they_were_read(pair, read, monkeypatch):
    writer, reader = pair
    monkeypatch.setattr("dsdeploy.client.bench.stamped_socket._SPACE", 0)
    writer.sendall(b"hello")
    select.select([reader], [], [])
    before = time.monotonic()
    assert read(reader) == b"hello"
    assert before <= reader.arrived <= time.monotonic()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of localhost, signed by itself, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words = ["openssl", "req", *kind, *name, "-keyout", path, "-out", "/dev/stdout"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True)
    with path.open("a") as both:
        both.write(shown.stdout)
    return path


@pytest.fixture(params=["http", "https"])
def stand_in(request, monkeypatch):
    context = None
    if request.param == "https":
        certificate = request.getfixturevalue("certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with standing_in(context) as found:
        yield found


@stamps
def test_a_loop_that_is_busy_does_not_make_an_answer_late(stand_in):
    """Also holds asyncio to reading through the socket's own methods."""
    both = threading.Barrier(2)
    stand_in.answers = [[both, *says("a"), both, both]]  # at last: it does not close yet

    async def ask():
        endpoint = Endpoint(stand_in.url)
        asking = exchange(endpoint, tls(stand_in.url), "/v1/completions", {}, 60)
        asked = asyncio.create_task(asking)
        while not stand_in.asked:
            await asyncio.sleep(0.01)
        both.wait(60)
        both.wait(60)  # all is written, and the loop has read nothing of it
        return time.monotonic(), await asked

    busy_until, received = asyncio.run(ask())
    both.abort()
    assert b"".join(received.pieces).endswith(DONE)
    assert received.times[-1] < busy_until


def test_a_certificate_of_nobody_known_is_no_connection(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with standing_in(context) as stand_in:
        asked = exchange(Endpoint(stand_in.url), tls(stand_in.url), "/v1/completions", {}, 60)
        received = asyncio.run(asked)
    assert isinstance(received.trouble, NoConnectionError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(received.trouble)
