"""Facts in, checks out: what is red, what is yellow, and which command mends it."""

from dataclasses import replace

import pytest

from dsdeploy.deploy.backend import load_backend
from dsdeploy.doctor.facts import (
    Accelerators,
    ContainerRuntime,
    Device,
    Interface,
    Limits,
    RdmaPort,
    Torch,
)
from dsdeploy.doctor.judging.machine import judge
from dsdeploy.doctor.judging.need import Engine, Need
from dsdeploy.doctor.judging.network import environment, proposal
from dsdeploy.hardware.profiles import load_machine


def need(backend=None, profile=None):
    plugin = load_backend(backend) if backend else None
    engine = Engine(plugin.name, plugin.distribution, plugin.rules()) if plugin else None
    return Need(engine, load_machine(profile) if profile else None)


def check(facts, name, wanted=None):
    """The one of that name, or None."""
    return next((each for each in judge(facts, wanted or Need()) if each.name == name), None)


@pytest.mark.parametrize(
    ("profile", "backend"),
    [
        ("8xh100", "vllm"), ("2x8xh100", "vllm"), ("8xmi300x", "rocm-vllm"),
        ("2xatlas-800i-a2", "vllm-ascend"), ("cpu-server", "native"),
    ],
)  # fmt: skip
def test_a_machine_in_good_order(machine, profile, backend):
    checks = judge(machine(profile, backend=backend), need(backend, profile))
    assert [each for each in checks if each.state != "green"] == []
    assert [each.name for each in checks if each.fix] == ["interface"]
    names = {each.name for each in checks}
    assert {"accelerators", "engine", "memory", "/dev/shm", "clock", "disk"} <= names
    if profile == "8xh100":
        assert check(machine(profile), "links").found == "28 pairs by NVLink 4"


@pytest.mark.parametrize(
    ("profile", "links", "state"),
    [
        ("8xh100", {"direct": 28}, "green"),
        ("8xh100", {"direct": 12, "PCIe": 16}, "yellow"),
        ("8xh100", {}, "yellow"),
        ("8xl40s", {"PCIe": 28}, "green"),
        ("8xl40s", {"host memory": 28}, "yellow"),
        ("8xmi300x", {"PCIe": 28}, "yellow"),
        ("2xatlas-800i-a2", {"PCIe": 28}, "yellow"),
    ],
)
def test_links(machine, profile, links, state):
    found = check(machine(profile, links=links), "links")
    assert (found.state, bool(found.fix)) == (state, state == "yellow")


def test_one_device_needs_no_links(machine):
    assert check(machine("workstation-4090"), "links") is None


@pytest.mark.parametrize(
    ("changes", "name", "state", "fix"),
    [
        ({"fabric": "in progress"}, "NVSwitch fabric", "red", "nvidia-fabricmanager"),
        ({"devices": (Device(0), Device(2**34))}, "memory in use", "yellow", "nvidia-smi"),
        ({"devices": (Device(0), Device(0, "ill"))}, "health", "red", "nvidia-smi"),
        ({"devices": ()}, "memory in use", "yellow", "nvidia-smi"),
        ({"driver": "", "runtime": ""}, "driver", "yellow", "nvidia-smi"),
        ({"on_the_bus": {"nvidia": 9}}, "accelerators", "yellow", "profiles detect"),
    ],
)
def test_accelerators_that_are_not_well(machine, changes, name, state, fix):
    found = check(machine("8xh100", **changes), name)
    assert (found.state, fix in found.fix) == (state, True)


def test_devices_that_are_hidden(machine):
    facts = machine("laptop", on_the_bus={"nvidia": 8}, visible="CUDA_VISIBLE_DEVICES=0")
    four = machine("8xh100", visible="CUDA_VISIBLE_DEVICES=0,1", on_the_bus={"nvidia": 9})
    assert check(facts, "accelerators").state == "red"
    assert check(four, "accelerators").fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_an_accelerator_that_no_profile_knows(machine):
    facts = machine("8xh100")
    unknown = Accelerators(None, "No profile knows 'X1'.", "Write one.")
    found = check(replace(facts, accelerators=unknown), "accelerators")
    assert (found.state, found.found, found.fix) == ("red", unknown.problem, unknown.fix)


