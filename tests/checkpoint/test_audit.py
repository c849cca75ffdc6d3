"""Each fault of a checkpoint is found once, and nothing else is."""

import json

import pytest

from dsdeploy.checkpoint.index import INDEX_NAME
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.model.config import load_config
from dsdeploy.model.demo import rank_file_name, rank_table

from .damage import (
    edited_index,
    edited_json,
    edited_shard,
    errors,
    notes,
    overwrite,
    save_shard,
    shard_of,
)

LAST = "model-00005-of-00005.safetensors"
HEAD = "lm_head.weight"
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


def edited_shard_of(folder, tensor):
    return edited_shard(shard_of(folder, tensor))


def test_a_whole_checkpoint_has_neither_errors_nor_notes(small):
    assert (errors(small), notes(small)) == ([], [])


@pytest.mark.parametrize("options", [["--precision", "bf16"], ["--scale-fmt", "ue8m0"]])
def test_bf16_and_powers_of_two_are_whole_as_well(synth, tmp_path, options):
    folder = synth(tmp_path / "checkpoint", *options)
    assert (errors(folder), notes(folder)) == ([], [])


def test_a_missing_tensor(copy):
    with edited_shard_of(copy, HEAD) as tensors:
        del tensors[HEAD]
    assert errors(copy) == [f"{HEAD} is missing"]


def test_a_missing_tensor_that_the_index_does_not_name_either(copy):
    with edited_shard_of(copy, HEAD) as tensors, edited_index(copy) as index:
        del tensors[HEAD], index["weight_map"][HEAD]
    assert errors(copy) == [f"{HEAD} is missing"]


def test_a_missing_scale(copy):
    with edited_shard_of(copy, EXPERT + "_scale_inv") as tensors:
        del tensors[EXPERT + "_scale_inv"]
    assert errors(copy) == [f"{EXPERT} has no scale"]


def test_a_wrong_shape(copy):
    with edited_shard_of(copy, EXPERT) as tensors:
        dtype, _, data = tensors[EXPERT]
        tensors[EXPERT] = (dtype, (32, 128), data)
    assert errors(copy) == [f"{EXPERT} has shape [32, 128], config.json implies [64, 64]"]


def test_a_wrong_dtype(copy):
    with edited_shard_of(copy, EXPERT) as tensors:
        _, shape, data = tensors[EXPERT]
        tensors[EXPERT] = ("BF16", shape, 2 * data)
    assert errors(copy) == [f"{EXPERT} is BF16, it must be F8_E4M3"]


def test_a_norm_may_be_bf16_or_f32_and_nothing_else(copy):
    with edited_shard_of(copy, NORM) as tensors:
        _, shape, data = tensors[NORM]
        tensors[NORM] = ("F32", shape, 2 * data)
    assert errors(copy) == []
    with edited_shard_of(copy, NORM) as tensors:
        tensors[NORM] = ("F16", shape, data)
    assert errors(copy) == [f"{NORM} is F16, it must be BF16 or F32"]


def test_a_tensor_in_two_files(copy):
    with edited_shard_of(copy, NORM) as tensors:
        norm = tensors[NORM]
    with edited_shard(copy / LAST) as tensors:
        tensors[NORM] = norm
    assert errors(copy) == [f"{NORM} is in two files, {shard_of(copy, NORM).name} and {LAST}"]


def test_a_tensor_in_two_files_hides_no_other_fault_of_the_second(copy):
    with edited_shard_of(copy, NORM) as tensors:
        norm = tensors[NORM]
    with edited_shard(copy / LAST) as tensors:
        lost = next(name for name in tensors if name.endswith(".weight"))
        del tensors[lost]
        tensors[NORM] = norm
    assert errors(copy) == [
        f"{NORM} is in two files, {shard_of(copy, NORM).name} and {LAST}",
        f"{lost} is missing",
    ]


def test_a_leftover_shard_of_another_download(copy):
    with edited_shard_of(copy, NORM) as tensors:
        norm = tensors[NORM]
    save_shard(copy / "model-00001-of-00001.safetensors", {NORM: norm})
    first = "model-00001-of-00001.safetensors and model-00001-of-00005.safetensors"
    assert errors(copy) == [
        f"{NORM} is in two files, {first}",
        f"the index puts {NORM} into model-00001-of-00005.safetensors, "
        "it is in model-00001-of-00001.safetensors",
    ]


