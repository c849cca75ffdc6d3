"""What ends a download at once or after a few tries: one sentence each, a fix, an exit code."""

import json
import socket

import pytest

from .stand_in import Answer, Close, Stall
from .tools import NAME, asked, is_whole, start, wait_until

pytestmark = pytest.mark.usefixtures("without_waiting", "cached")


@pytest.fixture
def ends(download, out):
    """It ends with this exit code, sentence and fix, in words and in JSON, and writes nothing."""

    def check(code, sentence, fix, *options, **settings):
        result = download(*options, **settings)
        assert result.exit_code == code, result.output
        assert f"error: {sentence}\n  fix: {fix}\n" in result.stderr
        assert not out.exists()
        error = json.loads(download("--json", *options, **settings).stdout)["error"]
        assert error == {"message": sentence, "hint": fix, "exit_code": code}

    return check


def test_no_such_repository(hub, ends):
    ends(
        *(5, f"{hub.url} has no repository owner/modle that you may see."),
        "Check the spelling; a private repository needs HF_TOKEN or `hf auth login`.",
        source="owner/modle",
    )


def test_a_private_repository_without_a_token(hub, repository, ends, download, monkeypatch):
    repository({"config.json": 700}, private=True)
    hub.token = "hf_good"
    fix = "Check the spelling; a private repository needs HF_TOKEN or `hf auth login`."
    ends(5, f"{hub.url} has no repository {NAME} that you may see.", fix)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert download().exit_code == 0


def test_a_token_that_has_expired(hub, repository, ends, monkeypatch):
    repository({"config.json": 700}, private=True)
    hub.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    ends(
        *(5, f"Your token has no access to {NAME}, or has expired."),
        f"Ask for access on {hub.url}/{NAME}, or make a new token.",
    )


def test_a_gated_repository_shows_its_list_and_keeps_its_files(
    hub, repository, download, monkeypatch, out
):
    source = repository({"config.json": 700}, gated=True)
    hub.token = "hf_good"
    result = download()
    assert result.exit_code == 5
    assert f"The Hub does not give out config.json of {NAME} (401)." in result.stderr
    assert "fix: Ask for access on the repository's page, then set HF_TOKEN" in result.stderr
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert download().exit_code == 0
    assert is_whole(out, source)


def test_a_gated_repository_that_hides_its_list(hub, one_shard, ends):
    code = (("x-error-code", "GatedRepo"),)
    hub.hub_faults.extend([Answer(403, code)] * 2)
    ends(
        *(5, f"{NAME} is private or gated, and there is no token."),
        "Set HF_TOKEN, or run `hf auth login`.",
    )


@pytest.mark.parametrize("revision", ["nosuch", "d" * 40])
def test_no_such_revision(hub, one_shard, ends, revision):
    ends(
        *(
            2,
            f"{NAME} has no revision {revision!r}.",
            "Name a branch, a tag or a commit of its page.",
        ),
        *("--revision", revision),
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("model", "'model' is no repository's name."),
        ("a/b/c", "'a/b/c' is no repository's name."),
        ("owner/../model", "'owner/../model' is no repository's name."),
        ("hf://owner/mo del", "'hf://owner/mo del' is no repository's name."),
    ],
)
def test_no_name_of_a_repository(hub, ends, source, sentence):
    ends(2, sentence, "Write it as deepseek-ai/DeepSeek-V3.", source=source)


def test_two_revisions(hub, ends):
    sentence = f"{NAME}@a and --revision b name two revisions."
    ends(2, sentence, "Give one.", "--revision", "b", source=f"{NAME}@a")


@pytest.mark.parametrize("endpoint", ["ftp://host", "huggingface.co", "http://", "http://a?b=c"])
def test_no_address_of_a_hub(hub, ends, endpoint):
    fix = "Write it as https://huggingface.co."
    ends(2, f"{endpoint} is no address of a Hub.", fix, "--endpoint", endpoint)


def test_an_endpoint_with_a_password_is_not_repeated(hub, download):
    result = download("--endpoint", "https://me:secret@host")
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_no_network(hub, download, out):
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        result = download("--endpoint", f"http://{where}")
    assert result.exit_code == 5
    assert f"error: {where} cannot be reached (" in result.stderr
    assert "fix: Check the network and" in result.stderr
    assert not out.exists()


