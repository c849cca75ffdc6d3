"""Synthetic checkpoints: any byte alone, the same everywhere, and loaded by everybody's readers."""

import hashlib
import json
from functools import cache

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoTokenizer

from dsdeploy.checkpoint.audit import audit
from dsdeploy.checkpoint.manifest import read_manifest
from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.checkpoint.summary import summarise
from dsdeploy.model.config import parse_config
from dsdeploy.synth.presets import synthetic_config
from dsdeploy.synth.tensors import synthetic_tensors
from dsdeploy.synth.tokenizer import BEGIN, END, SPECIAL


def tensors_of(*, seed=0, scale_format=None):
    config = parse_config(synthetic_config("tiny", [], "fp8", scale_format))
    return {tensor.name: tensor for tensor in synthetic_tensors(config, seed)}


TINY = tensors_of()
SAMPLES = {
    "BF16, 2 MB": "model.embed_tokens.weight",
    "FP8, 0.5 MB": "model.layers.0.mlp.down_proj.weight",
    "a norm": "model.norm.weight",
    "F32": "model.layers.1.mlp.gate.e_score_correction_bias",
    "scales": "model.layers.0.mlp.down_proj.weight_scale_inv",
}


def window(tensor, offset, length):
    target = np.empty(length, np.uint8)
    tensor.recipe.fill(target, offset)
    return target.tobytes()


@cache
def whole(name):
    return window(TINY[name], 0, TINY[name].nbytes)


@given(st.sampled_from(list(SAMPLES.values())), st.data())
def test_any_window_of_a_tensor_is_that_part_of_the_whole(name, data):
    offset = data.draw(st.integers(0, TINY[name].nbytes))
    length = data.draw(st.integers(0, TINY[name].nbytes - offset))
    assert window(TINY[name], offset, length) == whole(name)[offset : offset + length]


@pytest.mark.parametrize("name", SAMPLES.values(), ids=SAMPLES.keys())
def test_another_seed_gives_other_bytes(name):
    other = tensors_of(seed=1)[name]
    assert window(other, 0, other.nbytes) != whole(name)


def test_the_mtp_layer_has_the_embedding_and_the_head_of_the_main_model(small):
    checkpoint = open_checkpoint(small)
    hashes = {n: h for tensors in read_manifest(small).tensors.values() for n, h in tensors.items()}
    mtp = f"model.layers.{checkpoint.config.num_hidden_layers}."
    assert hashes[mtp + "embed_tokens.weight"] == hashes["model.embed_tokens.weight"]
    assert hashes[mtp + "shared_head.head.weight"] == hashes["lm_head.weight"]


def test_fp8_weights_use_the_whole_range_of_codes():
    codes = np.frombuffer(whole(SAMPLES["FP8, 0.5 MB"]), np.uint8)
    assert (codes & 0x7F).max() == 0x7E
    assert len(np.unique(codes)) > 200


def exponents_only(tensor):
    scales = np.frombuffer(window(tensor, 0, tensor.nbytes), np.float32)
    return not (scales.view(np.uint32) & 0x7FFFFF).any()


def test_scales_in_ue8m0_are_powers_of_two_but_for_o_proj():
    scales = [t for name, t in tensors_of(scale_format="ue8m0").items() if "_scale_inv" in name]
    powers = {tensor.name for tensor in scales if exponents_only(tensor)}
    assert powers == {tensor.name for tensor in scales if "o_proj" not in tensor.name}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(small, synth, tmp_path):
    for workers in (1, 7):
        again = synth(tmp_path / str(workers), "--workers", workers)
        assert contents(again) == contents(small)


def test_another_seed_changes_every_tensor_and_no_header(small, synth, tmp_path):
    other = synth(tmp_path / "other", "--seed", 1)
    ours, theirs = read_manifest(small).tensors, read_manifest(other).tensors
    assert all(
        ours[file][name] != theirs[file][name] for file, tensors in ours.items() for name in tensors
    )
    headers = [
        [shard.header_sha256 for shard in open_checkpoint(folder).shards]
        for folder in (small, other)
    ]
    assert headers[0] == headers[1]


@pytest.mark.parametrize("size", ["1kB", "20kB", "100kB"])
def test_one_scale_lies_in_another_shard_than_its_weight(synth, tmp_path, size):
    folder = synth(tmp_path / "strays", "--shard-size", size)
    weight_map = open_checkpoint(folder).weight_map
    strays = [
        name
        for name, file in weight_map.items()
        if name.endswith("_scale_inv") and weight_map[name.removesuffix("_scale_inv")] != file
    ]
    assert len(strays) == 1


