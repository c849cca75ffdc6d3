"""A file's text in, what is wrong with it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dsdeploy.deploy.lint.calls import Call, call_of
from dsdeploy.deploy.lint.finding import Edit, Finding
from dsdeploy.deploy.lint.flag_rules import check_flags, check_variables
from dsdeploy.deploy.lint.formats import Format, read_found
from dsdeploy.deploy.lint.model_rules import check_model
from dsdeploy.deploy.lint.rules import RULES
from dsdeploy.hardware.profile import Machine


@dataclass(frozen=True)
class Report:
    name: str
    text: str
    form: Format
    calls: tuple[Call, ...]
    findings: tuple[Finding, ...]

    @property
    def edits(self) -> list[Edit]:
        return [finding.edit for finding in self.findings if finding.edit is not None]

    def line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1


def lint(
    text: str, name: str, form: Format, release: str | None = None, machine: Machine | None = None
) -> Report:
    """Findings in the order of the file, each once."""
    called = (call_of(found, release) for found in read_found(text, name, form))
    calls = tuple(call for call in called if call is not None)
    found = {finding: None for call in calls for finding in _findings(call, text, machine)}
    findings = sorted(found, key=lambda finding: finding.at)
    return Report(name, text, form, calls, tuple(findings))


def _findings(call: Call, text: str, machine: Machine | None) -> Iterator[Finding]:
    yield from check_flags(call, text)
    yield from check_variables(call)
    for rule in RULES:
        yield from rule(call)
    yield from check_model(call, machine)
