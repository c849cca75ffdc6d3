"""A socket that knows when its bytes came.

A process learns of them when the scheduler lets it run, on a busy machine milliseconds later. Linux
notes the moment as they come in, whoever runs.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_SO_TIMESTAMPNS = 35
"""Linux, asm-generic/socket.h. Python has no name for it."""
_TIMESPEC = struct.Struct("@ll")
"""Seconds and nanoseconds of the wall clock."""
_SPACE = socket.CMSG_SPACE(_TIMESPEC.size)


class StampedSocket(socket.socket):
    """`arrived` is when the last bytes of what was read last came, in monotonic seconds; where the
    kernel does not say, when they were read."""

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.arrived = 0.0
        if sys.platform == "linux":
            with suppress(OSError):
                self.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data, notes, _, _ = self.recvmsg(size, _SPACE, flags)
        self.arrived = time.monotonic() - _age(notes)
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """As asyncio calls it for TLS, with the buffer alone."""
        count, notes, _, _ = self.recvmsg_into([buffer], _SPACE, flags)
        self.arrived = time.monotonic() - _age(notes)
        return count


def _age(notes: Sequence[tuple[int, int, bytes]]) -> float:
    """Seconds since the kernel's stamp. Never less than 0, should the wall clock be set back."""
    for level, kind, data in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            age: float = time.time() - seconds - nanoseconds / 1e9
            return max(0.0, age)
    return 0.0
