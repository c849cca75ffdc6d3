"""vLLM with the plugin for Ascend NPUs: its image, devices, driver and environment.

A release of vllm-ascend is made for the vLLM of the same number, whose flags it takes. FP8 weights it
does not load: BF16, or W8A8 as msModelSlim makes it. Source: vllm-project/vllm-ascend, its tutorial on
DeepSeek-V3.1 in 0.11.0 to 0.23.0, installation, additional_config and versioning_policy.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from dsdeploy.deploy.flags import Catalogue, load_catalogue, order, spelling
from dsdeploy.deploy.launch import Container, Launch, Mount, Secret, Symbol, Word
from dsdeploy.deploy.wanted import Wanted, network_environment, nodes_of
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

from ..vllm.command import process
from ..vllm.phases import PHASES

RELEASES = ("0.11.0", "0.13.0", "0.18.0", "0.23.0")
"""The final ones; candidates and later ones are taken as well."""
_VLLM = "dsdeploy.backends.vllm"
_CANDIDATE = re.compile(r"\.?(?:rc|post|dev)\d+$")
_DEVICES = ("/dev/davinci_manager", "/dev/hisi_hdc", "/dev/devmm_svm")
_DRIVER = tuple(Mount(path, path) for path in ("/usr/local/Ascend/driver", "/usr/local/dcmi"))
# Up to 0.11, attention of this family ran as one graph of TorchAir's; since, vLLM's graphs do.
_TORCHAIR = {
    "ascend_scheduler_config": {"enabled": True},
    "torchair_graph_config": {"enabled": True},
}
_GRAPHS = {"cudagraph_mode": "FULL_DECODE_ONLY"}
_SLIM_NOTE = "The W8A8 weights are those that msModelSlim makes, with quant_model_description.json beside them."
_NODES_NOTE = (
    "Before the first start, `hccn_tool -i N -link -g`, `-net_health -g` and `-gateway -g` are to be "
    "well for every NPU of every node."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    asked = release or RELEASES[-1]
    if order(asked) < order(RELEASES[0]):
        raise UsageError(
            f"vLLM Ascend {asked} runs this model otherwise.",
            f"It needs vLLM Ascend >= {RELEASES[0]}.",
        )
    chosen = load_catalogue(_VLLM, _CANDIDATE.sub("", asked))
    catalogue, note = chosen.catalogue, chosen.note
    environment, more = _environment(plan), _arguments(plan, catalogue, asked)
    nodes = nodes_of(
        plan,
        wanted,
        lambda first: (process(plan, wanted, catalogue, first, environment, more),),
    )
    slim = _SLIM_NOTE if plan.precision == "int8" else ""
    series = "-a3" if _is_a3(plan) else ""
    numbered = (f"/dev/davinci{number}" for number in range(plan.devices_per_node))
    return Launch(
        name=wanted.name,
        backend="vllm-ascend",
        release=asked,
        nodes=tuple(replace(node, mounts=(*node.mounts, *_DRIVER)) for node in nodes),
        container=Container(
            wanted.image or f"quay.io/ascend/vllm-ascend:v{asked}{series}",
            devices=(*numbered, *_DEVICES),
            host_network=True,
            privileged=True,
        ),
        notes=tuple(filter(None, (note, slim, _NODES_NOTE if plan.nodes > 1 else ""))),
        phases=PHASES,
    )


def _is_a3(plan: Plan) -> bool:
    return plan.machine.accelerator.architecture == "ascend910c"


def _arguments(plan: Plan, catalogue: Catalogue, release: str) -> tuple[Word, ...]:
    words: list[Word] = ["--quantization", "ascend"] if plan.precision == "int8" else []
    if order(release) < order("0.12.0"):
        return (*words, spelling(catalogue, "--additional-config"), _as_json(_TORCHAIR))
    return (*words, spelling(catalogue, "--compilation-config"), _as_json(_GRAPHS))


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _environment(plan: Plan) -> dict[str, Word | Secret]:
    found: dict[str, Word | Secret] = {
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "OMP_PROC_BIND": "false",
        "OMP_NUM_THREADS": "1",
        "HCCL_BUFFSIZE": "200",
    }
    if _is_a3(plan):
        found["HCCL_OP_EXPANSION_MODE"] = "AIV"
    if plan.nodes == 1:
        return found
    # Nodes that are started by hand come one after the other: HCCL waits for two minutes unless told.
    found |= {"HCCL_IF_IP": Symbol.HERE, "HCCL_CONNECT_TIMEOUT": "7200"}
    if not _is_a3(plan):
        found |= {"HCCL_INTRA_PCIE_ENABLE": "1", "HCCL_INTRA_ROCE_ENABLE": "0"}
    return found | network_environment(plan, "HCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
