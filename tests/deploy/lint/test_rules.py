"""Each rule, where it speaks and where it is silent."""

import pytest

from dsdeploy.deploy.lint.check import lint
from dsdeploy.hardware.profiles import load_machine

SGLANG = "python3 -m sglang.launch_server --model-path"
DOCKER = "docker run --gpus all"
COMPOSE = "services: {a: {image: 'vllm/vllm-openai:v0.33.0', command: [deepseek-ai/DeepSeek-V3]"
POD = "kind: Pod\nspec: {containers: [{command: [vllm, serve, DeepSeek-V3]"


def rules(text, form="shell", machine=None):
    report = lint(text, "x", form, None, machine and load_machine(machine))
    assert report.calls, text
    return {finding.rule for finding in report.findings}


CASES = {
    "fp8-tensor-parallel": (
        [f"{SGLANG} deepseek-ai/DeepSeek-V3 --tp-size 32", "vllm serve DeepSeek-V3 -tp 32"],
        [
            f"{SGLANG} deepseek-ai/DeepSeek-V3 --tp-size 16",
            f"{SGLANG} someone/DeepSeek-V3-BF16 --tp-size 32",
            f'{SGLANG} deepseek-ai/DeepSeek-V3 --tp-size "$TP"',
            f"{SGLANG} deepseek-ai/DeepSeek-V3 --tp-size 32 --quantization w8a8_int8",
        ],
    ),
    "fp8-quantization-flag": (
        ["vllm serve /models/DeepSeek-V3 --quantization=fp8"],
        ["vllm serve /models/DeepSeek-V3-bf16 --quantization=fp8", "vllm serve DeepSeek-V3"],
    ),
    "open-without-key": (
        [
            "vllm serve m",
            f"{SGLANG} m --host 0.0.0.0",
            f"{SGLANG} m --host ::",
            f"{DOCKER} -p 8000:8000 vllm/vllm-openai --model m",
            f"{DOCKER} --network=host vllm/vllm-openai --model m",
        ],
        [
            "vllm serve m --host 127.0.0.1",
            "vllm serve m --host localhost",
            "VLLM_API_KEY=$KEY vllm serve m",
            "vllm serve m --headless",
            'vllm serve m --host "$HOST"',
            f"{SGLANG} m",
            f"{SGLANG} m --host 0.0.0.0 --api-key $KEY",
            f"{DOCKER} -p 127.0.0.1:8000:8000 vllm/vllm-openai --model m",
            f"{DOCKER} -e VLLM_API_KEY -p8000:8000 vllm/vllm-openai --model m",
            f"{DOCKER} vllm/vllm-openai --model m",
        ],
    ),
    "secret-in-argv": (
        ["vllm serve m --api-key sk-19fa77", "export HF_TOKEN=hf_Kq81\nvllm serve m"],
        [
            'vllm serve m --api-key "$KEY"',
            "HF_TOKEN=$(cat token) vllm serve m",
            "HF_TOKEN=hf_xxxx vllm serve m",
            "HF_TOKEN='<your token>' vllm serve m",
            "export HF_TOKEN\nvllm serve m",
        ],
    ),
    "trust-remote-code": (
        ["vllm serve deepseek-ai/DeepSeek-V3 --trust-remote-code"],
        [
            "vllm serve moonshotai/Kimi-K2-Instruct --trust-remote-code",
            "vllm serve deepseek-ai/DeepSeek-V3",
            "vllm serve $MODEL --trust-remote-code",
        ],
    ),
    "swallowed-positional": (
        ["vllm serve --served-model-name v3 deepseek-ai/DeepSeek-V3 --port 1"],
        [
            "vllm serve deepseek-ai/DeepSeek-V3 --served-model-name v3 org/v3",
            "vllm serve --served-model-name v3 org/v3 --model deepseek-ai/DeepSeek-V3",
            "vllm serve --port 1 deepseek-ai/DeepSeek-V3",
        ],
    ),
    "engine-backend": (
        [
            "lmdeploy serve api_server deepseek-ai/DeepSeek-V3",
            "lmdeploy serve api_server deepseek-ai/DeepSeek-V3 --backend turbomind",
        ],
        [
            "lmdeploy serve api_server deepseek-ai/DeepSeek-V3 --backend pytorch",
            "lmdeploy serve api_server internlm/internlm3-8b",
            "lmdeploy serve proxy",
        ],
    ),
    "missing-shm": (
        [f"{DOCKER} vllm/vllm-openai:v0.33.0 --model m -tp 8"],
        [
            f"{DOCKER} --shm-size 32g vllm/vllm-openai:v0.33.0 --model m -tp 8",
            f"{DOCKER} --ipc=host vllm/vllm-openai:v0.33.0 --model m -tp 8",
            f"{DOCKER} vllm/vllm-openai:v0.33.0 --model m",
            "vllm serve m -tp 8",
        ],
    ),
    "impatient-probe": (
        [f"{DOCKER} --health-cmd 'curl x' vllm/vllm-openai --model DeepSeek-V3"],
        [
            f"{DOCKER} --health-cmd x --health-start-period 1h vllm/vllm-openai --model DeepSeek-V3",
            f"{DOCKER} --health-cmd 'curl x' vllm/vllm-openai --model Qwen/Qwen3-0.6B",
        ],
    ),
    "mpi-launcher-missing": (
        ["trtllm-serve m --tp_size 16", "srun trtllm-serve serve m --tp_size 8 --pp_size 2"],
        ["srun trtllm-llmapi-launch trtllm-serve m --tp_size 16", "trtllm-serve m --tp_size 8"],
    ),
}