@pytest.mark.parametrize(
    ("profile", "backend", "takes"),
    [
        ("8xa100", "tensorrt-llm", False), ("8xmi300x", "vllm", False), ("8xh100", "mindie", False),
        ("2xatlas-800i-a2", "mindie", True), ("8xmi300x", "rocm", True), ("8xh100", "native", False),
    ],
)  # fmt: skip
def test_an_engine_must_know_the_chip(machine, profile, backend, takes):
    found = check(machine(profile), "engine takes them", need(backend))
    assert found.state == ("green" if takes else "red")
    assert bool(found.fix) is not takes


def test_what_amd_asks_of_a_host(machine):
    closed = check(machine("8xmi300x", kfd_open=False), "/dev/kfd")
    assert (closed.state, "usermod -aG render,video" in closed.fix) == ("red", True)
    facts = machine("8xmi300x")
    wrong = replace(facts, software=replace(facts.software, torch=Torch("2.9.0", "12.8")))
    assert (check(wrong, "torch").state, "whl/rocm" in check(wrong, "torch").fix) == ("red", True)


def test_an_ascend_driver_keeps_some_memory_for_itself(machine):
    idle = machine("2xatlas-800i-a2", devices=(Device(3318 * 2**20),) * 8)
    assert check(idle, "memory in use").state == "green"
    busy = machine("2xatlas-800i-a2", devices=(Device(61713 * 2**20),) * 8)
    assert (check(busy, "memory in use").fix.split(" says")[0]) == "npu-smi info"
    assert "HCCL_SOCKET_IFNAME=eth0" in check(idle, "interface").fix


def test_a_laptop_whose_driver_is_not_loaded(machine):
    found = check(machine("laptop", on_the_bus={"nvidia": 1}), "accelerators")
    assert (found.state, found.fix.split(";")[0]) == ("red", "sudo modprobe nvidia")


def test_a_profile_asks_for_more_than_is_there(machine):
    assert check(machine("laptop"), "accelerators", need(profile="8xh100")).state == "red"
    assert check(machine("8xa100"), "accelerators", need(profile="8xh100")).state == "red"
    assert check(machine("8xh200"), "accelerators", need(profile="8xh100")).state == "green"
    assert check(machine("8xh100"), "accelerators", need(profile="8xh200")).state == "yellow"


def test_where_the_engine_may_run(machine):
    facts = machine("8xh100")
    assert check(facts, "engine", need("vllm")).state == "green"
    missing = check(facts, "engine", need("sglang"))
    assert (missing.state, missing.fix.startswith("pip install sglang")) == ("yellow", True)
    bare = replace(facts, software=replace(facts.software, runtimes=()))
    assert check(bare, "engine", need("sglang")).state == "red"


def test_torch_must_be_built_for_the_card(machine):
    for runtime, index in (("13.0", "whl/cu130"), ("12.8", "whl/cu128")):
        facts = machine("8xh100", runtime=runtime)
        wrong = replace(facts, software=replace(facts.software, torch=Torch("2.9.0+cpu")))
        found = check(wrong, "torch")
        assert (found.state, found.fix.endswith(index)) == ("red", True)


@pytest.mark.parametrize(
    ("runtime", "fix"),
    [
        (ContainerRuntime("docker", "28.0"), "nvidia-ctk runtime configure"),
        (ContainerRuntime("docker", problem="permission denied"), "usermod -aG docker"),
    ],
)
def test_a_container_runtime_that_is_of_no_use(machine, runtime, fix):
    facts = machine("8xh100")
    found = check(
        replace(facts, software=replace(facts.software, runtimes=(runtime,))), "containers"
    )
    assert found.state == "yellow"
    assert fix in found.fix


def limits(files=(None, None), locked=(None, None), processes=(None, None)):
    return {"limits": Limits(files, locked, processes)}


