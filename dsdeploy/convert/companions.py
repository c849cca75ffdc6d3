"""What stands beside the converted weights: a config.json that tells the truth, and the source's
tokenizer, generation config, license and modelling code."""

from __future__ import annotations

import json
from typing import Any

from dsdeploy.checkpoint.manifest import MANIFEST_NAME
from dsdeploy.checkpoint.reader import Checkpoint
from dsdeploy.model.config import BLOCK
from dsdeploy.model.demo import demo_model_args

_OTHER_WEIGHTS = (
    ".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5",
    ".msgpack", ".incomplete", ".lock",
)  # fmt: skip
_LARGEST = 256 << 20
"""Bytes; nothing that a tokenizer or a license needs is larger."""


def companions(
    checkpoint: Checkpoint, *, fp8: bool, with_mtp: bool, demo: bool
) -> dict[str, bytes]:
    """File name -> content, read now: a file that cannot be read shows before the work."""
    raw = _output_config(checkpoint, fp8, with_mtp)
    files = _carried_over(checkpoint)
    files["config.json"] = _dump(raw)
    if demo:
        files["demo_config.json"] = _dump(demo_model_args(checkpoint.config, raw, fp8))
    return files


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _output_config(checkpoint: Checkpoint, fp8: bool, with_mtp: bool) -> dict[str, Any]:
    raw = dict(checkpoint.raw_config)
    if not fp8:
        # Engines that find it in a BF16 checkpoint look for scales that are not there.
        raw.pop("quantization_config", None)
    elif raw.get("quantization_config") is None:
        raw["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        }
    if not with_mtp:
        raw["num_nextn_predict_layers"] = 0
    return raw


def _carried_over(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {
        name: checkpoint.store.read(name)
        for name, size in checkpoint.extra_files.items()
        if size <= _LARGEST
        and not name.endswith(_OTHER_WEIGHTS)
        and name != MANIFEST_NAME
        and not name.startswith(".")
    }
