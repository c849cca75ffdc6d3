"""Is there something to run the engine, and was it built for this driver?"""

from __future__ import annotations

from collections.abc import Iterator

from dsdeploy.deploy.driver import fit, newer_driver
from dsdeploy.doctor.check import FITS, Check
from dsdeploy.doctor.facts import Accelerators, EngineFound, Software, Torch
from dsdeploy.doctor.judging.need import Need

_TOOLKIT = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"


def judge_software(facts: Software, accelerators: Accelerators, need: Need) -> Iterator[Check]:
    yield _engine(facts, need)
    yield from _built_for(facts, accelerators)
    yield _containers(facts, accelerators)


def _engine(facts: Software, need: Need) -> Check:
    found = "; ".join(map(_named, facts.engines)) or "none"
    engine = need.engine
    if engine is None:
        fix = "" if facts.engines else "pip install vllm, or name its environment: --engine-python"
        return Check("engines", "green" if facts.engines else "yellow", found, fix=fix)
    here = next((each for each in facts.engines if each.backend == engine.backend), None)
    if here is not None:
        return Check("engine", "green", _named(here), engine.rules.release)
    usable = any(not runtime.problem for runtime in facts.runtimes)
    package = engine.distribution
    fix = f"pip install {package}, or name its environment with --engine-python"
    if package is None:
        fix = f"Run it in its image: dsdeploy render --backend {engine.backend} --target docker"
    return Check("engine", "yellow" if usable else "red", found, engine.rules.title, fix)


def _named(engine: EngineFound) -> str:
    return " ".join(filter(None, (engine.backend, engine.release, "in", engine.where)))


def _built_for(facts: Software, accelerators: Accelerators) -> Iterator[Check]:
    torch, vendor = facts.torch, _vendor(accelerators)
    if torch is None:
        return
    found = f"{torch.version}, for {_target(torch)}"
    fix = f"pip install --force-reinstall torch --index-url {_index(vendor, accelerators.runtime)}"
    if vendor == "nvidia" and not torch.cuda:
        yield Check("torch", "red", found, "one for CUDA", fix)
    elif vendor == "amd" and not torch.hip:
        yield Check("torch", "red", found, "one for ROCm", fix)
    elif vendor == "nvidia" and accelerators.runtime:
        state = FITS[fit(torch.cuda, accelerators.runtime)]
        fix = f"{newer_driver(torch.cuda)}; or an engine for an older CUDA"
        wanted = f"CUDA {accelerators.runtime} or older"
        yield Check("torch", state, found, wanted, "" if state == "green" else fix)
    else:
        yield Check("torch", "green", found)


def _index(vendor: str, runtime: str) -> str:
    """Of PyTorch's wheels, for this driver."""
    cuda = "cu130" if fit("13.0", runtime) == "full" else "cu128"
    return f"https://download.pytorch.org/whl/{'rocm6.4' if vendor == 'amd' else cuda}"


def _target(torch: Torch) -> str:
    if torch.cuda:
        return f"CUDA {torch.cuda}"
    return f"ROCm {torch.hip}" if torch.hip else "processors"


def _containers(facts: Software, accelerators: Accelerators) -> Check:
    name = "containers"
    if not facts.runtimes:
        found = "none; this is a container itself" if facts.in_container else "no docker or podman"
        return Check(name, "green", found)
    found = "; ".join(
        f"{each.name}: {each.problem}" if each.problem else f"{each.name} {each.version}"
        for each in facts.runtimes
    )
    usable = [each for each in facts.runtimes if not each.problem]
    if not usable:
        fix = "sudo systemctl start docker; where it is refused: sudo usermod -aG docker $USER"
        return Check(name, "yellow", found, "one that answers", fix)
    vendor = _vendor(accelerators)
    # Others' devices are files that --device gives to a container.
    if vendor == "nvidia" and not any(vendor in runtime.gpus for runtime in usable):
        return Check(name, "yellow", found, "NVIDIA Container Toolkit", _TOOLKIT)
    return Check(name, "green", found)


def _vendor(accelerators: Accelerators) -> str:
    return accelerators.machine.accelerator.vendor if accelerators.machine else ""
