"""Server-sent events, in whatever pieces their bytes arrive."""

from __future__ import annotations


class EventParser:
    """`feed` gives the data of each event that has become whole.

    Follows https://html.spec.whatwg.org/multipage/server-sent-events.html; names and numbers of
    events are not used by OpenAI's API and are passed over.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []
        self._returned = False

    def feed(self, piece: bytes) -> list[bytes]:
        if not piece:
            return []
        if self._returned and piece[:1] == b"\n":  # of a CR LF that was cut in two
            piece = piece[1:]
        self._returned = piece[-1:] == b"\r"
        lines = (self._line + piece).splitlines(keepends=True)
        self._line = lines.pop() if lines and lines[-1][-1:] not in (b"\n", b"\r") else b""
        return [data for line in lines if (data := self._take(line.rstrip(b"\r\n"))) is not None]

    def _take(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        if line[:5] == b"data:":
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._data.append(b"")
        return None
