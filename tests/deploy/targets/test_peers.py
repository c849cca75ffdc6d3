"""The address of another launch, which one launch alone does not know, in every target."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dsdeploy.deploy.launch import Devices, Joined, Node, Peer, Symbol
from dsdeploy.deploy.render import Place
from dsdeploy.errors import UsageError
from dsdeploy.strict_yaml import load_yaml

from .conftest import launch, rendered, server

DUMP = str(Path(__file__).with_name("dump.py"))
URL = Joined(("http://", Peer("v3-prefill-0"), ":8000"))


def member(out="/out", **changes):
    process = server(
        argv=(sys.executable, DUMP, out, "--prefill", URL),
        environment={"PEER": Peer("v3-decode-0"), "OWN": Symbol.HERE},
        files=(),
        probes=None,
    )
    made = launch(Node((process,), Devices("none", 0), 2**20))
    return dataclasses.replace(made, name="v3-router", group="v3", **changes)


def run(script, **addresses):
    environment = {"PATH": os.environ["PATH"]} | addresses
    return subprocess.run(["bash", script], env=environment, capture_output=True, text=True)


ASKED = {
    "DSDEPLOY_HERE": "10.0.0.9",
    "DSDEPLOY_V3_PREFILL_0": "10.0.0.1",
    "DSDEPLOY_V3_DECODE_0": "10.0.0.2",
}
TOLD = Place(addresses=("10.0.0.9",), peers={"v3-prefill-0": "10.0.0.1", "v3-decode-0": "10.0.0.2"})


@pytest.mark.parametrize(("place", "given"), [(Place(), ASKED), (TOLD, {})], ids=["asked", "told"])
def test_a_script_is_given_addresses_when_it_is_made_or_when_it_starts(tmp_path, place, given):
    out = tmp_path / "out"
    [content] = rendered(member(str(out)), "shell", place).values()
    script = tmp_path / "start.sh"
    script.write_text(content)
    assert run(script, **given).returncode == 0
    found = json.loads(out.read_text())
    assert found["argv"] == ["--prefill", "http://10.0.0.1:8000"]
    assert (found["environment"]["PEER"], found["environment"]["OWN"]) == ("10.0.0.2", "10.0.0.9")


@pytest.mark.parametrize("missing", ASKED)
def test_a_script_says_which_address_it_lacks(tmp_path, missing):
    [content] = rendered(member(str(tmp_path / "out")), "shell", Place()).values()
    (tmp_path / "start.sh").write_text(content)
    answer = run(tmp_path / "start.sh", **{k: v for k, v in ASKED.items() if k != missing})
    assert answer.returncode != 0
    assert f"Set {missing} to the address of " in answer.stderr
    assert not (tmp_path / "out").exists()


def test_compose_asks_for_what_it_is_not_told():
    for place, prefill in ((Place(), "${DSDEPLOY_V3_PREFILL_0:?"), (TOLD, "10.0.0.1")):
        [content] = rendered(member(), "compose", place).values()
        service = load_yaml(content, "compose.yaml")["services"]["server"]
        assert service["entrypoint"][-1].startswith(f"http://{prefill}")
        assert service["network_mode"] == "host"


def test_docker_shares_the_hosts_network():
    [content] = rendered(member(), "docker", TOLD).values()
    assert "--network host" in content
    assert "dsdeploy_v3_prefill_0=10.0.0.1\n" in content


def test_kubernetes_names_the_other_service_and_lets_the_group_alone_in():
    [content] = rendered(member(public=False), "kubernetes", Place()).values()
    found = {each["kind"]: each for each in yaml.safe_load_all(content)}
    pod = found["Deployment"]["spec"]["template"]
    assert pod["spec"]["containers"][0]["command"][-1] == "http://v3-prefill-0-api:8000"
    group = {"app.kubernetes.io/part-of": "v3"}
    assert group.items() <= pod["metadata"]["labels"].items()
    among = [{"from": [{"podSelector": {"matchLabels": group}}]}]
    assert found["NetworkPolicy"]["spec"]["ingress"] == among
    assert found["Service"]["metadata"]["name"] == "v3-router-api"


def test_the_services_name_is_the_one_that_others_ask():
    """Of names that are cut, and of such as begin with a digit."""
    for name in ("v3-prefill-0", "3 models", "x" * 60):
        made = dataclasses.replace(member(), name=name)
        [content] = rendered(made, "kubernetes", Place()).values()
        services = [d for d in yaml.safe_load_all(content) if d["kind"] == "Service"]
        process = dataclasses.replace(server(files=()), argv=("ask", Peer(name)))
        asking = dataclasses.replace(
            made, nodes=(Node((process,), Devices("none", 0), 2**20),), name="other"
        )
        [content] = rendered(asking, "kubernetes", Place()).values()
        [deployment] = [d for d in yaml.safe_load_all(content) if d["kind"] == "Deployment"]
        asked = deployment["spec"]["template"]["spec"]["containers"][0]["command"][-1]
        assert services[0]["metadata"]["name"] == asked


def test_units_are_written_with_addresses():
    units = rendered(member(), "systemd", TOLD)
    assert any('"http://10.0.0.1:8000"' in content for content in units.values())
    with pytest.raises(UsageError, match="give those of all nodes"):
        rendered(member(), "systemd", Place())
    with pytest.raises(UsageError, match="give that of v3-decode-0 too"):
        rendered(member(), "systemd", Place(("10.0.0.9",), {"v3-prefill-0": "10.0.0.1"}))


def test_a_job_of_slurm_knows_no_other():
    with pytest.raises(UsageError, match="gives no job the addresses of others") as raised:
        rendered(member(), "slurm", TOLD)
    assert "kubernetes" in raised.value.hint


@pytest.mark.parametrize("address", ["", "a b", "$(x)", "-x"])
def test_an_address_that_is_none(address):
    with pytest.raises(UsageError, match="is no address"):
        rendered(member(), "shell", Place(("10.0.0.9",), {"v3-prefill-0": address}))
