"""Requests from a file: each line is answered once, however often the run is killed.

The output only ever grows at its end, so that a kill at any moment leaves a beginning of it: the
tests cut it everywhere. One of them kills the command itself.
"""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from dsdeploy.errors import UsageError
from dsdeploy.runner.offline import run_file
from dsdeploy.runner.start import Settings, start

GREEDY = {"temperature": 0, "max_tokens": 8}
LINES = [
    {"prompt": "Hello", **GREEDY},
    {"messages": [{"role": "user", "content": "Hello"}], **GREEDY, "custom_id": "chat"},
    {"prompt": [10, 20, 30], **GREEDY, "logprobs": 1, "custom_id": 3},
    {"prompt": "Hello", "max_tokens": 8, "temperature": 2, "seed": 5, "n": 3},
    {"prompt": "x", "max_tokens": -1, "custom_id": {"refused": True}},
    {"prompt": ["a", "b"], **GREEDY, "stop": ["\n"]},
    {"messages": [{"role": "user", "content": "é€😀\u2028\u0085"}], **GREEDY},
    {"prompt": "score me", "max_tokens": 0, "echo": True, "logprobs": 0},
]
REFUSED = 1


@pytest.fixture(scope="module")
def folder(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("offline") / "tiny")


@pytest.fixture(scope="module")
def runner(folder):
    settings = Settings(context=512, cache_memory=1 << 20, max_sequences=4)
    return start(folder, settings, lambda nbytes: lambda done, detail: None)


@pytest.fixture
def answer(runner):
    """Answer a file of requests: (answers, refusals)."""
    intake = runner.intake("tiny")
    yield lambda source, target: run_file(runner.engine, intake, source, target)
    intake.template.close()


def write_lines(path, bodies):
    path.write_text("".join(json.dumps(body, ensure_ascii=False) + "\n" for body in bodies))
    return path


@pytest.fixture
def source(tmp_path):
    return write_lines(tmp_path / "requests.jsonl", LINES)


def read(target):
    """Line number -> what is answered, without what differs each time."""
    entries = [json.loads(line) for line in target.read_bytes().split(b"\n")[:-1]]
    assert target.read_bytes()[-1:] in (b"", b"\n")
    found = {entry["line"]: entry for entry in entries}
    assert len(found) == len(entries), "a line is answered twice"
    for entry in entries:
        for field in ("id", "created"):
            entry.pop(field, None)
        entry.get("usage", {}).pop("prompt_tokens_details", None)
    return found


def test_every_line_is_answered_as_the_server_would(answer, source, tmp_path):
    assert answer(source, tmp_path / "out") == (len(LINES) - REFUSED, REFUSED)
    found = read(tmp_path / "out")
    assert sorted(found) == list(range(1, len(LINES) + 1))
    assert found[1]["object"] == "text_completion"
    assert found[1]["usage"]["completion_tokens"] == 8
    assert found[2]["object"] == "chat.completion"
    assert found[2]["choices"][0]["message"]["role"] == "assistant"
    assert len(found[3]["choices"][0]["logprobs"]["tokens"]) == 8
    assert [choice["index"] for choice in found[6]["choices"]] == [0, 1]
    assert found[8]["choices"][0]["text"] == "score me"
    assert found[8]["choices"][0]["logprobs"]["token_logprobs"][0] is None
    assert [found[line]["custom_id"] for line in (1, 2, 3, 5)] == [
        None,
        "chat",
        3,
        {"refused": True},
    ]


def test_several_answers_to_a_prompt_have_random_numbers_of_their_own(answer, source, tmp_path):
    answer(source, tmp_path / "out")
    texts = [choice["text"] for choice in read(tmp_path / "out")[4]["choices"]]
    assert len(set(texts)) == 3
    singles = [{**LINES[3], "n": 1, "seed": seed} for seed in (5, 6, 7)]
    answer(write_lines(tmp_path / "singles", singles), tmp_path / "out-of-singles")
    found = read(tmp_path / "out-of-singles")
    assert texts == [found[line]["choices"][0]["text"] for line in (1, 2, 3)]


