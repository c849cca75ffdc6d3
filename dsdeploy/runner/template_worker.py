"""The process that renders chat templates, which come with a model and are programs.

jinja2's immutable sandbox keeps a template from Python; a limit on memory keeps it from the
machine; whoever reads the answers kills the process when one takes too long. A line of JSON in,
a line of JSON out. Run as `python -m dsdeploy.runner.template_worker`.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any, NoReturn

_MEMORY = 1 << 30
_SECONDS = 10
"""After which the process ends itself, should nobody be left to kill it."""


def _render(source: str, variables: dict[str, Any]) -> str:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source).render(**variables)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    source: str = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        signal.alarm(_SECONDS)
        try:
            answer = {"text": _render(source, json.loads(line))}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__}
        signal.alarm(0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
