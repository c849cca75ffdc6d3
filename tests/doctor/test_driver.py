"""Drivers and the CUDA that engines are built for."""

from dataclasses import replace

import pytest

from dsdeploy.deploy.backend import load_backend
from dsdeploy.deploy.driver import built_for, fit, newer_driver
from dsdeploy.doctor.facts import EngineFound, Torch
from dsdeploy.doctor.judging.machine import judge
from dsdeploy.doctor.judging.need import Engine, Need


@pytest.mark.parametrize(
    ("built", "driver", "expected"),
    [
        ("12.8", "12.8", "full"),
        ("12.8", "13.0", "full"),
        ("12.9", "12.4", "limited"),
        ("13.0", "12.9", "none"),
        ("11.8", "12.10", "full"),
    ],
)
def test_fit(built, driver, expected):
    assert fit(built, driver) == expected


@pytest.mark.parametrize(
    ("backend", "release", "expected"),
    [
        ("vllm", None, "13.0"),
        ("vllm", "0.33.0", "13.0"),
        ("vllm", "0.33.0+cu129", "12.9"),
        ("vllm", "0.11.0", ""),
        ("sglang", "0.6.0", "13.0"),
        ("tensorrt-llm", "1.3.0rc24", "13.0"),
        ("tensorrt-llm", "1.0.0", ""),
        ("mindie", None, ""),
    ],
)
def test_what_engines_are_built_for(backend, release, expected):
    assert built_for(backend, release) == expected


def test_the_driver_to_install():
    assert "nvidia-driver-580-" in newer_driver("13.1")
    assert "nvidia-driver-525-" in newer_driver("12.8")


def judged(facts, backend, name="driver"):
    plugin = load_backend(backend)
    need = Need(Engine(plugin.name, plugin.distribution, plugin.rules()))
    return next((check for check in judge(facts, need) if check.name == name), None)


@pytest.mark.parametrize("backend", ["tensorrt-llm", "vllm", "sglang"])
@pytest.mark.parametrize(
    ("driver", "runtime", "state"),
    [
        ("550.54.15", "12.4", "red"),
        ("575.57.08", "12.9", "red"),
        ("580.65.06", "13.0", "green"),
        ("595.10", "13.2", "green"),
    ],
)
def test_engines_that_are_yet_to_be_installed(machine, backend, driver, runtime, state):
    facts = machine("8xh100", driver=driver, runtime=runtime)
    facts = replace(facts, software=replace(facts.software, engines=()))
    found = judged(facts, backend)
    assert (found.state, found.found) == (state, f"{driver}, CUDA {runtime}")
    assert found.wanted == "CUDA 13.0"
    assert ("nvidia-driver-580" in found.fix) == (state == "red")


@pytest.mark.parametrize(
    ("cuda", "state"), [("13.0", "red"), ("12.9", "yellow"), ("12.4", "green")]
)
def test_of_an_engine_that_is_there_its_torch_decides(machine, cuda, state):
    facts = machine("8xh100", driver="550.54.15", runtime="12.4")
    facts = replace(facts, software=replace(facts.software, torch=Torch("2.14.0", cuda)))
    assert judged(facts, "vllm").state == "green"
    torch = judged(facts, "vllm", "torch")
    assert (torch.state, bool(torch.fix)) == (state, state != "green")


@pytest.mark.parametrize(("release", "state"), [("0.33.0", "red"), ("0.33.0+cu129", "yellow")])
def test_an_engine_whose_torch_is_not_found(machine, release, state):
    facts = machine("8xh100", driver="550.54.15", runtime="12.4")
    engines = (EngineFound("vllm", release, "/opt/vllm"),)
    facts = replace(facts, software=replace(facts.software, engines=engines, torch=None))
    assert judged(facts, "vllm").state == state


def test_drivers_of_others_are_not_measured_by_cuda(machine):
    assert judged(machine("8xmi300x"), "rocm").found == "6.12.12, ROCm 7.0"
    assert judged(machine("8xmi300x"), "rocm").state == "green"
    assert judged(machine("2xatlas-800i-a2"), "mindie").found == "24.1, CANN 8.1"
