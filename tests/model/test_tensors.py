"""The tensor table against what is published of each checkpoint."""

import json
from dataclasses import replace
from math import prod

import pytest

from dsdeploy.model.config import BLOCK, parse_config
from dsdeploy.model.demo import demo_name, rank_table
from dsdeploy.model.tensors import is_mtp, tensor_table
from dsdeploy.resources import read_known_config


def table_of(name):
    config = parse_config(json.loads(read_known_config(name)))
    return config, list(tensor_table(config))


def parameters(specs):
    return sum(prod(spec.shape) for spec in specs if spec.kind != "scale")


def test_v3_has_the_published_tensors_bytes_and_parameters():
    config, table = table_of("v3")
    assert len(table) == 91_991
    assert sum(spec.kind != "scale" for spec in table) == 46_183
    assert sum(spec.nbytes for spec in table) == 688_574_839_360
    elements = {
        dtype: sum(prod(spec.shape) for spec in table if spec.dtype == dtype)
        for dtype in ("BF16", "F8_E4M3", "F32")
    }
    assert elements == {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}
    assert parameters(s for s in table if not is_mtp(config, s.layer)) == 671_026_419_200
    assert parameters(s for s in table if is_mtp(config, s.layer)) == 13_463_426_304


def test_v3_as_bf16_has_the_published_size():
    config, _ = table_of("v3")
    table = list(tensor_table(replace(config, quantization=None)))
    assert sum(spec.nbytes for spec in table) == 1_368_979_721_216
    main = [spec for spec in table if not is_mtp(config, spec.layer)]
    assert sum(spec.nbytes for spec in main) == 1_342_052_868_096


@pytest.mark.parametrize(("name", "tensors"), [("v3.1", 91_991), ("v3.2", 92_425)])
def test_other_variants_have_the_published_count(name, tensors):
    assert len(table_of(name)[1]) == tensors


def test_kimi_k2_has_384_experts_and_no_mtp_layer():
    config, table = table_of("kimi-k2")
    assert {spec.expert for spec in table} == {None, *range(384)}
    assert not any(is_mtp(config, spec.layer) for spec in table)
    assert 1.02e12 < parameters(table) < 1.03e12


def test_the_layers_have_the_published_number_of_tensors():
    _, table = table_of("v3")
    by_layer = {layer: [s for s in table if s.layer == layer] for layer in (0, 3)}
    assert (len(by_layer[0]), len(by_layer[3])) == (20, 1558)
    assert round(sum(s.nbytes for s in by_layer[0]) / 1e6) == 584
    assert round(sum(s.nbytes for s in by_layer[3]) / 1e7) == 1151


def test_names_are_unique_and_layers_ascend():
    for name in ("v3", "v3.2", "kimi-k2", "tiny"):
        _, table = table_of(name)
        assert len({spec.name for spec in table}) == len(table)
        layers = [spec.layer for spec in table if spec.layer is not None]
        assert layers == sorted(layers)


def test_the_partial_block_of_kv_a_proj_has_a_scale():
    _, table = table_of("v3")
    specs = {spec.name: spec for spec in table}
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    assert specs[name].shape == (576, 7168)
    assert specs[name + "_scale_inv"].shape == (5, 56)


@pytest.mark.parametrize(
    ("name", "demo"),
    [
        ("model.embed_tokens.weight", "embed.weight"),
        ("lm_head.weight", "head.weight"),
        ("model.norm.weight", "norm.weight"),
        ("model.layers.0.self_attn.q_a_proj.weight", "layers.0.attn.wq_a.weight"),
        ("model.layers.0.self_attn.kv_a_layernorm.weight", "layers.0.attn.kv_norm.weight"),
        ("model.layers.0.self_attn.o_proj.weight_scale_inv", "layers.0.attn.wo.scale"),
        ("model.layers.0.input_layernorm.weight", "layers.0.attn_norm.weight"),
        ("model.layers.0.post_attention_layernorm.weight", "layers.0.ffn_norm.weight"),
        ("model.layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "layers.3.ffn.experts.7.w3.weight"),
        (
            "model.layers.3.mlp.shared_experts.down_proj.weight",
            "layers.3.ffn.shared_experts.w2.weight",
        ),
    ],
)
def test_names_in_the_demos_files(name, demo):
    _, table = table_of("v3")
    assert demo_name(next(spec for spec in table if spec.name == name)) == demo


def test_ranks_together_hold_each_split_weight_once():
    config, _ = table_of("v3")
    main = [s for s in tensor_table(config) if not is_mtp(config, s.layer)]
    sizes = {demo_name(spec): prod(spec.shape) for spec in main}
    split = {demo_name(spec) for spec in main if spec.split_axis is not None}
    held = dict.fromkeys(sizes, 0)
    for rank in range(8):
        for spec in rank_table(config, rank, 8):
            held[spec.name] += prod(spec.shape)
    assert all(held[name] == sizes[name] * (1 if name in split else 8) for name in sizes)


def test_quantised_weights_are_matrices_with_a_scale_for_each_block():
    _, table = table_of("v3.2")
    scales = {spec.name: spec.shape for spec in table if spec.kind == "scale"}
    for spec in table:
        if spec.quantised:
            rows, columns = spec.shape
            assert scales[spec.name + "_scale_inv"] == (-(-rows // BLOCK), -(-columns // BLOCK))
