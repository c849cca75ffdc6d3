"""Profiles: the shipped ones, where own ones are looked for, what they vary, what is refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dsdeploy.errors import ExitCode, UsageError
from dsdeploy.hardware.profile import Rate, Size
from dsdeploy.hardware.profiles import load_accelerator, load_machine, profile_files

SHIPPED = Path(__file__).parents[2] / "profiles"
MACHINES = sorted((SHIPPED / "machines").glob("*.yaml"))
ACCELERATORS = sorted((SHIPPED / "accelerators").glob("*.yaml"))
FIGURES = "memory|usable_memory|bandwidth|teraflops|host_memory|space|read|price_per_hour"


def stem(path):
    return path.stem


@pytest.mark.parametrize("path", ACCELERATORS, ids=stem)
def test_every_shipped_accelerator_loads_and_is_called_as_its_file(path):
    assert load_accelerator(path.stem).name == path.stem


@pytest.mark.parametrize("path", MACHINES, ids=stem)
def test_every_shipped_machine_loads_and_is_called_as_its_file(path):
    assert load_machine(path.stem).name == path.stem


def test_the_package_ships_the_files_of_this_folder():
    assert set(profile_files("machines")) == set(map(stem, MACHINES))
    assert set(profile_files("accelerators")) == set(map(stem, ACCELERATORS))


@pytest.mark.parametrize(
    "names",
    [
        "h100-80g h200 h800 h20-96g h20-141g a100-80g a100-40g a800-80g l40s l20",
        "rtx-4090 rtx-pro-6000 t4 b200 b300 gb200",
        "mi300x mi325x mi355x",
        "ascend-910b ascend-910c",
        "cpu-epyc cpu-laptop",
    ],
)
def test_accelerators_that_people_ask_for(names):
    assert set(names.split()) <= set(profile_files("accelerators"))


@pytest.mark.parametrize(
    "names",
    [
        "8xh200 2x8xh100 8xh20 8xh20-141 2x8xa100 4x8xa100 8xb200 4xb200",
        "8xmi300x 2x8xmi300x 8xmi355x",
        "2xatlas-800i-a2 4xatlas-800i-a2 1xatlas-a3",
        "colab-t4 workstation-4090 laptop",
    ],
)
def test_machines_that_people_ask_for(names):
    assert set(names.split()) <= set(profile_files("machines"))


def indent(line):
    return len(line) - len(line.lstrip())


def block(lines, index):
    """The lines around `index` that are at least as deep, and those below it."""
    start = index
    while indent(lines[index]) and start and indent(lines[start - 1]) >= indent(lines[index]):
        start -= 1
    end = index + 1
    while end < len(lines) and indent(lines[end]) >= max(1, indent(lines[index])):
        end += 1
    return lines[start:end]


@pytest.mark.parametrize("path", [*ACCELERATORS, *MACHINES], ids=stem)
def test_every_figure_has_a_source(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        if re.match(rf"\s*({FIGURES}):", line):
            around = [lines[index - 1], *block(lines, index)]
            assert any("#" in near for near in around), f"{path.name}:{index + 1}: {line}"


def test_no_two_accelerators_answer_to_one_name():
    names = [name for path in ACCELERATORS for name in load_accelerator(path.stem).reported_as]
    assert len(names) == len(set(map(str.casefold, names)))


@pytest.mark.parametrize("path", ACCELERATORS, ids=stem)
def test_figures_of_accelerators_are_possible(path):
    chip = load_accelerator(path.stem)
    assert 50e9 <= chip.bandwidth <= 20e12
    assert chip.link.bandwidth <= chip.bandwidth
    assert all(0.1 <= rate <= 20_000 for rate in chip.teraflops.values())
    if chip.vendor == "cpu":
        assert chip.memory is chip.usable_memory is None
    else:
        assert 0.85 <= chip.usable_memory / chip.memory <= 1.10
        assert chip.reported_as


@pytest.mark.parametrize("path", ACCELERATORS, ids=stem)
def test_narrower_numbers_are_no_slower(path):
    chip = load_accelerator(path.stem)
    rates = [chip.teraflops[name] for name in ("bf16", "fp8", "fp4") if name in chip.teraflops]
    assert rates == sorted(rates)
    assert ("fp8" in chip.teraflops) == (chip.fp8_variant is not None)
    if {"fp16", "bf16"} <= set(chip.teraflops):
        assert chip.teraflops["fp16"] == chip.teraflops["bf16"]


@pytest.mark.parametrize("path", MACHINES, ids=stem)
def test_figures_of_machines_are_possible(path):
    machine = load_machine(path.stem)
    assert 8e9 <= machine.host_memory <= 10e12
    assert 50e9 <= machine.disk.space <= 100e12
    assert 100e6 <= machine.disk.read <= 100e9
    assert machine.device_memory <= 320e9 or machine.accelerator.vendor == "cpu"
    assert (machine.nodes == 1) == (machine.inter_node is None)
    assert machine.nodes == 1 or machine.network_interface
    if machine.price_per_hour is not None:
        assert 0.5 <= machine.price_per_hour / machine.devices <= 20


def test_a_device_of_a_machine_without_accelerators_has_the_nodes_memory():
    laptop = load_machine("laptop")
    assert laptop.device_memory == laptop.host_memory == 32 * 10**9


def test_a_link_of_the_machine_goes_before_that_of_its_accelerator():
    assert load_machine("workstation-4090").node_link.bandwidth == 32 * 10**9
    assert load_machine("workstation-2x4090").node_link.bandwidth == 16 * 10**9


def test_an_own_machine_names_a_shipped_accelerator(machine_file):
    machine_file()
    mine = load_machine("mine")
    assert mine.accelerator == load_accelerator("h200")
    assert mine.devices == 8


def test_an_own_machine_may_describe_its_accelerator_itself(machine_file):
    machine_file(
        accelerator={
            "name": "new",
            "vendor": "nvidia",
            "architecture": "sm100",
            "memory": "200GB",
            "bandwidth": "9TB/s",
            "teraflops": {"bf16": 3000},
            "link": {"kind": "NVLink", "bandwidth": "900GB/s"},
        }
    )
    assert load_machine("mine").device_memory == 200 * 10**9


def test_extending_varies_single_fields(write):
    write("profiles/mine.yaml", {"extends": "8xh200", "name": "mine", "disk": {"read": "5GB/s"}})
    mine, shipped = load_machine("mine"), load_machine("8xh200")
    assert mine.disk.read == 5 * 10**9
    changes = {"name": "mine", "disk": mine.disk}
    assert mine.disk.space == shipped.disk.space
    assert mine == shipped.model_copy(update=changes)


def test_extending_merges_fields_of_accelerators_one_by_one(write):
    write(
        "profiles/accelerators/slow.yaml",
        {"extends": "h200", "name": "slow", "teraflops": {"fp8": 1000}},
    )
    slow, shipped = load_accelerator("slow"), load_accelerator("h200")
    assert slow.teraflops == {**shipped.teraflops, "fp8": 1000}


def test_extending_in_a_chain(write):
    write("profiles/a.yaml", {"extends": "8xh200", "name": "a", "host_memory": "1TB"})
    write("profiles/b.yaml", {"extends": "a", "name": "b", "disk": {"read": "1GB/s"}})
    write("profiles/c.yaml", {"extends": "b", "name": "c", "accelerators_per_node": 4})
    c = load_machine("c")
    assert (c.accelerators_per_node, c.disk.read, c.host_memory) == (4, 10**9, 10**12)


def test_null_takes_a_field_back(write):
    write("profiles/mine.yaml", "extends: 8xh200\nprice_per_hour: null\n")
    assert load_machine("8xh200").price_per_hour
    assert load_machine("mine").price_per_hour is None


def test_a_profile_hides_the_shipped_one_that_it_extends(write):
    shipped = load_machine("8xh200")
    write("profiles/8xh200.yaml", {"extends": "8xh200", "host_memory": "1TB"})
    assert load_machine("8xh200") == shipped.model_copy(update={"host_memory": 10**12})
    assert load_machine("2x8xh200").host_memory == 10**12


def test_a_path_in_extends_starts_at_its_own_file(write, machine_file):
    machine_file("elsewhere/base.yaml", host_memory="1TB")
    child = write("elsewhere/child.yaml", {"extends": "base.yaml", "name": "child"})
    assert load_machine(f"./{child}").host_memory == 10**12


def test_nearer_folders_go_first(machine_file, user_profiles):
    assert load_machine("8xh200").description.startswith("One server")
    machine_file(user_profiles / "machines/8xh200.yaml", description="The user's.")
    assert load_machine("8xh200").description == "The user's."
    assert profile_files("machines")["8xh200"].origin == "user"
    machine_file("profiles/machines/8xh200.yaml", description="The project's.")
    assert load_machine("8xh200").description == "The project's."
    assert profile_files("machines")["8xh200"].origin == "project"


def test_machines_may_lie_directly_in_the_folder(machine_file, user_profiles):
    machine_file("profiles/one.yaml")
    machine_file(user_profiles / "two.yaml")
    assert {"one", "two"} <= set(profile_files("machines"))


@pytest.mark.parametrize("path", ["elsewhere/mine.yaml", "mine.yaml", "elsewhere/mine.txt"])
def test_a_path_is_read_wherever_it_lies(path, machine_file):
    machine_file(path)
    assert load_machine(path).name == "mine"


@pytest.fixture
def refusal(dsdeploy):
    """What `profiles validate` says of a file that it refuses."""

    def of(path):
        result = dsdeploy("profiles", "validate", path)
        assert result.exit_code == ExitCode.USAGE
        sentence, _, hint = result.stderr.removeprefix("error: ").partition("\n  fix: ")
        assert sentence.startswith(str(Path(path).absolute())), sentence
        assert "\n" not in hint.strip()
        return sentence.removeprefix(str(Path(path).absolute())).removeprefix(": "), hint.strip()

    return of


@pytest.mark.parametrize(
    ("changes", "sentence", "hint"),
    [
        ({"nodez": 2}, "nodez: there is no such field.", "Did you mean nodes?"),
        ({"disk": {"space": "1TB", "read": "1GB/s", "x": 1}}, "disk.x: there is no", "schema"),
        ({"description": None}, "description: Field required.", "schema"),
        ({"name": None, "disk": None}, "name: Field required (1 more).", "schema"),
        ({"host_memory": "2 terabytes"}, "host_memory: '2 terabytes' is not a size.", ""),
        ({"host_memory": "-2TB"}, "host_memory: '-2TB' is not a size.", ""),
        ({"host_memory": 0}, "host_memory: Input should be greater than 0.", ""),
        ({"host_memory": True}, "host_memory: Input should be a valid integer.", ""),
        ({"host_memory": 2**63}, "host_memory: Input should be less than", ""),
        ({"nodes": "2"}, "nodes: Input should be a valid integer.", ""),
        ({"nodes": 0}, "nodes: Input should be greater than or equal to 1.", ""),
        ({"nodes": 1.5}, "nodes: Input should be a valid integer", ""),
        ({"price_per_hour": -1}, "price_per_hour: Input should be greater than 0.", ""),
        ({"price_per_hour": "9"}, "price_per_hour: Input should be a valid number.", ""),
        ({"price_per_hour": float("inf")}, "price_per_hour: Input should be a finite number", ""),
        (
            {"disk": {"space": "1TB", "read": "5GB"}},
            "disk.read: '5GB' is not a rate. Write it as 900GB/s or 400Gb/s.",
            "",
        ),
        ({"nodes": 2}, "2 nodes have no inter_node link.", "inter_node: {kind: Ethernet"),
        ({"container_runtime": "lxc"}, "container_runtime: Input should be 'docker'", ""),
        ({"name": "My Machine"}, "name: String should match pattern", ""),
        (
            {"accelerator": "h20"},
            "accelerator: there is no accelerator profile 'h20'.",
            "Did you mean h200",
        ),
        ({"accelerator": "abacus"}, "accelerator: there is no", "dsdeploy profiles list"),
        ({"accelerator": 5}, "accelerator: Input should be a valid dictionary", ""),
        ({"extends": "8xh20O"}, "extends: there is no machine profile '8xh20O'.", "8xh200"),
        ({"extends": "nowhere.yaml"}, "extends: there is no file", "dsdeploy profiles list"),
        ({"extends": ["8xh200"]}, "extends no name.", "Write the name of another profile"),
    ],
)
def test_a_bad_file_is_one_sentence_with_its_field(changes, sentence, hint, machine_file, refusal):
    found, advice = refusal(machine_file("mine.yaml", **changes))
    assert found.strip().startswith(sentence)
    assert hint in advice


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "a sentence\n"])
def test_a_file_without_fields(text, write, refusal):
    assert "is not a profile: it holds no fields." in refusal(write("mine.yaml", text))[0]


def test_a_file_that_is_not_yaml_says_the_line(write, refusal):
    path = write("mine.yaml", "name: mine\nnodes: 1\nnodes: 2\n")
    assert refusal(path) == (":3:1: 'nodes' is written twice.", "Mend this line.")


def test_keys_that_are_no_names(write, refusal):
    assert refusal(write("mine.yaml", "1: 2\n"))[0]


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_profiles_that_extend_each_other(names, write):
    for name, parent in zip(names, names[1:] + names[0], strict=True):
        write(f"profiles/{name}.yaml", {"extends": parent})
    with pytest.raises(UsageError, match=r"[abc]\.yaml extends itself\."):
        load_machine("a")


def test_paths_that_extend_each_other(write):
    write("x/a.yaml", {"extends": "../x/b.yaml"})
    write("x/b.yaml", {"extends": "../x/a.yaml"})
    with pytest.raises(UsageError, match="extends itself"):
        load_machine("x/a.yaml")


def test_a_wrong_field_is_blamed_on_the_accelerators_own_file(write, machine_file):
    write("profiles/accelerators/bad.yaml", {"extends": "h200", "bandwidth": "5TB"})
    machine_file(accelerator="bad")
    with pytest.raises(UsageError, match=r"^profiles/accelerators/bad\.yaml: bandwidth: '5TB'"):
        load_machine("mine")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("400Gb/s", 50 * 10**9),
        ("400 Gb/s", 50 * 10**9),
        ("400gb/s", 50 * 10**9),
        ("400Gb /s", 50 * 10**9),
        ("25Gb/s", 3_125_000_000),
        ("1.6Tb/s", 200 * 10**9),
        ("800kb/s", 100_000),
        ("50GB/s", 50 * 10**9),
        ("50gB/s", 50 * 10**9),
        ("4.8TB/s", 4_800_000_000_000),
        ("1GiB/s", 2**30),
        (1000, 1000),
    ],
)
def test_rates(text, rate):
    assert TypeAdapter(Rate).validate_python(text) == rate


@pytest.mark.parametrize(
    "text",
    ["50GB", "50", "Gb/s", "/s", "50GB/h", "400Gbps", "400Gbit/s", "-1GB/s", "1GB/s/s", "1b/s"],
)
def test_what_is_no_rate(text):
    with pytest.raises(ValidationError):
        TypeAdapter(Rate).validate_python(text)


UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Gi": 2**30}
AMOUNTS = st.tuples(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)))


@given(AMOUNTS)
def test_sizes_and_rates_round_trip(amount):
    count, unit = amount
    nbytes = count * UNITS[unit]
    assert TypeAdapter(Size).validate_python(f"{count}{unit}B") == nbytes
    assert TypeAdapter(Rate).validate_python(f"{count}{unit}B/s") == nbytes
    assert TypeAdapter(Rate).validate_python(f"{8 * count}{unit}b/s") == nbytes
    assert TypeAdapter(Size).validate_python(nbytes) == nbytes
