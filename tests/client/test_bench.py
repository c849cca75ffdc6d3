"""dsdeploy bench against an endpoint that says what it is told to."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from dsdeploy.cli.main import cli

from .stand_in import finish, piece, says, standing_in

FEW = ("--input-tokens", 20, "--output-tokens", 4)


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.delenv("DSDEPLOY_API_KEY", raising=False)
    with standing_in() as found:
        found.answers = [says("a", "b", "c", "d") for _ in range(200)]
        yield found


@pytest.fixture
def bench(endpoint):
    return lambda *options: CliRunner().invoke(
        cli, ["bench", endpoint.url, *map(str, (*FEW, *options))]
    )


def prompts(endpoint):
    return [body["prompt"] for path, _, body in endpoint.asked if path == "/v1/completions"]


def measured(endpoint):
    """The prompts of made-up ones that count: two are the yardstick's, one warms up."""
    return prompts(endpoint)[3:]


def test_one_load_is_shown_in_detail(endpoint, bench):
    counting = says("a", "b", "c", "d", prompt_tokens=20)
    endpoint.answers = [counting for _ in range(6)]
    result = bench("--requests", 3)
    assert result.exit_code == 0, result.output
    title, columns, *rows, tokens = result.stdout.splitlines()
    assert title == "1 at a time, 3 of 3 answered:"
    assert columns.split() == ["mean", "p50", "p90", "p99", "most"]
    assert [row.split(",")[0].strip() for row in rows] == [
        "time to first token",
        "between tokens",
        "a request's mean per token",
        "whole answer",
    ]
    assert tokens.startswith("60 tokens in, 12 out (as the endpoint counts) in ")
    assert len(measured(endpoint)) == 3


def test_prompts_are_as_long_as_asked_in_the_tokens_of_the_endpoint(endpoint, bench):
    def seven_and_three_a_word(body):
        return says("a", prompt_tokens=7 + 3 * len(body["prompt"].split()))

    endpoint.answers = [seven_and_three_a_word] * 8
    result = bench("--requests", 5, "--input-tokens", 67)
    assert "335 tokens in" in result.stdout
    assert {len(prompt.split()) for prompt in measured(endpoint)} == {20}


def test_a_sweep_is_shown_side_by_side(endpoint, bench):
    result = bench("--sweep", "1,3", "--requests", 4)
    title, columns, first, second = result.stdout.splitlines()
    assert title == "Latency over load, tokens as the endpoint counts:"
    assert columns.split("  ")[1].strip() == "load"
    assert "goodput" not in columns
    assert first.strip().startswith("1 at a time ")
    assert second.strip().startswith("3 at a time ")


def test_a_document_has_a_result_for_each_load_in_seconds(endpoint, bench):
    endpoint.answers = [[0.05, *says("a", "b")] for _ in range(30)]
    result = bench("--sweep-rates", "100,200", "--requests", 4, "--seed", 5, "--json")
    found = json.loads(result.stdout)
    assert found["endpoints"] == [{"address": endpoint.url, "model": "first"}]
    assert (found["seed"], found["prompts"]) == (5, "made up")
    assert [point["load"] for point in found["points"]] == [{"rate": 100}, {"rate": 200}]
    for point in found["points"]:
        (one,) = point["results"]
        assert (one["requests"], one["succeeded"], one["failures"]) == (4, 4, {})
        assert (one["prompt_tokens"], one["output_tokens"], one["counted"]) == (None, 8, True)
        assert set(one["ttft"]) == {"count", "mean", "p50", "p90", "p99", "most"}
        assert [one[name]["count"] for name in ("ttft", "itl", "tpot", "e2e")] == [4] * 4
        assert 0.05 <= one["ttft"]["p50"] <= one["e2e"]["p50"] <= one["seconds"]
        assert one["requests_per_second"] == pytest.approx(4 / one["seconds"])
        assert one["output_tokens_per_second"] == pytest.approx(8 / one["seconds"])


