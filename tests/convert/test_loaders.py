"""Other people's loaders read what we write, and compute the right thing with it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

from .test_against_torch import dequantised
from .tools import stored

TOKENS = torch.arange(8, 200).reshape(2, 96)


def logits(folder):
    model, report = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    with torch.no_grad():
        return model(TOKENS).logits.float()


@pytest.fixture(scope="module")
def source(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("loaders") / "fp8", num_hidden_layers=3)


@pytest.fixture(scope="module")
def by_torch(source, tmp_path_factory):
    """The same model, dequantised by plain torch and saved by safetensors' own library."""
    folder = tmp_path_factory.mktemp("loaders") / "by-torch"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dequantised(stored(source)), folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("more", [(), ("--drop-mtp",)], ids=["with MTP", "without MTP"])
def test_transformers_computes_the_same_as_with_torchs_weights(
    source, convert, by_torch, tmp_path, more
):
    ours = logits(convert(source, tmp_path / "out", "--max-shard-size", "150kB", *more))
    assert ours.isfinite().all()
    assert ours.std(-1).min() > 0.1
    assert ours.argmax(-1).unique().numel() > 20
    assert torch.equal(ours, logits(by_torch))


def test_a_wrong_scale_would_show_in_the_logits(source, convert, by_torch, tmp_path):
    """So the test above can fail."""
    ours = convert(source, tmp_path / "out", "--max-shard-size", "1GB")
    path = ours / "model-00001-of-00001.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.shared_experts.down_proj.weight"] *= 1.25
    save_file(tensors, path, {"format": "pt"})
    assert not torch.equal(logits(ours), logits(by_torch))


def test_safetensors_own_library_reads_every_kind_of_output(source, bf16, convert, tmp_path):
    options = {
        "bf16": (source, "--to", "bf16"),
        "same": (source, "--to", "same"),
        "fp8": (bf16, "--to", "fp8"),
        "demo": (source, "--layout", "demo", "--ranks", 2),
    }
    for name, (checkpoint, *more) in options.items():
        for path in convert(checkpoint, tmp_path / name, *more).glob("*.safetensors"):
            assert all(tensor.numel() for tensor in load_file(path).values())


def test_the_tokenizer_that_came_along_works(source, convert, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(convert(source, tmp_path / "out"))
    text = "Grüße, 世界!"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