JSON = (("content-type", "application/json"),)
GARBAGE = Answer(200, JSON, b"<html>Log in to the hotel</html>")
NO_MODEL = Answer(200, JSON, b'{"a": 1}')
NO_COMMIT = Answer(200, JSON, b'{"id": "owner/model", "siblings": []}')


def test_a_hub_that_names_no_commit(hub, one_shard, ends):
    hub.hub_faults.extend([NO_COMMIT] * 2)
    sentence = f"{hub.url} does not say at which commit {NAME}@main is."
    ends(5, sentence, "Name the commit with --revision.")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Answer(503), "answers 503 for owner/model, 4 times in a row."),
        (Answer(500), "answers 500 for owner/model, 4 times in a row."),
        (Answer(429, (("retry-after", "0"),)), "answers 429 for owner/model, 4 times in a row."),
        (Close(0), "4 times in a row."),
        (GARBAGE, "answers what is no listing"),
        (NO_MODEL, "answers what is no listing"),
    ],
    ids=["503", "500", "429", "reset", "garbage", "no model"],
)
def test_a_hub_whose_api_fails(hub, one_shard, download, out, fault, sentence):
    hub.hub_faults.extend([fault] * 200)
    result = download()
    assert result.exit_code == 5, result.output
    assert sentence in result.stderr
    assert "fix: " in result.stderr
    assert not out.exists()
    hub.hub_faults.clear()
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


@pytest.mark.parametrize("fault", [Answer(503), Close(0), GARBAGE], ids=["503", "reset", "garbage"])
@pytest.mark.parametrize("at", [0, 1], ids=["commit", "list"])
def test_a_fault_of_the_api_that_passes_does_not_show(hub, one_shard, download, out, fault, at):
    hub.hub_faults.extend([None] * at + [fault])
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


@pytest.mark.parametrize(
    "fault",
    [Answer(503), Answer(429), Close(0), Stall(None)],
    ids=["503", "429", "reset", "silence"],
)
def test_a_fault_of_the_hub_while_files_come_does_not_show(hub, one_shard, download, out, fault):
    hub.hub_faults.extend([None, None, fault, None, fault])
    result = download("--stall-seconds", 0.5)
    assert result.exit_code == 0, result.output
    assert is_whole(out, one_shard)


def test_endless_redirects_end(hub, one_shard, download, out):
    again = Answer(302, (("location", f"/{NAME}/resolve/main/config.json"),))
    hub.hub_faults.extend([None, None] + [again] * 100)
    result = download("--attempts", 3)
    assert result.exit_code == 5
    assert "config.json is redirected again and again, 3 times in a row." in result.stderr


def test_a_file_that_has_gone_from_the_commit(hub, one_shard, download, out):
    entry = {"type": "file", "path": "gone.json", "size": 5, "oid": "0" * 40}
    hub.repositories[NAME].extra.append(entry)
    result = download()
    assert result.exit_code == 5
    assert f"gone.json of {NAME} at c0ffee000000 is no longer there." in result.stderr


def test_a_file_in_place_of_the_folder(hub, one_shard, download, out):
    out.write_text("mine")
    result = download()
    assert (result.exit_code, f"{out} is a file." in result.stderr) == (2, True)
    assert out.read_text() == "mine"


def test_an_unfinished_conversion_is_left_alone(hub, one_shard, download, out):
    (out / ".dsdeploy").mkdir(parents=True)
    (out / ".dsdeploy" / ".plan.json").write_text("{}")
    result = download()
    assert result.exit_code == 2
    assert f"{out} holds an unfinished conversion." in result.stderr
    assert (out / ".dsdeploy" / ".plan.json").exists()


def test_the_second_of_two_processes_is_told(hub, one_shard, download, out):
    hub.faults.append(Stall(1000))
    first = start("download", NAME, "--to", out, "--workers", 1, "--stall-seconds", 600)
    try:
        wait_until(lambda: asked(hub, "storage"), first)
        result = download()
        assert result.exit_code == 1
        assert f"Another process is writing to {out}." in result.stderr
        assert "fix: Wait for it, or give another target folder." in result.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert download().exit_code == 0
    assert is_whole(out, one_shard)
