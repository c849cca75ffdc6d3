"""Facts made by hand: machines that are as they should be."""

import pytest

from dsdeploy.doctor.facts import (
    Accelerators,
    ContainerRuntime,
    Device,
    EngineFound,
    Facts,
    Host,
    Interface,
    Limits,
    Network,
    RdmaPort,
    Software,
    Storage,
    Torch,
)
from dsdeploy.hardware.profiles import load_machine

UNLIMITED = (None, None)
ETH0 = Interface("eth0", True, 25000, 1500, ("10.0.0.1",), True)
LOOPBACK = Interface("lo", True, 0, 65536, ("127.0.0.1",))


@pytest.fixture
def machine():
    """Facts of a machine in good order, by its profile."""
    return facts_of


def facts_of(profile, backend="vllm", **accelerators):
    found = load_machine(profile)
    count = found.accelerators_per_node
    vendor = found.accelerator.vendor
    versions = {
        "nvidia": ("580.65.06", "13.0"),
        "amd": ("6.12.12", "7.0"),
        "huawei": ("24.1", "8.1"),
    }
    driver, runtime = versions.get(vendor, ("", ""))
    torch = {"nvidia": Torch("2.9.0", "12.8"), "amd": Torch("2.9.0", hip="7.0")}
    known = {
        "driver": driver,
        "runtime": runtime,
        "devices": () if vendor == "cpu" else (Device(2**28),) * count,
        "links": {"direct": count * (count - 1) // 2} if count > 1 else {},
    }
    return Facts(
        Accelerators(found, **(known | accelerators)),
        Software(
            (EngineFound(backend, None, "/opt/engine"),),
            torch.get(vendor),
            (ContainerRuntime("docker", "28.0", gpus=(vendor,)),),
        ),
        Host(
            "6.8",
            found.host_memory,
            found.host_memory,
            2**36,
            Limits(*[UNLIMITED] * 3),
            False,
            True,
        ),
        Storage("/models", 2**42, "xfs", found.disk.read, "4.3 GB of model.safetensors"),
        Network(
            (LOOPBACK, ETH0), "node1", "10.0.0.1", rdma=(RdmaPort("mlx5_0:1", True, "400 Gb/sec"),)
        ),
    )
