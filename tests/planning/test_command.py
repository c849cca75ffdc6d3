"""dsdeploy plan, as people and scripts use it."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import yaml


def test_the_chosen_plan_stands_first(dsdeploy):
    result = dsdeploy("plan", "DeepSeek-V3", "--profile", "8xh200")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "deepseek-ai/DeepSeek-V3 on 8xh200: 8 x h200, 150.11 GB each" in lines[0]
    assert next(line for line in lines if ">" in line).split()[1:4] == ["vllm", "fp8", "TP8"]
    assert "--gpu-memory-utilization 0.9" in result.stdout
    assert "experts 81.76 GB" in result.stdout
    assert "kernels for GPUs have run on none yet" in result.stdout


def test_json_has_every_candidate_with_its_reason(dsdeploy):
    result = dsdeploy("plan", "DeepSeek-R1", "--profile", "8xh200", "--json")
    found = json.loads(result.stdout)
    chosen = found["candidates"][found["chosen"]]
    assert chosen["verdict"] == "fits"
    assert chosen["memory"]["weight_bytes"] == sum(chosen["memory"]["weights"].values())
    assert chosen["speed"]["decode"]["low"] < chosen["speed"]["decode"]["high"]
    refused = [c for c in found["candidates"] if c["verdict"] in ("impossible", "too small")]
    assert refused
    assert all(candidate["reason"] for candidate in refused)


def test_what_does_not_fit_ends_with_exit_code_3_and_ways_out(dsdeploy):
    result = dsdeploy("plan", "DeepSeek-V3", "--profile", "8xh100")
    assert result.exit_code == 3
    assert "Nothing fits" in result.stdout
    assert "GB a device are missing" in result.stdout
    assert "--precision int4" in result.stdout
    found = json.loads(dsdeploy("plan", "DeepSeek-V3", "--profile", "8xh100", "--json").stdout)
    assert found["chosen"] is None
    assert found["shortage_bytes"] > 0
    assert found["ways_out"]


def test_quiet_still_says_that_nothing_fits(dsdeploy):
    result = dsdeploy("plan", "DeepSeek-V3", "--profile", "colab-t4", "-q")
    assert result.exit_code == 3
    assert "no engine can run this here" in result.stderr


def test_a_machine_that_nothing_helps_is_told_what_streaming_wants(dsdeploy):
    result = dsdeploy("plan", "DeepSeek-V3", "--profile", "laptop")
    assert result.exit_code == 3
    assert "wants 20.5" in result.stdout
    assert "of disk (here 500.00 GB)" in result.stdout


def test_machines_side_by_side(dsdeploy):
    names = "8xh200,2x8xh100,8xmi300x,8xl20"
    result = dsdeploy("plan", "DeepSeek-V3", "--compare", names)
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "vllm" in rows["8xh200"]
    assert "rocm" in rows["8xmi300x"]
    assert rows["8xl20"].split()[1] == "no"
    compared = json.loads(dsdeploy("plan", "DeepSeek-V3", "--compare", names, "--json").stdout)
    assert [machine["machine"]["name"] for machine in compared["machines"]] == names.split(",")


@pytest.mark.parametrize("suffix", ["svg", "html"])
@pytest.mark.parametrize("machine", ["8xh200", "8xh100", "colab-t4"])
def test_a_report_is_well_formed(dsdeploy, tmp_path, suffix, machine):
    file = tmp_path / f"plan.{suffix}"
    dsdeploy("plan", "DeepSeek-V3", "--profile", machine, "--report", file)
    text = file.read_text()
    drawing = text[text.index("<svg") : text.index("</svg>") + 6]
    labels = [node.text for node in ElementTree.fromstring(drawing).iter() if node.text]
    if machine != "colab-t4":
        assert "experts" in labels
    assert f"deepseek-ai/DeepSeek-V3 on {machine}" in labels


def test_a_report_escapes_names(dsdeploy, synth, tmp_path):
    folder = synth(tmp_path / "<b>&model")
    file = tmp_path / "plan.html"
    result = dsdeploy("plan", folder, "--profile", "8xh200", "--context", 256, "--report", file)
    assert result.exit_code == 0, result.output
    assert "<b>" not in file.read_text()


def test_the_plan_is_saved(dsdeploy, tmp_path):
    file = tmp_path / "plan.yaml"
    dsdeploy("plan", "DeepSeek-V3", "--profile", "8xh200", "--context", "32K", "--output", file)
    saved = yaml.safe_load(file.read_text())
    assert (saved["backend"], saved["layout"], saved["context"]) == ("vllm", {"tensor": 8}, 32768)
    assert saved["machine"]["accelerator"]["architecture"] == "sm90"


def test_without_a_profile_this_machine_is_planned_for(dsdeploy, synth, tmp_path):
    folder = synth(tmp_path / "small")
    result = dsdeploy("plan", folder, "--context", "256")
    assert result.exit_code == 0, result.output
    assert "native" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("DeepSeek-V3", "--profile", "8xh20O"), "no machine profile"),
        (("DeepSeek-V4", "--profile", "8xh200"), "neither a folder nor a known model"),
        (("DeepSeek-V3", "--profile", "8xh200", "--backend", "vlm"), "no backend 'vlm'"),
        (("DeepSeek-V3", "--profile", "8xh200", "--context", "0"), "no number of tokens"),
        (("DeepSeek-V3", "--profile", "8xh200", "--context", "1M"), "163840 tokens"),
        (("DeepSeek-V3", "--profile", "8xh200", "--report", "plan.pdf"), "neither .html nor .svg"),
        (("DeepSeek-V3", "--profile", "8xh200", "--output", "no/plan.yaml"), "no folder no"),
        (("DeepSeek-V3", "--profile", "8xh200", "--compare", "8xh100"), "goes without --profile"),
        (("DeepSeek-V3", "--compare", ","), "names no machine"),
    ],
)
def test_bad_input_is_answered_with_a_sentence_and_exit_code_2(dsdeploy, arguments, sentence):
    result = dsdeploy("plan", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_a_repository_that_is_not_known_needs_the_network(dsdeploy, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = dsdeploy("plan", "hf://someone/their-model", "--profile", "8xh200")
    assert result.exit_code == 5
    assert "127.0.0.1:9 cannot be reached" in result.stderr
