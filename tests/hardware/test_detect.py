"""This machine as a profile: what the drivers' tools print, and the processor itself."""

import json
import os
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from dsdeploy.errors import DeployError, ExitCode
from dsdeploy.hardware import detect as module
from dsdeploy.hardware import tools as hardware_tools
from dsdeploy.hardware.detect import _memory_rate as memory_rate
from dsdeploy.hardware.detect import _teraflops as teraflops
from dsdeploy.hardware.detect import detect
from dsdeploy.hardware.profiles import load_accelerator, load_machine

MI300X_MEMORY = 196592 * 2**20
CARD = {
    "gpu": 0,
    "asic": {
        "market_name": "AMD Instinct MI300X",
        "vendor_id": "0x1002",
        "device_id": "0x74a1",
        "target_graphics_version": "gfx942",
    },
    "vram": {
        "type": "HBM3",
        "vendor": "HYNIX",
        "size": {"value": 196592, "unit": "MB"},
        "bit_width": 8192,
    },
}
ROCM_CARD = {
    "VRAM Total Memory (B)": "206141652992",
    "VRAM Total Used Memory (B)": "297373696",
    "Card Series": "AMD Instinct MI300X",
    "Card Model": "0x74a1",
    "GFX Version": "gfx942",
}
HEAD = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc3.7               Version: 24.1.rc3.7                                           |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
"""
TAIL = """\
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 692318        | python3                  | 12417                   |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
"""
A2 = (
    HEAD.replace("Chip  Phy-ID", "Chip        ")
    + """\
| 0     910B3               | OK            | 98.4        50                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3369 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | OK            | 96.5        53                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          15503/ 65536         |
"""
    + TAIL
)
A3 = (
    HEAD
    + """\
| 0     Ascend910           | OK            | 178.8       36                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3397 / 65536         |
+------------------------------------------------------------------------------------------------+
| 0     Ascend910           | OK            | -           36                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          3186 / 65536         |
"""
    + TAIL
)


@pytest.fixture(autouse=True)
def tools(tmp_path, monkeypatch):
    """Write a driver's tool that prints `text`; no others are there, and nothing is measured."""

    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    monkeypatch.setattr(module, "_memory_rate", lambda: 10**11)
    monkeypatch.setattr(module, "_teraflops", lambda: 0.5)

    def add(name, text, exit_code=0):
        (folder / f"{name}.txt").write_text(text, encoding="latin-1")
        script = f'#!/bin/sh\n/bin/cat "$0.txt"\nexit {exit_code}\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)

    return add


@pytest.fixture
def nvidia(monkeypatch):
    """NVML as if it had these devices: pairs of name and bytes."""

    def have(*devices):
        memory = [SimpleNamespace(total=total) for _, total in devices]
        for name, function in {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: len(devices),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda index: devices[index][0],
            "nvmlDeviceGetMemoryInfo": memory.__getitem__,
        }.items():
            monkeypatch.setattr(pynvml, name, function)

    return have


def found():
    """Name of the chip, and how many."""
    machine = detect(Path())
    return machine.accelerator.name, machine.accelerators_per_node


def is_the_processor(machine):
    return machine.accelerator.vendor == "cpu"


def test_this_processor():
    machine = detect(Path())
    chip = machine.accelerator
    assert is_the_processor(machine)
    assert chip.architecture == {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine(), platform.machine()
    )
    assert machine.devices == 1
    assert machine.host_memory == chip.usable_memory == psutil.virtual_memory().total
    assert machine.host_memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.disk.space == pytest.approx(shutil.disk_usage(".").free, rel=0.05)
    assert f"{psutil.cpu_count(logical=False) or psutil.cpu_count()} cores" in machine.description
    assert machine.container_runtime == "none"


def test_a_processor_is_measured():
    assert 1e9 < memory_rate() < 2e12
    assert 0.001 < teraflops() < 200