@pytest.mark.parametrize(("rule", "text"), [(r, t) for r, (bad, _) in CASES.items() for t in bad])
def test_a_rule_speaks(rule, text):
    assert rule in rules(text)


@pytest.mark.parametrize(("rule", "text"), [(r, t) for r, (_, ok) in CASES.items() for t in ok])
def test_a_rule_is_silent(rule, text):
    assert rule not in rules(text)


def test_a_key_that_stands_in_a_file_is_not_repeated():
    report = lint("vllm serve m --api-key sk-19fa77", "x", "shell")
    assert "sk-19fa77" not in str([(one.message, one.fix) for one in report.findings])


@pytest.mark.parametrize(("share", "found"), [("0.5", True), ("0.9", False), ("$SHARE", False)])
def test_memory_that_is_less_than_the_weights(share, found):
    text = f"vllm serve DeepSeek-V3 -tp 8 --gpu-memory-utilization {share}"
    assert ("memory-fraction-below-weights" in rules(text, machine="8xh200")) == found
    assert "memory-fraction-below-weights" not in rules(text)


@pytest.mark.parametrize(
    ("more", "rule", "found"),
    [
        ("", "open-without-key", False),
        (", ports: ['8000:8000']", "open-without-key", True),
        (", ports: [{target: 8000, published: 8000}]", "open-without-key", True),
        (", ports: ['127.0.0.1:8000:8000']", "open-without-key", False),
        (", network_mode: host", "open-without-key", True),
        (", network_mode: host, environment: [VLLM_API_KEY]", "open-without-key", False),
        (", healthcheck: {test: x, start_period: 1h}", "impatient-probe", False),
        (", healthcheck: {test: x, start_period: 5m, interval: 10s}", "impatient-probe", True),
        (", environment: {VLLM_NO_SUCH: 1}", "dead-variable", True),
    ],
)
def test_compose(more, rule, found):
    assert (rule in rules(COMPOSE + more + "}}", "compose")) == found


@pytest.mark.parametrize(
    ("more", "rule", "found"),
    [
        ("", "open-without-key", True),
        (", env: [{name: VLLM_API_KEY, valueFrom: {}}]", "open-without-key", False),
        (", livenessProbe: {initialDelaySeconds: 60}", "impatient-probe", True),
        (", livenessProbe: {initialDelaySeconds: 900}", "impatient-probe", False),
        (", livenessProbe: {}, startupProbe: {failureThreshold: 90}", "impatient-probe", False),
        (", startupProbe: {failureThreshold: 9}", "impatient-probe", True),
        (", args: [-tp, '8']", "missing-shm", True),
        (", args: [-tp, '8'], volumeMounts: [{mountPath: /dev/shm}]", "missing-shm", False),
    ],
)
def test_kubernetes(more, rule, found):
    assert (rule in rules(POD + more + "}]}", "kubernetes")) == found
