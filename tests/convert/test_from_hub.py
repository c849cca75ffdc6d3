"""Conversion and inspection with a Hub as the source."""

import re
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.cli import hub_source
from dsdeploy.hub.stage import bytes_at_once

from ..hub.stand_in import Answer, Close, Flip, standing_in
from .tools import tree

NAME = "owner/model"
SMALL_FILES = ("--max-shard-size", "150kB")


@pytest.fixture
def hub(fp8, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with standing_in() as found:
        found.add(NAME, fp8)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def weights_fetched(hub):
    return {name: count for name, count in hub.sent_of.items() if name.endswith(".safetensors")}


def staging_meets(hub, *faults, for_ever=False):
    """Once the headers have come, each of which is one request of its shard."""
    left, seen = list(faults), set()

    def chance():
        def of(path):
            if path.suffix != ".safetensors" or path not in seen:
                seen.add(path)
                return None
            return left[0] if for_ever else left.pop(0) if left else None

        return of

    hub.chance = chance


def without_manifest(folder):
    return {name: content for name, content in tree(folder).items() if name != "MANIFEST.json"}


@pytest.mark.parametrize(
    "options",
    [(), SMALL_FILES, ("--drop-mtp",), ("--to=same", *SMALL_FILES), ("--workers=1", *SMALL_FILES)],
    ids=" ".join,
)
def test_the_same_files_as_from_a_folder(hub, fp8, convert, tmp_path, options):
    ours = convert(f"hf://{NAME}", tmp_path / "ours", *options)
    assert without_manifest(ours) == without_manifest(convert(fp8, tmp_path / "local", *options))
    assert [path.name for path in ours.iterdir() if path.name.startswith(".")] == []


def test_each_shard_comes_once_and_the_disk_holds_few_at_a_time(
    hub, fp8, convert, tmp_path, monkeypatch
):
    from dsdeploy.hub.stage import Stage

    staged = []
    land = Stage.land

    def counting(self, landed):
        land(self, landed)
        staged.append(sum(data.size for data in self._ready.values()))

    monkeypatch.setattr(Stage, "land", counting)
    convert(f"hf://{NAME}", tmp_path / "out", "--workers", 2, *SMALL_FILES)
    shards = list(fp8.glob("*.safetensors"))
    assert len(shards) == len(staged) == 5
    assert max(staged) <= 3 * max(path.stat().st_size for path in shards)
    heads = sum(min(path.stat().st_size, 256 << 10) for path in shards)
    assert sum(weights_fetched(hub).values()) == heads + sum(p.stat().st_size for p in shards)


def test_the_more_workers_the_more_is_staged_but_not_for_ever(hub, fp8, dsdeploy, tmp_path):
    def staged(workers):
        words = (f"hf://{NAME}", tmp_path / "out", "--max-shard-size", "1kB", "--workers", workers)
        said = dsdeploy("convert", *words, "--dry-run").stdout
        return float(re.search(r"staged +([\d.]+) kB at a time", said)[1])

    largest = max(path.stat().st_size for path in fp8.glob("*.safetensors")) / 1000
    at_once = staged(1)  # what one output reads
    assert staged(3) == pytest.approx(3 * largest, abs=0.01)
    assert staged(32) == staged(256) == pytest.approx(at_once + 2 * largest, abs=0.01)


def test_per_rank_files_are_read_by_ranges_and_that_is_said(
    hub, fp8, convert, dsdeploy, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub_source, "_SHARD", 10_000)
    options = ("--layout", "demo", "--ranks", 2, "--workers", 2)
    result = dsdeploy("convert", f"hf://{NAME}", tmp_path / "ours", *options)
    assert result.exit_code == 0, result.output
    assert "Tensors are read by ranges" in result.stderr
    local = convert(fp8, tmp_path / "local", *options)
    assert without_manifest(tmp_path / "ours") == without_manifest(local)


def test_a_part_fetches_only_what_it_reads(hub, convert, tmp_path):
    options = ("--max-shard-size", "60kB")
    convert(f"hf://{NAME}", tmp_path / "out", "--part", "1/2", *options)
    hub.sent_of.clear()
    convert(f"hf://{NAME}", tmp_path / "out", "--part", "2/2", *options)
    assert (tmp_path / "out" / "MANIFEST.json").exists()


def test_faults_on_the_way_do_not_show(hub, fp8, convert, tmp_path):
    staging_meets(hub, Close(1000, reset=True), Answer(503), Answer(403))
    ours = convert(f"hf://{NAME}", tmp_path / "ours")
    assert without_manifest(ours) == without_manifest(convert(fp8, tmp_path / "local"))


def test_a_shard_with_a_flipped_bit_is_fetched_again_before_it_is_used(
    hub, fp8, dsdeploy, convert, tmp_path
):
    staging_meets(hub, Flip(40_000))
    result = dsdeploy("convert", f"hf://{NAME}", tmp_path / "ours")
    assert result.exit_code == 0, result.output
    assert "its hash is not the one that the repository states" in result.stderr
    local = convert(fp8, tmp_path / "local")
    assert without_manifest(tmp_path / "ours") == without_manifest(local)


def test_a_shard_that_is_wrong_twice_ends_the_conversion(hub, dsdeploy, tmp_path):
    staging_meets(hub, Flip(40_000), for_ever=True)
    result = dsdeploy("convert", f"hf://{NAME}", tmp_path / "out")
    assert result.exit_code == 4
    assert "came twice with the same bytes" in result.stderr
    assert not (tmp_path / "out" / "MANIFEST.json").exists()


def test_a_network_that_stays_away_ends_it_and_the_next_run_goes_on(
    hub, fp8, dsdeploy, convert, tmp_path
):
    staging_meets(hub, Answer(503), for_ever=True)
    words = ("convert", f"hf://{NAME}", tmp_path / "ours", "--attempts", 2, "--workers", 1)
    result = dsdeploy(*words)
    assert result.exit_code == 5
    assert "Run the same command again" in result.stderr
    hub.chance = None
    assert dsdeploy(*words).exit_code == 0
    local = convert(fp8, tmp_path / "local")
    assert without_manifest(tmp_path / "ours") == without_manifest(local)


def test_a_branch_that_moves_does_not_mix_two_models(hub, fp8, synth, dsdeploy, convert, tmp_path):
    staging_meets(hub, Answer(503), for_ever=True)
    words = ("convert", f"hf://{NAME}", tmp_path / "ours", "--attempts", 1, "--workers", 1)
    assert dsdeploy(*words).exit_code == 5
    hub.chance = None
    old = hub.repositories[NAME].commit
    hub.move(NAME, synth(tmp_path / "newer", "--seed", 5), "b" * 40)
    result = dsdeploy(*words)
    assert result.exit_code == 0, result.output
    assert "The branch has moved to bbbbbbbbbbbb" in result.stderr
    assert f'"commit": "{old}"' in (tmp_path / "ours" / "MANIFEST.json").read_text()
    local = convert(fp8, tmp_path / "local")
    assert without_manifest(tmp_path / "ours") == without_manifest(local)


def test_nothing_of_the_weights_is_fetched_for_what_is_complete(hub, dsdeploy, convert, tmp_path):
    convert(f"hf://{NAME}", tmp_path / "out")
    hub.sent_of.clear()
    result = dsdeploy("convert", f"hf://{NAME}", tmp_path / "out")
    assert "is complete already" in result.stdout
    assert all(count <= 256 << 10 for count in weights_fetched(hub).values())


def test_an_inspection_reads_headers_alone(hub, fp8, dsdeploy):
    whole = dsdeploy("inspect", fp8, "--json")
    remote = dsdeploy("inspect", f"hf://{NAME}", "--json")
    assert remote.exit_code == 0
    assert remote.stdout.replace(f"hf://{NAME}", str(fp8)) == whole.stdout
    assert all(count <= 256 << 10 for count in weights_fetched(hub).values())


def test_a_deep_inspection_compares_with_the_hashes_that_the_repository_states(hub, fp8, dsdeploy):
    assert dsdeploy("inspect", f"hf://{NAME}", "--deep").exit_code == 0
    staging_meets(hub, Flip(100))
    result = dsdeploy("inspect", f"hf://{NAME}", "--deep")
    assert result.exit_code == 4
    assert "has changed since" in result.stdout


def test_what_is_no_checkpoint_is_said(hub, dsdeploy, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("hello")
    hub.add("owner/empty", tmp_path / "empty")
    result = dsdeploy("convert", "hf://owner/empty", tmp_path / "out")
    assert result.exit_code == 2
    assert "hf://owner/empty@" in result.stderr
    assert "has no config.json" in result.stderr
    assert not (tmp_path / "out").exists()


def run(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "dsdeploy", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def sending(hub, process, nbytes):
    """Wait until so many bytes have left, or the process has ended."""
    while hub.sent < nbytes and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def larger(synth, tmp_path_factory):
    """6 MB in a dozen shards."""
    folder = tmp_path_factory.mktemp("larger") / "larger"
    return synth(folder, "--shard-size", "500kB", hidden_size=512, moe_intermediate_size=256)


def test_killed_anywhere_it_goes_on_and_fetches_little_again(hub, larger, convert, tmp_path):
    hub.add("owner/larger", larger)
    hub.rate = 8_000_000
    words = (
        "convert",
        "hf://owner/larger",
        tmp_path / "ours",
        "--max-shard-size",
        "1MB",
        "--workers",
        2,
    )
    total = sum(path.stat().st_size for path in larger.glob("*.safetensors"))
    kills = 0
    for share in (0.1, 0.35, 0.6, 0.85):
        before = hub.sent
        process = run(*words)
        sending(hub, process, before + share * total)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    hub.rate = None
    ours = convert(*words[1:])
    assert kills >= 2
    assert without_manifest(ours) == without_manifest(
        convert(larger, tmp_path / "local", "--max-shard-size", "1MB")
    )
    assert not (tmp_path / "ours" / ".dsdeploy").exists()


def test_an_interrupt_ends_it_while_a_connection_hangs(hub, larger, tmp_path):
    hub.add("owner/larger", larger)
    hub.rate = 1_000_000
    process = run("convert", "hf://owner/larger", tmp_path / "out", "--workers", 2)
    while not (tmp_path / "out" / ".dsdeploy" / ".source-1-of-1").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Run the same command again" in errors


NEEDS = st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=4), max_size=8)


@given(NEEDS)
def test_serial_work_never_needs_more_at_a_time(sets):
    needs = [(str(place), names) for place, names in enumerate(sets)]
    sizes = {name: ord(name) for name in "abcdefgh"}
    there, peak = set(), 0
    for place, names in enumerate(sets):
        there |= names
        peak = max(peak, sum(sizes[name] for name in there))
        there &= frozenset().union(*sets[place + 1 :])
    assert bytes_at_once(needs, sizes) == peak
