"""Tables: what is measured, what is remembered, and what is done with it."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.cli.main import cli
from dsdeploy.errors import UsageError
from dsdeploy.runner.gpu import matmul
from dsdeploy.runner.gpu.matmul import Arithmetic
from dsdeploy.runner.gpu.table import Entry, Table, load_table, save_table, table_path
from dsdeploy.runner.gpu.tiles import Card, DecodeTile, Tile
from dsdeploy.runner.gpu.trials import Candidate, Trial
from dsdeploy.runner.gpu.tune import measure, trials
from dsdeploy.runner.ops import Activation

from ..runner.operands import random_like, random_weight
from .device import CARD, DEVICE, INTERPRETED, here, triton_ops

SMALL = {
    "hidden_size": 72, "intermediate_size": 40, "moe_intermediate_size": 24, "n_group": 2,
    "num_attention_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 24, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "topk_group": 1,
    "num_experts_per_tok": 2, "vocab_size": 512, "num_hidden_layers": 2,
}  # fmt: skip
TILE = Tile(16, 32, 4, 3)


def entry(rows, kernel="linear", shape=(220, 200), **more):
    return Entry(kernel, shape, rows, "triton", (TILE,), **more)


@given(measured=st.sets(st.integers(1, 9000), min_size=1), rows=st.integers(1, 10000))
def test_rows_are_rounded_up_to_what_was_measured(measured, rows):
    table = Table("card", {}, tuple(map(entry, measured)))
    found = table.find("linear", (220, 200), rows).rows
    assert found == min((m for m in measured if m >= rows), default=max(measured))
    assert table.find("linear", (220, 201), rows) is None
    assert table.find("experts", (220, 200), rows) is None


def test_a_table_is_read_as_it_was_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    card = Card("NVIDIA H200", 132, 227 << 10)
    assert load_table(card) == Table("NVIDIA H200")
    decode = Entry("decode", (128,), 8, "flash_mla", decode=DecodeTile(16, 32, 8, 4, 2))
    table = Table("NVIDIA H200", {"torch": "2.13.0"}, (entry(1, microseconds=2.5), decode))
    save_table(table, table_path(card))
    assert load_table(card) == table
    assert table_path(card) == tmp_path / "dsdeploy" / "kernels" / "nvidia-h200.json"


@pytest.mark.parametrize("text", ["", "{", '{"card": "x", "entries": [{"kernel": "magic"}]}'])
def test_a_damaged_table_is_named(monkeypatch, tmp_path, text):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = table_path(CARD)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=str(path)) as raised:
        load_table(CARD)
    assert "dsdeploy tune" in raised.value.hint


def test_the_fastest_that_computes_the_same_is_chosen():
    right, wrong = torch.ones(4), torch.full((4,), 1.1)

    def fails():
        raise RuntimeError("no kernel image")

    times = {"slow": 9.0, "fast": 2.0, "wrong": 1.0}
    computed = {"slow": lambda: right, "fast": lambda: right.clone(), "wrong": lambda: wrong}
    computed["failing"] = fails
    candidates = [
        Candidate(replace(entry(1), shape=(number,)), compute)
        for number, compute in enumerate(computed.values())
    ]
    by_call = {id(computed[name]): microseconds for name, microseconds in times.items()}
    found = measure(Trial("x", tuple(candidates), 1, 1), lambda call: by_call[id(call)])
    assert (found.entry.shape, found.entry.microseconds, found.default) == ((1,), 2.0, 9.0)
    assert len(found.refused) == 2
    assert "10.0% from what it should be" in found.refused[0]
    assert "no kernel image" in found.refused[1]


def test_every_candidate_computes_the_same(synth, tmp_path):
    """All products of a layer, by a first and a last tile."""
    config = open_checkpoint(synth(tmp_path / "small", **SMALL)).config
    arithmetic = Arithmetic(True, torch.float32, False)
    labels = []
    for trial in trials(config, [3], 70, DEVICE, CARD, arithmetic):
        ends = (trial.candidates[0], trial.candidates[len(trial.candidates) // 2])
        found = measure(replace(trial, candidates=ends), lambda call: 1.0)
        assert found.refused == ()
        labels.append(trial.label)
    layer = ["q_a, kv_a", "q_b", "o", "dense gate, up", "dense down", "experts"]
    assert labels == [*layer, "decode, 70 keys"]


def test_a_product_is_cut_as_the_table_says(monkeypatch):
    cut = []

    def linear(x, weights, tile, arithmetic, compute=matmul.linear):
        cut.append(tile)
        return compute(x, weights, tile, arithmetic)

    monkeypatch.setattr(matmul, "linear", linear)
    x, weight = here(random_like(3, 200, seed=1)), here(random_weight("e4m3", 220, 200, seed=2))
    narrow = Tile(16, 16, 4, 2)
    table = Table("card", {}, (replace(entry(4), tiles=(narrow,)),))
    found = triton_ops(table=table).linear(Activation(x), weight)
    assert torch.equal(found, triton_ops().linear(Activation(x), weight))
    assert cut[0] == narrow != cut[1]


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter's, for speed")
def test_the_command_measures_and_writes(synth, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = synth(tmp_path / "small", **SMALL)
    arguments = ["tune", str(folder), "--device", "cpu", "--rows", "1", "--context", "5", "--json"]
    answer = CliRunner().invoke(cli, arguments)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert [product["by"] for product in found["products"]] == ["triton"] * 7
    assert {entry.rows for entry in load_table(CARD).entries} == {1}


def test_without_a_gpu_there_is_nothing_to_measure():
    for name, sentence in (("meta", "'meta' is no GPU"), ("h200", "There is no device 'h200'")):
        answer = CliRunner().invoke(cli, ["tune", "--device", name])
        assert answer.exit_code == 2
        assert sentence in answer.stderr
