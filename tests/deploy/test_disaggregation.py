"""Prompts and decoding on machines of their own: what each part is told, and who can be told it."""

import dataclasses
import json

import pytest

from dsdeploy.deploy.backend import load_backend
from dsdeploy.deploy.disaggregation import Counts, disaggregated
from dsdeploy.deploy.doubts import doubts
from dsdeploy.deploy.wanted import Wanted
from dsdeploy.errors import UsageError
from dsdeploy.planning.planner import Sizes

from .launches import planned, releases, shown

WANTED = Wanted("DeepSeek-V3", "deepseek-ai/DeepSeek-V3", host="10.0.0.5", key=True)


def parts_of(backend, machine, counts=(1, 2), release=None, wanted=WANTED, **wish):
    plan = planned(backend, machine, **wish)
    found = disaggregated(load_backend(backend), plan, wanted, release, Counts(*counts))
    return {part.name: part.launch for part in found}


def words(launch, node=0):
    return [shown(word) for word in launch.nodes[node].processes[0].argv]


def after(argv, flag):
    return argv[argv.index(flag) + 1]


def spoken(word):
    """`shown`, for peers too."""
    return "".join(
        part if isinstance(part, str) else f"<{getattr(part, 'launch', part)}>"
        for part in word.parts
    )


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_the_parts_of_a_group(backend):
    parts = parts_of(backend, "8xh200")
    assert list(parts) == ["prefill-0", "decode-0", "decode-1", "router"]
    names = [launch.name for launch in parts.values()]
    assert names == [f"deepseek-v3-{name}" for name in parts]
    assert {launch.group for launch in parts.values()} == {"deepseek-v3"}
    assert [launch.public for launch in parts.values()] == [False, False, False, True]
    for launch in list(parts.values())[:-1]:
        argv = words(launch)
        # As clients call it, whichever part they come to; open to the router's machine, and keyless.
        assert after(argv, "--served-model-name") == "DeepSeek-V3"
        assert after(argv, "--host") == "0.0.0.0"
        assert launch.secrets == ()


def test_sglangs_servers_and_router():
    parts = parts_of("sglang", "2x8xh100")
    prefill, decode = words(parts["prefill-0"]), words(parts["decode-1"])
    assert after(prefill, "--disaggregation-mode") == "prefill"
    assert after(prefill, "--disaggregation-bootstrap-port") == "8998"
    assert after(decode, "--disaggregation-mode") == "decode"
    assert "--disaggregation-bootstrap-port" not in decode
    follower = words(parts["prefill-0"], node=1)
    assert after(follower, "--disaggregation-mode") == "prefill"
    argv = parts["router"].head.processes[0].argv
    assert argv[:4] == ("python3", "-m", "sglang_router.launch_router", "--pd-disaggregation")
    urls = [spoken(word) for word in argv if not isinstance(word, str)]
    assert urls == [f"http://<deepseek-v3-{n}>:8000" for n in ("prefill-0", "decode-0", "decode-1")]
    assert argv[argv.index("--prefill") + 2] == "8998"
    assert argv[argv.index("--host") :][:4] == ("--host", "10.0.0.5", "--port", "8000")


def test_vllms_servers_and_router():
    parts = parts_of("vllm", "8xh200", counts=(2, 1))
    for name in ("prefill-0", "prefill-1", "decode-0"):
        config = json.loads(after(words(parts[name]), "--kv-transfer-config"))
        assert config == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
        environment = parts[name].head.processes[0].environment
        assert shown(environment["VLLM_NIXL_SIDE_CHANNEL_HOST"]) == "<HERE>"
        assert environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5600"
        assert "VLLM_API_KEY" not in environment
    argv = parts["router"].head.processes[0].argv
    assert argv[:2] == ("vllm-router", "--vllm-pd-disaggregation")
    assert [argv.count(flag) for flag in ("--prefill", "--decode")] == [2, 1]
    assert parts["router"].container.image == "vllm/vllm-router:nightly"


