"""Ports for servers that are told one: the kernel gives none of these to anybody who connects."""

import os
import socket
from itertools import cycle

# Below what Linux hands out by itself (32768), and far apart for tests that run side by side.
_FIRST, _LAST, _STEP = 10_000, 32_000, 61
_numbers = cycle(range(_FIRST, _LAST))
for _ in range(os.getpid() * _STEP % (_LAST - _FIRST)):
    next(_numbers)


def free_port():
    return free_ports(1)[0]


def free_ports(count):
    """One after the other: of N, the next is N + 1."""
    while True:
        first = next(_numbers)
        ports = [first + number for number in range(count)]
        for _ in ports[1:]:
            next(_numbers)
        if all(map(_is_free, ports)):
            return ports


def _is_free(port):
    with socket.socket() as one:
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True
