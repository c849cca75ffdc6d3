"""SGLang in AMD's way: its image, devices and environment.

The official FP8 checkpoint is right on all of them: gfx942 computes e4m3fnuz, and the engine converts
the weights when it loads them. Source: SGLang's document on AMD GPUs, ROCm's on MI300X.
"""

from __future__ import annotations

from dsdeploy.deploy.flags import load_catalogue
from dsdeploy.deploy.launch import Container, Launch
from dsdeploy.deploy.wanted import Wanted, nodes_of
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

from ..sglang.command import KEY_NOTE, process
from ..sglang.phases import PHASES

_ENVIRONMENT = {
    "SGLANG_USE_AITER": "1",
    "HSA_NO_SCRATCH_RECLAIM": "1",
    "HIP_FORCE_DEV_KERNARG": "1",
    "NCCL_MIN_NCHANNELS": "112",
    "SGLANG_MOE_PADDING": "1",
}
_NOTES = (
    "SGLang's image sets ROCM_QUICK_REDUCE_QUANTIZATION=INT8, which rounds what devices add up: "
    "--extra-env ROCM_QUICK_REDUCE_QUANTIZATION=NONE keeps sums exact.",
    "The host wants the kernel's pci=realloc=off and iommu=pt, and numa_balancing=0.",
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue("dsdeploy.backends.sglang", release)
    catalogue, note = chosen.catalogue, chosen.note
    if "SGLANG_USE_AITER" not in catalogue.environment:
        raise UsageError(
            f"SGLang {catalogue.release} has no AITER kernels.", "It needs SGLang >= 0.4.7."
        )
    series = "mi35x" if plan.machine.accelerator.architecture == "gfx950" else "mi30x"
    image = wanted.image or f"lmsysorg/sglang:v{catalogue.release}-rocm700-{series}"
    return Launch(
        name=wanted.name,
        backend="rocm",
        release=catalogue.release,
        nodes=nodes_of(
            plan,
            wanted,
            lambda first: (
                process(
                    plan, wanted, catalogue, first, _ENVIRONMENT, ("--attention-backend", "aiter")
                ),
            ),
        ),
        container=Container(
            image,
            devices=("/dev/kfd", "/dev/dri"),
            groups=("video",),
            capabilities=("SYS_PTRACE",),
            seccomp_unconfined=True,
        ),
        notes=(*filter(None, (note, KEY_NOTE if wanted.key else "")), *_NOTES),
        phases=PHASES,
    )
