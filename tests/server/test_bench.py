"""dsdeploy bench against the native runner."""

import json

import pytest


def test_a_sweep_over_the_native_runner(server, dsdeploy, tmp_path):
    lengths = ("--input-tokens", "100-200", "--output-tokens", "16")
    words = ("--sweep", "1,4", "--requests", 8, "--plot", tmp_path / "plot.html", "--json")
    result = dsdeploy("bench", server.url, *lengths, *words)
    assert result.exit_code == 0, result.output
    for point in json.loads(result.stdout)["points"]:
        (found,) = point["results"]
        assert (found["succeeded"], found["counted"]) == (8, True)
        assert found["output_tokens"] == 8 * 16
        assert found["prompt_tokens"] / 8 == pytest.approx(150, abs=50)
        assert 0 < found["ttft"]["p50"] < found["e2e"]["p50"]
    assert (tmp_path / "plot.html").stat().st_size > 0
    assert server.is_idle()


def test_a_chat_is_measured_alike(server, dsdeploy):
    words = ("--chat", "--rate", 20, "--requests", 5, "--input-tokens", 60, "--output-tokens", 8)
    result = dsdeploy("bench", server.url, *words, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["points"][0]["results"]
    assert (found["output_tokens"], found["failures"]) == (5 * 8, {})
    assert found["prompt_tokens"] / 5 == pytest.approx(60, rel=0.3)
