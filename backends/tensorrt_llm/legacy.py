"""DeepSeek-V3 in BF16, or in INT8 or INT4 weights of it, as an engine that TensorRT builds.

Only the project's `deepseek` branch of January 2025 has this, for Hopper: a checkpoint is converted,
an engine is built of it, and trtllm-serve reads that. It needs hours and much memory, once: a step
that is done leaves a mark. Today's PyTorch backend takes FP8, NVFP4 and W4AFP8 alone.
Source: examples/deepseek_v3 of that branch; TensorRT-LLM issue 2683.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from dsdeploy.deploy.launch import Container, Launch, Mount, Port, Process, Word
from dsdeploy.deploy.wanted import Wanted, network_environment, nodes_of, probes, require_folder
from dsdeploy.errors import UsageError
from dsdeploy.planning.plan import Plan

RELEASE = "deepseek"
PRECISIONS = ("bf16", "int8", "int4")
_CONVERT = "/app/tensorrt_llm/examples/deepseek_v3/convert_checkpoint.py"
_STEP_TOKENS, _WORKERS = 8192, 8
_ONCE = 'test -e "$1" || { "${@:2}" && touch -- "$1"; }'
_NOTES = (
    "Legacy: only the branch `deepseek` of TensorRT-LLM (January 2025) builds these engines, and no "
    "release does; build the image tensorrt_llm/release:latest from that branch, or name one by --image.",
    "--weights is the checkpoint in BF16, whatever precision the engine has: dsdeploy convert --to bf16.",
)
_BROKEN = (
    "The output of INT8 and INT4 weights was reported broken (TensorRT-LLM issue 2683), and NVIDIA "
    "advises against them: compare answers before you use it."
)


def launch(plan: Plan, wanted: Wanted, release: str | None) -> Launch:
    _refuse(plan, wanted, release)
    engine = _folder(plan, wanted)
    parent = str(engine.parent)
    nodes = nodes_of(plan, wanted, lambda first: (_server(plan, wanted, engine, first),))
    shared = ", which all nodes need at that path" if plan.nodes > 1 else ""
    return Launch(
        name=wanted.name,
        backend="tensorrt-llm",
        release=RELEASE,
        nodes=tuple(replace(node, mounts=(Mount(parent, parent, False),)) for node in nodes),
        container=Container(wanted.image or "tensorrt_llm/release:latest"),
        launcher="mpi" if plan.nodes > 1 else "each",
        prepare=(_convert(plan, wanted, engine), _build(plan, engine)),
        notes=(
            *_NOTES,
            *((_BROKEN,) if plan.precision != "bf16" else ()),
            f"The engine is built in {engine}{shared}.",
        ),
    )


def _refuse(plan: Plan, wanted: Wanted, release: str | None) -> None:
    title = plan.precision.upper()
    if release not in (None, RELEASE):
        raise UsageError(
            f"TensorRT-LLM {release} does not run DeepSeek-V3 in {title}.",
            f"--engine-version {RELEASE} is the branch that did; FP8, NVFP4 and W4AFP8 run today.",
        )
    require_folder(wanted, "The conversion")
    if PurePosixPath(wanted.weights).parent == PurePosixPath("/"):
        raise UsageError("The engine is built beside the weights: put them a folder deeper.")
    if plan.layout.data > 1:
        raise UsageError(
            f"TensorRT-LLM's engines in {title} have no DP attention.", "Plan with --dp 1."
        )
    if plan.mtp or plan.cache_format != "bf16":
        raise UsageError(
            f"TensorRT-LLM's engines in {title} have neither MTP nor an FP8 cache.",
            "Plan without --mtp and --cache-format.",
        )
    if wanted.tools or wanted.reasoning:
        raise UsageError("That branch of TensorRT-LLM parses neither calls of tools nor thoughts.")


def _folder(plan: Plan, wanted: Wanted) -> PurePosixPath:
    weights, layout = PurePosixPath(wanted.weights), plan.layout
    sizes = f"tp{layout.tensor}-pp{layout.pipeline}-ep{layout.expert}"
    limits = f"{plan.concurrency}x{plan.context}"
    return weights.with_name(f"{weights.name}-trtllm-{plan.precision}-{sizes}-{limits}")


def _once(mark: PurePosixPath, *argv: Word) -> tuple[Word, ...]:
    return ("bash", "-c", _ONCE, "bash", str(mark), *argv)


def _convert(plan: Plan, wanted: Wanted, engine: PurePosixPath) -> tuple[Word, ...]:
    layout = plan.layout
    quantised: tuple[Word, ...] = ()
    if plan.precision != "bf16":
        quantised = ("--use_weight_only", "--weight_only_precision", plan.precision)
    return _once(
        engine / "converted",
        "python3", _CONVERT,
        "--model_dir", wanted.weights,
        "--output_dir", str(engine / "checkpoint"),
        "--dtype", "bfloat16",
        "--tp_size", str(layout.tensor),
        "--pp_size", str(layout.pipeline),
        "--moe_ep_size", str(layout.expert),
        *quantised,
        "--workers", str(_WORKERS),
    )  # fmt: skip


def _build(plan: Plan, engine: PurePosixPath) -> tuple[Word, ...]:
    """A prompt is one step: chunks of it came later."""
    return _once(
        engine / "built",
        "trtllm-build",
        "--checkpoint_dir", str(engine / "checkpoint"),
        "--output_dir", str(engine / "engine"),
        "--gpt_attention_plugin", "bfloat16",
        "--gemm_plugin", "bfloat16",
        "--max_batch_size", str(plan.concurrency),
        "--max_seq_len", str(plan.context),
        "--max_input_len", str(min(plan.context - 1, _STEP_TOKENS)),
        "--max_num_tokens", str(_STEP_TOKENS),
        "--use_paged_context_fmha", "enable",
        "--workers", str(min(_WORKERS, plan.devices_per_node)),
    )  # fmt: skip


def _server(plan: Plan, wanted: Wanted, engine: PurePosixPath, first: bool) -> Process:
    launcher: tuple[Word, ...] = ("trtllm-llmapi-launch",) if plan.nodes > 1 else ()
    return Process(
        name="trtllm",
        argv=(
            *launcher,
            "trtllm-serve", str(engine / "engine"),
            "--tokenizer", wanted.weights,
            "--host", wanted.host,
            "--port", str(wanted.port),
            "--tp_size", str(plan.layout.tensor),
            "--pp_size", str(plan.layout.pipeline),
            "--max_batch_size", str(plan.concurrency),
            "--max_num_tokens", str(_STEP_TOKENS),
            "--max_seq_len", str(plan.context),
            plan.memory_flag, plan.memory_value,
            *wanted.extra_arguments,
        ),
        environment=network_environment(plan, "NCCL_SOCKET_IFNAME")
        | dict(wanted.extra_environment),
        ports=(Port("http", wanted.port),) if first else (),
        probes=probes(plan, wanted.port, "/health", "/health") if first else None,
        copies=plan.devices_per_node if plan.nodes > 1 else 1,
    )  # fmt: skip
