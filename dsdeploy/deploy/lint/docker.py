"""`docker run` and its kin: what runs inside, and how the container is set up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsdeploy.deploy.lint.found import Container, Found, Patience, Reach, Variable, Word

_PROGRAMS = ("docker", "podman", "nerdctl")
_SWITCHES = {
    "--rm", "--init", "--privileged", "--detach", "--interactive", "--tty", "--read-only",
    "--no-healthcheck", "--publish-all", "--oom-kill-disable", "--sig-proxy", "--quiet", "--replace",
    "--disable-content-trust",
}  # fmt: skip
_SHORT_SWITCHES = re.compile(r"-[ditPq]+")
_LONG = {"-e": "--env", "-p": "--publish", "-v": "--volume"}
_ENTRY_POINTS = {
    "vllm-openai": ("vllm", "serve"),
    "vllm-openai-rocm": ("vllm", "serve"),
}
"""Older images call a module, which takes the same flags."""
_STARTERS = {"bash", "sh", "python", "python3", "vllm", "env"}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class _Option:
    name: str
    value: Word
    at: int


def docker_run(words: Sequence[Word]) -> Found | None:
    """What a command line starts in a container, if it does."""
    begin = _after_run([word.text for word in words])
    if begin is None:
        return None
    options: list[_Option] = []
    rest = list(words[begin:])
    while rest and rest[0].text.startswith("-"):
        options += _option(rest)
    if not rest:
        return None
    image, *arguments = rest
    entry = [option.value for option in options if option.name == "--entrypoint"]
    return Found(
        tuple(with_entry_point(image, entry, arguments)),
        tuple(_variables(options)),
        Container(image.text, image.start, _reach(options), False, _has_shared_memory(options)),
        tuple(_patience(options)),
    )


def with_entry_point(image: Word, entry: Sequence[Word], arguments: Sequence[Word]) -> list[Word]:
    """The whole command line of a container: an image may have a server as its entry point."""
    name = image.text.rpartition("/")[2].partition(":")[0]
    runs = bool(arguments) and arguments[0].text.rpartition("/")[2] in _STARTERS
    if not entry and not runs and name in _ENTRY_POINTS:
        entry = [
            Word(text, (image.start,) * len(text), image.start, image.end)
            for text in _ENTRY_POINTS[name]
        ]
    return [*entry, *arguments]


def _after_run(texts: list[str]) -> int | None:
    for at, text in enumerate(texts[:-1]):
        if text.rpartition("/")[2] in _PROGRAMS and "run" in texts[at + 1 : at + 3]:
            return texts.index("run", at) + 1
    return None


def _option(rest: list[Word]) -> Iterator[_Option]:
    """Takes it off the front."""
    word = rest.pop(0)
    name, equals, attached = word.text.partition("=")
    if not name.startswith("--") and name[:2] in _LONG and len(word.text) > 2:
        equals, attached, name = "=", word.text[2:].lstrip("="), name[:2]
    if name in _SWITCHES or _SHORT_SWITCHES.fullmatch(name):
        return
    if equals:
        origins = word.origins[-len(attached) :] if attached else ()
        yield _Option(
            _LONG.get(name, name), Word(attached, origins, word.start, word.end), word.start
        )
    elif rest:
        yield _Option(_LONG.get(name, name), rest.pop(0), word.start)


def _variables(options: list[_Option]) -> Iterator[Variable]:
    return (assigned(option.value) for option in options if option.name == "--env")


def assigned(word: Word) -> Variable:
    """Of `NAME=VALUE`, or `NAME` for what is taken over."""
    name, equals, text = word.text.partition("=")
    if not equals:
        return Variable(name, None, word.start)
    origins = word.origins[len(name) + 1 :]
    return Variable(name, Word(text, origins, word.start, word.end), word.start)


def _reach(options: list[_Option]) -> Reach:
    for option in options:
        if option.name in ("--network", "--net") and option.value.text == "host":
            return "host"
    published = [option.value.text for option in options if option.name == "--publish"]
    return "published" if any(map(is_published_widely, published)) else "nobody"


def is_published_widely(port: str) -> bool:
    """Whether `8000:8000` goes out to other machines, as `127.0.0.1:8000:8000` does not."""
    return not port.startswith(("127.", "localhost:", "[::1]:"))


def _has_shared_memory(options: list[_Option]) -> bool:
    return any(
        option.name == "--shm-size"
        or (option.name == "--ipc" and option.value.text == "host")
        or (option.name in ("--volume", "--tmpfs", "--mount") and "/dev/shm" in option.value.text)
        for option in options
    )


def _patience(options: list[_Option]) -> Iterator[Patience]:
    given = {option.name: option for option in options}
    if "--health-cmd" in given:
        parts = ("--health-start-period", "--health-interval", "--health-retries")
        start, interval, retries = (given[p].value.text if p in given else None for p in parts)
        total = health_seconds(start, interval, retries)
        if total is not None:
            yield Patience("health check", total, given["--health-cmd"].at)


def health_seconds(start: str | None, interval: str | None, retries: str | None) -> float | None:
    """Until a container counts as unhealthy; None if that cannot be told."""
    first, each = _seconds(start or "0s"), _seconds(interval or "30s")
    count = retries or "3"
    if first is None or each is None or not count.isdigit():
        return None
    return first + each * int(count)


def _seconds(text: str) -> float | None:
    """`1m30s` -> 90."""
    if re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", text) is None:
        return 0 if text == "0" else None
    found = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum(float(number) * _UNITS[unit] for number, unit in found)
