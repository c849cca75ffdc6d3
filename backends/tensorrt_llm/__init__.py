"""TensorRT-LLM, by trtllm-serve."""

from __future__ import annotations

from dsdeploy.deploy.backend import packaged_rules
from dsdeploy.planning.rules import Rules


class TensorRTLLM:
    name = "tensorrt-llm"

    def rules(self) -> Rules:
        return packaged_rules(__package__)
