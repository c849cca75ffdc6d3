"""A folder that holds something already: its own download, others' files, another commit."""

import json
import shutil

import pytest

from .conftest import write_files
from .stand_in import Answer
from .tools import NAME, asked, contents, is_whole, manifest_of

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")

OLD, NEW = "c0ffee" + "0" * 34, "b" * 40
CHUNK = 64 << 10


@pytest.fixture
def never_reads(monkeypatch):
    def refuse(*_):
        raise AssertionError("a file was read again")

    monkeypatch.setattr("dsdeploy.hub.folder.read_windows", refuse)


def forget_requests(hub):
    hub.requests.clear()
    hub.sent_of.clear()


def test_a_second_run_asks_once_where_the_branch_is(hub, one_shard, download, out, never_reads):
    assert download().exit_code == 0
    forget_requests(hub)
    result = download()
    assert (result.exit_code, hub.sent_of) == (0, {})
    assert f"{out} is complete already: 2 files, 300.70 kB." in result.stdout
    assert asked(hub, "hub") == [f"/api/models/{NAME}/revision/main"]


def test_a_second_run_of_a_commit_asks_nothing(hub, one_shard, download, out, never_reads):
    assert download("--revision", OLD).exit_code == 0
    forget_requests(hub)
    assert download("--revision", OLD, "--json").exit_code == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda path: path.unlink(), "model.safetensors is missing"),
        (lambda path: path.write_bytes(b"x"), "model.safetensors has 1 bytes, not 300,000"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
            "model.safetensors has other bytes",
        ),
    ],
    ids=["missing", "short", "flipped"],
)
def test_verify_finds_damage_without_network(hub, one_shard, download, out, harm, sentence):
    assert download().exit_code == 0
    offline = ("--verify", "--endpoint", "http://127.0.0.1:9")
    result = download(*offline)
    assert (result.exit_code, "undamaged" in result.stdout) == (0, True)
    harm(out / "model.safetensors")
    result = download(*offline)
    assert result.exit_code == 4
    assert f"error: {sentence}." in result.output
    document = json.loads(download(*offline, "--json").stdout)
    assert document == {"target": str(out), "bytes": 300_700, "damage": [sentence]}


def test_what_verify_advises_mends_the_folder(hub, one_shard, download, out):
    assert download().exit_code == 0
    (out / "config.json").write_bytes(bytes(700))
    assert "fix: Remove these files and run the same command" in download("--verify").output
    (out / "config.json").unlink()
    forget_requests(hub)
    assert download().exit_code == 0
    assert is_whole(out, one_shard)
    assert hub.sent_of == {"config.json": 700}
    assert download("--verify").exit_code == 0


def test_verify_of_an_unfinished_folder_is_refused(hub, one_shard, download, out):
    result = download("--verify")
    assert result.exit_code == 2
    assert f"{out} has no MANIFEST.json: it is not whole" in result.stderr


def test_files_that_others_have_put_there_are_adopted_when_they_are_right(
    hub, one_shard, download, out
):
    shutil.copytree(one_shard, out)
    result = download()
    assert (result.exit_code, hub.sent_of) == (0, {})
    assert "is complete already" in result.stdout
    assert is_whole(out, one_shard)


@pytest.mark.parametrize("content", [b"short", bytes(300_000)], ids=["other size", "same size"])
def test_files_that_are_wrong_are_replaced_only_when_told_to(
    hub, one_shard, download, out, content
):
    write_files(out, {"notes.txt": 10})
    shutil.copy(one_shard / "config.json", out)
    (out / "model.safetensors").write_bytes(content)
    result = download()
    assert result.exit_code == 2
    sentence = f"{out}/model.safetensors is there and is not what the source holds."
    assert f"error: {sentence}\n  fix: Give another --to, or --overwrite" in result.stderr
    assert (out / "model.safetensors").read_bytes() == content
    assert download("--overwrite").exit_code == 0
    assert hub.sent_of == {"model.safetensors": 300_000}
    assert contents(out).items() >= contents(one_shard).items()
    assert (out / "notes.txt").exists()


@pytest.fixture
def moved(hub, one_shard, download, tmp_path):
    """A download of a commit that the branch has left since; the folder of the new one."""
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    newer = write_files(tmp_path / "newer", {"config.json": 701, "other.safetensors": 200_000}, 7)
    hub.move(NAME, newer, NEW)
    forget_requests(hub)
    return newer


def test_what_was_begun_is_finished_when_the_branch_has_moved(hub, one_shard, moved, download, out):
    result = download()
    assert result.exit_code == 0
    assert f"The branch has moved to {NEW[:12]} since; {out} stays at {OLD[:12]}" in result.stderr
    assert is_whole(out, one_shard)
    assert manifest_of(out)["source"] == {"repository": NAME, "commit": OLD}
    assert hub.sent_of == {"model.safetensors": 300_000 - 2 * CHUNK}
    again = download()
    assert "is complete already" in again.stdout
    assert "The branch has moved" in again.stderr