def test_the_reference_library_opens_every_shard(small):
    for shard in open_checkpoint(small).shards:
        content = shard.data.path.read_bytes()
        with safe_open(shard.data.path, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            for entry in shard.header.entries:
                tensor = opened.get_tensor(entry.name)
                bits = tensor.view(-1).view(torch.uint8).numpy().tobytes()
                assert bits == content[entry.start : entry.stop]


def test_the_manifest_records_the_hash_of_every_file(small):
    for name, record in read_manifest(small).files.items():
        content = (small / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (record.size, record.sha256)


def test_fields_are_set_and_num_key_value_heads_follow(small):
    raw = json.loads((small / "config.json").read_text())
    assert (raw["hidden_size"], raw["num_attention_heads"], raw["num_key_value_heads"]) == (
        64,
        2,
        2,
    )


def test_a_value_may_be_null_text_or_a_number():
    settings = ["q_lora_rank=null", "torch_dtype=float16", "rope_theta=5e4"]
    raw = synthetic_config("tiny", settings, "fp8", None)
    assert (raw["q_lora_rank"], raw["torch_dtype"], raw["rope_theta"]) == (None, "float16", 5e4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "hidden_size"], "--set hidden_size is not FIELD=VALUE"),
        (["--set", "hiden_size=64"], "Did you mean hidden_size?"),
        (["--set", "=64"], "config.json has no field ."),
        (["--set", "hidden_size=many"], "hidden_size is 'many'; it must be a whole number"),
        (["--set", "hidden_size=64.0"], "hidden_size is 64.0; it must be a whole number"),
        (["--set", "hidden_size=-64"], "hidden_size is -64; it must be a whole number"),
        (["--set", "hidden_size=0"], "hidden_size is 0"),
        (["--set", "hidden_size=" + "[" * 99_999], "it must be a whole number"),
        (["--set", "n_group=3"], "n_routed_experts is no multiple of n_group"),
        (["--set", "vocab_size=260"], "A vocabulary of 260 does not hold the 256 bytes"),
        (["--set", "hidden_act=gelu"], "an activation other than SiLU is not supported"),
        (["--set", 'architectures=["LlamaForCausalLM"]'], "This is a dense Llama model"),
        (["--set", "quantization_config=5"], "quantization_config is not an object"),
        (["--set", "quantization_config=null", "--scale-fmt", "ue8m0"], "belongs to FP8 weights"),
        (["--precision", "bf16", "--scale-fmt", "ue8m0"], "--scale-fmt belongs to FP8 weights"),
        (["--shard-size", "large"], "'large' is not a size"),
        (["--preset", "v4"], "'v4' is not one of"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    dsdeploy, tmp_path, options, message
):
    result = dsdeploy("synth", tmp_path / "new", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", [[], ["--hollow"]])
def test_a_folder_that_holds_something_is_left_alone(dsdeploy, tmp_path, option):
    (tmp_path / "mine").write_text("precious")
    result = dsdeploy("synth", tmp_path, *option)
    assert (result.exit_code, contents(tmp_path)) == (2, {"mine": b"precious"})


def test_a_dry_run_writes_nothing(dsdeploy, tmp_path):
    assert dsdeploy("synth", tmp_path / "new", "--dry-run").exit_code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("preset", "variant", "parameters", "shards"),
    [
        ("v3", "DeepSeek-V3, V3-0324 or R1", 671_026_419_200, 162),
        ("v3.1", "DeepSeek-V3.1", 671_026_419_200, 162),
        ("v3.2", "DeepSeek-V3.2", 671_877_944_064, 162),
        ("kimi-k2", "Kimi-K2", 1_026_408_232_448, 240),
    ],
)
def test_a_hollow_model_has_true_headers_and_takes_no_space(
    dsdeploy, tmp_path, preset, variant, parameters, shards
):
    assert dsdeploy("synth", tmp_path, "--preset", preset, "--hollow").exit_code == 0
    checkpoint = open_checkpoint(tmp_path)
    summary = summarise(checkpoint)
    assert audit(checkpoint) == []
    assert (summary.variant, summary.parameters, summary.files) == (variant, parameters, shards)
    assert summary.file_bytes > 600e9
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 < 50e6


@pytest.fixture(scope="module", params=[264, 2048])
def vocabulary(request, small, synth, tmp_path_factory):
    """Folders whose tokenizer has next to no merges, and has some."""
    if request.param == 264:
        return small
    return synth(tmp_path_factory.mktemp("vocabulary") / "more", "--set", "vocab_size=2048")


@pytest.fixture(scope="module")
def tokenizer(vocabulary):
    return tokenizers.Tokenizer.from_file(str(vocabulary / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto_tokenizer(vocabulary):
    return AutoTokenizer.from_pretrained(vocabulary)


@given(st.text(max_size=60))
def test_any_text_reads_back_from_its_tokens(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(st.text(max_size=60))
def test_transformers_gives_the_same_tokens(tokenizer, auto_tokenizer, text):
    assert auto_tokenizer(text)["input_ids"] == tokenizer.encode(text).ids


def test_every_token_has_a_row_of_the_embedding(tokenizer, vocabulary):
    rows = open_checkpoint(vocabulary).config.vocab_size
    ids = tokenizer.get_vocab().values()
    assert sorted(ids) == list(range(len(ids)))
    assert len(ids) <= rows


def test_special_tokens_are_single_and_config_json_names_them(auto_tokenizer, vocabulary):
    raw = json.loads((vocabulary / "config.json").read_text())
    assert [auto_tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert (auto_tokenizer.bos_token, auto_tokenizer.eos_token) == (BEGIN, END)
    assert (auto_tokenizer.bos_token_id, auto_tokenizer.eos_token_id) == (
        raw["bos_token_id"],
        raw["eos_token_id"],
    )


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2+2?"},
]


def test_the_chat_template_renders_as_deepseek_v3_does(auto_tokenizer):
    rendered = auto_tokenizer.apply_chat_template(
        CONVERSATION, tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1?<｜Assistant｜>2<｜end▁of▁sentence｜>"
        "<｜User｜>And 2+2?<｜Assistant｜>"
    )


def test_a_rendered_chat_has_one_begin_and_its_special_tokens(auto_tokenizer):
    ids = auto_tokenizer.apply_chat_template(CONVERSATION, return_dict=False)
    assert [token for token in ids if token < len(SPECIAL)] == [0, 3, 4, 1, 3]
