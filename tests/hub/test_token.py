"""The token goes to the Hub, and nowhere else: no file, no output, no other server."""

import contextlib
from pathlib import Path

import pytest

from dsdeploy.hub.metadata import Hub
from dsdeploy.hub.retries import Retries

from .stand_in import Answer, Close, Flip, Stall, standing_in
from .tools import NAME, asked, is_whole, start, wait_until

CANARY = "hf_canaryThatSingsInNoFile"
pytestmark = pytest.mark.usefixtures("without_waiting", "cached")


@pytest.fixture
def private(hub, repository, monkeypatch):
    folder = repository({"config.json": 700, "model.safetensors": 300_000}, private=True)
    hub.token = CANARY
    monkeypatch.setenv("HF_TOKEN", CANARY)
    return folder


def shown_to(hub, origin):
    return [
        "authorization" in {name.lower() for name in headers} or CANARY in f"{path}{headers}"
        for _, _, path, headers in hub.of_origin(origin)
        if path != "/api/agent-harnesses"
    ]


def written_below(folder):
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]


@pytest.mark.usefixtures("small_chunks")
def test_it_is_shown_to_the_hub_alone(hub, private, download, tmp_path, out, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    outputs = []
    for options, faults in {
        ("--debug",): [Close(1000, reset=True), Answer(403), Flip(5)],
        ("--debug", "--attempts", "1"): [None, Answer(403)],
        ("--json", "--attempts", "1"): [None, Answer(503)],
        ("--json",): [Answer(403)],
    }.items():
        hub.faults.extend(faults)
        outputs.append(download(*options, to=out / str(len(outputs))))
    hub.hub_faults.extend([Answer(401)] * 9)
    outputs.append(download("--debug", to=out / "refused"))
    assert [result.exit_code for result in outputs] == [0, 5, 5, 0, 5]
    assert not any(CANARY in result.output for result in outputs)
    assert not any("signature=" in result.output for result in outputs)
    assert shown_to(hub, "hub")
    assert all(shown_to(hub, "hub"))
    assert shown_to(hub, "storage")
    assert not any(shown_to(hub, "storage"))
    assert written_below(tmp_path) == []


def test_a_process_and_its_children_do_not_show_it(hub, private, tmp_path, out):
    hub.faults.append(Stall(1000))
    process = start("download", NAME, "--to", out, "--debug", HOME=tmp_path)
    try:
        wait_until(lambda: asked(hub, "storage"), process)
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                lines.append(path.read_bytes())
        assert any(str(out).encode() in line for line in lines)
        assert not any(CANARY.encode() in line for line in lines)
        assert written_below(tmp_path) == []
    finally:
        process.kill()
        process.communicate()


def test_a_redirect_to_another_server_does_not_take_it_along(hub, private, download, out):
    with standing_in() as other:
        other.add(NAME, private)
        elsewhere = f"{other.url}/{NAME}/resolve/{'c0ffee' + '0' * 34}/config.json"
        hub.hub_faults.extend([None, None, Answer(302, (("location", elsewhere),))])
        assert download().exit_code == 0
        assert is_whole(out, private)
        assert shown_to(other, "hub") == [False]


def test_a_redirect_within_the_hub_does(hub, private, download, out):
    moved = f"/{NAME}/resolve/main/config.json"
    hub.hub_faults.extend([None, None, Answer(307, (("location", moved),))])
    assert download().exit_code == 0
    assert is_whole(out, private)


@pytest.mark.parametrize(
    ("endpoint", "token"),
    [
        ("https://huggingface.co", CANARY),
        ("https://mirror.example:8443/path", CANARY),
        ("http://127.0.0.1:8080", CANARY),
        ("http://localhost", CANARY),
        ("http://[::1]:80", CANARY),
        ("http://huggingface.co", None),
        ("http://127.0.0.1.example", None),
        ("http://localhost.example:80", None),
        ("HTTP://mirror", None),
    ],
)
def test_it_never_goes_in_clear_over_a_network(monkeypatch, endpoint, token):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert Hub(endpoint, Retries()).token == token


def test_a_stored_login_is_used_unless_it_is_switched_off(hub, private, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert Hub(hub.url, Retries()).token is None
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(CANARY + "\n")
    assert Hub(hub.url, Retries()).token == CANARY
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert Hub(hub.url, Retries()).token is None