def test_an_index_that_points_to_the_wrong_file(copy):
    right = shard_of(copy, NORM).name
    with edited_index(copy) as index:
        index["weight_map"][NORM] = LAST
    assert errors(copy) == [f"the index puts {NORM} into {LAST}, it is in {right}"]


def test_an_index_that_lacks_a_tensor(copy):
    with edited_index(copy) as index:
        del index["weight_map"][NORM]
    assert errors(copy) == [f"{NORM} is not in the index"]


def test_an_index_that_names_a_tensor_of_no_file(copy):
    with edited_index(copy) as index:
        index["weight_map"]["model.extra"] = LAST
    assert errors(copy) == [f"the index puts model.extra into {LAST}, which lacks it"]


def test_an_index_with_another_total_and_no_index_at_all_are_remarks(copy):
    with edited_index(copy) as index:
        total = index["metadata"]["total_size"]
        index["metadata"]["total_size"] = 7
    assert errors(copy) == []
    assert notes(copy) == [f"the index's total_size is 7, the tensors are {total} bytes"]
    (copy / INDEX_NAME).unlink()
    assert errors(copy) == []
    assert notes(copy) == [f"there is no {INDEX_NAME}; engines need it"]


def test_a_missing_shard_is_one_fault_and_not_one_for_each_tensor(copy):
    count = len(open_checkpoint(copy).shards[-1].header.entries)
    (copy / LAST).unlink()
    assert errors(copy) == [f"{LAST} is missing, with {count} tensors"]


def test_an_unreadable_shard_is_one_fault_and_not_one_for_each_tensor(copy):
    overwrite(copy / LAST, 8, b"[")
    assert errors(copy) == [f"{copy / LAST}: the header does not begin with '{{'"]


def test_a_stale_quantization_config(synth, tmp_path, small):
    folder = synth(tmp_path / "bf16", "--precision", "bf16")
    (folder / "config.json").write_text((small / "config.json").read_text())
    (message,) = errors(folder)
    assert message.startswith("config.json announces FP8 (quantization_config), but no weight is")


def test_fp8_without_quantization_config(copy):
    with edited_json(copy / "config.json") as config:
        del config["quantization_config"]
    (message,) = errors(copy)
    assert message.startswith("the weights are FP8, but config.json has no quantization_config")


def test_a_tensor_unknown_to_the_architecture_is_a_remark(copy):
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    with edited_shard(copy / LAST) as tensors, edited_index(copy) as index:
        tensors[extra] = ("F32", (4,), bytes(16))
        index["weight_map"][extra] = LAST
        index["metadata"]["total_size"] += 16
    assert errors(copy) == []
    assert notes(copy) == [f"{extra} is not of this architecture; it is kept as it is"]


def test_an_unknown_fp8_tensor_needs_its_scale(copy):
    with edited_shard(copy / LAST) as tensors, edited_index(copy) as index:
        tensors["model.extra.weight"] = ("F8_E4M3", (2, 2), bytes(4))
        index["weight_map"]["model.extra.weight"] = LAST
    assert errors(copy) == ["model.extra.weight has no scale for its blocks of 128x128"]


def test_many_unknown_tensors_are_summed_up(copy):
    extras = [f"model.extra.{number:02d}" for number in range(30)]
    with edited_shard(copy / LAST) as tensors, edited_index(copy) as index:
        tensors.update(dict.fromkeys(extras, ("U8", (1,), b"1")))
        index["weight_map"].update(dict.fromkeys(extras, LAST))
        index["metadata"]["total_size"] += 30
    found = notes(copy)
    assert (errors(copy), len(found)) == ([], 21)
    assert found[-1] == "10 more tensors are not of this architecture"


def test_an_announced_mtp_layer_that_the_weights_lack_is_a_remark(synth, tmp_path):
    folder = synth(tmp_path / "without", "--set", "num_nextn_predict_layers=0")
    with edited_json(folder / "config.json") as config:
        config["num_nextn_predict_layers"] = 1
    assert errors(folder) == []
    assert notes(folder) == [
        "config.json announces a multi-token prediction layer, the weights hold none"
    ]


def test_half_an_mtp_layer_is_an_error(copy):
    name = "model.layers.2.eh_proj.weight"
    with edited_shard_of(copy, name) as tensors:
        del tensors[name]
    assert errors(copy) == [f"{name} is missing"]


