"""Settings as YAML: what is read, what is refused and where, what is written."""

import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.strict_yaml import dump_yaml, load_yaml, read_yaml

NAMES = st.text(max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FINITE | st.text()
DOCUMENTS = st.recursive(
    SCALARS, lambda parts: st.lists(parts, max_size=4) | st.dictionaries(NAMES, parts, max_size=4)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("22:22", "22:22"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("=", "="),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("+5", 5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        ("~", None),
        ("null", None),
        ("", None),
        ("true", True),
        ("'true'", "true"),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    loaded = load_yaml(text, "f")
    assert (type(loaded), loaded) == (type(value), value)


def test_not_a_number():
    assert math.isnan(load_yaml(".nan", "f"))


@given(DOCUMENTS, st.sampled_from([None, 2]))
def test_json_is_yaml(document, indent):
    assert load_yaml(json.dumps(document, indent=indent), "f") == document


@given(DOCUMENTS)
def test_what_is_written_comes_back(document):
    assert load_yaml(dump_yaml(document), "f") == document


@given(st.from_regex(r"[-+.0-9oxeEa-f:_~]{1,8}", fullmatch=True) | st.sampled_from(["no", "<<"]))
def test_text_that_looks_like_something_else_is_written_for_all_readers(text):
    assert load_yaml(dump_yaml(text), "f") == yaml.safe_load(dump_yaml(text)) == text


def test_what_is_written_has_no_aliases():
    part = {"a": [1]}
    assert dump_yaml({"x": part, "y": part}) == "x:\n  a:\n  - 1\ny:\n  a:\n  - 1\n"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: &x 1\nb: *x", "2:4", "aliases (*name) are not allowed"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "3:7", "aliases (*name) are not allowed"),
        ("<<: {a: 1}", "1:1", "merge keys (<<) are not allowed"),
        ("a: 1\nb: 2\na: 3", "3:1", "'a' is written twice"),
        ("a:\n  - {b: 1, b: 2}", "2:12", "'b' is written twice"),
        ("1: a\n0x1: b", "2:1", "'0x1' is written twice"),
        ("? [a, b]\n: 1", "1:3", "a list or a mapping is no key"),
        ("name: {{ model }}", "1:8", "a list or a mapping is no key"),
        ("a:\n\tb: 1", "2:1", "found character '\\t'"),
        ("a: b: c", "1:5", "mapping values are not allowed here"),
        ("a: 'b", "1:6", "unexpected end"),
        ("a: 1\n---\nb: 2", "2:1", "single document"),
        ("a: \x07", "1:4", "the character 0x7 is not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "1:4", "tags (!name) are not allowed"),
        ("!!binary aGk=", "1:1", "tags (!name) are not allowed"),
        ("!!set {a}", "1:1", "tags (!name) are not allowed"),
        ("!!timestamp soon", "1:1", "tags (!name) are not allowed"),
        ("!!omap [a: 1]", "1:1", "tags (!name) are not allowed"),
        ("!!bool maybe", "1:1", "tags (!name) are not allowed"),
        ("! a", "1:1", "tags (!name) are not allowed"),
        ("[" * 100_000, "1:65", "nested more than 64 deep"),
        ("{a: " * 1000, "1:254", "nested more than 64 deep"),
        ("a: " + "1" * 5000, "1:4", "a number of 5000 digits"),
        ('a: "\\ud83d"', "1:4", "half a character"),
    ],
)
def test_a_refusal_says_where_and_why(text, place, words):
    with pytest.raises(UsageError) as caught:
        load_yaml(text, "my.yaml")
    sentence = caught.value.message
    assert sentence.startswith(f"my.yaml:{place}: ")
    assert words in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_escape_that_is_no_character():
    with pytest.raises(UsageError, match="is no character"):
        load_yaml('"\\UFFFFFFFF"', "my.yaml")


@given(st.text(st.sampled_from("ab01 \n\t-:?,[]{}#&*!|>'\"%@`~<\\=.\x85\ufeffUx"), max_size=30))
def test_nonsense_is_a_value_or_a_refusal(text):
    with suppress(UsageError):
        load_yaml(text, "f")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my.yaml"


def refusal_of(file):
    with pytest.raises(UsageError) as caught:
        read_yaml(file, "my.yaml")
    return caught.value.message


def test_an_empty_file_holds_nothing(file):
    file.touch()
    assert read_yaml(file, "my.yaml") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_any_editor(encoding, end, file):
    file.write_bytes(f"name: Zürich{end}nodes: 2{end}".encode(encoding))
    assert read_yaml(file, "my.yaml") == {"name": "Zürich", "nodes": 2}


def test_a_file_that_is_not_utf_8(file):
    file.write_bytes("a: 1\nb: für Zürich".encode("latin-1"))
    assert refusal_of(file) == "my.yaml:2:5: this is not UTF-8."


def test_a_huge_file(file):
    with file.open("wb") as stream:
        stream.truncate(10**12)
    assert "too large for a file of settings" in refusal_of(file)


def test_a_huge_text():
    with pytest.raises(UsageError, match="too large"):
        load_yaml("a" * 2_000_000, "my.yaml")


def test_a_file_that_cannot_be_read(file):
    assert refusal_of(file) == "my.yaml cannot be read: No such file or directory."
    assert refusal_of(Path(file.parent)) == "my.yaml cannot be read: Is a directory."
