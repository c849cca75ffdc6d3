"""What is asked: synthetic prompts of given lengths."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dsdeploy.errors import UsageError

_WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or "
    "had an they which one you were all her she there would their we him been has when who will "
    "more no if out so said what up its about than into them can only other new some could time "
    "these two may then do first any my now such like our over man me even most made after also "
    "did many before must through back years where much your way well down should because each "
    "just those people how too little state good very make world still own see men work long get "
    "here between both life being under never day same another know while last might us great old "
    "year off come since against go came right used take three"
)
"""Common enough to be one token each, with the space before them, in the vocabularies of today."""
WORDS = _WORDS.split()


@dataclass(frozen=True)
class Question:
    prompt: str | tuple[Mapping[str, str], ...]
    """Text to continue, or the messages of a chat."""
    max_tokens: int


@dataclass(frozen=True)
class Length:
    """Tokens, evenly spread over both ends."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Length:
        """`512` or `256-1024`."""
        least, dash, most = text.partition("-")
        try:
            length = cls(int(least), int(most) if dash else int(least))
        except ValueError:
            length = cls(0, 0)
        if not 1 <= length.least <= length.most <= 2**24:
            raise UsageError(f"{text!r} is no length.", "Write it as 512 or 256-1024.")
        return length

    def draw(self, source: random.Random) -> int:
        return source.randint(self.least, self.most)


@dataclass(frozen=True)
class Yardstick:
    """How an endpoint counts our words: `base` tokens whatever is asked, then so many a word."""

    base: float
    per_word: float

    def words(self, tokens: int) -> int:
        return max(1, round((tokens - self.base) / self.per_word))


GUESSED = Yardstick(1.0, 1.0)


def calibrated(
    count_tokens: Callable[[str], int | None], length: Length, seed: int
) -> Yardstick | None:
    """From two prompts that are no longer than those to come; None where the endpoint does not count."""
    source = random.Random(f"{seed} yardstick")
    many = max(2, min(256, length.least // 4))
    few, lots = count_tokens(_text(source, 1)), count_tokens(_text(source, many))
    if few is None or lots is None or lots <= few:
        return None
    per_word = (lots - few) / (many - 1)
    return Yardstick(few - per_word, per_word)


def synthetic(
    count: int,
    prompt: Length,
    answer: Length,
    yardstick: Yardstick,
    seed: int,
    first: int = 0,
    shared_prefix: int = 0,
    chat: bool = False,
) -> list[Question]:
    """Those from the `first` on of a seed. No two begin alike, so that a cache of prefixes has
    nothing to give, but for their first `shared_prefix` tokens, the same in all of one seed."""
    common = _words(
        random.Random(f"{seed} shared"), shared_prefix and yardstick.words(shared_prefix)
    )
    source = random.Random(f"{seed} {first}")
    questions = []
    for _ in range(count):
        own = yardstick.words(prompt.draw(source)) - len(common)
        text = " ".join([*common, *_words(source, max(1, own))])
        questions.append(Question(as_chat(text) if chat else text, answer.draw(source)))
    return questions


def as_chat(text: str) -> tuple[Mapping[str, str], ...]:
    return ({"role": "user", "content": text},)


def _text(source: random.Random, count: int) -> str:
    return " ".join(_words(source, count))


def _words(source: random.Random, count: int) -> Sequence[str]:
    return source.choices(WORDS, k=count)
