"""Launches as backends make them, small enough to read."""

import dataclasses

import pytest

from dsdeploy.deploy.launch import (
    Container,
    Devices,
    File,
    Joined,
    Launch,
    Mount,
    Node,
    Peer,
    Port,
    Probe,
    Probes,
    Process,
    Secret,
    Symbol,
)
from dsdeploy.deploy.render import Place, render

HEADER = ("dsdeploy 1.0", "plan: plan.yaml", "made by: dsdeploy render plan.yaml")
PROBES = Probes(
    startup=Probe("/health", 8000, period=10, timeout=5, failures=360),
    readiness=Probe("/v1/models", 8000, period=10, timeout=5, failures=3),
    liveness=Probe("/health", 8000, period=15, timeout=10, failures=20),
)
KEY = Secret("api-key")


def server(**changes):
    process = Process(
        name="server",
        argv=("vllm", "serve", "/models/v3", "--config", "engine.yaml", "--speculative-config",
              '{"method": "mtp", "n": 1}'),
        environment={"VLLM_API_KEY": KEY, "OMP_NUM_THREADS": "8", "NOTE": "costs $5 at 100%"},
        files=(File("engine.yaml", "enable: true\nname: 'it''s'\n", 0o640),),
        ports=(Port("http", 8000), Port("peers", 29501, internal=True)),
        probes=PROBES,
    )  # fmt: skip
    return dataclasses.replace(process, **changes)


def node(*processes, kind="nvidia", count=8):
    mounts = (Mount("/models", "/models"), Mount("huggingface", "/root/.cache", read_only=False))
    return Node(processes, Devices(kind, count), 32 * 2**30, mounts)


def launch(*nodes, **changes):
    image = Container("vllm/vllm-openai:v0.33.0")
    made = Launch("deepseek-ai/DeepSeek-V3", "vllm", "0.33.0", nodes, image)
    return dataclasses.replace(made, **changes)


def one_node():
    return launch(node(server()))


def several_processes():
    router = Process("router", ("router", "--engine", Joined((Symbol.HERE, ":8000"))))
    return launch(node(server(), router), prepare=(("make-table", "a b"), ("check-table", "$HOME")))


def two_nodes():
    words = ("--master-addr", Symbol.HEAD, "--node-rank", Symbol.RANK)
    address = {"VLLM_HOST_IP": Symbol.HERE, "PEER": Joined((Symbol.HEAD, ":5000")), "K": KEY}
    head = server(argv=(*server().argv, *words), environment=address)
    follower = dataclasses.replace(
        head, argv=(*head.argv, "--headless"), probes=None, ports=head.ports[1:]
    )
    return launch(node(head), node(follower))


def amd():
    container = Container("rocm/vllm:latest", capabilities=("SYS_PTRACE",), seccomp_unconfined=True)
    return launch(node(server(), kind="amd"), container=container)


def huawei():
    container = Container("mindie:2.3.0", privileged=True, host_network=True)
    return launch(node(server(), kind="huawei"), container=container)


def of_a_group():
    """It asks another launch, and is asked by others alone."""
    url = Joined(("http://", Peer("v3-prefill-0"), ":8000"))
    asking = server(argv=("router", "--prefill", url), environment={"OWN": Symbol.HERE})
    made = launch(node(asking))
    return dataclasses.replace(made, name="v3-decode-0", group="v3", public=False)


def ranks(nodes=1, kind="nvidia"):
    process = server(argv=("trtllm-llmapi-launch", "trtllm-serve", "/models/v3"), copies=8)
    return launch(*[node(process, kind=kind)] * nodes, launcher="mpi")


LAUNCHES = {
    "one-node": one_node(),
    "without-files": launch(node(server(files=(), environment={}))),
    "several-processes": several_processes(),
    "two-nodes": two_nodes(),
    "of-a-group": of_a_group(),
    "amd": amd(),
    "huawei": huawei(),
    "ranks": ranks(),
    "ranks-on-two-nodes": ranks(2),
}
ADDRESSES = {1: ("10.0.0.1",), 2: ("10.0.0.1", "10.0.0.2")}


def place_for(launch, **changes):
    peers = {"v3-prefill-0": "10.0.0.7"} if launch.group else {}
    return Place(addresses=ADDRESSES[len(launch.nodes)], peers=peers, **changes)


@pytest.fixture(params=LAUNCHES.values(), ids=LAUNCHES)
def example(request):
    return request.param


def rendered(launch, target, place=None, header=HEADER):
    """By path."""
    files = render(launch, target, place or place_for(launch), header)
    return {file.path: file.content for file in files}
