"""Text that streams: whole characters only, no stop string, and in the end all of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.errors import IntegrityError, UsageError
from dsdeploy.runner.text import TextStream, Tokenizer
from dsdeploy.synth.tokenizer import PAD, SPECIAL, tokenizer_files

VOCABULARY = 400
BYTES = range(len(SPECIAL), len(SPECIAL) + 256)
HALF = "\ufffd"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Bytes, and words of several."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in tokenizer_files(VOCABULARY).items():
        (folder / name).write_text(content)
    return Tokenizer(folder)


def streamed(tokenizer, tokens, stop=(), skip_special=True):
    """(pieces, what was held back, the stop string that ended it)"""
    stream = TextStream(tokenizer, stop, skip_special)
    pieces = []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped_by is not None:
            break
    return pieces, stream.finish(), stream.stopped_by


high_bytes = st.integers(BYTES[128], BYTES[-1])
any_tokens = st.lists(st.one_of(st.integers(0, VOCABULARY - 1), high_bytes), max_size=30)
texts = st.text(st.sampled_from("ab é€😀\n本"), max_size=20)


@settings(max_examples=500)
@given(tokens=any_tokens, skip_special=st.booleans())
def test_the_pieces_are_the_whole_text(tokenizer, tokens, skip_special):
    """But for a character of which only the first bytes have come when the answer ends."""
    pieces, rest, _ = streamed(tokenizer, tokens, skip_special=skip_special)
    whole = tokenizer.decode(tokens, skip_special)
    assert "".join(pieces) + rest == whole.rstrip(HALF)


@given(text=texts, cut=st.integers(0, 60))
def test_a_character_cut_in_half_is_never_shown(tokenizer, text, cut):
    tokens = tokenizer.encode(text, special=False)
    pieces, rest, _ = streamed(tokenizer, tokens)
    assert "".join(pieces) == text
    assert rest == ""
    assert HALF not in "".join(pieces)
    shown, rest, _ = streamed(tokenizer, tokens[:cut])
    assert text.startswith("".join(shown) + rest)


def test_a_character_appears_with_its_last_byte(tokenizer):
    tokens = tokenizer.encode("a€b", special=False)
    assert len(tokens) == 5
    assert streamed(tokenizer, tokens)[0] == ["a", "", "", "€", "b"]


def plain_stop(tokenizer, tokens, stop):
    """After which token a stop string is complete, and the text before the first of them."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count], skip_special=True)
        if text.endswith(HALF):
            continue
        places = [text.find(string) for string in stop if string in text]
        if places:
            return count, text[: min(places)]
    return None


@settings(max_examples=400)
@given(
    tokens=st.lists(
        st.sampled_from([*BYTES[97:100], BYTES[195], BYTES[169], BYTES[-1] + 1]), max_size=20
    ),
    stop=st.lists(st.text(st.sampled_from("abcé"), min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_string_as_soon_as_it_is_complete(tokenizer, tokens, stop):
    pieces, rest, stopped_by = streamed(tokenizer, tokens, tuple(stop))
    shown, expected = "".join(pieces) + rest, plain_stop(tokenizer, tokens, stop)
    if expected is None:
        assert stopped_by is None
        assert shown == tokenizer.decode(tokens, skip_special=True).rstrip(HALF)
    else:
        assert (len(pieces), shown) == expected
        assert stopped_by in stop
        assert rest == ""


@given(
    text=st.text(st.sampled_from("ab"), max_size=30),
    stop=st.text(st.sampled_from("ab"), min_size=1, max_size=6),
)
def test_no_beginning_of_a_stop_string_is_shown_before_it_is_certain(tokenizer, text, stop):
    """What has been shown is never taken back."""
    stream, shown = TextStream(tokenizer, (stop,)), ""
    for count, token in enumerate(tokenizer.encode(text, special=False), 1):
        shown += stream.add(token)
        so_far = tokenizer.decode(tokenizer.encode(text, special=False)[:count])
        if stop in so_far:
            assert shown == so_far[: so_far.find(stop)]
            break
        held = so_far[len(shown) :]
        assert so_far == shown + held
        assert stop.startswith(held), "nothing else is held back"


def test_special_tokens_are_left_out_unless_wanted(tokenizer):
    tokens = [0, BYTES[97], SPECIAL.index(PAD), BYTES[98]]
    assert "".join(streamed(tokenizer, tokens)[0]) == "ab"
    shown = "".join(streamed(tokenizer, tokens, skip_special=False)[0])
    assert shown == f"{SPECIAL[0]}a{PAD}b"


def test_a_token_that_the_tokenizer_does_not_know_is_no_text(tokenizer):
    """Models have more rows than their tokenizer has tokens: DeepSeek-V3 has 129,280 and 128,815."""
    assert "".join(streamed(tokenizer, [BYTES[97], VOCABULARY + 5, BYTES[98]])[0]) == "ab"


# The tokenizer's files.


@given(text=st.text(max_size=50).filter(lambda text: not any(token in text for token in SPECIAL)))
def test_text_goes_to_tokens_and_back(tokenizer, text):
    tokens = tokenizer.encode(text, special=False)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.encode(text) == [0, *tokens]


def folder_with(tmp_path, **files):
    for name, content in tokenizer_files(VOCABULARY).items():
        (tmp_path / name).write_text(content)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content)
    return tmp_path


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"model": {"type": "Nope"}}'])
def test_a_tokenizer_that_is_none_is_named(tmp_path, content):
    with pytest.raises(IntegrityError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer(folder_with(tmp_path, tokenizer=content))


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_settings_that_are_no_json_are_named(tmp_path, content):
    tokenizer = Tokenizer(folder_with(tmp_path, tokenizer_config=content))
    with pytest.raises(IntegrityError, match=r"tokenizer_config\.json is not JSON"):
        _ = tokenizer.settings


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": 2}, {1}),
        ({"eos_token_id": [1, 5]}, {}, {1, 5}),
        ({}, {"eos_token_id": 2}, {2}),
        ({}, {}, set()),
    ],
)
def test_the_generation_config_knows_the_end_tokens_better_than_the_models(
    tmp_path, generation, config, expected
):
    folder = folder_with(
        tmp_path, generation_config=json.dumps(generation), config=json.dumps(config)
    )
    assert Tokenizer(folder).end_tokens == expected


def test_a_chat_template_beside_the_tokenizer_comes_before_the_one_in_its_settings(tmp_path):
    folder = folder_with(tmp_path)
    assert "add_generation_prompt" in Tokenizer(folder).chat_template
    (folder / "chat_template.jinja").write_text("{{ 1 }}")
    assert Tokenizer(folder).chat_template == "{{ 1 }}"


def test_special_tokens_may_be_written_out_or_as_objects(tmp_path):
    folder = folder_with(
        tmp_path,
        tokenizer_config=json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}),
    )
    assert Tokenizer(folder).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert Tokenizer(folder).chat_template is None


def test_a_stop_string_is_text_like_other_text_until_the_answer_may_stop(tokenizer):
    stream = TextStream(tokenizer, ("b",))
    tokens = tokenizer.encode("abcabc", special=False)
    pieces = [stream.add(token, may_stop=at >= 3) for at, token in enumerate(tokens)]
    assert "".join(pieces) == "abca"
    assert stream.stopped_by == "b"
