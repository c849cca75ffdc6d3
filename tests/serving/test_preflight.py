"""What is looked at before a start: the driver, for engines that are built for a newer CUDA."""

import pynvml
import pytest

from dsdeploy.deploy.launch import Container, Devices, Launch, Node, Process
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.serving.preflight import preflight


@pytest.fixture
def driver(monkeypatch):
    """NVML of a machine with this driver; without one, none answers."""

    def away():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", away)

    def install(release, cuda):
        for name, function in {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: release,
            "nvmlSystemGetCudaDriverVersion": lambda: cuda,
        }.items():
            monkeypatch.setattr(pynvml, name, function)

    return install


def found(tmp_path, kind="nvidia", release="0.33.0", image=None, here=True):
    node = Node((Process("vllm", ("vllm",)),), Devices(kind, 8), 2**35)
    launch = Launch("m", "vllm", release, (node,), Container("image"))
    wanted = Wanted("m", "someone/model", image=image)
    findings = preflight(launch, wanted, tmp_path, here)
    return next((each for each in findings if each.what == "driver"), None)


def test_an_old_driver_stops_the_start(driver, tmp_path):
    driver("550.54.15", 12040)
    finding = found(tmp_path)
    assert finding.bad
    assert finding.text == (
        "vllm 0.33.0 is built for CUDA 13.0, and the driver is 550.54.15, CUDA 12.4"
    )
    assert "nvidia-driver-580" in finding.fix
    assert "--image" in finding.fix


def test_a_driver_of_the_same_major_release_is_remarked_upon(driver, tmp_path):
    driver("550.54.15", 12040)
    finding = found(tmp_path, release="0.33.0+cu129")
    assert (finding.bad, bool(finding.fix)) == (False, True)


@pytest.mark.parametrize(
    "more", [{"release": "0.11.0"}, {"image": "mine:1"}, {"release": "0.33.0+cu124"}]
)
def test_what_may_run_is_let(driver, tmp_path, more):
    driver("550.54.15", 12040)
    finding = found(tmp_path, **more)
    assert (finding.text, finding.fix, finding.bad) == ("550.54.15, CUDA 12.4", "", False)


def test_a_new_driver(driver, tmp_path):
    driver("580.65.06", 13000)
    assert found(tmp_path).text == "580.65.06, CUDA 13.0"


def test_nothing_is_said_of_drivers_elsewhere_or_of_others(driver, tmp_path):
    assert found(tmp_path) is None
    driver("550.54.15", 12040)
    assert found(tmp_path, here=False) is None
    assert found(tmp_path, kind="amd") is None
