"""What is refused, with which exit code and fix, and that nothing is written then."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from dsdeploy.building.layout import PlannedFile
from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.safetensors import build_header
from dsdeploy.checkpoint.shard import read_shard

from .tools import stored, tree


@pytest.fixture
def source(fp8, tmp_path):
    """A copy to damage."""
    return shutil.copytree(fp8, tmp_path / "source")


@pytest.fixture
def refused(dsdeploy, source, tmp_path):
    """Convert, which must be refused without a trace; what is said."""

    def run(code, *options):
        result = dsdeploy("convert", source, tmp_path / "out", *options)
        assert result.exit_code == code, result.output
        assert not (tmp_path / "out").exists()
        message, fix = result.stderr.splitlines()
        assert message.startswith("error: ")
        assert fix.startswith("  fix: ")
        return result.stderr

    return run


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_shard(path, change):
    """`change` gets and changes a dictionary name -> (dtype, shape, bytes)."""
    content = path.read_bytes()
    tensors = {
        entry.name: (entry.dtype, entry.shape, content[entry.start : entry.stop])
        for entry in read_shard(path).header.entries
    }
    change(tensors)
    header, _ = build_header(((n, d, s) for n, (d, s, _) in tensors.items()), {}, 8)
    path.write_bytes(header + b"".join(data for _, _, data in tensors.values()))


def shard(source, number):
    return sorted(source.glob("*.safetensors"))[number]


def test_a_missing_scale(source, refused):
    lost = []

    def lose(tensors):
        lost.append(next(name for name in tensors if name.endswith("_scale_inv")))
        del tensors[lost[0]]

    edit_shard(shard(source, 1), lose)
    (source / INDEX_NAME).unlink()
    said = refused(4)
    assert f"{lost[0].removesuffix('_scale_inv')} has no scale" in said
    assert "Download the shard that holds it" in said


def test_a_tensor_in_two_shards(source, refused):
    shutil.copy(shard(source, 0), source / "model-extra.safetensors")
    assert "model.embed_tokens.weight is in two files" in refused(4)


def test_a_header_that_names_a_tensor_twice(source, refused):
    path = shard(source, 0)
    content = path.read_bytes()
    stop = 8 + int.from_bytes(content[:8], "little")
    old, new = b'"model.layers.0.input_layernorm.weight"', b'"model.embed_tokens.weight"'
    path.write_bytes(content[:stop].replace(old, new).ljust(stop) + content[stop:])
    assert "has 'model.embed_tokens.weight' twice in its header" in refused(4)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"F8_E4M3"', b'"F8_E5M2"', "is F8_E5M2, it must be F8_E4M3"),
        (b'"shape":[264,64]', b'"shape":[264,63]', "but its data_offsets hold 33792"),
        (b'"data_offsets":[0,', b'"data_offsets":[2,', "but its data_offsets hold 33790"),
        (b"{", b"[", "the header does not begin with '{'"),
    ],
)
def test_a_lying_header(source, refused, old, new, reason):
    path = shard(source, 0)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert reason in refused(4)


def test_a_truncated_shard(source, refused):
    path = shard(source, 2)
    os.truncate(path, path.stat().st_size - 1)
    assert f"{path} is truncated" in refused(4)


def test_a_missing_shard(source, refused):
    shard(source, 3).unlink()
    assert "model-00004-of-00005.safetensors is missing, with" in refused(4)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_that_leads_out_of_the_folder(source, refused, name):
    edit_json(source / INDEX_NAME, weight_map={"model.norm.weight": name})
    assert "leads out of the checkpoint's folder" in refused(4)


def test_pickles_instead_of_safetensors(source, refused):
    for path in source.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    assert "as pickles" in refused(4)


def test_a_pickle_under_the_name_of_a_shard(source, refused):
    shard(source, 0).write_bytes(b"PK\x03\x04" + bytes([255] * 100))
    assert "is a pickle" in refused(4)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("DeepseekV4ForCausalLM", "DeepSeek-V4 has other tensor names and formats"),
        ("DeepseekV2ForCausalLM", "DeepSeek-V2"),
        ("LlamaForCausalLM", "They need no conversion"),
        ("Qwen2ForCausalLM", "They need no conversion"),
        ("MambaForCausalLM", "MambaForCausalLM, which is not supported"),
    ],
)
def test_other_architectures(source, refused, architecture, reason):
    edit_json(source / "config.json", architectures=[architecture])
    said = refused(2)
    assert reason in said
    assert "Use DeepSeek-V3" in said


def test_a_config_that_does_not_fit_the_weights(source, refused):
    edit_json(source / "config.json", hidden_size=128)
    assert "has shape [264, 64], config.json implies [264, 128]" in refused(4)


def test_fp8_to_fp8(refused):
    assert "--to same" in refused(2, "--to", "fp8")


def test_the_demos_files_are_no_source(fp8, convert, dsdeploy, tmp_path):
    options = ("--layout", "demo", "--ranks", 1)
    ranks = convert(fp8, tmp_path / "ranks", *options)
    result = dsdeploy("convert", ranks, tmp_path / "out")
    assert (result.exit_code, "per-rank files" in result.stderr) == (2, True)


def test_nan_weights_cannot_become_fp8(bf16, dsdeploy, tmp_path):
    source = shutil.copytree(bf16, tmp_path / "source")
    name = "model.layers.0.self_attn.o_proj.weight"

    def damage(tensors):
        if name in tensors:
            dtype, shape, data = tensors[name]
            tensors[name] = (dtype, shape, b"\xc0\x7f" + data[2:])

    for path in source.glob("*.safetensors"):
        edit_shard(path, damage)
    result = dsdeploy("convert", source, tmp_path / "out", "--to", "fp8")
    assert result.exit_code == 4
    assert f"{name} holds NaN or infinite values" in result.stderr


@pytest.mark.parametrize(
    ("source", "target"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "a/../a/c")]
)
def test_source_and_target_inside_each_other(fp8, dsdeploy, tmp_path, source, target):
    shutil.copytree(fp8, tmp_path / source)
    before = tree(tmp_path)
    result = dsdeploy("convert", tmp_path / source, tmp_path / target, "--overwrite")
    assert (result.exit_code, "contain each other" in result.stderr) == (2, True)
    assert tree(tmp_path) == before


def test_a_target_inside_the_source_through_a_link(fp8, dsdeploy, source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    result = dsdeploy("convert", source, tmp_path / "link" / "out")
    assert (result.exit_code, tree(source)) == (2, tree(fp8))


def test_a_target_that_is_not_empty(fp8, dsdeploy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    result = dsdeploy("convert", fp8, tmp_path / "out")
    assert (result.exit_code, "--overwrite to replace it" in result.stderr) == (2, True)
    assert tree(tmp_path) == before
    assert dsdeploy("convert", fp8, tmp_path / "out", "--overwrite").exit_code == 0
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_target_that_is_a_file(fp8, dsdeploy, tmp_path):
    (tmp_path / "out").write_text("mine")
    result = dsdeploy("convert", fp8, tmp_path / "out", "--overwrite")
    assert (result.exit_code, (tmp_path / "out").read_text()) == (2, "mine")


# A source that changes while it is read.


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("change", "code"), [(truncate, 4), (touch, 4), (remove, 6)], ids=["cut", "changed", "gone"]
)
def test_a_shard_that_changes_during_the_conversion(
    source, dsdeploy, tmp_path, monkeypatch, change, code
):
    fill, path = PlannedFile.fill, shard(source, 4)

    def change_then_fill(self, target, start):
        if path.exists():
            change(path)
        return fill(self, target, start)

    monkeypatch.setattr(PlannedFile, "fill", change_then_fill)
    result = dsdeploy("convert", source, tmp_path / "out")
    assert result.exit_code == code, result.output
    assert str(path) in result.stderr
    assert not (tmp_path / "out" / "MANIFEST.json").exists()


# Finished, unfinished and repeated conversions.


def test_a_finished_conversion_is_complete_and_left_alone(fp8, convert, dsdeploy, tmp_path):
    ours = convert(fp8, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in ours.iterdir()}
    result = dsdeploy("convert", fp8, ours)
    assert (result.exit_code, result.stdout) == (0, f"{ours} is complete already.\n")
    assert {path: path.stat().st_mtime_ns for path in ours.iterdir()} == times


def not_complete(dsdeploy, source, target, *options):
    result = dsdeploy("convert", source, target, *options)
    return (result.exit_code, "is not empty" in result.stderr) == (2, True)


def test_a_shard_that_changed_since_is_not_called_complete(source, convert, dsdeploy, tmp_path):
    ours = convert(source, tmp_path / "out")
    path = shard(source, 4)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not_complete(dsdeploy, source, ours)


def test_a_change_in_the_middle_with_its_old_time_is_not_called_complete(
    source, convert, dsdeploy, tmp_path
):
    ours = convert(source, tmp_path / "ours")
    path = next(source.glob("*.safetensors"))
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(before.st_size // 2)
        stream.write(b"\x01\x02\x03\x04")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not_complete(dsdeploy, source, ours)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "LICENSE"])
def test_a_small_file_that_changed_since_is_not_called_complete(
    source, convert, dsdeploy, tmp_path, name
):
    ours = convert(source, tmp_path / "out")
    if name == "config.json":
        edit_json(source / name, rope_theta=50000)
    else:
        (source / name).write_text("{}")
    assert not_complete(dsdeploy, source, ours)


def test_an_older_checkpoint_of_the_same_shapes_is_not_called_complete(
    synth, convert, dsdeploy, tmp_path
):
    for seed in (1, 2):
        (synth(tmp_path / f"{seed}", "--seed", seed) / "MANIFEST.json").unlink()
    ours = convert(tmp_path / "2", tmp_path / "out")
    assert not_complete(dsdeploy, tmp_path / "1", ours)


@pytest.mark.parametrize("option", ["--drop-mtp", "--max-shard-size=1MB", "--to=same"])
def test_other_options_are_not_called_complete(fp8, convert, dsdeploy, tmp_path, option):
    ours = convert(fp8, tmp_path / "out")
    assert not_complete(dsdeploy, fp8, ours, option)


def test_a_damaged_output_is_not_called_complete(fp8, convert, dsdeploy, tmp_path):
    ours = convert(fp8, tmp_path / "out")
    os.truncate(shard(ours, 0), 100)
    assert not_complete(dsdeploy, fp8, ours)


# Two processes, and Ctrl-C. The first process is a real one, slowed so that it can be met midway.

SLOWED = """
import sys, time
from dsdeploy.building.layout import PlannedFile
from dsdeploy.cli.main import main
fill = PlannedFile.fill
PlannedFile.fill = lambda *arguments: (time.sleep(0.1), fill(*arguments))[1]
main()
"""
OPTIONS = ("--max-shard-size", "50kB", "--workers", "2")


@pytest.fixture
def midway(fp8, tmp_path):
    """A process that has written some of its files; it is ended at the end of the test."""
    arguments = ["convert", str(fp8), str(tmp_path / "out"), *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a script ignores Ctrl-C, and its children would.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    journal = tmp_path / "out" / ".dsdeploy" / ".part-1-of-1.journal"
    while not journal.exists() or journal.read_text().count('"tensors"') < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "more", [(), ("--overwrite",), ("--overwrite", "--drop-mtp")], ids=["same", "over", "other"]
)
def test_a_second_process_is_told_at_once_and_disturbs_nothing(
    fp8, convert, dsdeploy, tmp_path, midway, more
):
    midway.send_signal(signal.SIGSTOP)
    result = dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS, *more)
    assert result.exit_code == 1
    assert f"error: Another process is writing to {tmp_path / 'out'}." in result.stderr
    assert "Wait for it, or give another target folder." in result.stderr
    midway.send_signal(signal.SIGCONT)
    assert midway.wait() == 0
    assert tree(tmp_path / "out") == tree(convert(fp8, tmp_path / "undisturbed", *OPTIONS))


def test_ctrl_c_says_how_to_go_on_and_the_rerun_does(fp8, convert, tmp_path, midway):
    midway.send_signal(signal.SIGINT)
    _, said = midway.communicate()
    assert midway.returncode == 130
    assert f"Interrupted; what is done stays in {tmp_path / 'out' / '.dsdeploy'}." in said
    assert "fix: Run the same command again to go on." in said
    assert "Traceback" not in said
    expected = convert(fp8, tmp_path / "undisturbed", *OPTIONS)
    assert tree(convert(fp8, tmp_path / "out", *OPTIONS)) == tree(expected)


def test_an_unfinished_output_is_for_its_own_options_only(fp8, convert, dsdeploy, tmp_path, midway):
    midway.kill()
    midway.wait()
    result = dsdeploy("convert", fp8, tmp_path / "out", *OPTIONS, "--drop-mtp")
    assert result.exit_code == 2
    assert "an unfinished output that was begun with another source, other options" in result.stderr
    assert "Repeat the first command to go on, or give --overwrite" in result.stderr
    options = (*OPTIONS, "--drop-mtp", "--overwrite")
    ours = convert(fp8, tmp_path / "out", *options)
    assert not [name for name in stored(ours) if name.startswith("model.layers.2.")]
    assert tree(ours) == tree(convert(fp8, tmp_path / "undisturbed", *options))


def test_an_unfinished_output_is_no_source(dsdeploy, tmp_path, midway):
    midway.kill()
    midway.wait()
    result = dsdeploy("convert", tmp_path / "out", tmp_path / "other")
    assert (result.exit_code, "holds an unfinished output" in result.stderr) == (4, True)
