"""Pages of the latent cache: who has them, and which prompts' beginnings they hold.

A full page of a prompt is kept after its request has ended, under a hash of all tokens up to its
end; a later prompt that begins so takes it up again. The page used longest ago is forgotten first.
Generated tokens are not shared: their rows round differently (see `step.py`).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

PAGE_TOKENS = 64


class PagePool:
    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Pages that nobody uses and whose prefix is known, the oldest first."""

    @property
    def available(self) -> int:
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        return self.count - self.available

    def take(self, count: int) -> list[int] | None:
        """`count` pages, or None when there are not so many."""
        if count > self.available:
            return None
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._key_of.pop(page)]
        self._users[page] = 1
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        """The last page first, so that a prefix outlives what follows it."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._key_of:
                self._idle[page] = None
            else:
                self._free.append(page)

    def reuse(self, prompt: Sequence[int]) -> list[int]:
        """Take the pages that hold the longest known beginning of a prompt. At least one token is
        left over: its logits are wanted."""
        found: list[int] = []
        for key in _keys(prompt[:-1]):
            page = self._page_of.get(key)
            if page is None:
                break
            self._users[page] += 1
            self._idle.pop(page, None)
            found.append(page)
        return found

    def remember(self, prompt: Sequence[int], pages: Sequence[int]) -> None:
        """These pages hold the beginning of this prompt, whole pages of it."""
        for key, page in zip(_keys(prompt), pages, strict=False):
            if key not in self._page_of and page not in self._key_of:
                self._page_of[key] = page
                self._key_of[page] = key


def _keys(tokens: Sequence[int]) -> Iterator[bytes]:
    """A hash for the end of each full page."""
    running = hashlib.sha256()
    for start in range(0, len(tokens) - PAGE_TOKENS + 1, PAGE_TOKENS):
        running.update(np.array(tokens[start : start + PAGE_TOKENS], "<i8").tobytes())
        yield running.digest()
