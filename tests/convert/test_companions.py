"""What lies beside the converted weights, and how the files are made."""

import hashlib
import json
import os
import re
import shutil

import pytest
from safetensors import safe_open

from dsdeploy.checkpoint.shard import read_shard
from dsdeploy.model.config import parse_config
from dsdeploy.model.demo import demo_model_args
from dsdeploy.resources import read_known_config

from .tools import stored

INDEX = "model.safetensors.index.json"
FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def as_bf16(fp8, convert, tmp_path_factory):
    """Several shards of BF16."""
    target = tmp_path_factory.mktemp("companions") / "bf16"
    return convert(fp8, target, "--max-shard-size", "150kB")


def test_a_bf16_config_says_nothing_of_fp8_and_keeps_the_rest(fp8, as_bf16):
    expected = config_of(fp8)
    del expected["quantization_config"]
    assert config_of(as_bf16) == expected


def test_an_fp8_config_says_how_the_weights_are_quantised(bf16, convert, tmp_path):
    ours = config_of(convert(bf16, tmp_path / "out", "--to", "fp8"))
    assert ours == config_of(bf16) | {"quantization_config": FP8}


def test_a_quantization_config_of_null_is_replaced_too(bf16, convert, tmp_path):
    source = shutil.copytree(bf16, tmp_path / "source")
    changed = config_of(source) | {"quantization_config": None}
    (source / "config.json").write_text(json.dumps(changed))
    assert config_of(convert(source, tmp_path / "out", "--to", "fp8"))["quantization_config"] == FP8


def test_powers_of_two_stay_announced(synth, convert, tmp_path):
    source = synth(tmp_path / "source", "--scale-fmt", "ue8m0")
    ours = config_of(convert(source, tmp_path / "out", "--to", "same"))
    assert ours["quantization_config"] == FP8 | {"scale_fmt": "ue8m0"}


def test_without_the_mtp_layer_the_config_announces_none(fp8, convert, tmp_path):
    ours = convert(fp8, tmp_path / "out", "--drop-mtp")
    assert config_of(ours)["num_nextn_predict_layers"] == 0
    assert not [name for name in stored(ours) if name.startswith("model.layers.2.")]
    kept = {name for name in stored(fp8) if not name.startswith("model.layers.2.")}
    assert stored(ours).keys() == {name for name in kept if not name.endswith("_scale_inv")}


def test_the_index_is_exact(as_bf16):
    index = json.loads((as_bf16 / INDEX).read_text())
    places = {}
    for path in as_bf16.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path.name)
    assert len(set(places.values())) > 2
    assert index["weight_map"] == places
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored(as_bf16).values())


def test_every_file_says_pt_as_loaders_expect(as_bf16):
    for path in as_bf16.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_small_files_come_along_and_other_weights_do_not(fp8, convert, tmp_path):
    source = shutil.copytree(fp8, tmp_path / "source")
    carried = {"LICENSE": b"MIT", "modeling_deepseek.py": b"pass", "chat_template.jinja": b"{{"}
    left = dict.fromkeys(["pytorch_model.bin", "x.pt", "x.gguf", ".gitattributes", "x.lock"], b"0")
    for name, content in (carried | left).items():
        (source / name).write_bytes(content)
    (source / "figures").mkdir()
    ours = convert(source, tmp_path / "out")
    for name in [*carried, "tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        assert (ours / name).read_bytes() == (source / name).read_bytes()
    assert not [name for name in [*left, "figures"] if (ours / name).exists()]


def test_a_file_that_is_a_dangling_link_is_told_before_the_work(fp8, dsdeploy, tmp_path):
    source = shutil.copytree(fp8, tmp_path / "source")
    (source / "LICENSE").symlink_to("blobs/gone")
    result = dsdeploy("convert", source, tmp_path / "out")
    assert result.exit_code == 4
    assert f"{source / 'LICENSE'} is a link to a file that is not there." in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["figures", "link to figures"])