@pytest.mark.parametrize(
    ("change", "name", "state", "fix"),
    [
        ({"shared_memory": 2**26}, "/dev/shm", "red", "mount -o remount,size=32G /dev/shm"),
        ({"shared_memory": 2**34}, "/dev/shm", "yellow", "--shm-size 32g"),
        ({"shared_memory": None}, "/dev/shm", "red", "mount -t tmpfs"),
        ({"clock_synchronised": False}, "clock", "yellow", "timedatectl set-ntp true"),
        ({"clock_synchronised": None}, "clock", "yellow", "timedatectl set-ntp true"),
        ({"memory": 2**36}, "memory", "yellow", "host_memory"),
        (limits(files=(256, 2**20)), "open files", "red", "ulimit -n 65536"),
        (limits(files=(256, 4096)), "open files", "red", "prlimit --pid $$ --nofile=65536:65536"),
        (limits(files=(1024, 4096)), "open files", "yellow", "--ulimit nofile=65536"),
        (limits(locked=(2**16, 2**16)), "locked memory", "red", "--memlock=unlimited:unlimited"),
        (limits(locked=(2**16, None)), "locked memory", "red", "ulimit -l unlimited"),
        (limits(processes=(1000, 1000)), "processes", "yellow", "--nproc=65536:65536"),
    ],
)
def test_the_host(machine, change, name, state, fix):
    facts = machine("8xh100")
    found = check(
        replace(facts, host=replace(facts.host, **change)), name, need("sglang", "8xh100")
    )
    assert (found.state, fix in found.fix) == (state, True)


def test_locked_memory_is_for_rdma(machine):
    facts = network_of(machine("8xh100"), rdma=())
    host = replace(facts.host, **limits(locked=(2**16, 2**16)))
    assert check(replace(facts, host=host), "locked memory").state == "green"


def test_numa_balancing_matters_to_amd(machine):
    for profile, state in (("8xmi300x", "yellow"), ("8xh100", None)):
        facts = machine(profile)
        found = check(
            replace(facts, host=replace(facts.host, numa_balancing=True)), "NUMA balancing"
        )
        assert (found.state if found else None) == state


@pytest.mark.parametrize(
    ("rate", "state"), [(10**10, "green"), (10**8, "yellow"), (None, "yellow")]
)
def test_the_disk(machine, rate, state):
    facts = machine("8xh100")
    assert check(replace(facts, storage=replace(facts.storage, rate=rate)), "disk").state == state


def network_of(facts, **changes):
    return replace(facts, network=replace(facts.network, **changes))


def test_the_interface_to_propose(machine):
    network = machine("2x8xh100").network
    others = (
        Interface("docker0", True, 10000, 1500, ("172.17.0.1",)),
        Interface("eth1", True, 100000, 9000, ("fe80::1%eth1",)),
        Interface("eth2", False, 100000, 9000, ("10.2.0.1",)),
        Interface("bond0", True, 50000, 9000, ("10.1.0.1",)),
    )
    chosen = proposal(replace(network, interfaces=(*network.interfaces, *others)))
    assert chosen.name == "bond0"
    assert environment(chosen, "huawei") == {
        "HCCL_SOCKET_IFNAME": "bond0", "GLOO_SOCKET_IFNAME": "bond0"
    }  # fmt: skip
    assert proposal(replace(network, interfaces=others[:3])) is None


@pytest.mark.parametrize(
    ("variable", "value", "state"),
    [
        ("NCCL", "eth", "green"), ("NCCL", "=eth0", "green"), ("NCCL", "ib0,eth0", "green"),
        ("NCCL", "^lo", "green"), ("NCCL", "ib0", "red"), ("NCCL", "=eth", "red"),
        ("HCCL", "eth", "green"), ("GLOO", "eth0", "green"), ("GLOO", "eth0,lo", "green"),
        ("GLOO", "eth", "red"), ("GLOO", "=eth0", "red"), ("GLOO", "ib0,eth0", "red"),
    ],
)  # fmt: skip
def test_settings_must_name_an_interface(machine, variable, value, state):
    facts = network_of(machine("8xh100"), settings={f"{variable}_SOCKET_IFNAME": value})
    found = check(facts, "interface")
    assert found.state == state
    assert "GLOO_SOCKET_IFNAME=eth0" in found.fix


def test_several_nodes_need_a_name_and_rdma(machine):
    facts, wanted = machine("2x8xh100"), need(profile="2x8xh100")
    hidden = network_of(facts, host_address="127.0.1.1", rdma=())
    assert "NCCL_SOCKET_IFNAME=eth0" in check(hidden, "own name", wanted).fix
    assert check(hidden, "RDMA", wanted).state == "yellow"
    assert check(hidden, "own name") is None
    down = network_of(facts, rdma=(RdmaPort("mlx5_0:1", False, ""),))
    assert check(down, "RDMA", wanted).state == "red"