@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_the_router_waits_as_long_as_its_servers_may_load(backend):
    parts = parts_of(backend, "8xh200")
    patience = parts["decode-0"].head.processes[0].probes.startup.seconds
    router = parts["router"].head.processes[0]
    assert after(router.argv, "--worker-startup-timeout-secs") == str(patience)
    assert router.probes.startup.seconds == patience


KNOWING = [("sglang", release) for release in releases("sglang")]
KNOWING += [("vllm", release) for release in releases("vllm") if release != "0.8.5"]


@pytest.mark.parametrize(("backend", "release"), KNOWING)
def test_every_release_knows_the_flags(backend, release):
    for launch in parts_of(backend, "8xh200", release=release).values():
        assert doubts(launch) == []


def test_a_release_without_them_is_refused():
    with pytest.raises(UsageError, match=r"vLLM 0.8.5 has no NixlConnector") as raised:
        parts_of("vllm", "8xh200", release="0.8.5")
    assert raised.value.hint == "It needs vLLM >= 0.9.0."


def test_a_long_name_does_not_make_two_parts_one():
    wanted = dataclasses.replace(
        WANTED, name="DeepSeek-V3-0324-with-a-name-that-goes-on-and-on-and-on"
    )
    parts = parts_of("sglang", "8xh200", counts=(2, 2), wanted=wanted)
    assert len({launch.name[:40] for launch in parts.values()}) == 5


def test_stages_of_a_pipeline_send_nothing_by_nixl():
    with pytest.raises(UsageError, match="from the stages of a pipeline") as raised:
        parts_of("vllm", "2x8xh100", sizes=Sizes(pipeline=2))
    assert raised.value.hint == "Plan with --pp 1."


@pytest.mark.parametrize(("backend", "machine"), [("lmdeploy", "8xh200"), ("native", "cpu-server")])
def test_other_backends_cannot(backend, machine):
    with pytest.raises(
        UsageError, match=f"{backend} does not part prompts from decoding"
    ) as raised:
        parts_of(backend, machine)
    assert raised.value.hint == "These do: sglang, vllm."


# The command.

RENDER = ("render", "DeepSeek-V3", "--backend", "sglang", "--profile", "8xh200", "--target")


def test_files_lie_in_a_folder_for_each_part(dsdeploy, tmp_path):
    made = dsdeploy(*RENDER, "shell", "--disaggregated", "1:2", "--out", tmp_path / "out")
    assert made.exit_code == 0, made.output
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.sh"))
    parts = ("decode-0", "decode-1", "prefill-0", "router")
    assert found == [f"{part}/start.sh" for part in parts]
    assert made.stderr.count("note: Prefill and decode servers ask for no key") == 1
    assert "note: The router is the Python package sglang-router." in made.stderr


def test_addresses_are_told_by_part(dsdeploy):
    told = ["prefill-0=10.0.0.1", "decode-0=10.0.0.2", "router=10.0.0.3"]
    options = [word for address in told for word in ("--address", address)]
    made = dsdeploy(*RENDER, "systemd", "--disaggregated", "1:1", *options, "--json", "--stdout")
    files = json.loads(made.stdout)["files"]
    unit = files["router/deepseek-v3-router-router.service"]
    assert '"http://10.0.0.1:8000"' in unit
    assert '"http://10.0.0.2:8000"' in unit


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--disaggregated", "2"), "--disaggregated 2 is not P:D"),
        (("--disaggregated", "0:1"), "--disaggregated 0:1 is not P:D"),
        (("--disaggregated", "1:1", "--address", "10.0.0.1"), "names no part and its addresses"),
        (("--disaggregated", "1:1", "--address", "decode-1=x"), "names no part and its addresses"),
        (("--disaggregated", "1:1", "--offline"), "Offline work has no router"),
        (("--disaggregated", "1:1", "--host", "0.0.0.0"), "is given no key"),
    ],
)
def test_bad_input_is_answered_with_a_sentence(dsdeploy, options, sentence):
    answer = dsdeploy(*RENDER, "shell", *options, "--stdout")
    assert answer.exit_code == 2
    assert sentence in answer.stderr
