"""`sglang.launch_server` for a plan; the same on every node but for its rank.

Source: SGLang's own flags by release, and its document on DeepSeek-V3.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from dsdeploy.deploy.flags import Catalogue, load_catalogue, spelling
from dsdeploy.deploy.launch import Container, Joined, Launch, Port, Process, Secret, Symbol, Word
from dsdeploy.deploy.wanted import Wanted, network_environment, nodes_of, probes, variant
from dsdeploy.planning.plan import Plan

from . import disaggregated
from .phases import PHASES

_PEERS_PORT = 5000
_QUANTIZATION = {"int8": "w8a8_int8", "w4a8": "w4afp8", "nvfp4": "modelopt_fp4"}
"""Block INT8, AWQ and FP8 are told by the checkpoint's own config."""
_TOOL_PARSERS = {"v3.1": "deepseekv31", "v3.2": "deepseekv32", "kimi-k2": "kimi_k2"}
_REASONING_PARSERS = {"v3.1": "deepseek-v3", "v3.2": "deepseek-v3"}
KEY_NOTE = (
    "SGLang takes an API key on its command line only, where every user of the machine can read it: "
    "none is passed. Keep it on a private address, with a proxy that asks for the key."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue(__package__, release)
    catalogue, note = chosen.catalogue, chosen.note
    return Launch(
        name=wanted.name,
        backend="sglang",
        release=catalogue.release,
        nodes=nodes_of(plan, wanted, lambda first: (process(plan, wanted, catalogue, first),)),
        container=Container(image(plan, wanted, catalogue.release)),
        notes=tuple(filter(None, (note, KEY_NOTE if wanted.key else "", *_role_notes(wanted)))),
        phases=PHASES,
    )


def image(plan: Plan, wanted: Wanted, release: str) -> str:
    npu = plan.machine.accelerator.vendor == "huawei"
    return wanted.image or ("quay.io/ascend/sglang" if npu else f"lmsysorg/sglang:v{release}")


def _role_notes(wanted: Wanted) -> tuple[str, ...]:
    return disaggregated.NOTES if wanted.role else ()


def process(
    plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool,
    environment: Mapping[str, Word | Secret] | None = None, more: tuple[Word, ...] = (),
) -> Process:  # fmt: skip
    """Followers answer /health with 200 whatever happens, so only the first node is probed."""
    network = network_environment(plan, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return Process(
        name="sglang",
        argv=(
            "python3", "-m", "sglang.launch_server", "--model-path", wanted.weights,
            *_serving(plan, wanted, catalogue),
            *_parallel(plan, catalogue),
            *(disaggregated.serving(wanted.role, catalogue) if wanted.role else ()),
            *more,
            *wanted.extra_arguments,
        ),
        environment={**_of_the_chip(plan), **(environment or {}), **network, **wanted.extra_environment},
        ports=((Port("http", wanted.port),) if first else ())
        + (disaggregated.ports(wanted.role) if first and wanted.role else ())
        + ((Port("peers", _PEERS_PORT, internal=True),) if plan.nodes > 1 else ()),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
    )  # fmt: skip


def _serving(plan: Plan, wanted: Wanted, catalogue: Catalogue) -> list[Word]:
    words: list[Word] = [
        "--served-model-name", wanted.name,
        "--host", wanted.host,
        "--port", str(wanted.port),
        "--context-length", str(plan.context),
        "--max-running-requests", str(_requests(plan)),
        plan.memory_flag, plan.memory_value,
    ]  # fmt: skip
    if plan.precision in _QUANTIZATION:
        words += ["--quantization", _quantization(plan)]
    if plan.cache_format == "fp8":
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    if plan.mtp:
        words += _drafting()
    if not wanted.prefix_cache:
        words.append("--disable-radix-cache")
    if wanted.metrics:
        words.append("--enable-metrics")
    if wanted.tools:
        parser = _TOOL_PARSERS.get(variant(wanted.weights), "deepseekv3")
        words += [spelling(catalogue, "--tool-call-parser"), parser]
    if wanted.reasoning:
        parser = _REASONING_PARSERS.get(variant(wanted.weights), "deepseek-r1")
        words += [spelling(catalogue, "--reasoning-parser"), parser]
    if plan.machine.accelerator.vendor == "huawei":
        words += ["--device", "npu", "--attention-backend", "ascend"]
    if _on_cpu(plan):
        # The memory's share would be of all that others use.
        words += ["--device", "cpu", "--max-total-tokens", str(plan.context * plan.concurrency)]
    return words


def _requests(plan: Plan) -> int:
    """As many for each replica, among whom SGLang divides them: one without any would not start."""
    replicas = plan.layout.data
    return ceil(plan.concurrency / replicas) * replicas


def _on_cpu(plan: Plan) -> bool:
    return plan.machine.accelerator.vendor == "cpu"


def _of_the_chip(plan: Plan) -> Mapping[str, Word | Secret]:
    return {"SGLANG_USE_CPU_ENGINE": "1"} if _on_cpu(plan) else {}


def _quantization(plan: Plan) -> str:
    npu = plan.machine.accelerator.vendor == "huawei"
    return "modelslim" if npu else _QUANTIZATION[plan.precision]


def _drafting() -> list[Word]:
    """One draft a step, by the model's own MTP layer, as the plan has reckoned."""
    return [
        "--speculative-algorithm", "EAGLE",
        "--speculative-num-steps", "1",
        "--speculative-eagle-topk", "1",
        "--speculative-num-draft-tokens", "2",
    ]  # fmt: skip


def _parallel(plan: Plan, catalogue: Catalogue) -> list[Word]:
    layout = plan.layout
    words: list[Word] = ["--tp-size", str(layout.stage)]
    if layout.pipeline > 1:
        words += [spelling(catalogue, "--pp-size"), str(layout.pipeline)]
    if layout.data > 1:
        words += _replicas(layout.data, catalogue)
    if layout.expert > 1:
        words += [spelling(catalogue, "--ep-size"), str(layout.expert)]
    if plan.nodes > 1:
        words += [
            "--dist-init-addr", Joined((Symbol.HEAD, f":{_PEERS_PORT}")),
            "--nnodes", str(plan.nodes),
            "--node-rank", Symbol.RANK,
        ]  # fmt: skip
    return words


def _replicas(count: int, catalogue: Catalogue) -> list[Word]:
    """--dp-size alone would mean whole copies of the model."""
    if "--attn-dp-size" in catalogue.flags:
        return ["--attn-dp-size", str(count)]
    return ["--dp-size", str(count), spelling(catalogue, "--enable-dp-attention")]
