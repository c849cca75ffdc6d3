"""The name of a repository, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsdeploy.errors import UsageError

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_WORD}/{_WORD}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Repository:
    id: str
    """OWNER/NAME."""
    revision: str
    """A branch, a tag or a commit."""

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}"


def is_commit(revision: str) -> bool:
    """Whether it names content that never changes."""
    return _COMMIT.fullmatch(revision) is not None


def parse_repository(text: str, revision: str | None = None) -> Repository:
    """`OWNER/NAME`, `hf://OWNER/NAME` or either with `@REVISION`."""
    name, _, written = text.removeprefix("hf://").strip("/").partition("@")
    if written and revision and written != revision:
        raise UsageError(f"{text} and --revision {revision} name two revisions.", "Give one.")
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(
            f"{text!r} is no repository's name.", "Write it as deepseek-ai/DeepSeek-V3."
        )
    found = revision or written or "main"
    if not found.isprintable() or " " in found or ".." in found:
        raise UsageError(f"{found!r} is no revision.", "Name a branch, a tag or a commit.")
    return Repository(name, found)
