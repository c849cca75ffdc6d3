"""The per-rank files of DeepSeek's inference demo, against its rules written again in torch."""

import json

import pytest
from safetensors.torch import save_file

from .tools import stored

# Every dimension that is split has blocks of 128 for each of 8 ranks.
DIVISIBLE = {
    "hidden_size": 128,
    "intermediate_size": 1024,
    "moe_intermediate_size": 1024,
    "num_attention_heads": 8,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 8,
}

# Module of the checkpoint -> (module of the demo, dimension on which ranks share it).
MODULES = {
    "embed_tokens": ("embed", 0),
    "lm_head": ("head", 0),
    "q_proj": ("wq", 0),
    "q_b_proj": ("wq_b", 0),
    "kv_b_proj": ("wkv_b", 0),
    "gate_proj": ("w1", 0),
    "up_proj": ("w3", 0),
    "o_proj": ("wo", 1),
    "down_proj": ("w2", 1),
    "q_a_proj": ("wq_a", None),
    "kv_a_proj_with_mqa": ("wkv_a", None),
    "q_a_layernorm": ("q_norm", None),
    "kv_a_layernorm": ("kv_norm", None),
    "input_layernorm": ("attn_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "gate": ("gate", None),
    "norm": ("norm", None),
}
LEAVES = {"weight": "weight", "weight_scale_inv": "scale", "e_score_correction_bias": "bias"}


def reference_ranks(folder, ranks):
    """The tensors of each rank, by the demo's rules."""
    config = json.loads((folder / "config.json").read_text())
    files = [{} for _ in range(ranks)]
    for name, tensor in stored(folder).items():
        if name.startswith(f"model.layers.{config['num_hidden_layers']}."):
            continue
        *path, module, leaf = name.removeprefix("model.").split(".")
        module, dimension = MODULES[module]
        path = [{"self_attn": "attn", "mlp": "ffn"}.get(part, part) for part in path]
        key = ".".join([*path, module, LEAVES[leaf]])
        if "experts" in path:
            files[int(path[-1]) // (config["n_routed_experts"] // ranks)][key] = tensor
            continue
        for rank, file in enumerate(files):
            parts = [tensor] * ranks if dimension is None else tensor.chunk(ranks, dimension)
            file[key] = parts[rank].contiguous()
    return files


def assert_equals_the_reference(source, ours, ranks, folder):
    assert len(list(ours.glob("*.safetensors"))) == ranks
    for rank, tensors in enumerate(reference_ranks(source, ranks)):
        name = f"model{rank}-mp{ranks}.safetensors"
        save_file(tensors, folder / name)
        assert (ours / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.fixture(scope="module")
def sources(synth, convert, tmp_path_factory):
    """The same model in FP8 and, converted, in BF16."""
    folder = tmp_path_factory.mktemp("divisible")
    fp8 = synth(folder / "fp8", **DIVISIBLE)
    return {"fp8": fp8, "bf16": convert(fp8, folder / "bf16")}


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_files_equal_the_demos_byte_for_byte(
    sources, convert, dsdeploy, tmp_path, precision, ranks
):
    options = ("--layout", "demo", "--ranks", ranks)
    to = {"fp8": "same", "bf16": "bf16"}[precision]
    ours = convert(sources["fp8"], tmp_path / "ours", "--to", to, *options)
    assert_equals_the_reference(sources[precision], ours, ranks, tmp_path)
    report = dsdeploy("inspect", ours, "--deep", "--json")
    assert json.loads(report.stdout)["whole"] is True
    assert json.loads(report.stdout)["ranks"] == ranks


@pytest.mark.usefixtures("small_windows")
def test_windows_that_cut_through_a_ranks_columns(sources, convert, tmp_path):
    ours = convert(sources["fp8"], tmp_path / "ours", "--layout", "demo", "--ranks", 4)
    assert_equals_the_reference(sources["bf16"], ours, 4, tmp_path)


def test_casting_to_fp8_and_splitting_at_once_equals_one_after_the_other(
    sources, convert, tmp_path
):
    whole = convert(sources["bf16"], tmp_path / "whole", "--to", "fp8")
    options = ("--to", "fp8", "--layout", "demo", "--ranks", 4)
    ours = convert(sources["bf16"], tmp_path / "ours", *options)
    assert_equals_the_reference(whole, ours, 4, tmp_path)


def test_queries_without_a_low_rank(synth, convert, tmp_path):
    source = synth(tmp_path / "source", **DIVISIBLE, q_lora_rank="null")
    options = ("--to", "same", "--layout", "demo", "--ranks", 2)
    ours = convert(source, tmp_path / "ours", *options)
    assert_equals_the_reference(source, ours, 2, tmp_path)


def test_one_rank_takes_any_dimensions(fp8, convert, tmp_path):
    options = ("--to", "same", "--layout", "demo", "--ranks", 1)
    ours = convert(fp8, tmp_path / "ours", *options)
    assert_equals_the_reference(fp8, ours, 1, tmp_path)


def test_the_demos_own_config_stands_beside(sources, convert, tmp_path):
    options = ("--to", "same", "--layout", "demo", "--ranks", 2)
    ours = convert(sources["fp8"], tmp_path / "ours", *options)
    arguments = json.loads((ours / "demo_config.json").read_text())
    assert (arguments["n_layers"], arguments["n_dense_layers"]) == (2, 1)
    assert (arguments["dim"], arguments["moe_inter_dim"]) == (128, 1024)
    assert arguments["dtype"] == "fp8"
    assert not (ours / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        (3, "8 experts do not divide into 3 ranks"),
        (16, "8 experts do not divide into 16 ranks"),
        (0, "there must be at least one rank"),
    ],
)
def test_ranks_that_do_not_divide(sources, dsdeploy, tmp_path, ranks, reason):
    options = ("--layout", "demo", "--ranks", ranks)
    result = dsdeploy("convert", sources["fp8"], tmp_path / "out", *options)
    assert result.exit_code == 2
    assert f"error: --ranks {ranks} is impossible: {reason}." in result.stderr
    assert "fix: Use one of 1, 2, 4, 8 ranks." in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_demo_layout_needs_a_number_of_ranks(fp8, dsdeploy, tmp_path):
    result = dsdeploy("convert", fp8, tmp_path / "out", "--layout", "demo")
    assert (result.exit_code, "--ranks 8" in result.stderr) == (2, True)
    result = dsdeploy("convert", fp8, tmp_path / "out", "--ranks", 2)
    assert (result.exit_code, "--layout demo" in result.stderr) == (2, True)


@pytest.fixture(scope="module")
def hollow(dsdeploy, tmp_path_factory):
    """DeepSeek-V3 in its true size: 163 shards of headers and holes."""
    folder = tmp_path_factory.mktemp("v3") / "hollow"
    assert dsdeploy("synth", folder, "--preset", "v3", "--hollow").exit_code == 0
    return folder


def test_32_ranks_would_cut_through_the_blocks_of_v3(hollow, dsdeploy, tmp_path):
    options = ("--to", "same", "--layout", "demo", "--ranks", 32)
    result = dsdeploy("convert", hollow, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "gate_proj (18432 / 32 = 576) would cut through the 128-wide blocks" in result.stderr
    assert "Use one of 1, 2, 4, 8, 16 ranks, or --to bf16" in result.stderr


def test_32_ranks_of_v3_in_bf16_are_planned_to_the_byte(hollow, dsdeploy, tmp_path):
    options = ("--layout", "demo", "--ranks", 32, "--dry-run", "--json")
    plan = json.loads(dsdeploy("convert", hollow, tmp_path / "out", *options).stdout)
    assert len(plan["files"]) == 32
    every_layer = 2 * (1536 * 7168 + 576 * 7168 + 2 * 7168 + 1536 + 512)
    every_gate = 2 * 256 * 7168 + 4 * 256
    on_all_ranks = 61 * every_layer + 58 * every_gate + 2 * 7168
    assert plan["tensor_bytes"] == 1_342_052_868_096 + 31 * on_all_ranks
    assert list(tmp_path.iterdir()) == []
