"""vLLM in AMD's way: its image, devices and environment.

The official FP8 checkpoint is right on all of them: gfx942 computes e4m3fnuz, and the engine converts
the weights when it loads them; gfx950 computes e4m3fn, which they are in. Sources: vllm-project/recipes,
DeepSeek-V3 on AMD; ROCm's document on the performance of vLLM; vLLM's vllm/platforms/rocm.py.
"""

from __future__ import annotations

from dsdeploy.deploy.flags import load_catalogue, order
from dsdeploy.deploy.launch import Container, Launch
from dsdeploy.deploy.wanted import Wanted, nodes_of
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

from ..vllm.command import process
from ..vllm.phases import PHASES

# The image has no earlier tag that is known. Since 0.12 AITER's attention takes blocks of any size.
_OLDEST = "0.15.1"
_ENVIRONMENT = {
    # The first is the switch of AITER's kernels, attention and experts among them.
    "VLLM_ROCM_USE_AITER": "1",
    "VLLM_ROCM_USE_AITER_MOE": "1",
    # What the image sets as well: for vLLM on the machine itself.
    "SAFETENSORS_FAST_GPU": "1",
    "HIP_FORCE_DEV_KERNARG": "1",
    # Firmware of the micro engine before 177 gives memory back at every step.
    "HSA_NO_SCRATCH_RECLAIM": "1",
    "NCCL_MIN_NCHANNELS": "112",
}
_NOTES = (
    "The first start compiles AITER's kernels, which takes minutes.",
    "The host wants the kernel's pci=realloc=off and iommu=pt, and numa_balancing=0.",
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue("dsdeploy.backends.vllm", release)
    catalogue, note = chosen.catalogue, chosen.note
    if order(catalogue.release) < order(_OLDEST):
        raise UsageError(
            f"vLLM {catalogue.release} has no image for AMD GPUs.", f"It needs vLLM >= {_OLDEST}."
        )
    return Launch(
        name=wanted.name,
        backend="rocm-vllm",
        release=catalogue.release,
        nodes=nodes_of(
            plan, wanted, lambda first: (process(plan, wanted, catalogue, first, _ENVIRONMENT),)
        ),
        container=Container(
            wanted.image or f"vllm/vllm-openai-rocm:v{catalogue.release}",
            devices=("/dev/kfd", "/dev/dri"),
            groups=("video",),
            capabilities=("SYS_PTRACE",),
            seccomp_unconfined=True,
        ),
        notes=(*filter(None, (note,)), *_NOTES),
        phases=PHASES,
    )
