"""What a log says of a failure, by a catalogue of known ones: `diagnoses.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from dsdeploy.deploy.backend import load_backend
from dsdeploy.deploy.flags import load_catalogue, spelling
from dsdeploy.errors import UsageError
from dsdeploy.strict_yaml import load_yaml

_LONGEST_LINE = 4000
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FLAG = re.compile(r"\{([a-z-]+)\}")
# Engines that are others on other chips.
_FAMILY = {"rocm": "sglang", "rocm-vllm": "vllm", "vllm-ascend": "vllm"}


class Diagnosis(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pattern: re.Pattern[str]
    """Searched in each line."""
    meaning: str
    fix: str
    """With flags as {their part}."""
    source: str
    sample: str
    engines: tuple[str, ...] = ()
    """That say so; none: any."""
    kind: Literal["cause", "general", "symptom"] = "cause"
    """`general` counts where no cause is found, `symptom` where neither is."""

    def concerns(self, engine: str | None) -> bool:
        names = {engine, _FAMILY.get(engine or "")}
        return not self.engines or engine is None or bool(names & set(self.engines))


class _Catalogue(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    flags: dict[str, dict[str, str]]
    """By part and engine."""
    diagnoses: tuple[Diagnosis, ...]

    @field_validator("diagnoses")
    @classmethod
    def _named_once(cls, diagnoses: tuple[Diagnosis, ...]) -> tuple[Diagnosis, ...]:
        names = [each.name for each in diagnoses]
        if len(set(names)) < len(names):
            raise ValueError("two diagnoses have one name")
        return diagnoses


@dataclass(frozen=True)
class Found:
    diagnosis: Diagnosis
    line: str
    line_number: int
    """From 1, of the first line that says so."""
    fix: str
    """With the flags of the engine's release."""


def load_diagnoses() -> tuple[Diagnosis, ...]:
    return _catalogue().diagnoses


def diagnose(lines: Iterable[str], engine: str | None, release: str | None) -> tuple[Found, ...]:
    """What is known of these lines, read once and one at a time: causes in the order in which they
    appear, and what is only general or a symptom where there is no cause."""
    open_ = [each for each in load_diagnoses() if each.concerns(engine)]
    anything = _any_of(open_)
    found: list[Found] = []
    for number, line in enumerate(lines, 1):
        text = _COLOURS.sub("", line[:_LONGEST_LINE])
        if not anything.search(text):
            continue
        hit = next((each for each in open_ if each.pattern.search(text)), None)
        if hit is not None:
            open_.remove(hit)
            anything = _any_of(open_)
            found.append(Found(hit, text.strip(), number, _with_flags(hit.fix, engine, release)))
    for kind in ("cause", "general", "symptom"):
        if chosen := tuple(each for each in found if each.diagnosis.kind == kind):
            return chosen
    return ()


def guess_engine(lines: Iterable[str]) -> str | None:
    """Whose log this is, by words that only its own lines have."""
    for line in lines:
        for engine, pattern in _OWN_WORDS.items():
            if pattern.search(line):
                return engine
    return None


_OWN_WORDS = {
    "sglang": re.compile(r"\bsglang\b|\[20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(?: (?:DP\d+ )?TP\d+)?\] "),
    "tensorrt-llm": re.compile(r"\[TRT-LLM\]|tensorrt_llm|trtllm"),
    "lmdeploy": re.compile(r"\blmdeploy\b"),
    "mindie": re.compile(r"(?i)\bmindie"),
    "vllm": re.compile(r"\bvllm\b|\((?:APIServer|EngineCore)\w* pid=\d+\)"),
    "native": re.compile(r"\bdsdeploy native\b"),
}


def _any_of(diagnoses: list[Diagnosis]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{each.pattern.pattern})" for each in diagnoses) or r"\b\B")


def _with_flags(fix: str, engine: str | None, release: str | None) -> str:
    return _FLAG.sub(lambda match: _flag(match[1], engine, release), fix)


def _flag(part: str, engine: str | None, release: str | None) -> str:
    """As the release spells it; of an unknown engine, everybody's."""
    names = _catalogue().flags[part]
    family = _FAMILY.get(engine or "", engine or "")
    if family not in names:
        return " or ".join(f"{name} ({of})" for of, name in names.items() if not engine) or part
    return _of_release(names[family], family, release)


def _of_release(flag: str, engine: str, release: str | None) -> str:
    lines = load_backend(engine).command_lines
    try:
        catalogue = load_catalogue(lines[0].package, release, lines[0].command).catalogue
        return spelling(catalogue, flag)
    except (IndexError, FileNotFoundError, UsageError):
        return flag  # an engine without a catalogue, or a release that is not in it


@cache
def _catalogue() -> _Catalogue:
    text = files("dsdeploy.deploy").joinpath("diagnoses.yaml").read_text(encoding="utf-8")
    return _Catalogue.model_validate(load_yaml(text, "diagnoses.yaml"))
