"""What tools and files of the system say: true samples, nonsense, and this very machine."""

import os
import resource
import socket
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from dsdeploy.doctor.facts import Accelerators, Device
from dsdeploy.doctor.gathering import amd as amd_module
from dsdeploy.doctor.gathering import huawei as huawei_module
from dsdeploy.doctor.gathering import software as software_module
from dsdeploy.doctor.gathering.accelerators import accelerators, on_the_bus
from dsdeploy.doctor.gathering.disk import measured
from dsdeploy.doctor.gathering.host import host
from dsdeploy.doctor.gathering.huawei import devices, links
from dsdeploy.doctor.gathering.machine import gather
from dsdeploy.doctor.gathering.network import default_route, network
from dsdeploy.doctor.gathering.nvidia import nvidia
from dsdeploy.doctor.gathering.software import cdi_vendors, docker, podman, software, torch_of
from dsdeploy.doctor.judging.machine import judge
from dsdeploy.doctor.judging.need import Need
from dsdeploy.errors import UsageError
from dsdeploy.hardware import detect as detect_module
from dsdeploy.hardware import tools as tools_module
from dsdeploy.hardware.profiles import load_machine

DATA = Path(__file__).with_name("data")
# Where the samples are from:
#   npu-smi-info.txt, npu-smi-topo.txt   ms-swift's documentation, NPU support, 8 x Ascend 910B3
#   npu-smi-topo-pcie.txt                Ascend's documentation of npu-smi, 8 NPUs without HCCS
#   npu-smi-topo-a3.txt                  rows of an Ascend 910C in a test of ZStack, two added
#   ascend_toolkit_install.info          a report of an environment in vLLM Ascend's issues
#   amd-smi-version.json                 ROCm's cluster validation suite
#   rocm-smi-meminfo.json, -topotype     keys as ROCm's rocm_smi.py writes them, numbers of an MI300X
#   docker-info-away.json                an issue of AWS Copilot
#   proc-net-route.txt, -ipv6_route      notes on a laptop's routes; a test of a network monitor


def sample(name):
    return (DATA / name).read_text()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Put a program on PATH that prints `text`, or runs a line of shell; no others are there."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(detect_module, "_memory_rate", lambda: 10**11)
    monkeypatch.setattr(detect_module, "_teraflops", lambda: 0.5)
    monkeypatch.setattr(amd_module, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(amd_module, "_ROCM", tmp_path / "none")
    monkeypatch.setattr(amd_module, "_KFD", tmp_path / "none")

    def add(name, text="", shell=""):
        (folder / f"{name}.txt").write_text(text)
        lines = shell or '/bin/cat "$0.txt"'
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)

    return add


def answering(**answers):
    """A line of shell that prints the sample whose key is among the words of the call."""
    cases = "".join(f"*{key}*) /bin/cat {DATA / name} ;; " for key, name in answers.items())
    return f'case "$*" in {cases} *) exit 1 ;; esac'


MI300X = load_machine("8xmi300x")
ATLAS = load_machine("2xatlas-800i-a2")
H100 = load_machine("8xh100")


class TestHuawei:
    def test_devices(self):
        found = list(devices(sample("npu-smi-info.txt")))
        assert len(found) == 8
        assert found[0] == Device(3318 * 2**20)

    def test_a_sick_device(self):
        text = sample("npu-smi-info.txt").replace(
            "| OK            | 92.0", "| Warning       | 92.0"
        )
        troubles = [device.trouble for device in devices(text)]
        assert troubles == ["", "its health is Warning", *[""] * 6]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("npu-smi-topo.txt", {"direct": 28}),
            ("npu-smi-topo-pcie.txt", {"PCIe": 28}),
            ("npu-smi-topo-a3.txt", {"direct": 6}),
        ],
    )
    def test_links(self, name, expected):
        assert Counter(links(sample(name))) == expected

    def test_the_whole(self, tools, tmp_path, monkeypatch):
        place = tmp_path / "Ascend/cann/aarch64-linux"
        place.mkdir(parents=True)
        (place / "ascend_toolkit_install.info").write_text(sample("ascend_toolkit_install.info"))
        monkeypatch.setattr(huawei_module, "_ROOTS", (tmp_path / "Ascend",))
        tools("npu-smi", shell=answering(topo="npu-smi-topo.txt", info="npu-smi-info.txt"))
        found = accelerators(tmp_path)
        assert found.machine.accelerator.architecture == "ascend910b"
        assert (found.driver, found.runtime) == ("24.1.rc1.b030", "8.3.RC2")
        assert (len(found.devices), found.links) == (8, {"direct": 28})


