"""What only the data tell: values that cannot be, zeros where a download stopped, changed bits."""

import json
import random
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.checkpoint.audit import audit
from dsdeploy.checkpoint.deep import inspect_data, scan_shard
from dsdeploy.checkpoint.direct import PAGE
from dsdeploy.checkpoint.manifest import MANIFEST_NAME, read_manifest
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.safetensors import build_header
from dsdeploy.checkpoint.shard import read_shard
from dsdeploy.errors import IntegrityError

from .damage import edited_json, overwrite, shard_of

FP8 = "model.layers.0.mlp.up_proj.weight"
BF16 = "lm_head.weight"
F32 = "model.layers.1.mlp.gate.e_score_correction_bias"
SCALE = FP8 + "_scale_inv"
WINDOW = 4 << 20
ELEMENTS = WINDOW // 2 + 100


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def deep_findings(folder, manifest):
    checkpoint = open_checkpoint(folder)
    _, found = inspect_data(checkpoint, manifest, 1, lambda *_: None)
    return [*audit(checkpoint), *found]


def deep_errors(folder, manifest=None):
    return [finding for finding in deep_findings(folder, manifest) if finding.severity == "error"]


def position_of(folder, tensor):
    return open_checkpoint(folder).tensors[tensor].entry.start


def put(folder, tensor, offset, content):
    overwrite(shard_of(folder, tensor), position_of(folder, tensor) + offset, content)


def test_nothing_is_found_in_an_undamaged_checkpoint(small):
    assert deep_findings(small, read_manifest(small)) == []


@pytest.mark.parametrize(
    ("tensor", "offset", "value", "message"),
    [
        (FP8, 7, b"\x7f", "holds 1 NaN or infinite values"),
        (FP8, 0, b"\xff\x7f\xff", "holds 3 NaN or infinite values"),
        (BF16, 4, struct.pack("<H", 0x7F80), "holds 1 NaN or infinite values"),
        (BF16, 4, struct.pack("<H", 0xFFC1), "holds 1 NaN or infinite values"),
        (F32, 8, struct.pack("<f", float("inf")), "holds 1 NaN or infinite values"),
        (F32, 8, struct.pack("<f", float("nan")), "holds 1 NaN or infinite values"),
        (SCALE, 0, struct.pack("<f", 0.0), "holds 1 scales that are zero, negative"),
        (SCALE, 0, struct.pack("<f", -1.0), "holds 1 scales that are zero, negative"),
        (SCALE, 4, struct.pack("<f", float("inf")), "holds 1 scales that are zero, negative"),
        (SCALE, 4, struct.pack("<f", float("nan")), "holds 1 scales that are zero, negative"),
        (FP8, 0, bytes(2 * PAGE), rf"holds [12] pages \({PAGE} bytes each\) of zeros"),
    ],
)
def test_a_value_that_cannot_be_names_its_tensor_and_file(copy, tensor, offset, value, message):
    put(copy, tensor, offset, value)
    (finding,) = deep_errors(copy)
    assert (finding.tensor, finding.file) == (tensor, shard_of(copy, tensor).name)
    assert re.search(message, finding.message)


def test_values_that_may_be_are_not_found(copy):
    put(copy, FP8, 0, b"\x7e\xfe\x00\x80")
    put(copy, BF16, 0, struct.pack("<4H", 0x7F7F, 0xFF7F, 0, 0x0001))
    put(copy, F32, 0, struct.pack("<2f", -3e38, 0.0))
    put(copy, SCALE, 0, struct.pack("<f", 2.0**-149))
    assert deep_findings(copy, None) == []


def test_rows_of_zeros_in_an_embedding_are_a_remark(copy):
    put(copy, "model.embed_tokens.weight", 0, bytes(2 * PAGE))
    (finding,) = deep_findings(copy, None)
    assert finding.severity == "note"
    assert finding.message.endswith("of zeros, as unused tokens may")


def test_a_shard_that_is_cut_after_it_was_opened_is_found(copy):
    checkpoint = open_checkpoint(copy)
    path = shard_of(copy, BF16)
    path.write_bytes(path.read_bytes()[:-1])
    _, (finding,) = inspect_data(checkpoint, None, 1, lambda *_: None)
    assert finding.message == f"{path.name} ended while it was read: it has been cut"


@given(st.integers(0, 7), st.integers(-2, 2), st.sampled_from(["BF16", "F32"]))
@settings(max_examples=60)
def test_a_nan_is_found_where_two_windows_meet_at_any_alignment(work, padding, distance, dtype):
    header, _ = build_header([("x", dtype, (ELEMENTS,))], None, 8)
    header = (len(header) - 8 + padding).to_bytes(8, "little") + header[8:] + b" " * padding
    values = np.ones(ELEMENTS, np.float32 if dtype == "F32" else np.uint16)
    at_the_border = (WINDOW - len(header)) // values.itemsize
    values[at_the_border + distance] = np.nan if dtype == "F32" else 0x7FC0
    with (work / "a.safetensors").open("wb") as stream:
        stream.write(header)
        stream.write(values.data)
    assert scan_shard(read_shard(work / "a.safetensors"), lambda *_: None).nan["x"] == 1


