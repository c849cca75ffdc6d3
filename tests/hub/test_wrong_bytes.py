"""Bytes that are not what the repository states: fetched again, told where, or refused."""

import pytest

from .stand_in import Answer, Close, Flip
from .tools import contents, is_whole, manifest_of

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")

SIZE = 300_000
IN_CHUNK_2 = (None, None, Flip(5), None, None)
IN_CHUNK_1 = (None, Flip(70), None, None, None)


@pytest.fixture
def two_shards(repository):
    return repository({"a.safetensors": SIZE, "b.safetensors": SIZE, "config.json": 700})


def test_a_flipped_bit_costs_its_file_once_more_and_its_place_is_told(
    hub, two_shards, download, out
):
    hub.faults.extend(IN_CHUNK_2)
    result = download()
    assert result.exit_code == 0
    assert (
        "a.safetensors: its hash is not the one that the repository states; it is fetched again."
        in result.stderr
    )
    assert "a.safetensors is right now; bytes 131072 to 196607 had not been." in result.stderr
    assert is_whole(out, two_shards)
    assert hub.sent_of == {"a.safetensors": 2 * SIZE, "b.safetensors": SIZE, "config.json": 700}


@pytest.mark.parametrize("place", [0, 299_999 % 65_536])
def test_a_flip_in_the_last_chunk_by_many_workers(hub, one_shard, download, out, place):
    hub.faults.extend([Flip(place)])
    assert download("--workers", 6).exit_code == 0
    assert is_whole(out, one_shard)


def test_a_small_file_that_the_hub_sends_itself_is_verified_as_well(hub, one_shard, download, out):
    hub.hub_faults.extend([None, None, Answer(200, body=bytes(700))])
    result = download()
    assert result.exit_code == 0
    assert "config.json is right now; bytes 0 to 699 had not been." in result.stderr
    assert is_whole(out, one_shard)


def test_the_same_wrong_bytes_twice_are_the_servers(hub, one_shard, download, out):
    hub.faults.extend(IN_CHUNK_2 * 2)
    result = download()
    assert result.exit_code == 4
    assert (
        "error: model.safetensors came twice with the same bytes, and their hash is not the one "
        "that the repository states: the server's copy is damaged.\n"
        "  fix: Fetch it from the Hub itself, or from another --endpoint." in result.stderr
    )
    assert contents(out).keys() & {"model.safetensors", "MANIFEST.json"} == set()
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_other_wrong_bytes_the_second_time_are_the_ways_or_the_machines(
    hub, one_shard, download, out
):
    hub.faults.extend(IN_CHUNK_2 + IN_CHUNK_1)
    result = download()
    assert result.exit_code == 4
    assert "came twice with a wrong hash, and bytes 65536 to 131071 differed" in result.stderr
    assert "fix: Check this machine's memory, disk and network" in result.stderr
    assert not (out / "model.safetensors").exists()
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_an_empty_file_that_should_not_be_empty_is_refused(hub, repository, download, out):
    source = repository({"config.json": 700, "empty.json": 0})
    assert download().exit_code == 0
    assert is_whole(out, source)
    hub.repositories["owner/model"].extra.append(
        {"type": "file", "path": "other.json", "size": 0, "oid": "1" * 40}
    )
    result = download(to=out / "second")
    assert result.exit_code == 4
    assert "other.json is empty, and the repository states another hash" in result.stderr


def changing(hub):
    """The content behind the address has another ETag from now on."""

    def fault(path):
        hub.versions[path.name] = hub.versions.get(path.name, 0) + 1

    return fault


def test_content_that_changes_between_a_drop_and_the_resume_is_not_mixed(
    hub, one_shard, download, out
):
    hub.faults.extend([None, None, Close(1000), changing(hub)])
    result = download()
    assert result.exit_code == 0
    assert "model.safetensors: its content changed while it came; it is fetched" in result.stderr
    assert is_whole(out, one_shard)
    asked_for = [headers for _, _, _, headers in hub.of_origin("storage")]
    assert asked_for[3]["if-range"] == '"model.safetensors-0"'
    assert hub.sent_of["model.safetensors"] >= 2 * 65_536 + 1000 + SIZE


def test_content_that_changes_for_ever_is_given_up(hub, one_shard, download, out):
    hub.chance = lambda: changing(hub)
    result = download("--workers", 3)
    assert result.exit_code == 5
    assert "model.safetensors: its content changed while it came, 5 times." in result.stderr
    hub.chance = None
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_what_an_earlier_process_got_wrong_is_found(hub, one_shard, download, out):
    hub.faults.extend([None, Flip(0), Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    result = download()
    assert result.exit_code == 0
    assert "is right now; bytes 65536 to 131071 had not been." in result.stderr
    assert is_whole(out, one_shard)


def other_content(path):
    path.write_bytes(bytes(reversed(path.read_bytes())))


def test_a_commit_whose_content_is_replaced_between_runs(hub, one_shard, download, out):
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    other_content(one_shard / "model.safetensors")
    hub.versions["model.safetensors"] = 1
    assert download().exit_code == 0
    assert is_whole(out, one_shard)


def test_a_commit_whose_content_is_replaced_during_a_run(hub, one_shard, download, out):
    def fault(path):
        other_content(path)
        return Answer(403)

    hub.faults.extend([None, None, fault])
    result = download()
    assert result.exit_code == 4
    assert "model.safetensors is no longer what the repository's listing of commit" in result.stderr
    assert not (out / "model.safetensors").exists()


def test_a_file_that_vanished_after_it_had_landed_is_fetched_without_a_fuss(
    hub, two_shards, download, out
):
    hub.faults.extend([None] * 5 + [Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    (out / "a.safetensors").unlink()
    result = download()
    assert result.exit_code == 0
    assert "fetched again" not in result.stderr
    assert is_whole(out, two_shards)
    assert hub.sent_of["a.safetensors"] == 2 * SIZE
    assert sorted(manifest_of(out)["files"]) == ["a.safetensors", "b.safetensors", "config.json"]
