"""MindIE's files, against schemas of its releases and the rules that no schema can say.

No NPU is here: the schemas are written from the vendor's documents.
"""

import copy
import json
from itertools import product
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from dsdeploy.errors import UsageError

from .launches import launched

SCHEMAS = Path(__file__).parents[1] / "data" / "mindie"
REGISTRY = Registry().with_resources(
    (file.name, Resource.from_contents(json.loads(file.read_text())))
    for file in SCHEMAS.glob("*.schema.json")
)
RELEASES = {"2.0.T3": "2.0", "2.2.RC1": "2.0", "2.3.0": "2.3"}
PLACES = [
    ("2xatlas-800i-a2", "int8", {}),
    ("4xatlas-800i-a2", "bf16", {}),
    ("1xatlas-a3", "int8", {}),
    ("4xatlas-a3", "bf16", {"mtp": True}),
    ("4xatlas-a3", "int8", {"context": 32768, "concurrency": 64}),
]
WANTED = [{}, {"host": "0.0.0.0", "port": 9000, "metrics": False, "name": "v3"}]


def faults(schema, value):
    """As paths of what is wrong."""
    found = Draft202012Validator({"$ref": f"{schema}.schema.json"}, registry=REGISTRY)
    return ["/".join(map(str, error.absolute_path)) for error in found.iter_errors(value)]


def rendered(machine, release, wanted=None, **wish):
    process = launched("mindie", machine, release, wanted, **wish).head.processes[0]
    return [json.loads(file.content) for file in process.files]


@pytest.mark.parametrize(("machine", "precision", "wish"), PLACES)
def test_everything_rendered_is_of_its_schema_and_keeps_the_rules(machine, precision, wish):
    for release, wanted in product(RELEASES, WANTED):
        config, *tables = rendered(machine, release, wanted, precision=precision, **wish)
        assert faults(f"config-{RELEASES[release]}", config) == []
        assert [faults("rank_table", table) for table in tables] == [[]] * len(tables)
        keeps_the_rules(config, tables)


def keeps_the_rules(config, tables):
    backend = config["BackendConfig"]
    deploy, schedule = backend["ModelDeployConfig"], backend["ScheduleConfig"]
    [model] = deploy["ModelConfig"]
    ranks = [
        one["rank_id"] for table in tables for s in table["server_list"] for one in s["device"]
    ]
    world = len(ranks) or model["worldSize"]
    assert ranks in ([], [str(rank) for rank in range(world)])
    assert backend["multiNodesInferEnabled"] == bool(tables)
    assert model["dp"] * model["tp"] == model["moe_tp"] * model["moe_ep"] == world
    assert schedule["maxPrefillTokens"] >= deploy["maxInputTokenLen"]
    assert deploy["maxInputTokenLen"] < deploy["maxSeqLen"] >= schedule["maxIterTimes"]
    assert schedule["maxPreemptCount"] == 0 or model["cpuMemSize"] > 0
    ports = [config["ServerConfig"][name] for name in ("port", "managementPort", "metricsPort")]
    assert len(set(ports)) == 3


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ServerConfig/port", "1025"),
        ("ServerConfig/ipAddress", "host.example"),
        ("ServerConfig/allowAllZeroIpListening", False),
        ("ServerConfig/unknown", 1),
        ("BackendConfig/ModelDeployConfig/truncation", False),
        ("BackendConfig/ModelDeployConfig/ModelConfig/0/tp", 3),
        ("BackendConfig/ModelDeployConfig/ModelConfig/0/modelName", "v3-"),
        ("BackendConfig/ScheduleConfig/maxBatchSize", 0),
    ],
)
def test_the_schema_finds_what_the_daemon_would_refuse(path, value):
    config, _ = rendered("2xatlas-800i-a2", "2.3.0", {"host": "0.0.0.0"}, precision="int8")
    *parents, last = path.split("/")
    changed = copy.deepcopy(config)
    place = changed
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = value
    assert faults("config-2.3", config) == []
    assert faults("config-2.3", changed) in ([path], [path.rpartition("/")[0]])


def test_a_number_in_a_rank_table_is_found():
    _, table = rendered("2xatlas-800i-a2", "2.3.0", precision="int8")
    table["server_list"][1]["device"][0]["rank_id"] = 8
    assert faults("rank_table", table) == ["server_list/1/device/0/rank_id"]


@pytest.mark.parametrize("name", ["-v3", "v3.", "a" * 257])
def test_a_name_that_the_daemon_refuses_is_refused_first(name):
    with pytest.raises(UsageError) as error:
        rendered("2xatlas-800i-a2", None, {"name": name}, precision="int8")
    assert "256 characters" in str(error.value)
