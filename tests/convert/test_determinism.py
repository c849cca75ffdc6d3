"""The same bytes, however many workers and machines share the work."""

import os
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.building import build
from dsdeploy.building.layout import PlannedFile
from dsdeploy.building.output import Part, files_of_part
from dsdeploy.cli.parts import parse_part
from dsdeploy.errors import UsageError

from .tools import tree

pytestmark = pytest.mark.usefixtures("small_windows")
CASES = {
    "bf16": ("--to", "bf16", "--max-shard-size", "150kB"),
    "same": ("--to", "same", "--max-shard-size", "50kB"),
    "demo": ("--to", "bf16", "--layout", "demo", "--ranks", 2),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def options(request):
    return request.param


@pytest.fixture(scope="module")
def undivided(fp8, convert, tmp_path_factory, options, small_windows):
    """The tree of a conversion by one worker on one machine."""
    return tree(convert(fp8, tmp_path_factory.mktemp("one") / "out", *options, "--workers", 1))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_any_number_of_workers_writes_the_same_tree(
    fp8, convert, tmp_path, options, undivided, workers
):
    assert tree(convert(fp8, tmp_path / "out", *options, "--workers", workers)) == undivided


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
def test_parts_in_any_order_write_the_same_tree(fp8, convert, tmp_path, options, undivided, order):
    for index in order:
        convert(fp8, tmp_path / "out", *options, "--part", f"{index}/3")
    assert tree(tmp_path / "out") == undivided


def test_a_part_says_that_others_are_missing_and_the_last_that_it_is_whole(fp8, dsdeploy, tmp_path):
    options = ("convert", fp8, tmp_path / "out", "--max-shard-size", "200kB")
    first = dsdeploy(*options, "--part", "1/2")
    assert not (tmp_path / "out" / "MANIFEST.json").exists()
    last = dsdeploy(*options, "--part", "2/2")
    assert "Part 1/2 is done; the last part to finish puts" in first.stdout
    assert last.stdout.endswith("whole.\n")
    again = dsdeploy(*options, "--part", "1/2")
    assert "is complete already" in again.stdout


def test_a_part_that_has_not_been_checked_is_not_committed(
    fp8, dsdeploy, tmp_path, monkeypatch, options, undivided
):
    """The last part to finish must not put in place what another is still reading back."""
    parts = ["convert", fp8, tmp_path / "out", *options, "--part"]
    with monkeypatch.context() as patch:
        patch.setattr(build, "_check", interrupt)
        assert dsdeploy(*parts, "1/2").exit_code == 130
    assert "the last part to finish" in dsdeploy(*parts, "2/2").output
    assert not (tmp_path / "out/MANIFEST.json").exists()
    assert "whole" in dsdeploy(*parts, "1/2").output
    assert tree(tmp_path / "out") == undivided


def interrupt(*_):
    raise KeyboardInterrupt


def test_parts_must_agree_on_their_number(fp8, dsdeploy, tmp_path):
    options = ("convert", fp8, tmp_path / "out", "--max-shard-size", "200kB")
    dsdeploy(*options, "--part", "1/3")
    result = dsdeploy(*options, "--part", "2/4")
    assert result.exit_code == 2
    assert "begun with 3 part(s), not 4" in result.stderr


def test_shard_sizes_stay_below_the_limit(fp8, convert, tmp_path):
    ours = convert(fp8, tmp_path / "out", "--max-shard-size", "100kB")
    sizes = [path.stat().st_size for path in ours.glob("*.safetensors")]
    assert len(sizes) > 4
    assert max(sizes) < 100_000 + 8192  # of tensors; the header comes on top


@given(st.lists(st.integers(1, 10**12), max_size=60), st.integers(1, 12))
def test_every_file_has_one_part_and_loads_are_balanced(sizes, count):
    files = tuple(PlannedFile(f"{i}", b"", (), (), size) for i, size in enumerate(sizes))
    parts = [files_of_part(files, Part(index, count)) for index in range(1, count + 1)]
    assert sorted(file.name for part in parts for file in part) == sorted(f.name for f in files)
    loads = [sum(file.size for file in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0)


SCHEDULERS = ("SLURM_ARRAY_TASK_", "JOB_COMPLETION_")


@pytest.fixture
def environment(monkeypatch):
    """Set the scheduler's variables, and no others."""
    for name in [name for name in os.environ if name.startswith(SCHEDULERS)]:
        monkeypatch.delenv(name)
    return lambda **names: [monkeypatch.setenv(name, value) for name, value in names.items()]


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(1, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            Part(4, 4),
        ),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETION_COUNT": "3"}, Part(3, 3)),
    ],
)
def test_auto_reads_the_schedulers_variables(environment, variables, part):
    environment(**variables)
    assert parse_part("auto") == part


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "found neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT is ''"),
        ({"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_COUNT is ''"),
        ({"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETION_COUNT": "2"}, "INDEX is 'x'"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETION_COUNT": "3"}, "index 3 is not one of 3"),
        # --array=0-6:2 has four tasks, the last of which is number 6.
        ({"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "4"}, "index 6 is not one of 4"),
    ],
)
def test_auto_says_what_it_misses(environment, variables, sentence):
    environment(**variables)
    with pytest.raises(UsageError, match=sentence):
        parse_part("auto")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "1.0/2", ""])
def test_a_part_that_is_none(text):
    with pytest.raises(UsageError, match="is not i/n"):
        parse_part(text)


def test_auto_on_the_command_line(fp8, convert, environment, tmp_path):
    for index in range(2):
        environment(JOB_COMPLETION_INDEX=str(index), JOB_COMPLETION_COUNT="2")
        convert(fp8, tmp_path / "out", "--part", "auto", "--max-shard-size", "150kB")
    assert (tmp_path / "out" / "MANIFEST.json").exists()
