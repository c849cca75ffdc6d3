"""From a folder and settings to an engine that is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dsdeploy import __version__
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.summary import Summary, summarise
from dsdeploy.errors import UsageError
from dsdeploy.runner.chat import ChatTemplate
from dsdeploy.runner.device import device_named
from dsdeploy.runner.engine import Engine, EngineOptions
from dsdeploy.runner.executor import Executor
from dsdeploy.runner.graphs import Recording
from dsdeploy.runner.load import Advance, LoadOptions, load_model
from dsdeploy.runner.model import Model
from dsdeploy.runner.pages import PAGE_TOKENS
from dsdeploy.runner.parallel import join, leave
from dsdeploy.runner.server.intake import Intake
from dsdeploy.runner.text import Tokenizer


@dataclass(frozen=True)
class Settings:
    """What a user chooses; `None` is left to us."""

    dtype: str = "auto"
    device: str = "cpu"
    kernels: str | None = None
    context: int = 8192
    cache_memory: int = 1 << 30
    expert_memory: int | None = None
    max_sequences: int = 64
    step_tokens: int = 512
    drafts: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Runner:
    engine: Engine
    tokenizer: Tokenizer
    model: Model
    context: int
    """Tokens of the longest sequence."""
    facts: dict[str, Any]
    """For people: what runs here, and how."""

    def intake(self, name: str) -> Intake:
        return Intake(
            name=name,
            tokenizer=self.tokenizer,
            template=ChatTemplate(self.tokenizer),
            vocabulary=self.model.config.vocab_size,
            context=self.context,
        )


def start(folder: Path, settings: Settings, progress: Callable[[int], Advance]) -> Runner | None:
    """None on a rank that has followed rank 0 to its end. `progress` is given the bytes to load."""
    checkpoint = open_checkpoint(folder)
    tokenizer = Tokenizer(folder)
    context = min(settings.context, checkpoint.config.max_position_embeddings)
    options = load_options(settings)
    summary = summarise(checkpoint)
    group = join(options.device)
    model = load_model(checkpoint, options, group, progress(summary.tensor_bytes))
    if settings.drafts and model.mtp is None:
        raise UsageError("This checkpoint has no MTP layer to draft with.", "Leave --mtp away.")
    pages = _pages(model, context, settings.cache_memory)
    executor = Executor(model, pages, recording=_recording(model, context, settings))
    if group.rank > 0:
        executor.follow()
        leave()
        return None
    engine_options = EngineOptions(settings.max_sequences, settings.step_tokens, settings.drafts)
    facts = _facts(summary, model, settings, context)
    return Runner(Engine(executor, tokenizer, engine_options), tokenizer, model, context, facts)


def load_options(settings: Settings) -> LoadOptions:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return LoadOptions(
        dtype=settings.dtype,
        device=device_named(settings.device),
        kernels=settings.kernels,
        mtp=settings.drafts > 0,
        expert_memory=settings.expert_memory,
    )


def _pages(model: Model, context: int, nbytes: int) -> int:
    """As many as the memory holds, and at least one sequence's."""
    one = model.new_cache(1).rows.nbytes
    return max(nbytes // one, -(-context // PAGE_TOKENS))


def _recording(model: Model, context: int, settings: Settings) -> Recording | None:
    """One card alone: what ranks say to each other is not recorded."""
    if not model.ops.recordable or model.group.size > 1:
        return None
    rows = settings.max_sequences * (1 + settings.drafts)
    return Recording(rows, -(-context // PAGE_TOKENS))


def _facts(summary: Summary, model: Model, settings: Settings, context: int) -> dict[str, Any]:
    stored = "fp8" if summary.scale_format else "bfloat16"
    return {
        "model": summary.variant,
        "parameters": summary.parameters,
        "layers": summary.dense_layers + summary.moe_layers,
        "experts": summary.routed_experts,
        "experts_per_token": summary.experts_per_token,
        "dtype": stored if settings.dtype == "auto" else settings.dtype,
        "device": settings.device,
        "kernels": model.ops.name,
        "context": context,
        "mtp": settings.drafts > 0,
        "ranks": model.group.size,
        "version": __version__,
    }
