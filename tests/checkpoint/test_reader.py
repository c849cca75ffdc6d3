"""Folders as they are met on disks: linked, damaged, unfinished, or no checkpoint at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.store import STAGING
from dsdeploy.errors import DiskError, IntegrityError, UsageError

from .damage import errors, overwrite, shard_of

HEAD = "lm_head.weight"


def shard(folder, number):
    return folder / f"model-{number:05d}-of-00005.safetensors"


def read(tensor, offset=0, length=16):
    target = np.empty(length, np.uint8)
    tensor.read_into(target, offset)
    return target.tobytes()


def test_a_tensor_reads_from_any_byte_on(small):
    tensor = open_checkpoint(small).tensors[HEAD]
    content = shard_of(small, HEAD).read_bytes()[tensor.entry.start : tensor.entry.stop]
    assert read(tensor, 5, 1000) == content[5:1005]
    assert read(tensor, tensor.nbytes - 3, 3) == content[-3:]


def test_every_tensor_of_every_shard_is_found_by_name(small):
    checkpoint = open_checkpoint(small)
    in_headers = [entry.name for shard in checkpoint.shards for entry in shard.header.entries]
    assert sorted(in_headers) == sorted(checkpoint.tensors) == sorted(checkpoint.weight_map)


def test_what_lies_beside_the_weights_is_listed(small):
    beside = ("MANIFEST.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert open_checkpoint(small).extra_files.keys() == {*beside}


def test_a_snapshot_of_links_as_in_the_hub_cache_is_a_checkpoint(copy):
    snapshot = copy.parent / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    blobs = copy.rename(snapshot.parents[1] / "blobs")
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    assert errors(snapshot) == []
    assert read(open_checkpoint(snapshot).tensors[HEAD])


def test_every_damaged_file_is_named_in_one_audit(copy):
    shard(copy, 1).unlink()
    shard(copy, 1).symlink_to("../blobs/gone")
    os.truncate(shard(copy, 2), 20_000)
    overwrite(shard(copy, 3), 8, b"[")
    shard(copy, 4).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    shard(copy, 5).unlink()
    shard(copy, 5).symlink_to(shard(copy, 5).name)
    paths = [shard(copy, number) for number in range(1, 6)]
    assert errors(copy) == [
        f"{paths[0]} is a link to a file that is not there",
        f"{paths[1]} is truncated: its header speaks of 77208 bytes, the file has 20000",
        f"{paths[2]}: the header does not begin with '{{'",
        f"{paths[3]} is a Git LFS pointer, not the file itself",
        f"{paths[4]} cannot be read: Too many levels of symbolic links",
    ]


def test_a_damaged_index_is_one_finding_and_the_headers_still_serve(copy):
    (copy / INDEX_NAME).write_text("{")
    (message,) = errors(copy)
    assert message.startswith(f"{copy / INDEX_NAME} is not JSON")
    assert HEAD in open_checkpoint(copy).tensors


@pytest.mark.parametrize("size", [0, 100, 4096, 30_000])
def test_a_shard_that_shrinks_before_it_is_read_is_an_error(copy, size):
    tensor = open_checkpoint(copy).tensors[HEAD]
    os.truncate(shard_of(copy, HEAD), size)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        read(tensor)


def test_a_shard_that_is_replaced_by_one_of_the_same_size_is_an_error(copy):
    tensor, path = open_checkpoint(copy).tensors[HEAD], shard_of(copy, HEAD)
    other = copy / "other"
    other.write_bytes(path.read_bytes())
    other.replace(path)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        read(tensor)


def test_a_shard_that_vanishes_is_an_error_of_the_disk(copy):
    tensor = open_checkpoint(copy).tensors[HEAD]
    shard_of(copy, HEAD).unlink()
    with pytest.raises(DiskError, match=r"cannot be read: No such file"):
        read(tensor)


def refusal(kind, folder):
    with pytest.raises(kind) as raised:
        open_checkpoint(folder)
    return raised.value.message.removeprefix(str(folder))


def test_what_is_no_folder_is_refused(tmp_path):
    assert refusal(UsageError, tmp_path / "nothing") == " is not a folder."


def test_a_folder_without_config_json_is_refused(copy):
    (copy / "config.json").unlink()
    assert refusal(UsageError, copy) == " has no config.json."


def test_an_unfinished_output_is_told_from_a_wrong_folder(tmp_path):
    (tmp_path / STAGING).mkdir()
    assert refusal(IntegrityError, tmp_path) == " holds an unfinished output."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "/config.json is not JSON: Expecting value: line 1 column 1 (char 0)."),
        (b"[]", "/config.json is not a JSON object."),
        (b"\xff\xfe{\0}\0", "/config.json is not UTF-8 text."),
        (b"{}", "/config.json names no architecture."),
    ],
)
def test_a_damaged_config_json_is_refused(copy, content, message):
    (copy / "config.json").write_bytes(content)
    assert refusal(IntegrityError, copy) == message


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ("pytorch_model.bin", " holds its weights as pickles (pytorch_model.bin), which can run"),
        ("README.md", " holds no safetensors file."),
        (".hidden.safetensors", " holds no safetensors file."),
    ],
)
def test_a_folder_without_safetensors_is_refused(copy, left, message):
    for number in range(1, 6):
        shard(copy, number).unlink()
    (copy / left).touch()
    assert refusal(IntegrityError, copy).startswith(message)
