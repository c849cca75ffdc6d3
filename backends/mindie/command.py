"""MindIE's daemon for a plan: its config.json, and the rank table when there are several nodes.

All nodes start at the same time with the same files; only the first one serves. The daemon refuses files
that others may read: config.json and the rank table have mode 640.
Source: Ascend/MindIE-LLM's README of DeepSeek-V3, its user guide and shipped config.json.
"""

from __future__ import annotations

import json
from typing import Any

from dsdeploy.deploy.launch import (
    Container,
    File,
    Launch,
    Port,
    Probes,
    Process,
    Secret,
    Symbol,
    Word,
)
from dsdeploy.deploy.wanted import Wanted, nodes_of, probes, require_folder
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

RELEASES = ("2.0.T3", "2.2.RC1", "2.3.0")
_MANAGEMENT_PORT, _METRICS_PORT, _NODES_PORT, _PEERS_PORT = 1026, 1027, 1120, 1121
_PREFILL_TOKENS = 8192
_HOME = "/usr/local/Ascend/mindie/latest/mindie-service"
_RANK_TABLE = "rank_table_file.json"
_DRIVER = ("/dev/davinci_manager", "/dev/hisi_hdc", "/dev/devmm_svm")
_NOTES = (
    "Replace every RoCE address in rank_table_file.json by what `hccn_tool -i N -ip -g` prints on "
    "that node: they are the network cards' own, and nothing else knows them.",
    "The weights belong to the user that runs the daemon, mode 750; their config.json is no symlink.",
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    require_folder(wanted, "MindIE")
    chosen = release or RELEASES[-1]
    if chosen not in RELEASES:
        raise UsageError(f"MindIE {chosen} is not known.", f"Use one of {', '.join(RELEASES)}.")
    if wanted.extra_arguments:
        raise UsageError("MindIE's daemon takes no arguments.", "Change its config.json.")
    image = "swr.cn-south-1.myhuaweicloud.com/ascendhub/mindie"
    count = plan.devices_per_node
    return Launch(
        name=wanted.name,
        backend="mindie",
        release=chosen,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted, chosen, first),)),
        container=Container(
            wanted.image or f"{image}:{chosen}-800I-A2-py311-openeuler24.03-lts",
            devices=(*(f"/dev/davinci{number}" for number in range(count)), *_DRIVER),
            host_network=True,
            privileged=True,
        ),
        notes=_NOTES if plan.nodes > 1 else _NOTES[1:],
    )


def _process(plan: Plan, wanted: Wanted, release: str, first: bool) -> Process:
    files = [File("config.json", _as_json(service_config(plan, wanted, release)), 0o640)]
    if plan.nodes > 1:
        files.append(File(_RANK_TABLE, _as_json(rank_table(plan)), 0o640))
    old = release < "2.3"
    internal = (("nodes", _NODES_PORT), ("peers", _PEERS_PORT), ("manage", _MANAGEMENT_PORT))
    return Process(
        name="mindie",
        argv=(f"{_HOME}/bin/mindieservice_daemon",) if old else ("mindie_llm_server",),
        environment=_environment(plan, wanted, release),
        files=tuple(files),
        ports=((Port("http", wanted.port),) if first else ())
        + tuple(Port(name, number, internal=True) for name, number in internal),
        probes=_probes(plan) if first else None,
    )


def _probes(plan: Plan) -> Probes:
    live, ready = "/v2/health/live", "/v2/health/ready"
    return probes(plan, _MANAGEMENT_PORT, live, ready)


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _environment(plan: Plan, wanted: Wanted, release: str) -> dict[str, Word | Secret]:
    found: dict[str, Word | Secret] = {
        "MIES_CONFIG_JSON_PATH": "config.json",
        "NPU_MEMORY_FRACTION": plan.memory_value,
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "1",
        "TASK_QUEUE_ENABLE": "1",
        "ATB_WORKSPACE_MEM_ALLOC_ALG_TYPE": "3",
        "ATB_WORKSPACE_MEM_ALLOC_GLOBAL": "1",
        "HCCL_OP_EXPANSION_MODE": "AIV",
        "MINDIE_LOG_TO_STDOUT": "1",
    }
    if wanted.metrics:
        found["MIES_SERVICE_MONITOR_MODE"] = "1"
    if plan.nodes > 1:
        found |= {
            "ATB_LLM_HCCL_ENABLE": "1",
            "ATB_LLM_COMM_BACKEND": "hccl",
            "HCCL_CONNECT_TIMEOUT": "7200",
            "HCCL_EXEC_TIMEOUT": "0",
            "WORLD_SIZE": str(plan.layout.devices),
            "MIES_CONTAINER_IP": Symbol.HERE,
            # The first name is read up to 2.1, the second since.
            "RANKTABLEFILE": _RANK_TABLE,
            "RANK_TABLE_FILE": _RANK_TABLE,
        }
    return found | dict(wanted.extra_environment)


