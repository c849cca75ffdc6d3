"""dsdeploy chat against an endpoint that says what it is told to."""

import json
import os
import pty
import re
import select
import sys
import threading

import pytest
from click.testing import CliRunner

from dsdeploy.cli.main import cli

from .stand_in import DONE, event, finish, piece, says, standing_in


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.delenv("DSDEPLOY_API_KEY", raising=False)
    with standing_in() as found:
        yield found


@pytest.fixture
def chat(endpoint):
    """`chat("a question\\n", "--seed", 1)` through a pipe."""

    def run(lines, *options):
        words = ["chat", endpoint.url, *map(str, options)]
        return CliRunner().invoke(cli, words, input=lines)

    return run


def asked(endpoint):
    return [body for path, _, body in endpoint.asked if path == "/v1/chat/completions"]


def test_each_line_of_a_pipe_is_a_question_of_one_conversation(endpoint, chat):
    endpoint.answers = [says("Par", "is."), says("Two million.")]
    result = chat("Capital of France?\n\nHow many live there?\n", "--system", "Be short.")
    assert (result.exit_code, result.stdout) == (0, "Paris.\nTwo million.\n")
    assert asked(endpoint)[1]["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "How many live there?"},
    ]


def test_settings_are_sent_and_those_not_given_are_not(endpoint, chat):
    endpoint.answers = [says("a"), says("b")]
    chat("x\n", "--max-tokens", 5, "--temperature", 0, "--seed", 7, "--model", "second")
    chat("x\n")
    given, bare = asked(endpoint)
    wanted = {"model": "second", "max_tokens": 5, "temperature": 0, "seed": 7}
    assert wanted.items() <= given.items()
    assert bare["model"] == "first"
    assert not {"max_tokens", "temperature", "seed"} & bare.keys()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_stand_apart_and_are_not_sent_back(endpoint, chat, field):
    thought = [piece(**{field: "One.\nTw"}), piece(**{field: "o."}), *says("Three.")]
    endpoint.answers = [thought, says("b")]
    result = chat("x\ny\n")
    assert result.stdout == "thinking: One.\nthinking: Two.\nThree.\nb\n"
    assert asked(endpoint)[1]["messages"][1] == {"role": "assistant", "content": "Three."}
    endpoint.answers = [thought]
    assert chat("x\n", "--no-reasoning").stdout == "Three.\n"


def test_json_gives_an_object_for_each_answer(endpoint, chat):
    endpoint.answers = [[piece(reasoning="Hm."), *says("a", "b", "c")], [finish("length", 0)]]
    first, second = map(json.loads, chat("x\ny\n", "--json").stdout.splitlines())
    wanted = {
        "model": "first",
        "question": "x",
        "content": "abc",
        "reasoning": "Hm.",
        "finish_reason": "stop",
        "usage": {"completion_tokens": 3},
        "interrupted": False,
    }
    assert wanted.items() <= first.items()
    assert first["tokens_per_second"] == pytest.approx(
        2 / (first["seconds"] - first["seconds_to_first_token"])
    )
    assert (second["content"], second["finish_reason"]) == ("", "length")
    assert (second["seconds_to_first_token"], second["tokens_per_second"]) == (None, None)


def test_a_line_about_the_speed_follows_on_stderr_unless_quiet(endpoint, chat):
    endpoint.answers = [says("a", "b"), says("a"), [piece(content="a"), DONE]]
    pattern = r"2 tokens, the first after \d+\.\d\d s, \d+\.\d tokens/s\n"
    assert re.fullmatch(pattern, chat("x\n").stderr)
    assert chat("x\n", "--quiet").stderr == ""
    assert re.fullmatch(r"the first after \d+\.\d\d s\n", chat("x\n").stderr)


