"""Planning a model that is neither a folder nor known: its config.json comes from the Hub."""

import json

import pytest

from dsdeploy.errors import DeployError, UsageError
from dsdeploy.planning.models import find_model

from ..hub.stand_in import standing_in


@pytest.fixture
def hub(synth, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with standing_in() as found:
        found.add("owner/tuned", synth(tmp_path / "tuned"))
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.mark.parametrize("name", ["owner/tuned", "hf://owner/tuned", "hf://owner/tuned@main"])
def test_only_its_config_is_fetched(hub, tmp_path, name):
    found = find_model(name)
    raw = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert found.config.hidden_size == raw["hidden_size"]
    assert (
        sum(hub.sent_of.get(each, 0) for each in hub.sent_of if each.endswith("safetensors")) == 0
    )


def test_one_that_is_not_there(hub):
    with pytest.raises(DeployError, match="has no repository owner/other that you may see"):
        find_model("hf://owner/other")


def test_no_name_at_all(hub):
    with pytest.raises(UsageError, match="is no repository's name"):
        find_model("hf://owner/tu ned")


def test_known_models_need_no_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert find_model("hf://deepseek-ai/DeepSeek-V3").stored == "fp8"