def test_a_processor_that_no_profile_can_describe(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(DeployError, match="cannot describe a processor of the kind riscv64"):
        detect(Path())


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_container_runtime_on_the_path(runtime, tools):
    tools(runtime, "")
    assert detect(Path()).container_runtime == runtime


def test_what_detect_writes_loads_as_it_was(dsdeploy):
    assert dsdeploy("profiles", "detect", "--output", "here.yaml").exit_code == ExitCode.DONE
    assert dsdeploy("profiles", "validate", "here.yaml").exit_code == ExitCode.DONE
    machine = load_machine("here.yaml")
    assert machine.name == "here"
    now = detect(Path()).model_copy(update={"name": "here", "disk": machine.disk})
    assert machine == now


def test_detect_prints_a_profile_too(dsdeploy):
    Path("printed.yaml").write_text(dsdeploy("profiles", "detect").stdout, encoding="utf-8")
    assert load_machine("printed.yaml").name == "detected"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("My Machine.yaml", "my-machine"),
        ("node_7.yaml", "node-7"),
        ("-.yaml", "detected"),
        ("Öl.yaml", "l"),
        ("1e3.yaml", "1e3"),
        ("017.yaml", "017"),
    ],
)
def test_any_file_name_gives_a_valid_name(file, name, dsdeploy):
    dsdeploy("profiles", "detect", "--output", file)
    assert load_machine(file).name == name


@pytest.mark.parametrize("folder", [False, True])
def test_detect_overwrites_nothing(folder, dsdeploy):
    path = Path("mine.yaml")
    path.mkdir() if folder else path.write_text("precious")
    result = dsdeploy("profiles", "detect", "--output", path)
    assert (result.exit_code, result.stderr) == (
        ExitCode.USAGE,
        "error: mine.yaml exists; it is left as it is.\n"
        "  fix: Give another name, or move it away.\n",
    )
    assert folder or path.read_text() == "precious"


def test_h100_by_nvml(nvidia):
    nvidia(*[("NVIDIA H100 80GB HBM3", 81559 * 2**20)] * 8)
    machine = detect(Path())
    assert (machine.accelerator, machine.devices) == (load_accelerator("h100-80g"), 8)
    assert machine.description == "8 x NVIDIA H100 80GB HBM3, detected"


def test_the_kind_with_the_most_devices_counts(nvidia):
    nvidia(("Tesla T4", 2**34), *[("NVIDIA H100 80GB HBM3", 2**36)] * 2)
    machine = detect(Path())
    assert (machine.accelerator.name, machine.devices) == ("h100-80g", 2)
    assert machine.description.endswith("; left out: 1 x Tesla T4")


def test_less_memory_than_the_profile_says_counts(nvidia):
    nvidia(("NVIDIA H100 80GB HBM3", 40 * 2**30), ("NVIDIA H100 80GB HBM3", 30 * 2**30))
    assert detect(Path()).device_memory == 30 * 2**30


def test_nvml_without_devices(nvidia):
    nvidia()
    assert is_the_processor(detect(Path()))


def test_a_driver_that_fails_is_a_sentence(nvidia, monkeypatch, dsdeploy):
    nvidia(("NVIDIA H100 80GB HBM3", 2**36))

    def lost(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lost)
    result = dsdeploy("profiles", "detect")
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr == "error: NVIDIA's driver does not answer: GPU is lost.\n"


@pytest.mark.parametrize("wrapped", [True, False])
def test_mi300x_by_amd_smi(wrapped, tools):
    """Releases differ in whether the list stands alone."""
    cards = [CARD | {"gpu": index} for index in range(8)]
    tools("amd-smi", json.dumps({"gpu_data": cards} if wrapped else cards, indent=4))
    machine = detect(Path())
    assert (machine.accelerator.name, machine.devices) == ("mi300x", 8)
    assert machine.device_memory == MI300X_MEMORY


def test_warnings_before_the_json(tools):
    warning = "WARNING: AMD GPU device(s) is/are in a low-power state.\n\n"
    tools("amd-smi", warning + json.dumps({"gpu_data": [CARD]}))
    assert found() == ("mi300x", 1)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("AMD Instinct MI300X VF", "mi300x"),
        ("AMD INSTINCT MI300X", "mi300x"),
        ("AMD Instinct Mi325X VF", "mi325x"),
        ("AMD Instinct MI355X", "mi355x"),
    ],
)
def test_names_of_amd(reported, name, tools):
    asic = {"market_name": reported}
    tools("amd-smi", json.dumps({"gpu_data": [CARD | {"asic": asic}]}))
    assert found() == (name, 1)