class TestAmd:
    def test_the_whole(self, tools):
        tools("amd-smi", shell=answering(version="amd-smi-version.json"))
        tools(
            "rocm-smi",
            shell=answering(meminfo="rocm-smi-meminfo.json", topotype="rocm-smi-topotype.json"),
        )
        found = amd_module.amd(Accelerators(MI300X))
        assert (found.driver, found.runtime) == ("6.16.6", "7.0.2")
        assert [device.taken for device in found.devices][:2] == [298647552, 633720832]
        assert (found.links, found.kfd_open) == ({"direct": 6}, True)

    def test_the_driver_of_a_package_says_its_release_itself(self, tools, tmp_path, monkeypatch):
        (tmp_path / "version").write_text("6.12.12\n")
        monkeypatch.setattr(amd_module, "_DRIVER", tmp_path / "version")
        assert amd_module.amd(Accelerators(MI300X)).driver == "6.12.12"


class TestNvidia:
    """By NVML, which answers as it does on a server with NVSwitches, or as told."""

    @pytest.fixture
    def nvml(self, monkeypatch):
        def answer(cuda=13000, driver="580.126.20", count=8, nvlink=lambda a, b: True, **more):
            def p2p(a, b, capability):
                linked = capability != pynvml.NVML_P2P_CAPS_INDEX_NVLINK or nvlink(a, b)
                return pynvml.NVML_P2P_STATUS_OK if linked else pynvml.NVML_P2P_STATUS_UNKNOWN

            def fabric(handle, info):
                info._obj.state = pynvml.NVML_GPU_FABRIC_STATE_COMPLETED

            memory = SimpleNamespace(total=85520809984, used=0)
            known = {
                "nvmlInit": lambda: None,
                "nvmlShutdown": lambda: None,
                "nvmlSystemGetCudaDriverVersion": lambda: cuda,
                "nvmlSystemGetDriverVersion": lambda: driver,
                "nvmlDeviceGetCount": lambda: count,
                "nvmlDeviceGetHandleByIndex": lambda index: index,
                "nvmlDeviceGetName": lambda index: "NVIDIA H100 80GB HBM3",
                "nvmlDeviceGetMemoryInfo": lambda index: memory,
                "nvmlDeviceGetTotalEccErrors": lambda *_: 0,
                "nvmlDeviceGetMigMode": lambda index: (0, 0),
                "nvmlDeviceGetP2PStatus": p2p,
                "nvmlDeviceGetGpuFabricInfo": fabric,
            }
            for name, function in (known | more).items():
                monkeypatch.setattr(pynvml, name, function)

        return answer

    def test_a_server_with_nvswitches(self, nvml):
        nvml()
        found = nvidia(Accelerators(H100))
        assert (found.driver, found.runtime) == ("580.126.20", "13.0")
        assert found.devices == (Device(0),) * 8
        assert (found.links, found.fabric) == ({"direct": 28}, "ready")

    def test_cards_in_pairs_on_bridges(self, nvml):
        nvml(count=4, nvlink=lambda a, b: a // 2 == b // 2)
        assert nvidia(Accelerators(H100)).links == {"direct": 2, "PCIe": 4}

    def test_trouble(self, nvml):
        nvml(
            nvmlDeviceGetMigMode=lambda index: (int(index == 1), 0),
            nvmlDeviceGetTotalEccErrors=lambda index, *_: 3 * (index == 2),
        )
        troubles = [device.trouble for device in nvidia(Accelerators(H100)).devices]
        expected = ["", "cut into parts (MIG)", "3 uncorrected memory errors"]
        assert troubles == [*expected, *[""] * 5]

    def test_what_a_device_does_not_know_is_not_in_the_way(self, nvml):
        def unknown(*_):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        nvml(
            nvmlDeviceGetMigMode=unknown,
            nvmlDeviceGetTotalEccErrors=unknown,
            nvmlDeviceGetP2PStatus=unknown,
            nvmlDeviceGetGpuFabricInfo=unknown,
        )
        found = nvidia(Accelerators(H100))
        assert found.devices == (Device(0),) * 8
        assert (found.links, found.fabric) == ({"host memory": 28}, "none")


SILENT = ["amd-smi", "rocm-smi", "npu-smi"]


@pytest.mark.parametrize(
    "shell",
    ["exit 1", "echo nonsense", "echo '{\"card0\": 1, \"system\": [2]}'", "echo '[{\"gpu'",
     "printf '\\377\\376 | 0 910B3 | OK | 1 / 2 |\\n'", "exec /bin/sleep 600"],
)  # fmt: skip
def test_tools_that_are_of_no_use(tools, tmp_path, monkeypatch, shell):
    """Each is found out in its time, and nothing is known: a processor is left."""
    monkeypatch.setattr(tools_module, "_PATIENCE", 0.2)
    monkeypatch.setattr(software_module, "_PATIENCE", 0.2)
    for name in (*SILENT, "docker", "podman"):
        tools(name, shell=shell)
    found = accelerators(tmp_path)
    assert found.machine.accelerator.vendor == "cpu"
    runtimes = software(None, None).runtimes
    assert [runtime.name for runtime in runtimes] == ["docker", "podman"]
    assert all(runtime.problem for runtime in runtimes)


@pytest.mark.parametrize("shell", ["exit 1", "echo '[1]'", "echo '{'", "exec /bin/sleep 600", ""])
@pytest.mark.parametrize("kind", [MI300X, ATLAS], ids=lambda kind: kind.name)
def test_accelerators_whose_tools_fall_silent_are_not_known(
    tools, monkeypatch, machine, kind, shell
):
    monkeypatch.setattr(tools_module, "_PATIENCE", 0.2)
    monkeypatch.setattr(huawei_module, "_ROOTS", ())
    for name in SILENT if shell else ():
        tools(name, shell=shell)
    ask = amd_module.amd if kind is MI300X else huawei_module.huawei
    found = ask(Accelerators(kind))
    bare = machine(kind.name, driver="", runtime="", devices=(), links={})
    assert found == bare.accelerators
    checks = {check.name: check for check in judge(bare, Need())}
    for name in ("driver", "memory in use", "links"):
        assert (checks[name].state, checks[name].found) == ("yellow", "not known")
        assert checks[name].fix


def test_the_bus(tmp_path):
    """A GPU that computes, one for a screen alone, and a bridge of the same vendor."""
    for slot, vendor, kind in [
        ("0000:1b:00.0", "0x10de", "0x030200"), ("0000:01:00.0", "0x1002", "0x030000"),
        ("0000:02:00.0", "0x10de", "0x068000"), ("0000:c1:00.0", "0x19e5", "0x120000"),
    ]:  # fmt: skip
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "vendor").write_text(f"{vendor}\n")
        (tmp_path / slot / "class").write_text(f"{kind}\n")
    assert on_the_bus(tmp_path) == {"nvidia": 1, "huawei": 1}


