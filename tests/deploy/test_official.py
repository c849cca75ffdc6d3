"""What engines' own documents say to run on a machine, beside what is rendered for it.

Every flag of theirs is ours as well, or stands here with the reason. Sources: vllm-project/recipes,
vllm-ascend's tutorial on DeepSeek-V3.1,
SGLang's document on DeepSeek V3, TensorRT-LLM's guide, LMDeploy's issue 2960 and api_server document.
"""

from dataclasses import dataclass, field

import pytest

from dsdeploy.planning.planner import Sizes

from .launches import launched, shown

FREE = Sizes()
REMOTE_CODE = "the engine knows the architecture: the repository's code is not run"


@dataclass(frozen=True)
class Official:
    backend: str
    machine: str
    command: str
    sizes: Sizes = FREE
    precision: str | None = None
    node: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Flags that are not ours, with the reason."""
    changed: dict[str, str] = field(default_factory=dict)
    """Flags with another value, with the reason."""


COMMANDS = [
    Official(
        "vllm", "8xh200",
        "--trust-remote-code --enable-expert-parallel --tensor-parallel-size 8",
        Sizes(tensor=8, expert=8), left_out={"--trust-remote-code": REMOTE_CODE},
    ),
    Official(
        "vllm", "8xh200",
        "--trust-remote-code --enable-expert-parallel --data-parallel-size 8",
        Sizes(data=8, expert=8), left_out={"--trust-remote-code": REMOTE_CODE},
    ),
    Official(
        "vllm", "2x8xh100",
        "--tensor-parallel-size 16 --nnodes 2 --node-rank <RANK> --master-addr <HEAD>",
        Sizes(tensor=16, expert=1),
    ),
    Official(
        "vllm", "2x8xh100",
        "--tensor-parallel-size 16 --nnodes 2 --node-rank <RANK> --master-addr <HEAD> --headless",
        Sizes(tensor=16, expert=1), node=1,
    ),
    Official(
        "vllm", "2x8xh100",
        "--tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --master-addr <HEAD>",
        Sizes(tensor=8, pipeline=2, expert=1),
    ),
    Official(
        "vllm", "2x8xh100",
        "--enable-expert-parallel --data-parallel-hybrid-lb --data-parallel-size 16 "
        "--data-parallel-size-local 8 --data-parallel-address <HEAD>",
        Sizes(data=16, expert=16),
        left_out={"--data-parallel-hybrid-lb": "one address answers clients, not one a node"},
    ),
    Official(
        "vllm", "2x8xh100", "--data-parallel-start-rank 8", Sizes(data=16, expert=16), node=1,
        changed={"--data-parallel-start-rank": "8 times the node's number, which is 8 on node 1"},
    ),
    Official("vllm", "4xb200", "--tensor-parallel-size 4", precision="nvfp4"),
    Official(
        "sglang", "8xh200", "--tp-size 8 --trust-remote-code",
        left_out={"--trust-remote-code": REMOTE_CODE},
    ),
    Official(
        "sglang", "2x8xh100",
        "--tp-size 16 --dist-init-addr <HEAD>:5000 --nnodes 2 --node-rank <RANK>",
        Sizes(tensor=16, expert=1),
    ),
    Official(
        "sglang", "4x8xa100", "--tp-size 32 --nnodes 4", Sizes(tensor=32, expert=1), "bf16"
    ),
    Official(
        "sglang", "4x8xl40s", "--tp-size 32 --quantization w8a8_int8",
        Sizes(tensor=32, pipeline=1, expert=1), "int8",
    ),
    Official(
        "rocm", "8xmi300x",
        "--attention-backend aiter --kv-cache-dtype fp8_e4m3 --mem-fraction-static 0.8 "
        "--chunked-prefill-size 131072 --disable-radix-cache",
        left_out={
            "--kv-cache-dtype": "the cache is BF16 unless --cache-format fp8 asks otherwise",
            "--chunked-prefill-size": "a setting for throughput, which the plan does not reckon with",
            "--disable-radix-cache": "a benchmark's setting: prefixes are kept unless told otherwise",
        },
        changed={"--mem-fraction-static": "reckoned for this machine and these requests"},
    ),
    Official(
        "rocm-vllm", "8xmi300x",
        "--trust-remote-code --tensor-parallel-size 8 --enable-expert-parallel",
        Sizes(tensor=8, expert=8), left_out={"--trust-remote-code": REMOTE_CODE},
    ),
    Official(
        "vllm-ascend", "2xatlas-800i-a2",
        "--headless --data-parallel-size 4 --data-parallel-size-local 2 "
        "--data-parallel-start-rank 2 --data-parallel-address <HEAD> "
        "--data-parallel-rpc-port 13389 --tensor-parallel-size 4 --quantization ascend "
        "--seed 1024 --enable-expert-parallel --max-num-seqs 16 --max-model-len 16384 "
        "--max-num-batched-tokens 4096 --trust-remote-code --no-enable-prefix-caching "
        "--gpu-memory-utilization 0.92 --speculative-config {} --compilation-config {}",
        Sizes(tensor=4, data=4, expert=16), "int8", node=1,
        left_out={
            "--trust-remote-code": REMOTE_CODE,
            "--seed": "a benchmark's setting",
            "--max-num-batched-tokens": "the plan reckons with vLLM's own 2048",
            "--no-enable-prefix-caching": "prefixes are kept unless told otherwise",
            "--speculative-config": "MTP is used where it is asked for",
        },
        changed={
            "--data-parallel-start-rank": "2 times the node's number, which is 2 on node 1",
            "--data-parallel-rpc-port": "vLLM's own port",
            "--max-num-seqs": "as many requests as are planned",
            "--max-model-len": "the context that is planned",
            "--gpu-memory-utilization": "reckoned for this machine and these requests",
            "--compilation-config": "the same, as JSON",
        },
    ),
    Official("lmdeploy", "8xh200", "--backend pytorch --tp 8", Sizes(tensor=8)),
    Official("lmdeploy", "2x8xh100", "--backend pytorch --tp 16", Sizes(tensor=16)),
    Official(
        "tensorrt-llm", "8xh200", "--tp_size 8 --ep_size 8 --extra_llm_api_options FILE",
        Sizes(tensor=8, expert=8),
        changed={"--extra_llm_api_options": "the file has our name"},
    ),
]  # fmt: skip


def pairs(words):
    """{flag: its value, "" for a switch}"""
    found = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if after.startswith("--") else after
    return found


@pytest.mark.parametrize("official", COMMANDS, ids=lambda o: f"{o.backend}-{o.machine}-{o.node}")
def test_the_official_flags_are_rendered_or_left_out_for_a_reason(official):
    launch = launched(
        official.backend, official.machine, sizes=official.sizes, precision=official.precision
    )
    ours = pairs([shown(word) for word in launch.nodes[official.node].processes[0].argv])
    theirs = pairs(official.command.split())
    missing = {flag for flag in theirs if flag not in ours}
    assert missing == set(official.left_out)
    differs = {f for f in theirs if f in ours and ours[f] != theirs[f]}
    assert differs == set(official.changed)
