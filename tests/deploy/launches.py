"""Launches that backends make for machines that people own, for the tests that share them."""

import json
from pathlib import Path

from dsdeploy.deploy.backend import load_backend
from dsdeploy.deploy.launch import Joined, RankTimes, Secret, Symbol
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.planning.models import find_model
from dsdeploy.planning.plan import make_plan
from dsdeploy.planning.planner import Sizes, Wish, plan

SHOWN = [
    ("vllm", "8xh200", {}),
    ("vllm", "2x8xh100", {}),
    ("vllm", "4x8xh100", {"sizes": Sizes(data=32, expert=32)}),
    ("vllm", "4xb200", {"precision": "nvfp4"}),
    ("sglang", "8xh200", {}),
    ("sglang", "2x8xh100", {}),
    ("sglang", "4x8xa100", {"precision": "bf16"}),
    ("sglang", "4x8xa100", {"precision": "bf16", "sizes": Sizes(data=32, expert=32)}),
    ("sglang", "2x8xa100", {"precision": "int8"}),
    ("lmdeploy", "8xh200", {}),
    ("lmdeploy", "2x8xh100", {}),
    ("tensorrt-llm", "8xh200", {}),
    ("tensorrt-llm", "2x8xh100", {}),
    ("tensorrt-llm", "8xb200", {"precision": "nvfp4"}),
    ("rocm", "8xmi300x", {}),
    ("rocm", "2x8xmi300x", {"precision": "bf16"}),
    ("rocm-vllm", "8xmi300x", {}),
    ("rocm-vllm", "8xmi355x", {}),
    ("rocm-vllm", "2x8xmi300x", {"precision": "bf16"}),
    ("mindie", "2xatlas-800i-a2", {"precision": "int8"}),
    ("mindie", "4xatlas-800i-a2", {"precision": "bf16"}),
    ("vllm-ascend", "2xatlas-800i-a2", {"precision": "int8"}),
    ("vllm-ascend", "4xatlas-800i-a2", {"precision": "bf16"}),
    ("vllm-ascend", "1xatlas-a3", {"precision": "int8"}),
    ("native", "cpu-server", {}),
]
RELEASED = {"rocm": "sglang", "rocm-vllm": "vllm", "tensorrt-llm": "tensorrt_llm"}
ASCEND = ["0.11.0", "0.13.0", "0.18.0", "0.23.0"]


def planned(backend, machine, **wish):
    rules = {backend: load_backend(backend).rules()}
    outcome = plan(find_model("DeepSeek-V3"), load_machine(machine), rules, Wish(**wish))
    assert outcome.chosen is not None, (backend, machine, wish)
    return make_plan(outcome, outcome.chosen, rules[backend])


def launched(backend, machine, release=None, wanted=None, **wish):
    found = planned(backend, machine, **wish)
    weights = "/models/DeepSeek-V3" if backend in ("native", "mindie") else found.model
    wanted = {"name": "DeepSeek-V3", "weights": weights} | (wanted or {})
    return load_backend(backend).launch(found, Wanted(**wanted), release)


def releases(backend):
    package = f"dsdeploy.backends.{RELEASED.get(backend, backend)}"
    if backend == "vllm-ascend":
        return ASCEND
    if backend in ("native", "mindie"):
        return [None]
    text = (
        Path(__file__).parents[2] / "backends" / package.rpartition(".")[2] / "flags.json"
    ).read_text()
    return json.loads(text)["releases"]


def shown(word):
    if isinstance(word, Secret):
        return f"(secret {word.name})"
    if isinstance(word, Joined):
        return "".join(map(shown, word.parts))
    if isinstance(word, RankTimes):
        return f"<{word.factor} x RANK>"
    return f"<{word.name}>" if isinstance(word, Symbol) else word
