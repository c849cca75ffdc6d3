"""Configurations that are read, and those that are refused with a sentence."""

import json

import pytest

from dsdeploy.errors import DeployError, IntegrityError, UsageError
from dsdeploy.model.config import load_config, parse_config
from dsdeploy.resources import read_known_config


def known(name, **changes):
    return json.loads(read_known_config(name)) | changes


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("v3", "DeepSeek-V3, V3-0324 or R1"),
        ("v3.1", "DeepSeek-V3.1"),
        ("v3.2", "DeepSeek-V3.2"),
        ("kimi-k2", "Kimi-K2"),
        ("tiny", "DeepSeek-V3 architecture, other dimensions"),
    ],
)
def test_each_published_config_is_recognised(name, variant):
    assert parse_config(known(name)).variant == variant


def test_v3_1_announces_scales_that_are_powers_of_two():
    assert parse_config(known("v3.1")).quantization.scale_format == "ue8m0"
    assert parse_config(known("v3")).quantization.scale_format == "float32"


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ("DeepseekV4ForCausalLM", "DeepSeek-V4 has other tensor names and formats"),
        ("DeepseekV2ForCausalLM", "DeepSeek-V2"),
        ("Qwen2ForCausalLM", "R1-Distill"),
        ("LlamaForCausalLM", "R1-Distill"),
        ("GptOssForCausalLM", "GptOssForCausalLM, which is not supported"),
    ],
)
def test_other_architectures_are_refused_by_name(architecture, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        parse_config(known("v3", architectures=[architecture]))
    assert "Kimi-K2" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("scoring_func", "softmax", "a gate other than sigmoid"),
        ("topk_method", "greedy", "another choice of experts"),
        ("tie_word_embeddings", True, "tied embeddings"),
        ("attention_bias", True, "attention with biases"),
        ("hidden_act", "gelu", "an activation other than SiLU"),
        ("moe_layer_freq", 2, "dense layers between the MoE layers"),
        ("quantization_config", {"quant_method": "awq"}, "quantised with 'awq'"),
        (
            "quantization_config",
            {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 64]},
            r"weight_block_size is \[64, 64\]",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(field, value, sentence):
    with pytest.raises(UsageError, match=sentence):
        parse_config(known("v3", **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("hidden_size", None, "hidden_size is missing"),
        ("hidden_size", 0, "hidden_size is 0"),
        ("hidden_size", -1, "hidden_size is -1"),
        ("hidden_size", True, "hidden_size is True"),
        ("hidden_size", 7168.0, "hidden_size is 7168.0"),
        ("hidden_size", 2**40, "must be a whole number"),
        ("architectures", [], "names no architecture"),
        ("quantization_config", "fp8", "quantization_config is not an object"),
        ("n_group", 7, "no multiple of n_group"),
        ("topk_group", 9, "topk_group exceeds n_group"),
        ("num_experts_per_tok", 200, "exceeds the experts of topk_group groups"),
        ("first_k_dense_replace", 62, "first_k_dense_replace exceeds"),
    ],
)
def test_a_damaged_field_is_named(field, value, sentence):
    with pytest.raises(IntegrityError, match=sentence):
        parse_config(known("v3", **{field: value}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(DeployError, match=r"config.json is not (a )?JSON"):
        load_config(text)
