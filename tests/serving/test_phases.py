"""How far a start has come, by lines that the engines print."""

import pytest
from dsdeploy.backends.lmdeploy import phases as lmdeploy
from dsdeploy.backends.sglang import phases as sglang
from dsdeploy.backends.tensorrt_llm import phases as tensorrt_llm
from dsdeploy.backends.vllm import phases as vllm

from dsdeploy.deploy.launch import Phase
from dsdeploy.serving.phases import PhaseTracker

VLLM = """\
(EngineCore pid=13184) INFO 11-26 18:18:15 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config
Loading safetensors checkpoint shards:   0% Completed | 0/163 [00:00<?, ?it/s]
Loading safetensors checkpoint shards:  10% Completed | 16/163 [00:09<01:20,  1.8it/s]
(Worker pid=5) \x1b[32mINFO\x1b[0m 11-26 18:18:26 [backends.py:548] Dynamo bytecode transform time: 5.29 s
(EngineCore pid=4) INFO 11-26 18:18:26 [kv_cache_utils.py:2327] GPU KV cache size: 233,008 tokens
Capturing CUDA graphs (decode, FULL):  50%|#####     | 17/35 [00:02<00:02]
(EngineCore pid=4) INFO 11-26 18:18:29 [core.py:402] init engine (profile, create kv cache, warmup model) took 3.69 s
"""


def told(phases, text):
    """(phase, detail) after each line that tells something."""
    clock = iter(range(1000))
    tracker = PhaseTracker(phases, lambda: next(clock))
    return [
        (tracker.name, tracker.detail) for line in text.splitlines() if tracker.read(line.encode())
    ], tracker


def test_the_phases_of_vllm():
    seen, tracker = told(vllm.PHASES, VLLM)
    assert seen == [
        ("engine", ""),
        ("load", "0 of 163"),
        ("load", "16 of 163"),
        ("compile", ""),
        ("cache", ""),
        ("graphs", "17 of 35"),
        ("server", ""),
    ]
    assert [name for name, _ in tracker.over] == [
        "spawn",
        "engine",
        "load",
        "compile",
        "cache",
        "graphs",
    ]


@pytest.mark.parametrize(
    ("phases", "line", "phase", "detail"),
    [
        (sglang.PHASES, "[2026-11-26 18:22:01 TP0] Load weight begin. avail mem=78.58 GB", "load", ""),
        (sglang.PHASES, "Multi-thread loading shards: 12% Completed | 20/163", "load", "20 of 163"),
        (sglang.PHASES, "Capture cuda graph begin. This can take up to several minutes.", "graphs", ""),
        (sglang.PHASES, "Capturing batches (bs=64 avail_mem=9.1 GB): 30%|## | 7/23", "graphs", "7 of 23"),
        (lmdeploy.PHASES, "Loading weights from safetensors: 3%| | 5/163 [00:09<]", "load", "5 of 163"),
        (tensorrt_llm.PHASES, "Loading weights: 100%|##| 1110/1110 [00:35<00:00]", "load", "1110 of 1110"),
        (tensorrt_llm.PHASES, "[TRT-LLM] [I] Run autotuning warmup for 2 batches", "autotune", ""),
    ],
)  # fmt: skip
def test_a_line_tells_its_phase(phases, line, phase, detail):
    seen, _ = told(phases, line)
    assert seen == [(phase, detail)]


def test_a_phase_that_is_over_does_not_come_again():
    phases = (Phase("one", "first"), Phase("two", "second"))
    seen, _ = told(phases, "first\nsecond\nfirst\nsecond")
    assert [name for name, _ in seen] == ["one", "two", "two"]
