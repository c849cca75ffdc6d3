"""What containers are given: docker and compose say the same in two ways."""

from __future__ import annotations

from dsdeploy.deploy.launch import Container, Devices, Launch, Process, Word
from dsdeploy.deploy.targets.mpi import mpirun
from dsdeploy.deploy.targets.words import launch_name, part_name

_OF_ASCEND = ("/dev/davinci_manager", "/dev/hisi_hdc", "/dev/devmm_svm")


def device_files(container: Container, devices: Devices) -> tuple[str, ...]:
    """Those of the kind and those that the launch names, each once."""
    by_kind: dict[str, tuple[str, ...]] = {
        "amd": ("/dev/kfd", "/dev/dri"),
        "huawei": (*(f"/dev/davinci{number}" for number in range(devices.count)), *_OF_ASCEND),
    }
    return tuple(dict.fromkeys((*by_kind.get(devices.kind, ()), *container.devices)))


def groups(container: Container, devices: Devices) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(("video",) if devices.kind == "amd" else ()), *container.groups)))


def keeps_privileges(container: Container) -> bool:
    """Whether it asked for more than `no-new-privileges` would leave."""
    return container.privileged or container.seccomp_unconfined


def container_name(launch: Launch, process: Process) -> str:
    return f"{launch_name(launch)}-{part_name(process.name)}"


def command(launch: Launch, process: Process) -> tuple[Word, ...]:
    return mpirun(launch, process, (), as_root=True) if launch.launcher == "mpi" else process.argv
