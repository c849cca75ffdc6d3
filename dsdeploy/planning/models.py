"""The model of a plan: a folder, a repository on the Hub, or a name that we know offline."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dsdeploy.errors import UsageError
from dsdeploy.model.config import ModelConfig, load_config
from dsdeploy.resources import read_known_config

KNOWN = {
    "deepseek-ai/DeepSeek-V3": "v3",
    "deepseek-ai/DeepSeek-V3-Base": "v3",
    "deepseek-ai/DeepSeek-V3-0324": "v3",
    "deepseek-ai/DeepSeek-R1": "v3",
    "deepseek-ai/DeepSeek-R1-Zero": "v3",
    "deepseek-ai/DeepSeek-R1-0528": "v3",
    "deepseek-ai/DeepSeek-V3.1": "v3.1",
    "deepseek-ai/DeepSeek-V3.1-Base": "v3.1",
    "deepseek-ai/DeepSeek-V3.1-Terminus": "v3.1",
    "deepseek-ai/DeepSeek-V3.2-Exp": "v3.2",
    "deepseek-ai/DeepSeek-V3.2": "v3.2",
    "moonshotai/Kimi-K2-Base": "kimi-k2",
    "moonshotai/Kimi-K2-Instruct": "kimi-k2",
    "moonshotai/Kimi-K2-Instruct-0905": "kimi-k2",
}
"""Repositories whose config.json ships with us."""


@dataclass(frozen=True)
class PlannedModel:
    name: str
    config: ModelConfig

    @property
    def stored(self) -> str:
        """The weight format of its checkpoint."""
        return "bf16" if self.config.quantization is None else "fp8"


def find_model(text: str) -> PlannedModel:
    """Without the network, unless the model is neither a folder nor known."""
    folder = Path(text).expanduser()
    if folder.exists():
        return PlannedModel(text, _config_of(folder))
    name = text.removeprefix("hf://").strip("/")
    for known, config in KNOWN.items():
        if name.lower() in (known.lower(), known.rpartition("/")[2].lower()):
            return PlannedModel(known, load_config(read_known_config(config), known))
    if text.startswith("hf://") or name.count("/") == 1:
        return PlannedModel(name, _fetched(name))
    near = get_close_matches(name, [known.rpartition("/")[2] for known in KNOWN], 2, 0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(KNOWN)}."
    raise UsageError(f"{text} is neither a folder nor a known model.", hint)


def _config_of(folder: Path) -> ModelConfig:
    file = folder / "config.json" if folder.is_dir() else folder
    if not file.is_file():
        raise UsageError(f"{folder} has no config.json.", "Name the folder of a checkpoint.")
    return load_config(file.read_text(encoding="utf-8"), str(file))


def _fetched(text: str) -> ModelConfig:
    from dsdeploy.hub.metadata import DEFAULT_ENDPOINT, Hub
    from dsdeploy.hub.repository import parse_repository
    from dsdeploy.hub.retries import Retries
    from dsdeploy.hub.source import HubSource
    from dsdeploy.hub.store import HubStore

    retries = Retries(attempts=4)
    hub = Hub(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, retries)
    source = HubSource(hub, parse_repository(text), retries)
    identity = source.identify()
    store = HubStore(source.listing(identity), source.origin(identity, workers=1), retries)
    return load_config(store.config(), f"{store.where}/config.json")
