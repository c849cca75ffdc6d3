"""Copies of a folder that was downloaded: verified by its manifest, gone on with after a kill."""

import json

import pytest

from .conftest import write_files
from .tools import contents, is_whole, manifest_of

pytestmark = pytest.mark.usefixtures("small_chunks", "without_waiting", "cached")


@pytest.fixture
def whole(hub, one_shard, download, tmp_path):
    """A downloaded folder, while there is no Hub any more."""
    assert download(to=tmp_path / "whole").exit_code == 0
    hub.repositories.clear()
    return tmp_path / "whole"


@pytest.mark.parametrize("write", [str, "file://{}".format], ids=["path", "file://"])
def test_a_folder_is_copied_with_its_manifest(whole, download, out, write):
    assert download(source=write(whole)).exit_code == 0
    assert is_whole(out, whole)
    assert manifest_of(out) == manifest_of(whole)
    assert "is complete already" in download(source=write(whole)).stdout


def test_a_path_with_blanks_and_signs(whole, download, out, tmp_path):
    strange = whole.rename(tmp_path / "a b%20ü")
    assert download(source=strange.as_uri()).exit_code == 0
    assert is_whole(out, strange)


def test_a_copy_is_a_download_of_the_repository(hub, one_shard, whole, download, out):
    assert download(source=whole).exit_code == 0
    hub.add("owner/model", one_shard)
    hub.sent = 0
    assert "is complete already" in download().stdout
    assert hub.sent == 0


@pytest.mark.parametrize(
    ("harm", "code", "sentence"),
    [
        (lambda path: path.write_bytes(bytes(300_000)), 4, "came twice with the same bytes"),
        (lambda path: path.write_bytes(bytes(299_999)), 4, "has 299,999 bytes, not 300,000"),
        (lambda path: path.unlink(), 6, "model.safetensors is not there."),
    ],
    ids=["flipped", "short", "missing"],
)
def test_a_damaged_source_is_found(whole, download, out, harm, code, sentence):
    harm(whole / "model.safetensors")
    result = download(source=whole)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert contents(out).keys() & {"model.safetensors", "MANIFEST.json"} == set()


def test_a_folder_without_a_manifest_is_refused(download, out, tmp_path):
    plain = write_files(tmp_path / "plain", {"config.json": 10})
    result = download(source=plain)
    assert result.exit_code == 2
    assert f"{plain} has no MANIFEST.json to verify a copy by." in result.stderr
    assert "fix: Give a folder that dsdeploy has downloaded or converted, whole." in result.stderr
    assert not out.exists()


def test_no_folder_at_all_is_refused(download, tmp_path):
    result = download(source=tmp_path / "nothing")
    assert result.exit_code == 2
    assert "has no MANIFEST.json" in result.stderr


def test_a_manifest_that_leads_out_of_the_folder_is_refused(whole, download, tmp_path):
    manifest = manifest_of(whole)
    manifest["files"]["../precious"] = manifest["files"]["config.json"]
    (whole / "MANIFEST.json").write_text(json.dumps(manifest))
    result = download(source=whole)
    assert (result.exit_code, "leads out of the folder" in result.stderr) == (4, True)


def test_a_folder_has_no_revisions(whole, download):
    result = download("--revision", "main", source=whole)
    assert (result.exit_code, "A folder has no revisions." in result.stderr) == (2, True)


def test_what_would_be_copied_is_said(whole, download, out):
    document = json.loads(download("--dry-run", "--json", source=whole).stdout)
    assert not out.exists()
    assert (document["bytes"], document["missing_bytes"]) == (300_700, 300_700)
    assert [file["path"] for file in document["files"]] == ["config.json", "model.safetensors"]
    done = json.loads(download("--json", source=whole).stdout)
    assert done == {
        "target": str(out),
        "source": document["source"],
        "files": 2,
        "bytes": 300_700,
        "fetched_bytes": 300_700,
        "retries": 0,
    }
    again = json.loads(download("--json", source=whole).stdout)
    assert again == done | {"fetched_bytes": 0}


def test_a_copy_into_itself_is_complete_already(whole, download):
    before = contents(whole)
    assert "is complete already" in download(source=whole, to=whole).stdout
    assert contents(whole) == before