def test_a_refused_line_says_why_and_hinders_no_other(answer, source, tmp_path):
    answer(source, tmp_path / "out")
    error = read(tmp_path / "out")[5]["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "max_tokens"
    assert "max_tokens" in error["message"]


def test_the_order_of_the_lines_changes_no_answer(answer, source, tmp_path):
    answer(source, tmp_path / "out")
    expected = read(tmp_path / "out")
    order = list(range(len(LINES)))
    random.Random(1).shuffle(order)
    answer(write_lines(tmp_path / "shuffled", [LINES[i] for i in order]), tmp_path / "out2")
    for line, entry in read(tmp_path / "out2").items():
        assert entry == expected[order[line - 1] + 1] | {"line": line}


def test_more_lines_than_are_taken_up_at_once(answer, tmp_path):
    bodies = [{"prompt": [5 + i % 200], "max_tokens": 1, "temperature": 0} for i in range(700)]
    assert answer(write_lines(tmp_path / "in", bodies), tmp_path / "out") == (700, 0)
    assert sorted(read(tmp_path / "out")) == list(range(1, 701))


def test_a_run_cut_off_anywhere_is_finished_by_the_next(answer, source, tmp_path):
    answer(source, tmp_path / "whole")
    content, expected = (tmp_path / "whole").read_bytes(), read(tmp_path / "whole")
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    chance = random.Random(2)
    cuts = {
        0,
        1,
        len(content),
        *ends,
        *(end - 1 for end in ends),
        *chance.sample(range(len(content)), 15),
    }
    for cut in sorted(cuts):
        (tmp_path / "out").write_bytes(content[:cut])
        answered, refused = answer(source, tmp_path / "out")
        assert answered + refused == len(LINES) - content[:cut].count(b"\n")
        assert read(tmp_path / "out") == expected
        assert (tmp_path / "out").read_bytes()[
            : max([0, *(e for e in ends if e <= cut)])
        ] in content


def test_a_finished_run_does_nothing_again(answer, source, tmp_path):
    answer(source, tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    assert answer(source, tmp_path / "out") == (0, 0)
    assert (tmp_path / "out").read_bytes() == before


def test_the_command_killed_and_started_again_answers_every_line_once(folder, answer, tmp_path):
    bodies = [{"prompt": f"line {i}", "max_tokens": 40, "seed": i} for i in range(60)]
    source, target = write_lines(tmp_path / "in", bodies), tmp_path / "out"
    command = [
        *(sys.executable, "-m", "dsdeploy", "generate", folder, "--input", source),
        *("--output", target, "--context", "512", "--cache-memory", "1MiB", "--max-sequences", "2"),
    ]

    def begin():
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    process = begin()
    while not target.exists() or target.read_bytes().count(b"\n") < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert target.read_bytes().count(b"\n") < 60, "it was over before it was killed"
    process = begin()
    _, said = process.communicate()
    assert process.returncode == 0, said
    answer(source, tmp_path / "undisturbed")
    assert read(target) == read(tmp_path / "undisturbed")


NO_REQUESTS = [
    *(b"", b"nonsense", b"[1]", b'"text"', b"{", b"NaN", b"[" * 100_000),
    *(b'{"prompt": "a", "min_p": NaN}', b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}'),
]


@pytest.mark.parametrize("line", NO_REQUESTS)
def test_a_line_that_is_no_request_is_named_before_any_work_begins(answer, tmp_path, line):
    """Half of a surrogate pair is no text: it could be given to no tokenizer, and be written back
    into no file."""
    (tmp_path / "in").write_bytes(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n')
    with pytest.raises(UsageError, match="line 2 is not a JSON object"):
        answer(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["a letter\n", "{}\n", '{"line": "x"}\n', "[1]\n", "7\n"])
def test_a_file_that_is_no_output_is_left_alone(answer, source, tmp_path, content):
    (tmp_path / "out").write_text(content)
    with pytest.raises(UsageError, match="is not an output of this command"):
        answer(source, tmp_path / "out")
    assert (tmp_path / "out").read_text() == content


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_line(answer, tmp_path, separator):
    """Python knows more ends of a line; JSON allows these in a string as they are."""
    bodies = [{"prompt": f"a{separator}b", "max_tokens": 1, "echo": True}] * 2
    assert answer(write_lines(tmp_path / "in", bodies), tmp_path / "out") == (2, 0)
    for line in (1, 2):
        text = read(tmp_path / "out")[line]["choices"][0]["text"]
        assert text.startswith(bodies[0]["prompt"])


def test_lines_may_end_as_on_windows_and_the_last_need_not_end(answer, tmp_path):
    (tmp_path / "in").write_bytes(
        b'{"prompt": "a", "max_tokens": 1}\r\n{"prompt": "b", "max_tokens": 1}'
    )
    assert answer(tmp_path / "in", tmp_path / "out") == (2, 0)


def test_an_empty_file_has_no_answers(answer, tmp_path):
    (tmp_path / "in").write_bytes(b"")
    assert answer(tmp_path / "in", tmp_path / "out") == (0, 0)


# The command with one prompt.


def test_a_prompt_on_the_command_line_is_answered_on_stdout(folder, dsdeploy):
    arguments = (
        *("generate", folder, "Hello", "--raw", "--temperature", 0, "--max-tokens", 8),
        *("--cache-memory", "1MiB"),
    )
    text = dsdeploy(*arguments).stdout
    document = json.loads(dsdeploy(*arguments, "--json").stdout)
    assert text == document["choices"][0]["text"] + "\n"
    assert document["usage"]["completion_tokens"] == 8
    assert document["tokens_per_second"] > 0
    drafted = dsdeploy(*arguments, "--mtp", 2)
    assert drafted.stdout == text
    assert "drafts accepted" in drafted.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-tokens", 9000), "max_tokens = 9000 do not fit"),
        (("--seed", 2**64), "seed: Input should be less than"),
        (("--top-p", 1, "--system", "x" * 9000), "do not fit"),
    ],
)
def test_what_cannot_be_answered_is_told_in_a_sentence(folder, dsdeploy, options, said):
    result = dsdeploy("generate", folder, "Hello", "--cache-memory", "1MiB", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "fault of dsdeploy" not in result.stderr


@pytest.mark.parametrize("arguments", [(), ("Hello", "--input", __file__), ("--input", __file__)])
def test_a_prompt_or_a_file_and_its_output_must_be_given(folder, dsdeploy, arguments):
    result = dsdeploy("generate", folder, *arguments)
    assert result.exit_code == 2
    assert "Give a prompt, or --input with --output." in result.stderr
