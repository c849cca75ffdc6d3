"""Text to tokens and back, with the tokenizer library's own streaming decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HfTokenizer
from tokenizers.decoders import DecodeStream

from dsdeploy.errors import IntegrityError, UsageError


class Tokenizer:
    """tokenizer.json and its companions, of a checkpoint's folder."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise UsageError(
                f"{folder} has no tokenizer.json.", "Download it from the model's repository."
            )
        try:
            self.library = HfTokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise IntegrityError(
                f"{path} is no tokenizer: {error}.", "Download it again."
            ) from None
        self._folder = folder

    def encode(self, text: str, special: bool = True) -> list[int]:
        """`special` adds what begins a text (<｜begin▁of▁sentence｜>); a chat template has it."""
        # Of a batch of one: alone it would hold the interpreter's lock, and all who are served.
        (found,) = self.library.encode_batch_fast([text], add_special_tokens=special)
        ids: list[int] = found.ids
        return ids

    def decode(self, tokens: Sequence[int], skip_special: bool = False) -> str:
        text: str = self.library.decode(list(tokens), skip_special_tokens=skip_special)
        return text

    def token_text(self, token: int) -> str:
        return self.decode([token])

    @property
    def vocabulary(self) -> int:
        size: int = self.library.get_vocab_size()
        return size

    @cached_property
    def longest_token(self) -> int:
        """In characters, or bytes where a token is bytes: no text has more for each of its tokens."""
        return max(map(len, self.library.get_vocab()))

    @cached_property
    def settings(self) -> dict[str, Any]:
        return _read(self._folder / "tokenizer_config.json")

    @cached_property
    def chat_template(self) -> str | None:
        separate = self._folder / "chat_template.jinja"
        if separate.exists():
            return separate.read_text(encoding="utf-8")
        template = self.settings.get("chat_template")
        return template if isinstance(template, str) else None

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """bos_token and the like, as a chat template wants them."""
        found = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = self.settings.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                found[name] = content
        return found

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """What ends an answer: the generation config's, else the model config's."""
        for name in ("generation_config.json", "config.json"):
            ids = _read(self._folder / name).get("eos_token_id")
            if isinstance(ids, int):
                return frozenset([ids])
            if isinstance(ids, list):
                return frozenset(int(i) for i in ids)
        return frozenset()

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The generation config: the sampling that the model's makers advise."""
        return _read(self._folder / "generation_config.json")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise IntegrityError(f"{path} is not JSON.", "Download it again.") from None
    return found if isinstance(found, dict) else {}


@dataclass
class TextStream:
    """The text of one answer as its tokens arrive. Half a character and what may become a stop
    string are held back."""

    tokenizer: Tokenizer | None
    stop: tuple[str, ...] = ()
    skip_special: bool = True
    stopped_by: str | None = None
    _held: str = ""
    _stream: DecodeStream = field(init=False)

    def __post_init__(self) -> None:
        self._stream = DecodeStream(skip_special_tokens=self.skip_special)

    def add(self, token: int, may_stop: bool = True) -> str:
        """The text that is certain now. Sets `stopped_by` when a stop string is complete; text
        ends before it. Before an answer `may_stop` a stop string is text like other text."""
        if self.tokenizer is None or self.stopped_by is not None:
            return ""
        self._held += self._stream.step(self.tokenizer.library, token) or ""
        stops = self.stop if may_stop else ()
        found = [(self._held.find(stop), stop) for stop in stops if stop in self._held]
        if found:
            at, self.stopped_by = min(found)
            self._held, text = "", self._held[:at]
            return text
        keep = self._may_begin_a_stop()
        text, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return text

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        text, self._held = self._held, ""
        return "" if self.stopped_by is not None else text

    def _may_begin_a_stop(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max(map(len, self.stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if self._held.endswith(
                tuple(stop[:length] for stop in self.stop if len(stop) > length)
            ):
                return length
        return 0