class TestContainers:
    def test_a_daemon_that_is_away(self):
        found = docker(sample("docker-info-away.json"), "", ())
        assert found.problem.startswith("Cannot connect to the Docker daemon")

    def test_devices_by_runtime_and_by_cdi(self, tmp_path):
        answer = '{"ServerVersion": "28.4.0", "Runtimes": {"runc": {}, "nvidia": {}, "ascend": {}}}'
        assert docker(answer, "", ()).gpus == ("huawei", "nvidia")
        (tmp_path / "nvidia.yaml").touch()
        assert podman('{"version": {"Version": "5.2.0"}}', "", cdi_vendors((tmp_path,))).gpus == (
            "nvidia",
        )

    @pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"version": "5"}', '{"ServerVersion"'])
    @pytest.mark.parametrize("read", [docker, podman])
    def test_nonsense(self, read, text):
        assert read(text, "", ()).problem == "it does not answer"
        assert read(text, "warning\nit is ill\n", ()).problem == "it is ill"


class TestRoutes:
    def test_the_default(self):
        ipv4, ipv6 = sample("proc-net-route.txt"), sample("proc-net-ipv6_route.txt")
        assert default_route(ipv4, ipv6) == "wlp1s0"
        assert default_route(ipv4.splitlines()[0], ipv6) == "wg0"

    def test_the_least_metric(self):
        ipv4 = sample("proc-net-route.txt")
        other = "eth7\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        assert default_route(ipv4 + other, "") == "eth7"

    def test_none(self):
        assert default_route("", "") == ""


class TestThisMachine:
    """The same facts from elsewhere."""

    def test_host(self):
        found = host()
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        assert found.memory <= sizes["MemTotal"]
        assert 0 < found.available <= found.memory
        assert found.kernel == os.uname().release
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert found.limits.open_files == tuple(
            None if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)
        )
        assert found.shared_memory is None or found.shared_memory <= shm_size()

    def test_network(self):
        found = network()
        (loopback,) = [each for each in found.interfaces if "127.0.0.1" in each.addresses]
        assert loopback.up
        assert loopback.mtu == int(Path(f"/sys/class/net/{loopback.name}/mtu").read_text())
        assert {each.name for each in found.interfaces} == set(os.listdir("/sys/class/net"))
        assert found.host_name == socket.gethostname()

    def test_torch_is_asked_without_importing_it(self):
        import torch

        found = torch_of(Path(sys.executable))
        assert found.version == torch.__version__
        assert found.cuda == (torch.version.cuda or "")

    def test_a_torch_that_no_engine_uses_is_of_no_interest(self):
        assert software("native", None).torch is not None
        assert software("mindie", None).torch is None
        assert software(None, None).torch is None
        assert software(None, Path(sys.executable)).torch is not None

    def test_no_python_no_torch(self, tmp_path):
        assert torch_of(tmp_path / "python") is None
        (tmp_path / "python").write_text("#!/bin/sh\necho nonsense\n")
        (tmp_path / "python").chmod(0o755)
        assert torch_of(tmp_path / "python") is None

    def test_the_whole(self, tmp_path):
        facts = gather(tmp_path, None, None)
        assert facts.accelerators.machine.host_memory == psutil.virtual_memory().total
        assert {check.state for check in judge(facts, Need())} <= {"green", "yellow", "red"}


class TestDisk:
    def test_a_file_of_its_own_is_gone_after_it(self, tmp_path):
        found = measured(tmp_path, seconds=0.2)
        assert not list(tmp_path.iterdir())
        assert found.rate is None or found.rate > 0
        assert "just written" in found.how or "page cache" in found.how

    def test_the_biggest_file_is_read(self, tmp_path):
        with (tmp_path / "model.safetensors").open("wb") as file:
            for _ in range(17):
                file.write(os.urandom(2**24))
        found = measured(tmp_path, seconds=0.2)
        assert "model.safetensors" in found.how or "page cache" in found.how
        assert found.rate is None or found.rate > 0

    def test_nothing_is_written_on_a_full_disk(self, tmp_path, monkeypatch):
        usage = SimpleNamespace(total=2**40, used=2**40 - 2**30, free=2**30)
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
        found = measured(tmp_path)
        assert (found.rate, "free to write one" in found.how) == (None, True)

    def test_no_folder(self, tmp_path):
        with pytest.raises(UsageError, match="There is no folder"):
            measured(tmp_path / "none")


def shm_size():
    place = os.statvfs("/dev/shm")
    return place.f_blocks * place.f_frsize