FAILURES = {
    "an event that is an error": (
        [piece(content="Half"), event({"error": {"message": "out of memory"}})],
        "error: {url} has failed in mid-answer: out of memory.",
    ),
    "a cut connection": (
        [piece(content="Half")],
        "error: The answer of {url} broke off: the stream ended without its last event.",
    ),
    "no JSON": (
        [piece(content="Half"), b"data: <html>\n\n"],
        "error: The answer of {url} broke off: an event is not as OpenAI writes it.",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_in_mid_answer_is_a_sentence_and_ends_a_pipe(endpoint, chat, name):
    pieces, sentence = FAILURES[name]
    endpoint.answers = [pieces, says("never asked for")]
    result = chat("x\ny\n")
    assert (result.exit_code, result.stdout) == (7, "Half\n")
    assert result.stderr.splitlines()[0] == sentence.format(url=endpoint.url)
    assert len(asked(endpoint)) == 1


def test_a_wrong_model_is_answered_with_those_that_exist(endpoint, chat):
    endpoint.answers = [(404, {"error": {"message": "no such model"}})]
    result = chat("x\n", "--model", "third")
    assert result.exit_code == 2
    assert "fix: Models there: first, second." in result.stderr


class Terminal:
    """`dsdeploy chat` on a terminal of its own."""

    def __init__(self, *words, **environment):
        self._child, self._descriptor = pty.fork()
        if not self._child:
            words = [sys.executable, "-m", "dsdeploy", "chat", *words]
            os.execve(sys.executable, words, os.environ | {"TERM": "xterm"} | environment)
        self.said = b""
        self._read = 0

    def until(self, text):
        """What is shown from the last such call up to and with `text`."""
        while (found := self.said.find(text.encode(), self._read)) < 0:
            assert self._hear(), f"{text!r} never came: {self.said.decode()}"
        begun, self._read = self._read, found + len(text.encode())
        return self.said[begun : self._read].decode()

    def type(self, text):
        os.write(self._descriptor, text.encode())

    def end(self):
        """The exit code."""
        while self._hear():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])

    def _hear(self):
        """False when the other side has ended."""
        assert select.select([self._descriptor], [], [], 60)[0], self.said.decode()
        try:
            heard = os.read(self._descriptor, 4096)
        except OSError:
            return False
        self.said += heard
        return bool(heard)

    def close(self):
        """Hangs up on a chat that still runs."""
        os.close(self._descriptor)


@pytest.fixture
def terminal(endpoint):
    found = Terminal(endpoint.url, NO_COLOR="")
    found.until("> ")
    yield found
    found.close()


CTRL_C, CTRL_D = "\x03", "\x04"


def test_ctrl_c_ends_the_answer_and_ctrl_d_the_chat(endpoint, terminal):
    endpoint.answers = [[piece(content="It begins"), threading.Event()], says("Well.")]
    terminal.type("Tell a story\r")
    terminal.until("It begins")
    terminal.type(CTRL_C)
    terminal.until("interrupted")
    assert endpoint.gone.wait(20)
    terminal.until("> ")
    terminal.type("half a line" + CTRL_C)
    terminal.until("> ")
    terminal.type("And?\r")
    terminal.until("Well.")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert [message["content"] for message in asked(endpoint)[1]["messages"]] == [
        "Tell a story",
        "It begins",
        "And?",
    ]


def test_what_fails_or_has_no_word_yet_leaves_no_trace(endpoint, terminal):
    thinking = [piece(reasoning="Hm."), threading.Event()]
    endpoint.answers = [[piece(content="Half")], thinking, says("Yes.")]
    terminal.type("lost\r")
    terminal.until("broke off")
    terminal.until("> ")
    terminal.type("thought over\r")
    terminal.until("Hm.")
    terminal.type(CTRL_C)
    terminal.until("> ")
    terminal.type("kept\r")
    terminal.until("Yes.")
    terminal.type("/quit\r")
    assert terminal.end() == 0
    assert asked(endpoint)[2]["messages"] == [{"role": "user", "content": "kept"}]


def test_a_terminal_shows_thoughts_dim_and_does_not_obey_the_model(endpoint, terminal):
    endpoint.answers = [[piece(reasoning="Hm."), *says("Yes\x1b]0;title\x07\x9b31m \u2713")]]
    terminal.type("x\r")
    assert "\x1b[2mHm.\x1b[0m\r\nYes]0;title31m \u2713\r\n" in terminal.until("one token")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_pasted_lines_are_one_question(endpoint, terminal):
    pytest.importorskip("readline")
    endpoint.answers = [says("Fine.")]
    terminal.type("\x1b[200~def f():\n    pass\x1b[201~\r")
    terminal.until("Fine.")
    terminal.until("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert asked(endpoint)[0]["messages"][0]["content"] == "def f():\n    pass"


def test_commands(endpoint, terminal, tmp_path):
    endpoint.answers = [says("one"), says("two"), says("three")]

    def say(line, expected):
        terminal.type(f"{line}\r")
        terminal.until(expected)
        terminal.until("> ")

    say("a", "one")
    say("b", "two")
    say("/undo", "Forgotten, with its answer: b")
    say("/system Be kind", "told so")
    say("/model third", "Models there: first, second.")
    say("/model second", "second answers from now on.")
    say(f"/save {tmp_path}/chat.json", "Saved in")
    say(f"/save {tmp_path}/no/chat.json", "cannot be written: No such file or directory.")
    say("/etc/passwd?", "There is no command /etc/passwd?.")
    say("/reset", "forgotten")
    say("/undo", "Nothing has been said yet.")
    say(" /c", "three")
    say("/help", "Write the conversation as JSON.")
    terminal.type("/quit\r")
    assert terminal.end() == 0

    system = {"role": "system", "content": "Be kind"}
    assert json.loads((tmp_path / "chat.json").read_text()) == {
        "model": "second",
        "messages": [
            system,
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "one"},
        ],
    }
    assert asked(endpoint)[2]["messages"] == [system, {"role": "user", "content": " /c"}]
