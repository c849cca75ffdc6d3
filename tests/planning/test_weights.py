"""Bytes of weights a device, against what conversions really write and engines really log."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.model.config import load_config
from dsdeploy.model.demo import rank_table
from dsdeploy.model.formats import FORMATS, Storage
from dsdeploy.planning.layout import Layout, Splits, cannot_be_split, layouts, stages
from dsdeploy.planning.weights import PARTS, WeightRules, stage_weights
from dsdeploy.resources import read_known_config

from .conftest import RULES
from .published import PUBLISHED, weights

WHOLE = Splits(1, 1, 1, 1, 1, 1)


def known(name):
    return load_config(read_known_config(name))


def of_demo(ranks):
    """Everything that tensor parallelism cuts is cut, experts are dealt out whole."""
    return Splits(ranks, ranks, ranks, ranks, experts=ranks, expert_tensor=1)


def all_layers(config, kept, splits=WHOLE, mtp=False):
    layers = range(config.num_hidden_layers)
    return stage_weights(config, layers, WeightRules(FORMATS[kept], splits), mtp)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_a_rank_of_deepseek_v3_holds_what_the_demo_layout_holds(ranks):
    config = known("v3")
    held = all_layers(config, "fp8", of_demo(ranks))
    for rank in (0, ranks - 1):
        assert sum(held.values()) == sum(s.nbytes for s in rank_table(config, rank, ranks))


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_a_rank_holds_what_converting_writes(ranks, synth, convert, tmp_path):
    sizes = {"num_attention_heads": 16, "n_routed_experts": 16, "n_group": 4}
    source = synth(tmp_path / "fp8", **sizes, intermediate_size=256, vocab_size=512)
    files = convert(source, tmp_path / "ranks", "--layout", "demo", "--ranks", ranks)
    config = load_config((source / "config.json").read_text())
    held = sum(all_layers(config, "bf16", of_demo(ranks)).values())
    written = [
        sum(entry.nbytes for entry in shard.header.entries)
        for shard in open_checkpoint(files).shards
    ]
    assert written == [held] * ranks


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_one_device_holds_the_whole_checkpoint(precision, synth, convert, tmp_path):
    folder = synth(tmp_path / "model", "--precision", precision)
    config = load_config((folder / "config.json").read_text())
    stored = sum(
        entry.nbytes for shard in open_checkpoint(folder).shards for entry in shard.header.entries
    )
    copies = 2 * config.vocab_size * config.hidden_size * 2
    assert sum(all_layers(config, precision, mtp=True).values()) == stored - copies


def test_the_published_totals():
    v3 = known("v3")
    copies = 2 * 129280 * 7168 * 2
    assert sum(all_layers(v3, "fp8", mtp=True).values()) == 688_574_839_360 - copies
    assert sum(all_layers(v3, "bf16").values()) == 1_342_052_868_096


def test_each_part_is_where_people_look_for_it():
    held = all_layers(known("v3"), "bf16", mtp=True)
    assert held["embedding"] == held["head"] == 129280 * 7168 * 2
    assert held["experts"] == 58 * 256 * 3 * 2048 * 7168 * 2
    assert held["shared experts"] == 58 * 3 * 2048 * 7168 * 2
    assert held["dense layers"] == 3 * 3 * 18432 * 7168 * 2
    assert held["attention"] == 61 * 187_105_280 * 2
    assert all(held[part] > 0 for part in PARTS)


def test_stages_hold_the_model_once():
    config, rules = known("v3"), WeightRules(FORMATS["fp8"], WHOLE)
    parts = [stage_weights(config, layers, rules, mtp=False) for layers in stages(61, 4)]
    whole = all_layers(config, "fp8")
    assert {part: sum(stage[part] for stage in parts) for part in PARTS} == whole
    assert [stage["embedding"] > 0 for stage in parts] == [True, False, False, False]
    assert [stage["head"] > 0 for stage in parts] == [False, False, False, True]


def test_drafting_needs_the_embedding_in_the_last_stage():
    config, rules = known("v3"), WeightRules(FORMATS["fp8"], WHOLE)
    last = stage_weights(config, stages(61, 2)[1], rules, mtp=True)
    assert last["embedding"] == last["head"]
    assert last["MTP layer"] > 11e9


@given(devices=st.integers(1, 256))
def test_layouts_use_all_devices_each_once(devices):
    found = list(layouts(devices))
    assert len(set(found)) == len(found)
    assert {layout.devices for layout in found} == {devices}
    assert all(layout.expert * layout.expert_tensor == layout.stage for layout in found)


@given(layers=st.integers(1, 200), pipeline=st.integers(1, 64))
def test_stages_share_layers_out_evenly(layers, pipeline):
    found = stages(layers, pipeline)
    assert [layer for stage in found for layer in stage] == list(range(layers))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from([4, 8, 16]), st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(1, 130), st.one_of(st.none(), st.integers(1, 130))),
)  # fmt: skip
def test_storage_counts_codes_and_scales(rows, columns, bits, scale_bytes, block):
    height, width = block
    codes = np.zeros(rows * columns * bits, np.uint8)
    grid = np.zeros((math.ceil(rows / height), 1 if width is None else math.ceil(columns / width)))
    expected = len(np.packbits(codes)) + grid.size * scale_bytes
    assert Storage(bits, scale_bytes, block).nbytes(rows, columns) == expected


def test_int4_takes_what_awq_stores():
    """qweight int32 [in, out / 8], qzeros int32 [in / 128, out / 8], scales FP16 [in / 128, out]."""
    rows, columns = 2048, 7168
    groups = columns // 128
    awq = columns * rows // 8 * 4 + groups * rows // 8 * 4 + groups * rows * 2
    assert FORMATS["int4"].experts.nbytes(rows, columns) == awq


@pytest.mark.parametrize(
    ("tensor", "why"),
    [(32, "576"), (3, "128 heads"), (256, "128 heads")],
)
def test_layouts_that_cut_through_blocks_or_heads_are_refused(tensor, why):
    splits = RULES["vllm"].splits(Layout(tensor=tensor))
    assert why in cannot_be_split(known("v3"), splits, FORMATS["fp8"])
    if tensor == 32:
        assert cannot_be_split(known("v3"), splits, FORMATS["bf16"]) is None


def test_engines_log_the_weights_that_are_planned():
    modern = [
        (planned, logged)
        for row, planned, logged in weights(PUBLISHED["weights"])
        if not row.get("rounded") and "0.7.3" not in row["source"]
    ]
    assert len(modern) >= 2
    for planned, logged in modern:
        assert planned == pytest.approx(logged, rel=0.005)


def test_a_format_is_named_by_every_backend_as_it_is_known():
    for rules in RULES.values():
        assert set(rules.precisions) <= set(FORMATS)


def test_formats_are_ordered_by_size():
    config = known("v3")
    sizes = {name: sum(all_layers(config, name).values()) for name in FORMATS}
    assert sizes["bf16"] > sizes["int8"] > sizes["fp8"] > sizes["nvfp4"] > sizes["w4a8"]
    assert sizes["int8-block"] == sizes["fp8"]
    # What the repositories of these formats hold, in GB, without the MTP layer.
    assert sizes["int4"] / 1e9 == pytest.approx(351, rel=0.02)
