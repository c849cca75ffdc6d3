"""Chat templates, which come with a model and are programs: nothing they try does any harm.

The attacks are all in one template; the first message chooses among them.
"""

import json
import os
import resource
import shutil
import threading
import time
from contextlib import ExitStack

import psutil
import pytest

from dsdeploy.errors import UsageError
from dsdeploy.runner.chat import ChatTemplate
from dsdeploy.runner.text import Tokenizer

from ..waiting import until
from .tools import IMPATIENT, is_error

MIB = 1 << 20
FOR_EVER = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
ATTACKS = {
    # How it is tried, and what is said of it. `ten` is no constant: those would be computed when
    # the template is compiled, before any message is looked at.
    "loop": (FOR_EVER, "has not ended within"),
    "a power": ("{{ 10 ** (10 ** ten) }}", "has not ended within"),
    "letters": ("{{ 'a' * 10 ** ten }}", "too much memory"),
    "a list": ("{{ [0] * 10 ** ten }}", "too much memory"),
    "a padded word": ("{{ 'a'.ljust(10 ** ten) }}", "too much memory"),
    "a long answer": ("{{ 'a' * 10 ** (ten - 2) }}", "too much text"),
    "words without end": (
        "{% for a in range(99999) %}{% for b in range(9999) %}aaaaaaaaaaaa{% endfor %}{% endfor %}",
        "The chat template",
    ),
    "range": ("{{ range(10 ** ten) | list }}", "Range too big"),
    "subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "globals": ("{{ raise_exception.__globals__['sys'] }}", "unsafe"),
    "a module": ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
    "a namespace": ("{{ namespace.__init__.__globals__ }}", "unsafe"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "an import": ("{% import 'os' as os %}", "no loader"),
    "a change of the messages": ("{{ messages.append(1) }}", "unsafe"),
    "what is not there": ("{{ messages[0].nothing.here }}", "has no attribute 'nothing'"),
    "a refusal of its own": (
        "{{ raise_exception('Roles must alternate') }}",
        "Roles must alternate",
    ),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
}

# These find nothing: what they reach for prints as nothing.
VAIN = {
    "a class": "{{ ''.__class__ }}",
    "an attribute by name": "{{ ''|attr('__class__') }}",
    "the code of a lambda": "{{ strftime_now.__code__ }}",
    "a format": "{{ '{0.__class__}'.format(messages) }}",
    "a map of a format": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "the worker": "{{ self.__init__ }}{{ _render }}{{ main }}{{ sys }}{{ os }}",
}


def hostile():
    """All attacks in one template."""
    branches = "".join(
        f"{{% if messages[0].content == {json.dumps(name)} %}}{attack}{{% endif %}}"
        for name, attack in {
            **VAIN,
            **{name: attack for name, (attack, _) in ATTACKS.items()},
        }.items()
    )
    return "{% set ten = 10 * messages|length %}{{ messages[0].content }}" + branches


@pytest.fixture(scope="module")
def prey(serving, checkpoint, tmp_path_factory):
    """Serves a checkpoint with the hostile template, which has 2.5 seconds."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("hostile") / "hostile")
    (folder / "chat_template.jinja").write_text(hostile())
    with serving(folder, program=IMPATIENT) as running:
        yield running


def chat(server, content, **fields):
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, **fields}
    return server.post("/v1/chat/completions", body)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_the_next_chat_answered(prey, name):
    before = prey.inside.memory_info().rss
    answer = chat(prey, name)
    _, said = ATTACKS[name]
    message = is_error(answer, 400)
    assert "The chat template" in message
    assert said in message
    assert len(message) < 500
    assert prey.inside.memory_info().rss < before + 100 * MIB
    assert chat(prey, "Hello").status_code == 200


@pytest.mark.parametrize("name", VAIN)
def test_what_is_not_for_templates_is_not_there(prey, name):
    body = {"messages": [{"role": "user", "content": name}]}
    tokens = prey.post("/tokenize", body).json()["tokens"]
    assert prey.post("/detokenize", {"tokens": tokens}).json()["prompt"] == name


def test_while_a_template_loops_others_are_served(prey):
    """Chats wait for each other, but completions for none of them, however many they are."""
    loops = [threading.Thread(target=chat, args=[prey, "loop"]) for _ in range(2)]
    crowd = [threading.Thread(target=chat, args=[prey, "Hello"]) for _ in range(60)]
    for thread in (*loops, *crowd):
        thread.start()
    time.sleep(0.3)
    for _ in range(20):
        begun = time.monotonic()
        assert prey.complete("a", max_tokens=2)["text"] is not None
        assert prey.client.get("/v1/models").status_code == 200
        assert time.monotonic() - begun < 3
    assert any(thread.is_alive() for thread in loops), "it was not slowed, or this proves nothing"
    for thread in (*loops, *crowd):
        thread.join()
    assert chat(prey, "Hello").status_code == 200


def test_a_template_s_process_is_begun_again_after_whatever_ends_it(prey):
    assert chat(prey, "Hello").status_code == 200
    (worker,) = prey.inside.children(recursive=True)
    worker.kill()
    until(lambda: worker.status() == psutil.STATUS_ZOMBIE)
    assert chat(prey, "Hello").status_code == 200
    (other,) = prey.inside.children(recursive=True)
    assert other.pid != worker.pid


# Without a server.


@pytest.fixture
def template(tmp_path, checkpoint):
    """Make a template of its source; it has two seconds."""
    shutil.copy(checkpoint / "tokenizer.json", tmp_path)
    shutil.copy(checkpoint / "tokenizer_config.json", tmp_path)
    with ExitStack() as stack:

        def make(source, seconds=2.0):
            (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
            template = ChatTemplate(Tokenizer(tmp_path), seconds)
            stack.callback(template.close)
            return template

        yield make


ASKED = [{"role": "user", "content": "Hello"}]


def test_templates_have_what_those_of_published_models_use(template):
    source = """
        {%- if not loop_controls is defined %}{% endif -%}
        {%- set found = namespace(first=true) -%}
        {%- for message in messages -%}
          {%- if message.role == 'skip' %}{% continue %}{% endif -%}
          {%- if not found.first %}|{% endif %}{% set found.first = false -%}
          {{ bos_token }}{{ message['content'].split('</think>')[-1] | trim }}
        {%- endfor -%}
        {{ {'ä': [1, none]} | tojson }}{{ [3] | tojson(indent=1) }}{{ strftime_now('%Y')|length }}
        {%- if add_generation_prompt %}>{% endif %}"""
    messages = [
        {"role": "user", "content": "x</think> a "},
        {"role": "skip", "content": "never"},
        {"role": "user", "content": "<b>"},
    ]
    expected = "<｜begin▁of▁sentence｜>a|<｜begin▁of▁sentence｜><b>" + '{"ä": [1, null]}[\n 3\n]4>'
    assert template(source).render(messages) == expected
    assert not template(source).render(messages, add_generation_prompt=False).endswith(">")


def test_what_a_template_sets_is_gone_at_the_next_rendering(template):
    made = template("{{ seen is defined }}{% set seen = true %}{{ seen }}")
    assert [made.render(ASKED) for _ in range(3)] == ["FalseTrue"] * 3


def test_no_chat_template_and_one_that_is_no_template(template, tmp_path):
    with pytest.raises(UsageError, match="refuses these messages"):
        template("{% if %}").render(ASKED)
    (tmp_path / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    with pytest.raises(UsageError, match="has no chat template"):
        ChatTemplate(Tokenizer(tmp_path)).render(ASKED)


def test_a_template_that_loops_is_ended_in_its_time_with_its_process(template):
    made = template(FOR_EVER, seconds=1.0)
    before = set(psutil.Process().children(recursive=True))
    begun = time.monotonic()
    with pytest.raises(UsageError, match="has not ended within 1 s"):
        made.render(ASKED)
    assert time.monotonic() - begun < 20
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize("size", [MIB, 8 * MIB])
def test_large_messages_come_through_whole(template, size):
    text = "é" * (size // 2)
    made = template("{{ messages[0].content }}", seconds=30.0)
    assert made.render([{"role": "user", "content": text}]) == text


def test_threads_are_each_given_their_own(template):
    made, found = template("{{ messages[0].content }}", seconds=30.0), {}

    def render(number):
        found[number] = made.render([{"role": "user", "content": f"{number}" * 1000}])

    threads = [threading.Thread(target=render, args=[number]) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number}" * 1000 for number in range(30)}


def test_a_process_with_more_files_than_select_knows_can_render(template):
    """A server has a file for each client; `select` knows 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = []
    try:
        while not files or files[-1] < 1100:
            files.append(os.dup(0))
        assert template("{{ 1 }}", seconds=30.0).render(ASKED) == "1"
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
