"""`trtllm-serve` for a plan, with the YAML of its release.

One MPI rank a device. A field stands in the YAML or on the command line, never in both: which of them
wins has changed between releases, and an unknown key of the YAML is fatal.
Source: TensorRT-LLM's deployment guide for DeepSeek and its stable list of options.
"""

from __future__ import annotations

from typing import Any

from dsdeploy.deploy.flags import Catalogue, load_catalogue, order, spelling
from dsdeploy.deploy.launch import Container, File, Launch, Port, Process, Word
from dsdeploy.deploy.wanted import Wanted, network_environment, nodes_of, probes, variant
from dsdeploy.planning.plan import Plan
from dsdeploy.strict_yaml import dump_yaml

from .phases import PHASES

_OPTIONS = "trtllm-options.yaml"
_STEP_TOKENS = 8192
_DRAFT_LENGTH_SINCE = "1.3.0rc10"
"""From when on MTP's drafts are counted by max_draft_len."""
_KEY_NOTE = (
    "trtllm-serve asks for no API key: keep it on a private address, with a proxy that does."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    chosen = load_catalogue(__package__, release)
    catalogue, note = chosen.catalogue, chosen.note
    image = f"nvcr.io/nvidia/tensorrt-llm/release:{catalogue.release}"
    return Launch(
        name=wanted.name,
        backend="tensorrt-llm",
        release=catalogue.release,
        nodes=nodes_of(plan, wanted, lambda first: (_process(plan, wanted, catalogue, first),)),
        container=Container(wanted.image or image),
        launcher="mpi" if plan.nodes > 1 else "each",
        notes=tuple(filter(None, (note, _KEY_NOTE if wanted.key else ""))),
        phases=PHASES,
    )


def _process(plan: Plan, wanted: Wanted, catalogue: Catalogue, first: bool) -> Process:
    """All ranks run the same command; the first one answers clients."""
    launcher: tuple[Word, ...] = ("trtllm-llmapi-launch",) if plan.nodes > 1 else ()
    return Process(
        name="trtllm",
        argv=(
            *launcher,
            "trtllm-serve", wanted.weights,
            "--host", wanted.host,
            "--port", str(wanted.port),
            *_sizes(plan),
            "--extra_llm_api_options", _OPTIONS,
            *_parsers(wanted, catalogue),
            *wanted.extra_arguments,
        ),
        environment=network_environment(plan, "NCCL_SOCKET_IFNAME")
        | dict(wanted.extra_environment),
        files=(File(_OPTIONS, dump_yaml(options(plan, wanted, catalogue.release))),),
        ports=(Port("http", wanted.port),) if first else (),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
        copies=plan.devices_per_node if plan.nodes > 1 else 1,
    )  # fmt: skip


def _sizes(plan: Plan) -> list[Word]:
    """DP attention is a switch of the YAML: every device of --tp_size becomes a replica."""
    layout = plan.layout
    words: list[Word] = ["--tp_size", str(layout.stage)]
    if layout.pipeline > 1:
        words += ["--pp_size", str(layout.pipeline)]
    if layout.expert > 1:
        words += ["--ep_size", str(layout.expert)]
    return [
        *words,
        "--max_batch_size", str(plan.concurrency),
        "--max_num_tokens", str(_STEP_TOKENS),
        "--max_seq_len", str(plan.context),
        plan.memory_flag, plan.memory_value,
    ]  # fmt: skip


def _parsers(wanted: Wanted, catalogue: Catalogue) -> list[Word]:
    words: list[Word] = []
    if wanted.reasoning and variant(wanted.weights) == "r1":
        words += ["--reasoning_parser", "deepseek-r1"]
    if wanted.tools:
        words += [spelling(catalogue, "--tool_parser"), "deepseek_v3"]
    return words


def options(plan: Plan, wanted: Wanted, release: str) -> dict[str, Any]:
    """The YAML's fields."""
    cache: dict[str, Any] = {"enable_block_reuse": wanted.prefix_cache}
    if plan.cache_format == "fp8":
        cache["dtype"] = "fp8"
    found: dict[str, Any] = {
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": plan.concurrency},
        "kv_cache_config": cache,
        "print_iter_log": True,
    }
    if plan.layout.data > 1:
        found["enable_attention_dp"] = True
    if wanted.metrics:
        found["enable_iter_perf_stats"] = True
    if plan.mtp:
        found["speculative_config"] = {"decoding_type": "MTP", _draft_field(release): 1}
    return found


def _draft_field(release: str) -> str:
    old = order(release) < order(_DRAFT_LENGTH_SINCE)
    return "num_nextn_predict_layers" if old else "max_draft_len"
