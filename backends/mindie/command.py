"""MindIE's daemon for a plan, with the files that it reads.

All nodes start at the same time with the same files; only the first one serves. The daemon refuses files
that others may read: config.json and the rank table have mode 640.
Source: Ascend/MindIE-LLM's README of DeepSeek-V3, its user guide and shipped config.json.
"""

from __future__ import annotations

import json

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

from .config import MANAGEMENT_PORT, NODES_PORT, PEERS_PORT, rank_table, service_config
from .phases import PHASES

RELEASES = ("2.0.T3", "2.2.RC1", "2.3.0")
_LONGEST_NAME = 256
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
    _check_name(wanted.name)
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
        phases=PHASES,
    )


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME or name.strip("-._") != name:
        raise UsageError(
            f"MindIE takes no model called {name!r}: at most {_LONGEST_NAME} characters, and none of "
            "-._ at its ends.",
            "Give another name with --name.",
        )


def _process(plan: Plan, wanted: Wanted, release: str, first: bool) -> Process:
    files = [File("config.json", _as_json(service_config(plan, wanted, release)), 0o640)]
    if plan.nodes > 1:
        files.append(File(_RANK_TABLE, _as_json(rank_table(plan)), 0o640))
    old = release < "2.3"
    internal = (("nodes", NODES_PORT), ("peers", PEERS_PORT), ("manage", MANAGEMENT_PORT))
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
    return probes(plan, MANAGEMENT_PORT, live, ready)


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