def test_one_changed_bit_names_its_tensor(copy):
    put(copy, F32, 0, bytes([shard_of(copy, F32).read_bytes()[position_of(copy, F32)] ^ 1]))
    (finding,) = deep_errors(copy, read_manifest(copy))
    assert finding.message == f"{F32} has changed since MANIFEST.json was written"


def test_a_changed_header_is_told_from_changed_tensors(copy):
    path = shard_of(copy, BF16)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"format":"pt"', b'"format":"tf"'))
    (finding,) = deep_errors(copy, read_manifest(copy))
    assert finding.message == f"{path.name}: the header has changed since MANIFEST.json was written"


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors.index.json"])
def test_a_changed_file_beside_the_weights_is_found(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    (finding,) = deep_errors(copy, read_manifest(copy))
    assert finding.message == f"{name} has changed since MANIFEST.json was written"


def test_a_config_edited_by_hand_is_a_remark_and_a_missing_one_an_error(copy):
    manifest = read_manifest(copy)
    with edited_json(copy / "generation_config.json") as document:
        document["temperature"] = 1.0
    (finding,) = deep_findings(copy, manifest)
    assert finding.severity == "note"
    (copy / "generation_config.json").unlink()
    (finding,) = deep_errors(copy, manifest)
    assert finding.message == "generation_config.json is missing; MANIFEST.json names it"


def test_a_thousand_single_bit_flips_are_all_found(copy):
    generator = random.Random(20261125)
    manifest, checkpoint = read_manifest(copy), open_checkpoint(copy)
    shards = {shard.data.path: shard for shard in checkpoint.shards}
    missed = []
    for number in range(1000):
        shard = generator.choice(list(shards.values()))
        start, stop = shard.header.data_start, shard.size
        position = generator.randrange(start) if number % 2 else generator.randrange(start, stop)
        old = overwrite(shard.data.path, position, b"\0")
        overwrite(shard.data.path, position, bytes([old[0] ^ 1 << generator.randrange(8)]))
        if not blames(deep_errors(copy, manifest), shard, position):
            missed.append((shard.name, position))
        overwrite(shard.data.path, position, old)
    assert missed == []
    assert deep_errors(copy, manifest) == []


def blames(found, shard, position):
    """Whether the errors name the file and, for a bit of the data, the tensor."""
    if position < shard.header.data_start:
        return any(finding.file == shard.name for finding in found)
    hit = next(entry.name for entry in shard.header.entries if position < entry.stop)
    return {(finding.tensor, finding.file) for finding in found} == {(hit, shard.name)}


def test_the_command_reads_the_data_and_ends_with_code_4(copy, dsdeploy):
    put(copy, FP8, 0, b"\x7f")
    assert dsdeploy("inspect", copy, "--quiet").exit_code == 0
    result = dsdeploy("inspect", copy, "--deep", "--json")
    messages = [finding["message"] for finding in json.loads(result.stdout)["findings"]]
    assert result.exit_code == 4
    assert messages == [
        f"{FP8} holds 1 NaN or infinite values",
        f"{FP8} has changed since MANIFEST.json was written",
    ]


def test_the_command_gives_the_hashes_of_the_manifest(small, dsdeploy):
    result = dsdeploy("inspect", small, "--deep", "--json")
    hashes = json.loads(result.stdout)["sha256"]
    files = read_manifest(small).files
    assert result.exit_code == 0
    assert hashes == {name: files[name].sha256 for name in hashes}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    "content", ["{", "[]", "[" * 99_999, '{"files": {}}', '{"files": {"a": 1}}']
)
def test_a_damaged_manifest_is_an_integrity_error(copy, dsdeploy, content):
    (copy / MANIFEST_NAME).write_text(content)
    result = dsdeploy("inspect", copy, "--deep")
    assert result.exit_code == 4
    assert f"{copy / MANIFEST_NAME} is damaged" in result.stderr


@pytest.mark.parametrize("name", ["/dev/zero", "../other", "..", ""])
def test_a_manifest_reads_no_file_outside_the_folder(copy, name):
    with edited_json(copy / MANIFEST_NAME) as document:
        document["files"][name] = {"size": 0, "sha256": "0"}
    with pytest.raises(IntegrityError, match=re.escape(f"{name!r} leads out of the folder")):
        read_manifest(copy)
