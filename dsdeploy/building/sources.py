"""Who brings the source's files while a build needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Sources(Protocol):
    @property
    def space(self) -> int:
        """Bytes that it keeps on the target's disk, at most."""

    def begin(self, needs: Sequence[tuple[str, frozenset[str]]]) -> None:
        """Files that will be made, in their order, each with those of the source that it reads."""

    def finished(self, name: str) -> None:
        """A file is made: what it alone has read may go."""

    def abort(self) -> None:
        """Nothing more is wanted: wake whoever waits for bytes. May be called again."""

    def close(self) -> None:
        """The build has ended, well or not."""


class AtHand:
    """They lie in a folder, or are made up."""

    space = 0

    def begin(self, needs: Sequence[tuple[str, frozenset[str]]]) -> None:
        pass

    def finished(self, name: str) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass
