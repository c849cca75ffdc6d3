"""Prompts by one real vLLM, what follows by another, behind its router: from what `render` writes.

Both servers are on this machine, and would answer at the same ports: the scripts are given others.
"""

import os
import re
import subprocess
from contextlib import ExitStack

import httpx
import pytest

from dsdeploy.deploy.backend import load_backend
from dsdeploy.deploy.disaggregation import Counts, disaggregated
from dsdeploy.deploy.launch import Peer
from dsdeploy.deploy.targets.words import known, spell
from dsdeploy.deploy.wanted import Wanted

from ..deploy.launches import planned
from ..ports import free_port
from .answers import CONTINUATION
from .conftest import TWO_DEVICES
from .nodes import started, wait
from .servers import NAME, Server, surroundings, vllm

ONE_NODE = TWO_DEVICES.replace("accelerators_per_node: 2", "accelerators_per_node: 1")
ONE_NODE = ONE_NODE.replace("two-devices", "one-node")
METRIC = re.compile(r"^vllm:external_prefix_cache_hits_total\{.*\} ([\d.e+]+)$", re.MULTILINE)


@pytest.fixture
def group(commands, checkpoint, vllm_python, tmp_path):
    """(the router, the address of the server that decodes)"""
    (tmp_path / "one.yaml").write_text(ONE_NODE)
    options, at = vllm(vllm_python), vllm(vllm_python).index("--engine-python")
    port, parts = free_port(), ("prefill-0", "decode-0", "router")
    addresses = [word for part in parts for word in ("--address", f"{part}=127.0.0.1")]
    commands.run(
        "render", checkpoint, *options[:at], *options[at + 2 :], "--profile", tmp_path / "one.yaml",
        "--target", "shell", "--disaggregated", "1:1", *addresses, "--port", port,
        "--context", "2K", "--concurrency", 2, "--name", NAME, "--engine-version", "0.32.0",
        "--extra-env=UCX_TLS=tcp,self,sm", "--extra-env=VLLM_CPU_OMP_THREADS_BIND=nobind",
        "--out", tmp_path / "made",
    )  # fmt: skip
    scripts = {part: tmp_path / "made" / part / "start.sh" for part in parts}
    decode, front = free_port(), free_port()
    _change(scripts["decode-0"], f"--port {port}", f"--port {decode}")
    _change(scripts["decode-0"], "SIDE_CHANNEL_PORT=5600", "SIDE_CHANNEL_PORT=5700")
    _change(scripts["router"], f'decode_0":{port}', f'decode_0":{decode}')
    _change(scripts["router"], f"--port {port}", f"--port {front}")
    path = f"{os.path.dirname(vllm_python)}:{os.environ['PATH']}"
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(started(script, tmp_path / f"{part}.log", {"PATH": path}))
            for part, script in scripts.items()
        ]
        url = f"http://127.0.0.1:{front}"
        logs = [tmp_path / f"{part}.log" for part in parts]
        wait(url, nodes, logs)
        yield Server(url, tmp_path, "", ()), f"http://127.0.0.1:{decode}"


def _change(script, old, new):
    text = script.read_text()
    assert old in text, old
    script.write_text(text.replace(old, new))


def test_what_one_server_reads_another_goes_on_with(group, prompts, runner_answers):
    server, decoding = group
    found = server.post(
        "/v1/completions", model=NAME, prompt=prompts[-1], temperature=0, ignore_eos=True,
        max_tokens=CONTINUATION,
    )  # fmt: skip
    assert found["choices"][0]["text"] == runner_answers[-1].text
    # All whole pages of the prompt have come from the other server.
    fetched = METRIC.search(httpx.get(f"{decoding}/metrics").text)
    assert float(fetched[1]) >= len(prompts[-1]) - 128


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_the_routers_parser_takes_the_routers_line(request, backend):
    python = request.getfixturevalue(f"{backend}_python")
    wanted = Wanted("DeepSeek-V3", "deepseek-ai/DeepSeek-V3")
    made = disaggregated(
        load_backend(backend), planned(backend, "8xh200"), wanted, None, Counts(2, 3)
    )
    argv = made[-1].launch.head.processes[0].argv
    words = [spell(w, str, known({}, lambda peer: address(peer))) for w in argv]
    module = "vllm_router" if backend == "vllm" else "sglang_router"
    flags = words[words.index(next(word for word in words if word.endswith("pd-disaggregation"))) :]
    code = (
        "import json, sys\n"
        f"from {module}.launch_router import parse_router_args\n"
        "found = parse_router_args(sys.argv[1:])\n"
        "print(json.dumps([found.prefill_urls, found.decode_urls, found.host, found.port]))\n"
    )
    command = [python, "-c", code, *flags]
    answer = subprocess.run(command, capture_output=True, text=True, env=surroundings())
    assert answer.returncode == 0, answer.stderr
    bootstrap = "null" if backend == "vllm" else "8998"
    prefill = [f'["http://deepseek-v3-prefill-{n}:8000", {bootstrap}]' for n in range(2)]
    decode = [f'"http://deepseek-v3-decode-{n}:8000"' for n in range(3)]
    said = f'[[{", ".join(prefill)}], [{", ".join(decode)}], "127.0.0.1", 8000]'
    assert answer.stdout.splitlines()[-1] == said


def address(peer):
    assert isinstance(peer, Peer)
    return peer.launch
