"""What is asked: made-up prompts of given lengths, and prompts from files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.client.bench.prompt_files import from_file, read_prompts
from dsdeploy.client.bench.prompts import Length, Yardstick, calibrated, synthetic
from dsdeploy.errors import UsageError


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4000))
def test_prompts_have_their_length_whatever_the_vocabulary(base, per_word, tokens):
    def count(text):
        return base + per_word * len(text.split())

    length = Length(tokens, tokens)
    yardstick = calibrated(count, length, seed=1)
    (question,) = synthetic(1, length, Length(8, 8), yardstick, seed=1)
    least = base + per_word  # of a single word
    assert abs(count(question.prompt) - max(tokens, least)) <= per_word / 2
    assert question.max_tokens == 8


def test_an_endpoint_that_does_not_count_gives_no_yardstick():
    assert calibrated(lambda text: None, Length(100, 100), seed=1) is None
    assert calibrated(lambda text: 7, Length(100, 100), seed=1) is None


WORDS = Yardstick(0.0, 1.0)


def test_no_two_prompts_begin_alike_neither_in_a_run_nor_in_another():
    make = {"prompt": Length(40, 60), "answer": Length(1, 9), "yardstick": WORDS}
    prompts = [q.prompt for q in synthetic(200, **make, seed=1)]
    prompts += [q.prompt for q in synthetic(200, **make, seed=1, first=200)]
    prompts += [q.prompt for q in synthetic(200, **make, seed=2)]
    assert len({tuple(prompt.split()[:8]) for prompt in prompts}) == 600
    assert {len(prompt.split()) for prompt in prompts} == set(range(40, 61))
    again = synthetic(200, **make, seed=1)
    assert [question.prompt for question in again] == prompts[:200]
    assert {question.max_tokens for question in again} == set(range(1, 10))


def test_a_shared_prefix_is_part_of_the_length():
    make = {"prompt": Length(50, 50), "answer": Length(1, 1), "yardstick": WORDS, "seed": 1}
    first, second = (q.prompt.split() for q in synthetic(2, **make, shared_prefix=30))
    (later,) = (q.prompt.split() for q in synthetic(1, **make, first=2, shared_prefix=30))
    assert first[:30] == second[:30] == later[:30]
    assert first[30:40] != second[30:40]
    assert len(first) == len(second) == 50


def test_a_chat_asks_the_text_as_its_user():
    (question,) = synthetic(1, Length(3, 3), Length(1, 1), WORDS, seed=1, chat=True)
    (message,) = question.prompt
    assert message["role"] == "user"
    assert len(message["content"].split()) == 3


@pytest.mark.parametrize("text", ["", "0", "5-2", "-3", "a", "1-", "1e3", "99999999"])
def test_what_is_no_length(text):
    with pytest.raises(UsageError, match="is no length"):
        Length.parse(text)


def test_lengths():
    assert Length.parse("512") == Length(512, 512)
    assert Length.parse("256-1024") == Length(256, 1024)


def test_lines_of_json(tmp_path):
    path = tmp_path / "prompts.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    path.write_text(f'{{"prompt": "Hello", "id": 3}}\n\n{json.dumps({"messages": chat})}\n')
    assert read_prompts(path) == ["Hello", tuple(chat)]


def test_sharegpt_asks_the_first_question(tmp_path):
    path = tmp_path / "sharegpt.json"

    def conversation(*turns):
        return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]}

    path.write_text(
        json.dumps(
            [
                conversation(("human", "One?"), ("gpt", "1"), ("human", "Two?")),
                conversation(("system", "Count."), ("human", "Three?")),
                conversation(("gpt", "an answer to nothing")),
                conversation(),
            ]
        )
    )
    assert read_prompts(path) == [
        ({"role": "user", "content": "One?"},),
        ({"role": "system", "content": "Count."}, {"role": "user", "content": "Three?"}),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"prompt": "a"}\n{"prompt": ', "line 2 is no JSON"),
        ('{"prompt": "a"}\n{"text": "b"}', "line 2 has neither prompt"),
        ('{"prompt": 3}', "line 1 has neither prompt"),
        ("[1]", "entry 1 has neither prompt"),
        ('[{"conversations": [{"role": "user"}]}]', "entry 1 has neither"),
        ('{"messages": "hello"}', "line 1 has neither prompt"),
        ("", "holds no prompt"),
        ("[]", "holds no prompt"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_the_line(tmp_path, text, sentence):
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_prompts(path)


def test_prompts_of_a_file_are_all_used_before_one_is_used_again():
    prompts = list("abcde")
    make = {"answer": Length(1, 1), "seed": 7}
    rows = from_file(prompts, 3, **make), from_file(prompts, 4, **make, first=3)
    asked = [question.prompt for row in rows for question in row]
    assert sorted(asked[:5]) == prompts
    assert asked[5:] == asked[:2]
