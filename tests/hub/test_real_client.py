"""The Hub's own client finds the same in the stand-in as we do: so the stand-in is faithful."""

import os
import subprocess
import sys

import pytest

from .tools import NAME, contents, is_whole

SNAPSHOT = """
import sys
from huggingface_hub import HfApi, snapshot_download

name, target, *patterns = sys.argv[1:]
snapshot_download(name, local_dir=target, allow_patterns=patterns or None)
for entry in HfApi().list_repo_tree(name, recursive=True):
    print(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
"""


@pytest.mark.usefixtures("cached")
def test_the_real_client_gets_the_same_files(hub, repository, download, out, tmp_path, monkeypatch):
    sizes = {"config.json": 700, "sub/tokenizer.json": 5000, "model.safetensors": 3_000_000}
    source = repository(sizes | {"run.py": 10, "empty.json": 0}, private=True)
    hub.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    theirs = tmp_path / "theirs"
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT, NAME, theirs],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert contents(theirs).items() >= contents(source).items()
    assert download("--include", "*").exit_code == 0
    assert is_whole(out, source)
    listed = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert listed == sizes | {"run.py": 10, "empty.json": 0}
    of_storage = [headers for _, _, _, headers in hub.of_origin("storage")]
    assert of_storage
    assert not any("authorization" in {*map(str.lower, headers)} for headers in of_storage)
