"""What the targets with containers say besides the words: devices, ports, secrets, probes."""

import dataclasses
import shlex

import pytest
import yaml

from dsdeploy.deploy.launch import Container, File, Mount
from dsdeploy.deploy.render import Place
from dsdeploy.errors import UsageError

from .conftest import LAUNCHES, launch, node, ranks, rendered, server


def docker_words(made, name="docker.sh"):
    script = rendered(made, "docker")[name]
    line = script[script.index("exec docker run") :].partition("\n}")[0]
    return shlex.split(line.replace("\\\n", " "))


def has(words, *pair):
    return any(tuple(words[n : n + len(pair)]) == pair for n in range(len(words)))


def manifests(made, **place):
    (content,) = rendered(made, "kubernetes", Place(**place)).values()
    return {m["kind"]: m for m in yaml.safe_load_all(content)}


def pod_of(made):
    return manifests(made)["Deployment"]["spec"]["template"]["spec"]


def service_of(made):
    return yaml.safe_load(rendered(made, "compose")["compose.yaml"])["services"]["server"]


def test_devices_of_docker():
    assert has(docker_words(LAUNCHES["one-node"]), "--gpus", "8")
    amd = docker_words(LAUNCHES["amd"])
    assert {"--device=/dev/kfd", "--device=/dev/dri", "--group-add=video"} <= set(amd)
    assert has(amd, "--security-opt", "seccomp=unconfined")
    huawei = docker_words(LAUNCHES["huawei"])
    assert {"--device=/dev/davinci7", "--device=/dev/davinci_manager", "--privileged"} <= set(
        huawei
    )


def test_ports_are_published_on_this_machine_only_and_only_those_of_clients():
    words = docker_words(LAUNCHES["one-node"])
    assert [words[n + 1] for n, word in enumerate(words) if word == "-p"] == ["127.0.0.1:8000:8000"]
    assert service_of(LAUNCHES["one-node"])["ports"] == [
        {"target": 8000, "published": "8000", "host_ip": "127.0.0.1", "protocol": "tcp"}
    ]
    assert has(docker_words(LAUNCHES["two-nodes"], "docker-node-1.sh"), "--network", "host")


def test_privileges():
    assert has(docker_words(LAUNCHES["one-node"]), "--security-opt", "no-new-privileges")
    assert not has(docker_words(LAUNCHES["amd"]), "--security-opt", "no-new-privileges")
    assert service_of(LAUNCHES["one-node"])["security_opt"] == ["no-new-privileges:true"]
    security = pod_of(LAUNCHES["one-node"])["containers"][0]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert pod_of(LAUNCHES["huawei"])["containers"][0]["securityContext"]["privileged"] is True
    for name, made in LAUNCHES.items():
        if "ranks-on" not in name:
            for target in ("docker", "compose", "kubernetes"):
                assert "docker.sock" not in "".join(rendered(made, target).values())


def test_resources_and_shared_memory_of_pods():
    names = {"one-node": "nvidia.com/gpu", "amd": "amd.com/gpu", "huawei": "huawei.com/Ascend910"}
    for name, resource in names.items():
        pod = pod_of(LAUNCHES[name])
        assert pod["containers"][0]["resources"] == {"limits": {resource: 8}}
        assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(32 * 2**30)}


@pytest.mark.parametrize("name", ["one-node", "two-nodes"])
def test_probes_are_those_of_the_launch(name):
    found = manifests(LAUNCHES[name])
    spec = next(found[kind]["spec"] for kind in ("Deployment", "LeaderWorkerSet") if kind in found)
    template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    container = template["spec"]["containers"][0]
    startup, wanted = container["startupProbe"], server().probes.startup
    assert startup["periodSeconds"] * startup["failureThreshold"] >= wanted.seconds
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models", "port": 8000}
    if name == "one-node":
        health = service_of(LAUNCHES[name])["healthcheck"]
        assert health["start_period"] == f"{wanted.seconds}s"


def test_a_group_of_pods():
    found = manifests(LAUNCHES["two-nodes"])
    group = found["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    leader, worker = (
        group[kind]["spec"]["containers"][0] for kind in ("leaderTemplate", "workerTemplate")
    )
    assert leader["command"][-2:] == ["--node-rank", "$(LWS_WORKER_INDEX)"]
    assert worker["command"][-1] == "--headless"
    assert {"name": "PEER", "value": "$(LWS_LEADER_ADDRESS):5000"} in worker["env"]
    assert "startupProbe" not in worker
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_only_the_clients_port_is_open():
    found = manifests(LAUNCHES["two-nodes"])
    among, clients = found["NetworkPolicy"]["spec"]["ingress"]
    labels = found["NetworkPolicy"]["spec"]["podSelector"]
    assert among == {"from": [{"podSelector": labels}]}
    assert clients == {"ports": [{"protocol": "TCP", "port": 8000}]}
    assert [port["port"] for port in found["Service"]["spec"]["ports"]] == [8000]


def test_secrets_are_references():
    (content,) = rendered(LAUNCHES["one-node"], "kubernetes", Place(secret_name="keys")).values()
    assert "# Before: kubectl create secret generic keys --from-file=api-key=FILE" in content
    assert "Secret" not in manifests(LAUNCHES["one-node"])
    environment = pod_of(LAUNCHES["one-node"])["containers"][0]["env"]
    reference = {"name": "deepseek-ai-deepseek-v3-secrets", "key": "api-key"}
    assert {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": reference}} in environment
    assert service_of(LAUNCHES["one-node"])["environment"]["VLLM_API_KEY"].startswith("${API_KEY:?")
    assert has(docker_words(LAUNCHES["one-node"]), "-e", "VLLM_API_KEY")


def test_ranks_in_one_container_are_started_by_mpirun():
    assert pod_of(ranks())["containers"][0]["command"][:4] == [
        "mpirun",
        "--allow-run-as-root",
        "-np",
        "8",
    ]


def test_a_mount_may_hold_commas_and_quotes():
    mounts = (Mount('/a,"b', "/c d"),)
    words = docker_words(launch(dataclasses.replace(node(server()), mounts=mounts)))
    assert '--mount=type=bind,"source=/a,""b",target=/c d,readonly' in words


@pytest.mark.parametrize(
    ("target", "made", "sentence"),
    [
        ("kubernetes", launch(node(server(files=(File("a:b", "x"),)))), "no colon"),
        ("kubernetes", launch(node(server(files=(File("a", "x" * 2**21),)))), "over 1 MiB"),
        ("kubernetes", launch(node(server()), container=Container("a", ("/dev/x",))), "/dev/x"),
        ("compose", launch(node(server(files=(File("a", ""),)))), "no empty file"),
        ("kubernetes", ranks(2), "Ranks of MPI on 2 nodes"),
        ("docker", ranks(2), "Ranks of MPI on 2 nodes"),
        ("kubernetes", launch(*(node(server(), count=n) for n in (8, 8, 4))), "to be alike"),
    ],
)
def test_what_cannot_be_said(target, made, sentence):
    with pytest.raises(UsageError, match=sentence):
        rendered(made, target, Place())
