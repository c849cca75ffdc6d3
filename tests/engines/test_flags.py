"""The catalogues, made by reading, against the parsers that the real engines build.

Not part of the ordinary suite: `test_judge.py` says how to name the engines' Pythons.
"""

import json
import re
import subprocess

import pytest

from dsdeploy.deploy.doubts import called_command
from dsdeploy.deploy.flag_check import check_arguments
from dsdeploy.deploy.flags import load_catalogue

from ..deploy.launches import SHOWN, launched, shown
from .conftest import _interpreter
from .parsers import OPTIONS, PARSE, SGLANG, VLLM
from .servers import surroundings

SUPPRESSED = "==SUPPRESS=="


class Engine:
    def __init__(self, package, python, program, release):
        self.python, self.program = python, program
        self.catalogue = load_catalogue(package, release).catalogue

    def run(self, code, *words):
        environment = surroundings(VLLM_CPU_KVCACHE_SPACE="1", SGLANG_USE_CPU_ENGINE="1")
        command = [self.python, "-c", OPTIONS + self.program + code, *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    def options(self):
        answer = self.run("show(parser)")
        [line] = [line for line in answer.stdout.splitlines() if line.startswith("OPTIONS")]
        return json.loads(line.removeprefix("OPTIONS"))


ENGINES = {
    "vllm": ("dsdeploy.backends.vllm", "DSDEPLOY_VLLM_PYTHON", VLLM, "0.32.0"),
    "sglang": ("dsdeploy.backends.sglang", "DSDEPLOY_SGLANG_PYTHON", SGLANG, "0.5.23"),
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    package, variable, program, release = ENGINES[request.param]
    return Engine(package, _interpreter(variable), program, release)


@pytest.fixture(scope="module")
def real(engine):
    return engine.options()


def test_every_spelling_is_there(engine, real):
    print(f"{engine.catalogue.engine}: {len(real)} spellings")
    assert set(engine.catalogue.flags) == set(real)


def test_each_takes_as_many_values(engine, real):
    flags = engine.catalogue.flags
    assert {n: flags[n].takes for n in real} == {n: option["takes"] for n, option in real.items()}


def test_choices_are_the_same(engine, real):
    """None of ours is missing; what depends on the machine, reading cannot see."""
    unseen = []
    for name, option in real.items():
        ours, theirs = set(engine.catalogue.flags[name].choices), set(option["choices"] or [])
        if not ours and theirs:
            unseen.append(name)
        else:
            assert ours >= theirs, name
            assert len(ours) <= len(theirs) + 1, name
    print(f"unseen: {unseen}")
    assert len(unseen) <= 1


def test_defaults_are_the_same(engine, real):
    unseen = []
    for name, option in real.items():
        ours, theirs = engine.catalogue.flags[name].default, option["default"]
        if ours is None and theirs not in (None, False, SUPPRESSED):
            unseen.append(name)
        elif ours is not None:
            assert ours == theirs, name
    print(f"unseen: {unseen}")
    assert len(unseen) <= 3


KINDS = {"human_readable_int": "size", "human_readable_int_or_auto": "size or auto"}
KINDS |= {"parse_dataclass": "json", "loads": "json", "json_list_type": "json", None: "str"}
KINDS |= {"int": "int", "float": "float", "str": "str"}


def test_types_are_the_same(engine, real):
    for name, option in real.items():
        if option["takes"] != "none" and option["type"] in KINDS:
            assert engine.catalogue.flags[name].type.rstrip("?") == KINDS[option["type"]], name


LINES = {
    "vLLM": [
        "--max_model_len 128k --seed -1 -tp 2",
        "--max-model-len auto --compilation-config.mode 3",
        "--max-model-len 128q",
        "--tensor-parallel-s 2",
        "--data-parallel 2",
        "--enable-reasoning",
        "--dtype fp99",
        "--headless=yes",
        "--port",
        "--api-key one two --no-enable-prefix-caching",
        "-O3 --moe-backend DEEP-GEMM",
        "--speculative-config {broken",
    ],
    "SGLang": [
        "--model-path m --tp 2",
        "--model-path m --pp 2",
        "--model-path m --tp_size 2",
        "--model-path m --stream-output",
        "--model-path m --enable-dp-attention --context-length 128k",
        "--model-path m --attention-backend cutlass_mla",
        "--model-path m --tp-size two",
        "--model-path m --forward-hooks {broken",
        "--model-path m --mem-fraction-static=0.8",
    ],
}
HARMLESS = {"deprecated", "abbreviation", "environment"}


def test_the_check_and_the_parser_agree(engine):
    """Both refuse a line, or neither does."""
    lines = LINES[engine.catalogue.engine]
    answer = engine.run(PARSE, json.dumps(lines))
    taken = json.loads(answer.stdout.splitlines()[-1])
    for line, parses in zip(lines, taken, strict=True):
        kinds = {problem.kind for problem in check_arguments(engine.catalogue, line.split())}
        assert (kinds <= HARMLESS) == parses, f"{line}: {kinds}"


def _on_the_second_node(line):
    line = re.sub(r"<(\d+) x RANK>", r"\1", line)
    return line.replace("<RANK>", "1").replace("<HEAD>", "host")


def test_what_backends_render_parses(engine):
    """Every machine's command line, with all features, as a line without spaces in its words."""
    name = engine.catalogue.package.rpartition(".")[2]
    everything = {"tools": True, "reasoning": True, "host": "0.0.0.0"}
    lines = []
    for backend, machine, wish in SHOWN:
        for feature in ({}, {"mtp": True}):
            if backend == name:
                release = engine.catalogue.release
                launch = launched(backend, machine, release, everything, **wish, **feature)
                for node in launch.nodes[:2]:
                    argv = [shown(word) for word in node.processes[0].argv]
                    words = called_command(argv)[1]
                    lines.append(_on_the_second_node(" ".join(words)))
    assert len(lines) >= 6
    answer = engine.run(PARSE, json.dumps(lines))
    taken = json.loads(answer.stdout.splitlines()[-1])
    assert [line for line, parsed in zip(lines, taken, strict=True) if not parsed] == []
