"""The config.json of a synthetic checkpoint: a preset and what the user sets."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.model.config import parse_config
from dsdeploy.resources import read_known_config
from dsdeploy.synth.tokenizer import BEGIN, END, SPECIAL


def synthetic_config(
    preset: str, settings: Sequence[str], precision: str, scale_format: str | None
) -> dict[str, Any]:
    """`settings` are FIELD=VALUE, the value as JSON or plain text."""
    raw: dict[str, Any] = json.loads(read_known_config(preset))
    raw |= {"bos_token_id": SPECIAL.index(BEGIN), "eos_token_id": SPECIAL.index(END)}
    for setting in settings:
        field, value = _parse_setting(setting, raw)
        raw[field] = value
        if field == "num_attention_heads":
            raw["num_key_value_heads"] = value
    if precision == "bf16":
        raw.pop("quantization_config", None)
    if scale_format is not None:
        if not isinstance(raw.get("quantization_config"), dict):
            raise UsageError("--scale-fmt belongs to FP8 weights.", "Use --precision fp8.")
        raw["quantization_config"]["scale_fmt"] = scale_format
    try:
        parse_config(raw, "the synthetic config.json")
    except IntegrityError as error:
        # The fault lies in what was set, not in a file.
        raise UsageError(error.message, "Correct the --set options.") from None
    return raw


def _parse_setting(setting: str, raw: dict[str, Any]) -> tuple[str, Any]:
    field, separator, text = setting.partition("=")
    if not separator:
        raise UsageError(f"--set {setting} is not FIELD=VALUE.", "--set num_hidden_layers=4")
    if field not in raw:
        near = difflib.get_close_matches(field, raw, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(sorted(raw))}."
        raise UsageError(f"--set {setting}: config.json has no field {field}.", hint)
    try:
        return field, json.loads(text)
    except (ValueError, RecursionError):
        return field, text