@pytest.mark.parametrize("whole", [False, True], ids=["begun", "whole"])
def test_another_commit_is_refused_unless_it_may_overwrite(
    hub, one_shard, moved, download, out, whole
):
    if whole:
        assert download().exit_code == 0
    result = download("--revision", NEW)
    assert result.exit_code == 2
    state = "whole" if whole else "begun"
    assert f"{out} holds {NAME} at {OLD[:12]}, {state}." in result.stderr
    assert "fix: Give another --to, or --overwrite to replace it." in result.stderr
    assert download("--revision", NEW, "--overwrite").exit_code == 0
    assert is_whole(out, moved)
    assert manifest_of(out)["source"]["commit"] == NEW


@pytest.mark.parametrize("whole", [False, True], ids=["begun", "whole"])
def test_files_of_the_old_content_alone_go_when_another_replaces_it(
    hub, repository, download, out, tmp_path, whole
):
    repository({"old.json": 10, "same.json": 20, "model.safetensors": 300_000})
    hub.faults.extend([] if whole else [Answer(503)])
    assert download("--attempts", 1).exit_code == (0 if whole else 5)
    assert (out / "old.json").exists()
    write_files(out, {"notes.txt": 10})
    newer = write_files(tmp_path / "newer", {"new.json": 10, "same.json": 20}, 7)
    hub.move(NAME, newer, NEW)
    assert download("--overwrite").exit_code == 0
    (out / "notes.txt").unlink()
    assert is_whole(out, newer)


def test_another_repository_is_refused(hub, one_shard, repository, download, out):
    assert download().exit_code == 0
    repository({"config.json": 100}, name="owner/other")
    result = download(source="owner/other")
    assert result.exit_code == 2
    assert f"{out} holds {NAME} at" in result.stderr


OF_ALL_KINDS = {
    **{"config.json": 10, "tokenizer.json": 5000, "README.md": 20, "LICENSE": 5},
    **{"model-00001-of-00002.safetensors": 2000, "model-00002-of-00002.safetensors": 2000},
    **{"modeling.py": 10, "inference/convert.py": 10, "inference/configs/v3.json": 10},
    **{"pytorch_model.bin": 2000, "old/weights.PT": 2000, "figures/plot.PNG": 2000},
    ".gitattributes": 10,
}
WANTED = {
    *("config.json", "tokenizer.json", "README.md", "LICENSE", "inference/configs/v3.json"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), WANTED),
        (("--include", "*"), OF_ALL_KINDS.keys()),
        (("--include", "*.py"), {"modeling.py", "inference/convert.py"}),
        (("--include", "inference/"), {"inference/convert.py", "inference/configs/v3.json"}),
        (
            ("--include", "*.json", "--include", "*.bin", "--exclude", "tok*"),
            {"config.json", "inference/configs/v3.json", "pytorch_model.bin"},
        ),
        (("--exclude", "*.safetensors"), {n for n in WANTED if not n.endswith("safetensors")}),
        (("--exclude", "inference/"), WANTED - {"inference/configs/v3.json"}),
    ],
)
def test_patterns_choose(repository, download, out, options, wanted):
    repository(OF_ALL_KINDS)
    assert download(*options).exit_code == 0
    assert contents(out).keys() == wanted
    assert manifest_of(out)["files"].keys() == wanted


def test_patterns_that_choose_nothing(hub, one_shard, download, out):
    result = download("--include", "*.gguf")
    assert result.exit_code == 2
    assert f"{NAME} at {OLD[:12]} has no file of those that are wanted." in result.stderr
    assert not out.exists()


def test_other_patterns_in_the_middle_keep_what_has_come(hub, repository, download, out):
    source = repository({"config.json": 700, "model.safetensors": 300_000, "run.py": 50})
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    assert download("--include", "*.json").exit_code == 0
    assert contents(out).keys() == {"config.json"}
    assert download("--include", "*").exit_code == 0
    assert is_whole(out, source)


def test_patterns_that_exclude_for_a_while_do_not_lose_chunks(hub, repository, download, out):
    source = repository({"config.json": 700, "model.safetensors": 300_000, "run.py": 50})
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    hub.sent_of.clear()
    assert download("--include", "*").exit_code == 0
    assert is_whole(out, source)
    assert hub.sent_of["model.safetensors"] == 300_000 - 2 * CHUNK


def test_patterns_added_to_a_whole_folder_fetch_what_is_new_alone(
    hub, repository, download, out, never_reads
):
    source = repository({"config.json": 700, "model.safetensors": 300_000, "run.py": 2000})
    assert download().exit_code == 0
    forget_requests(hub)
    assert download("--include", "*").exit_code == 0
    assert hub.sent_of == {"run.py": 2000}
    assert is_whole(out, source)
    assert manifest_of(out)["files"].keys() == contents(source).keys()


def test_a_dry_run_says_what_would_come_and_writes_nothing(hub, one_shard, download, out):
    hub.faults.extend([None, None, Answer(503)])
    assert download("--attempts", 1).exit_code == 5
    before = contents(out)
    hub.sent = 0
    result = download("--dry-run")
    assert "300.70 kB in all, 131.77 kB there, 168.93 kB to come" in result.stdout
    document = json.loads(download("--dry-run", "--json").stdout)
    assert document["source"] == {"repository": NAME, "commit": OLD}
    assert document["files"] == [
        {"path": "config.json", "bytes": 700},
        {"path": "model.safetensors", "bytes": 300_000},
    ]
    assert (document["bytes"], document["missing_bytes"]) == (300_700, 300_000 - 2 * CHUNK)
    assert (contents(out), hub.sent) == (before, 0)