def test_two_endpoints_are_asked_the_same_in_alternation(endpoint, bench):
    with standing_in() as other:
        other.answers, other.asked = [says("a") for _ in range(50)], endpoint.asked
        words = ("--compare", other.url, "--requests", 5, "--warm-up", 0)
        result = bench(*words, "--compare-model", "second")
        assert result.exit_code == 0, result.output
        second_row, ratios = result.stdout.splitlines()[-2:]
        assert other.url in second_row
        assert ratios.strip().startswith("second to first ")

        a, b = (each.url.removeprefix("http://") for each in (endpoint, other))
        asked = [(headers["host"], body) for _, headers, body in endpoint.asked if body][2:]
        assert [host for host, _ in asked] == [a] * 3 + [b] * 5 + [a] * 2
        of_first, of_second = (
            [body["prompt"] for host, body in asked if host == each] for each in (a, b)
        )
        assert of_first[:3] + of_first[3:] == of_second
        assert {body["model"] for host, body in asked if host == b} == {"second"}


def test_prompts_of_a_file_are_asked_as_they_are(endpoint, bench, tmp_path):
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    lines = [{"prompt": "Once upon a time"}, {"messages": chat}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = bench("--prompts", tmp_path / "prompts.jsonl", "--requests", 2, "--warm-up", 0)
    assert result.exit_code == 0, result.output
    asked = {path: body for path, _, body in endpoint.asked if body}
    assert asked["/v1/completions"]["prompt"] == "Once upon a time"
    assert asked["/v1/chat/completions"]["messages"] == chat
    assert all("ignore_eos" not in body for body in asked.values())


def test_of_a_sharegpt_conversation_the_first_question_is_asked(endpoint, bench, tmp_path):
    turns = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}]
    (tmp_path / "sharegpt.json").write_text(json.dumps([{"conversations": turns}]))
    bench("--prompts", tmp_path / "sharegpt.json", "--requests", 1, "--warm-up", 0, "--ignore-eos")
    ((path, _, body),) = (each for each in endpoint.asked if each[2])
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "One?"}]
    assert (body["ignore_eos"], body["max_tokens"]) == (True, 4)


@pytest.fixture
def failing(endpoint, bench, tmp_path):
    """Of prompts that need no yardstick."""
    endpoint.answers = [(500, {"detail": "CUDA error"})] * 9
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}')
    return lambda *words: bench("--prompts", tmp_path / "prompts.jsonl", "--requests", 2, *words)


def test_where_nothing_succeeds_the_engine_has_failed(failing):
    result = failing("--warm-up", 0)
    assert result.exit_code == 7
    assert "1 at a time, 0 of 2 answered" in result.stdout
    assert "2 failed (HTTP 500): " in result.stderr
    assert "CUDA error" in result.stderr


def test_where_nothing_succeeds_the_document_has_no_latencies(failing):
    result = failing("--warm-up", 0, "--json")
    (one,) = json.loads(result.stdout)["points"][0]["results"]
    assert result.exit_code == 7
    assert (one["succeeded"], one["failures"], one["ttft"]) == (0, {"HTTP 500": 2}, None)


def test_where_no_warm_up_succeeds_nothing_is_measured(endpoint, failing):
    result = failing("--warm-up", 3)
    assert result.exit_code == 7
    assert "has failed: CUDA error" in result.stderr
    assert result.stdout == ""
    assert len(prompts(endpoint)) == 3


def test_requests_leave_for_so_many_seconds(endpoint, bench):
    endpoint.answers = [[0.1, *says("a")] for _ in range(50)]
    result = bench("--seconds", 1, "--json")
    (one,) = json.loads(result.stdout)["points"][0]["results"]
    assert one["succeeded"] == one["requests"] == len(measured(endpoint)) <= 11
    assert one["seconds"] > 0.5  # all but the time of the first connection


@pytest.mark.parametrize(
    ("words", "good"),
    [
        (("--target-ttft-ms", 60_000, "--target-itl-ms", 60_000), 2),
        (("--target-ttft-ms", 50), 0),
        (("--target-itl-ms", 50), 0),
    ],
)
def test_goodput_is_of_requests_within_the_target(endpoint, bench, words, good):
    slow = [0.1, piece(content="a"), 0.3, piece(content="b"), finish(tokens=2)]
    endpoint.answers = [says("a"), says("a"), slow, slow]
    result = bench("--requests", 2, "--warm-up", 0, "--json", *words)
    found = json.loads(result.stdout)
    (one,) = found["points"][0]["results"]
    assert (one["good"], one["goodput"]) == (good, pytest.approx(good / one["seconds"]))
    assert all(each is None or each in (0.05, 60) for each in found["target"].values())