def service_config(plan: Plan, wanted: Wanted, release: str) -> dict[str, Any]:
    """config.json. Encryption is switched off: its certificates are not ours to make."""
    several = plan.nodes > 1
    return {
        "Version": "1.0.0",
        "LogConfig": {
            "dynamicLogLevel": "",
            "dynamicLogLevelValidHours": 2,
            "dynamicLogLevelValidTime": "",
        },
        "ServerConfig": _server_config(wanted),
        "BackendConfig": {
            "backendName": "mindieservice_llm_engine",
            "modelInstanceNumber": 1,
            "npuDeviceIds": [list(range(plan.devices_per_node))],
            "tokenizerProcessNumber": 8,
            "multiNodesInferEnabled": several,
            "multiNodesInferPort": _NODES_PORT,
            "interNodeTLSEnabled": False,
            "ModelDeployConfig": _model_config(plan, wanted, release),
            "ScheduleConfig": _schedule_config(plan),
        },
    }


def _server_config(wanted: Wanted) -> dict[str, Any]:
    everywhere = wanted.host == "0.0.0.0"
    return {
        "ipAddress": wanted.host,
        "managementIpAddress": wanted.host,
        "port": wanted.port,
        "managementPort": _MANAGEMENT_PORT,
        "metricsPort": _METRICS_PORT,
        "allowAllZeroIpListening": everywhere,
        "maxLinkNum": 1000,
        "httpsEnabled": False,
        "fullTextEnabled": False,
        "inferMode": "standard",
        "interCommTLSEnabled": False,
        "interCommPort": _PEERS_PORT,
        "openAiSupport": "vllm",
        "tokenTimeout": 600,
        "e2eTimeout": 600,
        "distDPServerEnabled": False,
    }


def _model_config(plan: Plan, wanted: Wanted, release: str) -> dict[str, Any]:
    layout = plan.layout
    model: dict[str, Any] = {
        "modelInstanceType": "Standard",
        "modelName": wanted.name,
        "modelWeightPath": wanted.weights,
        "worldSize": plan.devices_per_node,
        "cpuMemSize": 0,
        "npuMemSize": -1,
        "backendType": "atb",
        "trustRemoteCode": False,
        "dp": layout.data,
        "tp": layout.tensor,
        "moe_tp": layout.expert_tensor,
        "moe_ep": layout.expert,
    }
    if plan.mtp:
        drafts = {"plugin_type": "mtp", "num_speculative_tokens": 1}
        model["plugin_params"] = json.dumps(drafts)
    return {
        "maxSeqLen": plan.context,
        "maxInputTokenLen": plan.context - 1,
        # A switch up to 2.2, a number of tokens since.
        "truncation": False if release < "2.3" else 0,
        "ModelConfig": [model],
    }


def _schedule_config(plan: Plan) -> dict[str, Any]:
    """maxPrefillTokens is at least the longest input, maxIterTimes at most the whole context."""
    return {
        "templateType": "Standard",
        "templateName": "Standard_LLM",
        "cacheBlockSize": 128,
        "maxPrefillBatchSize": min(50, plan.concurrency),
        "maxPrefillTokens": max(_PREFILL_TOKENS, plan.context),
        "prefillTimeMsPerReq": 150,
        "prefillPolicyType": 0,
        "decodeTimeMsPerReq": 50,
        "decodePolicyType": 0,
        "maxBatchSize": plan.concurrency,
        "maxIterTimes": plan.context,
        "maxPreemptCount": 0,
        "supportSelectBatch": False,
        "maxQueueDelayMicroseconds": 5000,
    }


def rank_table(plan: Plan) -> dict[str, Any]:
    """All values are strings. Addresses are blanks that only the nodes themselves can fill."""
    each = plan.devices_per_node
    return {
        "version": "1.0",
        "server_count": str(plan.nodes),
        "server_list": [
            {
                "server_id": f"NODE-{node}-ADDRESS",
                "container_ip": f"NODE-{node}-ADDRESS",
                "device": [
                    {
                        "device_id": str(device),
                        "device_ip": f"NODE-{node}-DEVICE-{device}-ROCE-ADDRESS",
                        "rank_id": str(node * each + device),
                    }
                    for device in range(each)
                ],
            }
            for node in range(plan.nodes)
        ],
        "status": "completed",
    }
