"""How TensorRT-LLM's log tells how far a start has come."""

from __future__ import annotations

from dsdeploy.deploy.launch import Phase

PHASES = (
    Phase("load", r"Loading weights.*?(?P<done>\d+)/(?P<total>\d+)|Loading .*\.safetensors"),
    Phase("autotune", r"Run autotuning warmup|\[Autotuner\]"),
    Phase("cache", r"Max KV cache (?:pages|blocks)|KV cache quota"),
    Phase("graphs", r"Creating CUDA graph instances|Run generation-only CUDA graph warmup"),
    Phase("server", r"Application startup complete"),
)
