"""Conversions compared, tensor by tensor, with the straightforward way in torch."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from .tools import stored

MODELS = {
    "small": {},
    "a partial block of rows, as in the true kv_a_proj": {
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
    },
    "no width is a multiple of 128": {
        "hidden_size": 200,
        "intermediate_size": 300,
        "moe_intermediate_size": 130,
        "q_lora_rank": 129,
        "kv_lora_rank": 127,
    },
    "queries without a low rank": {"q_lora_rank": "null"},
    "V3.2": {"preset": "v3.2", "index_n_heads": 3, "index_head_dim": 136},
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def make(request, synth):
    """Write this model into a folder."""
    changes = dict(request.param)
    preset = changes.pop("preset", "tiny")
    return lambda folder, *options: synth(folder, "--preset", preset, *options, **changes)


def dequantised(tensors):
    """Each scale spread over its block, one float32 product, one rounding."""
    result = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float8_e4m3fn:
            scale = tensors[name + "_scale_inv"]
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            product = tensor.float() * spread[: tensor.shape[0], : tensor.shape[1]]
            result[name] = product.bfloat16()
        elif not name.endswith("_scale_inv"):
            result[name] = tensor
    return result


def quantised(weight):
    """(codes, scales): a block at a time, amax / 448 and a true division."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // 128), -(-columns // 128))
    for row in range(0, rows, 128):
        for column in range(0, columns, 128):
            block = weight[row : row + 128, column : column + 128].float()
            scale = block.abs().max() / 448
            scales[row // 128, column // 128] = scale
            codes[row : row + 128, column : column + 128] = (block / scale).to(codes.dtype)
    return codes, scales


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
        assert torch.equal(ours[name].view(torch.uint8), theirs[name].view(torch.uint8)), name


def test_fp8_to_bf16_is_one_product_and_one_rounding(make, convert, tmp_path):
    source = make(tmp_path / "fp8")
    ours = stored(convert(source, tmp_path / "bf16", "--to", "bf16"))
    assert torch.float8_e4m3fn not in {tensor.dtype for tensor in ours.values()}
    assert_same_bits(ours, dequantised(stored(source)))


def test_bf16_to_fp8_divides_by_the_largest_of_each_block(make, convert, tmp_path):
    fp8_names = stored(make(tmp_path / "fp8")).keys()
    source = stored(make(tmp_path / "bf16", "--precision", "bf16"))
    ours = stored(convert(tmp_path / "bf16", tmp_path / "out", "--to", "fp8"))
    expected = dict(source)
    for name in source:
        if name + "_scale_inv" in fp8_names:
            expected[name], expected[name + "_scale_inv"] = quantised(source[name])
    assert ours.keys() == fp8_names
    assert_same_bits(ours, expected)


def test_scales_that_are_powers_of_two(synth, convert, tmp_path):
    source = synth(tmp_path / "fp8", "--scale-fmt", "ue8m0")
    assert_same_bits(stored(convert(source, tmp_path / "out")), dequantised(stored(source)))


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_to_same_keeps_every_bit(make, convert, tmp_path, precision):
    source = make(tmp_path / "source", "--precision", precision)
    ours = convert(source, tmp_path / "out", "--to", "same", "--max-shard-size", "100kB")
    assert len(list(ours.glob("*.safetensors"))) > 2
    assert_same_bits(stored(ours), stored(source))


def test_bf16_survives_the_way_to_fp8_and_back_within_a_sixteenth(bf16, convert, tmp_path):
    there = convert(bf16, tmp_path / "fp8", "--to", "fp8")
    back, source = stored(convert(there, tmp_path / "bf16", "--to", "bf16")), stored(bf16)
    for name in source:
        # Half a step of a 3-bit mantissa, and of the subnormal codes of a block.
        allowed = source[name].abs().float() / 16 + source[name].abs().max() * 2**-10 / 448
        assert ((back[name].float() - source[name].float()).abs() <= allowed * 1.01).all(), name


@pytest.mark.usefixtures("small_windows")
def test_tensors_of_no_known_name_are_cast_or_kept_by_the_same_rules(fp8, convert, tmp_path):
    source = shutil.copytree(fp8, tmp_path / "fp8")
    (source / "model.safetensors.index.json").unlink()
    unknown = {
        "extra.odd": torch.arange(3, dtype=torch.uint8),
        "extra.rotary_emb.inv_freq": torch.rand(7),
        "extra.weight": torch.randn(130, 601).to(torch.float8_e4m3fn),
        "extra.weight_scale_inv": torch.rand(2, 5),
        "extra_flag": torch.tensor([True]),
    }
    save_file(unknown, source / "extra.safetensors")
    ours = stored(convert(source, tmp_path / "bf16"))
    assert_same_bits(ours, dequantised(stored(source)))
    assert_same_bits(stored(convert(source, tmp_path / "same", "--to", "same")), stored(source))


WIDTHS = ["hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank"]
dimensions = st.fixed_dictionaries({width: st.integers(1, 300) for width in WIDTHS})


@settings(max_examples=10)
@given(dimensions, st.integers(0, 2**31))
@pytest.mark.usefixtures("small_windows")
def test_any_dimensions_and_windows_that_cut_anywhere(
    synth, convert, tmp_path_factory, widths, seed
):
    folder = tmp_path_factory.mktemp("any")
    source = synth(folder / "fp8", "--seed", seed, **widths)
    ours = stored(convert(source, folder / "bf16", "--max-shard-size", "1MB"))
    assert_same_bits(ours, dequantised(stored(source)))
    again = stored(convert(folder / "bf16", folder / "again", "--to", "fp8"))
    name = "model.layers.0.mlp.down_proj.weight"
    expected = dict(zip((name, name + "_scale_inv"), quantised(ours[name]), strict=True))
    assert_same_bits({part: again[part] for part in expected}, expected)
