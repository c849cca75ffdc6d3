"""The JSON Schema of profiles, against the files as they are written."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from dsdeploy.hardware.profile import Accelerator, Disk, Link, Machine
from dsdeploy.hardware.schema import profile_schema
from dsdeploy.strict_yaml import read_yaml

TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
    "null": type(None),
}
WORDS = {"title", "description", "default", "$schema", "$defs"}
ONLY_OF = {
    "pattern": "string",
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"], "number"),
    **dict.fromkeys(["properties", "additionalProperties"], "object"),
    **dict.fromkeys(["propertyNames", "minProperties"], "object"),
    "items": "array",
}
SHIPPED = Path(__file__).parents[2] / "profiles"
FILES = sorted(SHIPPED.glob("*/*.yaml"))
ACCELERATOR = {"link": {"kind": "PCIe", "bandwidth": "32GB/s"}, "teraflops": {"bf16": 1}}


def is_of(kind, value):
    kinds = kind if isinstance(kind, list) else [kind]
    return any(isinstance(value, TYPES[name]) for name in kinds) and not isinstance(value, bool)


def accepts(schema, value, root=None):
    """Whether the schema allows the value; of JSON Schema, what profiles' schemas make use of."""
    root = root or schema

    def all_accepted(wanted, parts):
        return all(accepts(wanted, part, root) for part in parts)

    def holds(word, wanted):
        if word in ONLY_OF and not is_of(ONLY_OF[word], value):
            return True
        match word:
            case "type":
                return is_of(wanted, value)
            case "$ref":
                return accepts(root["$defs"][wanted.removeprefix("#/$defs/")], value, root)
            case "anyOf":
                return any(accepts(option, value, root) for option in wanted)
            case "enum":
                return value in wanted
            case "pattern":
                return re.search(wanted, value) is not None
            case "minimum":
                return value >= wanted
            case "maximum":
                return value <= wanted
            case "exclusiveMinimum":
                return value > wanted
            case "exclusiveMaximum":
                return value < wanted
            case "minProperties":
                return len(value) >= wanted
            case "propertyNames":
                return all_accepted(wanted, value)
            case "properties":
                return all(
                    accepts(wanted[name], value[name], root) for name in wanted.keys() & value
                )
            case "additionalProperties":
                others = value.keys() - schema.get("properties", {}).keys()
                return (
                    not others if wanted is False else all_accepted(wanted, map(value.get, others))
                )
            case "items":
                return all_accepted(wanted, value)
        raise AssertionError(f"this test does not know {word}")

    return all(holds(word, wanted) for word, wanted in schema.items() if word not in WORDS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_file_is_accepted(file):
    schema = profile_schema(file.parent.name.removesuffix("s"))
    assert accepts(schema, read_yaml(file, str(file)))


@pytest.mark.parametrize(
    "fields",
    [
        {"accelerator": "h200"},
        {"accelerator": {"name": "own", **ACCELERATOR}},
        {"host_memory": 10**12},
        {"price_per_hour": None},
        {"price_per_hour": 9},
        {"inter_node": {"bandwidth": "400Gb/s"}},
    ],
)
def test_what_a_machine_may_say(fields):
    assert accepts(profile_schema("machine"), {"extends": "8xh200"} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"nodez": 2},
        {"nodes": "2"},
        {"nodes": 0},
        {"nodes": 1.5},
        {"nodes": True},
        {"accelerators_per_node": 65},
        {"name": "My Machine"},
        {"price_per_hour": -1},
        {"price_per_hour": "9"},
        {"host_memory": 0},
        {"host_memory": None},
        {"host_memory": 1.5},
        {"host_memory": 2**63},
        {"disk": "large"},
        {"disk": {"spaces": "1TB"}},
        {"inter_node": {"bandwidth": 0}},
        {"accelerator": 5},
        {"accelerator": {"bandwith": "1TB/s"}},
        {"container_runtime": "lxc"},
        {"extends": ["8xh200"]},
    ],
)
def test_what_a_machine_may_not_say(fields):
    assert not accepts(profile_schema("machine"), fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"vendor": "acme"},
        {"architecture": "sparc"},
        {"teraflops": {}},
        {"teraflops": {"bf17": 1}},
        {"teraflops": {"bf16": 0}},
        {"teraflops": {"bf16": "fast"}},
        {"reported_as": "NVIDIA H100"},
        {"fp8_variant": "e5m2"},
        {"memory": -1},
    ],
)
def test_what_an_accelerator_may_not_say(fields):
    assert accepts(profile_schema("accelerator"), ACCELERATOR)
    assert not accepts(profile_schema("accelerator"), fields)


@pytest.mark.parametrize(("kind", "model"), [("machine", Machine), ("accelerator", Accelerator)])
def test_every_field_is_there_with_a_description(kind, model):
    schema = profile_schema(kind)
    assert set(schema["properties"]) == {*model.model_fields, "extends"}
    for part in (Link, Disk, Accelerator) if kind == "machine" else (Link,):
        assert set(schema["$defs"][part.__name__]["properties"]) == set(part.model_fields)
    assert '"required"' not in json.dumps(schema)


@pytest.mark.parametrize(("options", "kind"), [((), "machine"), (["--accelerator"], "accelerator")])
def test_the_command_prints_it(options, kind, dsdeploy):
    plain = dsdeploy("profiles", "schema", *options)
    assert json.loads(plain.stdout) == profile_schema(kind)
    assert dsdeploy("profiles", "schema", *options, "--json").stdout == plain.stdout


@pytest.mark.parametrize("kind", ["machine", "accelerator"])
def test_the_published_schema_is_the_current_one(kind):
    """Made anew by `dsdeploy profiles schema > profiles/machine.schema.json`."""
    published = files("dsdeploy.profiles").joinpath(f"{kind}.schema.json").read_text()
    assert json.loads(published) == profile_schema(kind)