@pytest.mark.parametrize("key", ["Card Series", "Card series"])
def test_mi300x_by_rocm_smi(key, tools):
    card = {key if name == "Card Series" else name: value for name, value in ROCM_CARD.items()}
    tools("rocm-smi", json.dumps({"card0": card, "card1": card, "system": {"Driver": "6.8.5"}}))
    machine = detect(Path())
    assert (machine.accelerator.name, machine.devices) == ("mi300x", 2)
    assert machine.device_memory == MI300X_MEMORY


def test_rocm_smi_answers_where_amd_smi_does_not(tools):
    tools("amd-smi", "[]", exit_code=1)
    tools("rocm-smi", json.dumps({"card0": ROCM_CARD}))
    assert found() == ("mi300x", 1)


def test_910b3_by_npu_smi(tools):
    tools("npu-smi", A2)
    machine = detect(Path())
    shipped = load_accelerator("ascend-910b")
    assert (machine.accelerator, machine.devices) == (shipped, 2)


def test_both_dies_of_a_910c_by_npu_smi(tools):
    tools("npu-smi", A3)
    assert found() == ("ascend-910c", 2)


@pytest.mark.parametrize("chip", ["910B1", "910B2", "910B2C", "910B4", "910B4-1"])
def test_names_of_ascend(chip, tools):
    tools("npu-smi", A2.replace("910B3               ", chip.ljust(20)))
    assert found() == ("ascend-910b", 2)


TOOLS = ["amd-smi", "rocm-smi", "npu-smi"]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "no devices found",
        "{",
        "[]",
        "{}",
        "null",
        "[1, 2]",
        '{"error": "no driver"}',
        '{"card0": {}}',
        '{"card0": null}',
        '{"gpu_data": null}',
        '[{"asic": {"market_name": "AMD Instinct MI300X"}, "vram": {"size": "N/A"}}]',
        '[{"asic": {}, "vram": {"size": {"value": 1, "unit": "furlong"}}}]',
        '{"card0": {"Card Series": "AMD Instinct MI300X", "VRAM Total Memory (B)": "N/A"}}',
        "| 0     910B3 | OK | 98 |\n| 0 | 0000 | 0 / none |",
        "| 0     910B3 | OK |",
        "\xff\xfe\x00\x80",
    ],
)
def test_a_tool_that_prints_nonsense_is_not_there(tool, text, tools):
    tools(tool, text)
    assert is_the_processor(detect(Path()))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_fails_is_not_there(tool, tools):
    tools(tool, {"npu-smi": A2}.get(tool, json.dumps([CARD])), exit_code=255)
    assert is_the_processor(detect(Path()))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_hangs_is_not_there(tool, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware_tools, "_PATIENCE", 0.1)
    tools(tool, "")
    (tmp_path / "tools" / tool).write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    assert is_the_processor(detect(Path()))


def test_a_tool_that_cannot_be_run_is_not_there(tools, tmp_path):
    tools("npu-smi", A2)
    (tmp_path / "tools/npu-smi").write_text("#!/no/such/interpreter\n")
    assert is_the_processor(detect(Path()))


def test_an_unknown_card_is_a_sentence(tools, dsdeploy):
    tools("npu-smi", A2.replace("910B3", "310P3"))
    result = dsdeploy("profiles", "detect")
    sentence, hint = result.stderr.splitlines()
    assert result.exit_code == ExitCode.FAILED
    assert sentence == (
        "error: No profile knows the accelerator that its driver calls 'Ascend 310P3'."
    )
    assert "reported_as" in hint


def test_an_own_profile_makes_a_card_known(tools, write):
    tools("npu-smi", A2.replace("910B3", "310P3"))
    own = {"extends": "ascend-910b", "name": "own", "reported_as": ["Ascend 310P3"]}
    write("profiles/accelerators/own.yaml", own)
    assert found() == ("own", 2)


def test_a_broken_profile_beside_is_no_hindrance(tools, write):
    write("profiles/accelerators/broken.yaml", "a: *b\n")
    tools("npu-smi", A3)
    assert found() == ("ascend-910c", 2)
