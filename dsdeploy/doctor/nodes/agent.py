"""What each node runs: Python 3.7 or later and its own library are all it needs.

Its text is sent over ssh. It answers each line of JSON on its standard input with one on its output,
and ends when nobody holds it.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
import threading
import time
from typing import Any

IP_MTU = 14  # linux/in.h
PIECE = b"\0" * 2**20
PATIENCE = 5


def listen() -> int:
    """Echo a byte at a time until a zero, then count what comes."""
    server = socket.socket()
    server.bind(("", 0))
    server.listen(8)
    threading.Thread(target=accept, args=(server,), daemon=True).start()
    port: int = server.getsockname()[1]
    return port


def accept(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    byte = connection.recv(1)
    while byte and byte != b"\0":
        connection.sendall(byte)
        byte = connection.recv(1)
    size, buffer = 0, bytearray(2**20)
    while True:
        received = connection.recv_into(buffer)
        if not received:
            break
        size += received
    connection.sendall(struct.pack("!Q", size))
    connection.close()


def measure(address: str, port: int, seconds: float) -> dict[str, Any]:
    """To the node that listens there."""
    with socket.create_connection((address, port), PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = sorted(round_trip(connection) for _ in range(64))
        connection.sendall(b"\0")
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            connection.sendall(PIECE)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(PATIENCE + seconds)
        size = struct.unpack("!Q", connection.recv(8, socket.MSG_WAITALL))[0]
        return {
            "seconds": times[len(times) // 2],
            "rate": size / (time.monotonic() - begun),
            # After the data, so that what the path refused is in it.
            "mtu": connection.getsockopt(socket.IPPROTO_IP, IP_MTU),
            "interface": interface_of(connection.getsockname()[0]),
        }


def round_trip(connection: socket.socket) -> float:
    begun = time.monotonic()
    connection.sendall(b"\1")
    if connection.recv(1) != b"\1":
        raise ConnectionError("another program answers on that port, or a proxy")
    return time.monotonic() - begun


def interface_of(address: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                # SIOCGIFADDR; the address follows the name, the family and the port.
                asked = struct.pack("256s", name.encode()[:15])
                found = fcntl.ioctl(any_socket, 0x8915, asked)[20:24]
            except OSError:
                continue
            if socket.inet_ntoa(found) == address:
                return name
    return ""


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        found: dict[str, Any]
        try:
            if order["do"] == "measure":
                found = measure(order["address"], order["port"], order["seconds"])
            elif order["do"] == "listen":
                found = {"port": listen()}
            else:
                found = {"time": time.time()}
        except (OSError, struct.error) as error:
            found = {"error": str(error) or type(error).__name__}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