def test_folders_of_the_source_stay_there(fp8, convert, tmp_path, folder):
    source = shutil.copytree(fp8, tmp_path / "source")
    (source / "figures").mkdir()
    (source / "link to figures").symlink_to("figures")
    assert not (convert(source, tmp_path / "out") / folder).exists()


def test_a_source_may_hold_files_named_as_the_staging_folders_own(fp8, convert, tmp_path):
    source = shutil.copytree(fp8, tmp_path / "source")
    names = ("plan.json", "commit.json", "lock", "part-1-of-1.journal")
    for name in names:
        (source / name).write_text("{}")
    ours = convert(source, tmp_path / "out")
    assert [(ours / name).read_text() for name in names] == ["{}"] * 4
    assert not (ours / ".dsdeploy").exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_modes_are_as_the_umask_says(fp8, convert, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        ours = convert(fp8, tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in ours.iterdir()} == {mode}
    assert ours.stat().st_mode & 0o777 == 0o777 & ~umask


def test_the_manifest_has_the_true_hash_of_every_file_and_tensor(as_bf16):
    manifest = json.loads((as_bf16 / "MANIFEST.json").read_text())
    assert manifest["files"].keys() | {"MANIFEST.json"} == {p.name for p in as_bf16.iterdir()}
    for name, record in manifest["files"].items():
        content = (as_bf16 / name).read_bytes()
        assert record == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    for name, hashes in manifest["tensors"].items():
        content = (as_bf16 / name).read_bytes()
        assert hashes == {
            entry.name: hashlib.sha256(content[entry.start : entry.stop]).hexdigest()
            for entry in read_shard(as_bf16 / name).header.entries
        }


def test_the_manifest_knows_options_and_source(fp8, as_bf16):
    manifest = json.loads((as_bf16 / "MANIFEST.json").read_text())
    assert manifest["options"] == {
        "to": "bf16",
        "layout": "hf",
        "drop_mtp": False,
        "max_shard_size": 150_000,
    }
    assert manifest["source"]["shards"].keys() == {p.name for p in fp8.glob("*.safetensors")}
    digest = hashlib.sha256((fp8 / "MANIFEST.json").read_bytes()).hexdigest()
    assert manifest["source"]["manifest_sha256"] == digest


def test_tensors_lie_in_the_order_of_the_layers(as_bf16):
    names = [
        entry.name
        for path in sorted(as_bf16.glob("*.safetensors"))
        for entry in read_shard(path).header.entries
    ]
    layers = [int(match[1]) for name in names if (match := re.search(r"layers\.(\d+)\.", name))]
    assert layers == sorted(layers)
    assert names[0] == "model.embed_tokens.weight"
    first_of_mtp = names.index("model.layers.2.embed_tokens.weight")
    assert names[first_of_mtp - 2 : first_of_mtp] == ["model.norm.weight", "lm_head.weight"]
    experts = [int(m[1]) for name in names if (m := re.search(r"s\.1\.\S*experts\.(\d+)", name))]
    assert experts == sorted(experts)


def test_data_begin_at_a_page_so_that_every_tensor_is_aligned(as_bf16):
    for path in as_bf16.glob("*.safetensors"):
        header = read_shard(path).header
        assert header.data_start % 4096 == 0
        assert all(entry.start % 2 == 0 for entry in header.entries)


def test_a_scale_stays_with_its_weight(fp8, convert, tmp_path):
    ours = convert(fp8, tmp_path / "out", "--to", "same", "--max-shard-size", "50kB")
    weight_map = json.loads((ours / INDEX).read_text())["weight_map"]
    scales = [name for name in weight_map if name.endswith("_scale_inv")]
    assert scales
    assert all(weight_map[s] == weight_map[s.removesuffix("_scale_inv")] for s in scales)


def test_the_demos_config_has_the_models_own_rotary_embedding():
    raw = json.loads(read_known_config("kimi-k2"))
    args = demo_model_args(parse_config(raw), raw, fp8=False)
    assert args["rope_theta"] == raw["rope_theta"] == 50000
    assert args["rope_factor"] == raw["rope_scaling"]["factor"] == 32
    assert args["original_seq_len"] == 4096
    assert "scale_fmt" not in args
