"""How vLLM's log tells how far a start has come, from 0.8.5 to 0.33.0."""

from __future__ import annotations

from dsdeploy.deploy.launch import Phase

_COUNTED = r".*?(?P<done>\d+)/(?P<total>\d+)"
PHASES = (
    Phase("engine", r"Initializing a V[01] LLM engine"),
    Phase("load", r"(?:Loading \S+ checkpoint shards|Multi-thread loading shards)" + _COUNTED),
    Phase(
        "compile", r"Start compiling function|Dynamo bytecode transform time|torch\.compile takes"
    ),
    Phase("cache", r"[CGX]PU KV cache size|# \w+ blocks:"),
    Phase("graphs", r"Capturing (?:CUDA )?(?:graphs?|graph shapes)\b" + _COUNTED),
    Phase("server", r"init engine .* took"),
)