def test_data_that_are_not_aligned_are_a_remark(copy):
    path = copy / LAST
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, data = content[8 : 8 + length], content[8 + length :]
    path.write_bytes((length + 1).to_bytes(8, "little") + head + b" " + data)
    assert errors(copy) == []
    assert notes(copy) == ["the data are not aligned to 8 bytes, which slows loaders down"]


@pytest.fixture
def demo(small, tmp_path):
    """The per-rank files of two ranks, all zeros."""
    config = load_config((small / "config.json").read_text())
    for rank in range(2):
        tensors = {
            spec.name: (spec.dtype, spec.shape, bytes(spec.nbytes))
            for spec in rank_table(config, rank, 2)
        }
        save_shard(tmp_path / rank_file_name(rank, 2), tensors)
    (tmp_path / "config.json").write_text((small / "config.json").read_text())
    return tmp_path


def test_whole_rank_files_have_neither_errors_nor_notes(demo):
    assert (errors(demo), notes(demo)) == ([], [])


def test_rank_files_in_bf16_with_a_stale_quantization_config(demo):
    for rank in range(2):
        with edited_shard(demo / f"model{rank}-mp2.safetensors") as tensors:
            for name, (dtype, shape, data) in list(tensors.items()):
                if dtype == "F8_E4M3":
                    tensors[name] = ("BF16", shape, 2 * data)
                elif name.endswith(".scale"):
                    del tensors[name]
    (message,) = errors(demo)
    assert message.startswith("config.json announces FP8 (quantization_config), but no weight is")


def test_a_missing_rank_file(demo):
    (demo / "model0-mp2.safetensors").unlink()
    assert errors(demo) == ["model0-mp2.safetensors is missing: rank 0 of 2"]


def test_an_unreadable_rank_file(demo):
    overwrite(demo / "model1-mp2.safetensors", 8, b"[")
    path = demo / "model1-mp2.safetensors"
    assert errors(demo) == [f"{path}: the header does not begin with '{{'"]


def test_an_expert_on_the_wrong_rank(demo):
    with edited_shard(demo / "model1-mp2.safetensors") as tensors:
        tensors["layers.1.ffn.experts.0.w1.weight"] = tensors.pop(
            "layers.1.ffn.experts.2.w1.weight"
        )
    assert errors(demo) == ["layers.1.ffn.experts.2.w1.weight is missing"]
    assert notes(demo) == ["layers.1.ffn.experts.0.w1.weight is not of this architecture"]


def test_a_whole_tensor_where_a_rank_has_its_share(demo):
    with edited_shard(demo / "model1-mp2.safetensors") as tensors:
        tensors["head.weight"] = ("BF16", (264, 64), bytes(264 * 64 * 2))
    assert errors(demo) == ["head.weight has shape [264, 64], config.json implies [132, 64]"]


def test_rank_files_of_two_different_splits(demo):
    (demo / "model0-mp1.safetensors").write_bytes((demo / "model0-mp2.safetensors").read_bytes())
    assert errors(demo) == ["model0-mp1.safetensors is not one of 2 ranks"]


@pytest.mark.parametrize("ranks", [0, 3, 8, 10**15])
def test_a_number_of_ranks_that_cannot_be(demo, ranks):
    for rank in range(2):
        (demo / f"model{rank}-mp2.safetensors").rename(demo / f"model{rank}-mp{ranks}.safetensors")
    assert errors(demo) == [f"4 routed experts cannot be spread over {ranks} ranks"]


def test_the_command_says_the_same_and_ends_with_code_4(copy, dsdeploy):
    (copy / LAST).unlink()
    with edited_shard_of(copy, EXPERT) as tensors:
        del tensors[EXPERT]
    result = dsdeploy("inspect", copy, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["whole"]) == (4, False)
    assert [finding["message"] for finding in document["findings"]] == errors(copy)
    assert [finding["file"] for finding in document["findings"]] == [
        LAST,
        shard_of(copy, EXPERT).name,
    ]


def test_an_unknown_tensor_beside_a_dropped_mtp_layer_is_a_note_only(small, convert, tmp_path):
    folder = convert(small, tmp_path / "main", "--drop-mtp", "--to", "same")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    name = "model.layers.2.self_attn.rotary_emb.inv_freq"
    with edited_shard(shard_of(folder, NORM)) as tensors, edited_index(folder) as index:
        tensors[name] = tensors[NORM]
        index["weight_map"][name] = index["weight_map"][NORM]
    assert errors(folder) == []
