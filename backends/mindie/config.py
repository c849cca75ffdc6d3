"""MindIE's config.json for a plan, and its rank table when there are several nodes.

Source: the user guide of MindIE-LLM and the config.json that it ships.
"""

from __future__ import annotations

import json
from typing import Any

from dsdeploy.deploy.wanted import Wanted
from dsdeploy.planning.plan import Plan

MANAGEMENT_PORT, METRICS_PORT, NODES_PORT, PEERS_PORT = 1026, 1027, 1120, 1121
_PREFILL_TOKENS = 8192


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
            "multiNodesInferPort": NODES_PORT,
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
        "managementPort": MANAGEMENT_PORT,
        "metricsPort": METRICS_PORT,
        "allowAllZeroIpListening": everywhere,
        "maxLinkNum": 1000,
        "httpsEnabled": False,
        "fullTextEnabled": False,
        "inferMode": "standard",
        "interCommTLSEnabled": False,
        "interCommPort": PEERS_PORT,
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
