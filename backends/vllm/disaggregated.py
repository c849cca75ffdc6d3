"""vLLM's prefill and decode servers over NIXL, and its router.

The router has a prompt computed by one server and its answer by another, which fetches the latents; it
finds them at the first one's side channel. Source: vLLM's documents on NixlConnector, and its router's parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from dsdeploy.deploy.disaggregation import Servers, router_launch
from dsdeploy.deploy.flags import Catalogue, spelling
from dsdeploy.deploy.launch import (
    Joined,
    Launch,
    Peer,
    Secret,
    Symbol,
    Word,
)
from dsdeploy.deploy.wanted import Wanted, probes
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

SIDE_PORT = 5600
_HOST, _PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
_IMAGE = "vllm/vllm-router:nightly"
"""The engine's own has no router."""
NOTES = (
    "Prefill and decode servers listen on all of a machine's addresses: let only the group's machines "
    f"reach them, at the servers' port, at {SIDE_PORT} and those after it, and at the ports that UCX chooses.",
    "NIXL's Python package, nixl, must be installed beside vLLM; UCX_NET_DEVICES, by --extra-env, names "
    "the network cards.",
)


def serving(plan: Plan, catalogue: Catalogue) -> list[Word]:
    """The same for both roles, which the router alone tells apart."""
    if _HOST not in catalogue.environment:
        raise UsageError(
            f"vLLM {catalogue.release} has no NixlConnector, by which latents travel.",
            "It needs vLLM >= 0.9.0.",
        )
    if plan.layout.pipeline > 1:
        raise UsageError(
            "vLLM's NixlConnector sends no latents from the stages of a pipeline.",
            "Plan with --pp 1.",
        )
    config = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    if plan.machine.accelerator.vendor == "cpu":
        config["kv_buffer_device"] = "cpu"
    return [spelling(catalogue, "--kv-transfer-config"), json.dumps(config, separators=(",", ":"))]


def environment() -> Mapping[str, Word | Secret]:
    return {_HOST: Symbol.HERE, _PORT: str(SIDE_PORT)}


def router(plan: Plan, wanted: Wanted, release: str, servers: Servers) -> Launch:
    start = probes(plan, wanted.port, "/health", "/health")
    words: list[Word] = ["vllm-router", "--vllm-pd-disaggregation"]
    for role, names in (("--prefill", servers.prefill), ("--decode", servers.decode)):
        for name in names:
            words += [role, Joined(("http://", Peer(name), f":{wanted.port}"))]
    return router_launch("vllm", "vllm-router", release, _IMAGE, wanted, start, words)
