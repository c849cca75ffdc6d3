"""Which endpoint is meant, and what asking it gives."""

import pytest

from dsdeploy.cli.endpoints import resolve
from dsdeploy.client.endpoint import Endpoint, complete, first_model, models, parse_address
from dsdeploy.errors import DeployError, UsageError

from .stand_in import standing_in


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch, tmp_path):
    monkeypatch.delenv("DSDEPLOY_API_KEY", raising=False)
    monkeypatch.setenv("DSDEPLOY_STATE", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("10.0.0.7", "http://10.0.0.7"),
        ("https://host/v1/", "https://host"),
        ("https://host/proxy/v1", "https://host/proxy"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address
    assert resolve(text, None) == Endpoint(address)


@pytest.mark.parametrize(
    "text",
    ["ftp://host", "http://", "host:99999", "host:0", "http://h/?a=1", "http://a b", "h:1#x"],
)
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="is no address"):
        parse_address(text)


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        parse_address("http://me:geheim@host")
    assert "geheim" not in f"{caught.value} {caught.value.hint}"


def test_the_key_of_an_address_comes_from_the_file_or_else_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DSDEPLOY_API_KEY", "of-the-environment")
    (tmp_path / "key").write_text("of-the-file\n")
    assert resolve("host:1", None).key == "of-the-environment"
    assert resolve("host:1", tmp_path / "key").key == "of-the-file"
    assert "of-the" not in repr(resolve("host:1", None))


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("r1", "There is no deployment 'r1'."),
        (None, "No deployment is ready."),
    ],
)
def test_other_words_are_names_of_deployments(target, sentence):
    with pytest.raises(UsageError) as caught:
        resolve(target, None)
    assert caught.value.message == sentence


def test_a_dot_is_of_a_host_unless_a_deployment_has_that_name(tmp_path):
    assert resolve("deepseek-v3.1", None) == Endpoint("http://deepseek-v3.1")
    folder = tmp_path / "state" / "deepseek-v3.1"
    folder.mkdir(parents=True)
    (folder / "deployment.json").write_text("damaged")
    with pytest.raises(UsageError, match="is not ready: stopped"):
        resolve("deepseek-v3.1", None)


def test_models_are_listed_with_the_key():
    with standing_in() as stand_in:
        endpoint = Endpoint(stand_in.url, "secret")
        assert models(endpoint) == ("first", "second")
        assert first_model(endpoint) == "first"
        assert {headers["authorization"] for _, headers, _ in stand_in.asked} == {"Bearer secret"}
        stand_in.models = []
        with pytest.raises(DeployError, match="lists no model"):
            first_model(endpoint)


@pytest.mark.parametrize(
    ("status", "said", "exit_code", "hint"),
    [
        (401, "wrong key", 2, "DSDEPLOY_API_KEY"),
        (400, "too long", 1, ""),
        (404, "no such model", 2, "Models there: first, second."),
        (429, "queue is full", 7, "Try again later."),
        (500, "CUDA error", 7, "engine's log"),
    ],
)
def test_a_refusal_says_what_the_endpoint_said_and_what_to_do(status, said, exit_code, hint):
    with standing_in() as stand_in:
        stand_in.answers = [(status, {"error": {"message": said}})]
        with pytest.raises(DeployError) as caught:
            complete(Endpoint(stand_in.url), "first", "hi")
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == exit_code


def test_nobody_there():
    with standing_in() as stand_in:
        address = stand_in.url
    with pytest.raises(DeployError, match="Nothing can be asked at") as caught:
        models(Endpoint(address))
    assert caught.value.exit_code == 5