def test_a_target_is_told_with_the_figures(bench):
    target = ("--target-ttft-ms", 60_000)
    assert " of them within the target" in bench("--requests", 2, *target).stdout
    assert "goodput" in bench("--sweep", "1,2", "--requests", 2, *target).stdout


@pytest.mark.parametrize("json_mode", [False, True])
def test_ctrl_c_shows_the_loads_that_have_been_measured(endpoint, json_mode, tmp_path):
    """As a process, which the signal is for."""
    stuck = [piece(content="a"), threading.Event()]
    endpoint.answers = [*(says("a", "b") for _ in range(4)), stuck, stuck]  # 2 are the yardstick's
    words = ["--sweep", "1,2", "--requests", 2, "--warm-up", 0, "--plot", tmp_path / "plot.html"]
    words += ["--json"] if json_mode else []
    bench = [sys.executable, "-c", "from dsdeploy.cli.main import main; main()", "bench"]
    with subprocess.Popen(
        [*bench, endpoint.url, *map(str, (*FEW, *words))], stdout=subprocess.PIPE, text=True
    ) as process:
        while len(prompts(endpoint)) < 6 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Output tokens/s" in (tmp_path / "plot.html").read_text()
    if json_mode:
        assert [each["load"] for each in json.loads(shown)["points"]] == [{"concurrency": 1}]
    else:
        assert shown.startswith("1 at a time, 2 of 2 answered")


def test_the_key_is_in_no_output(endpoint, bench, tmp_path, monkeypatch):
    monkeypatch.setenv("DSDEPLOY_API_KEY", "very-secret")
    endpoint.answers[4] = (401, {"error": {"message": "wrong key"}})
    shown = bench("--requests", 3, "--plot", tmp_path / "plot.html")
    document = bench("--requests", 3, "--json")
    sent = {headers["authorization"] for _, headers, body in endpoint.asked if body}
    assert sent == {"Bearer very-secret"}
    assert "1 failed (HTTP 401)" in shown.stderr
    page = (tmp_path / "plot.html").read_text()
    for text in (shown.output, document.output, page):
        assert "very-secret" not in text


def test_a_seed_gives_the_same_prompts(endpoint, bench):
    for _ in range(2):
        bench("--requests", 3, "--seed", 9)
    assert prompts(endpoint)[:6] == prompts(endpoint)[6:]


def test_the_key_of_one_endpoint_is_not_sent_to_the_other(endpoint, bench, tmp_path):
    (tmp_path / "key").write_text("of-the-first\n")
    with standing_in() as other:
        other.answers = [says("a") for _ in range(50)]
        words = ("--compare", other.url, "--requests", 2)
        result = bench("--api-key-file", tmp_path / "key", *words)
        assert result.exit_code == 0, result.output
        assert {headers["authorization"] for _, headers, _ in endpoint.asked} == {
            "Bearer of-the-first"
        }
        assert {headers["authorization"] for _, headers, _ in other.asked} == {None}
        assert "of-the-first" not in result.output


def test_failures_are_counted_by_kind(endpoint, bench):
    busy = (429, {"error": {"message": "queue is full"}})
    endpoint.answers[4:4] = [busy, busy]  # after the yardstick, the warm-up and one request
    result = bench("--requests", 6)
    assert result.exit_code == 0
    assert "1 at a time, 4 of 6 answered" in result.stdout
    assert "2 failed (HTTP 429): " in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--rate", 1, "--concurrency", 2), "Give one of"),
        (("--sweep", "1,x"), "is no list of numbers"),
        (("--sweep", "1,0"), "is no list of numbers"),
        (("--sweep-rates", "inf"), "is no list of numbers"),
        (("--input-tokens", "9-3"), "is no length"),
        (("--plot", "/no/folder/plot.html"), "There is no folder /no/folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    endpoint, bench, words, sentence
):
    result = bench(*words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert prompts(endpoint) == []


def test_a_plot_is_drawn_of_what_was_measured(endpoint, bench, tmp_path):
    result = bench("--sweep", "1,2", "--requests", 2, "--plot", tmp_path / "plot.html")
    assert result.exit_code == 0, result.output
    assert f"Drawn in {tmp_path / 'plot.html'}." in result.stderr
    assert f"first at {endpoint.url}" in (tmp_path / "plot.html").read_text()
