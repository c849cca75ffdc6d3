"""The whole model by these kernels."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.runner.load import Loader, LoadOptions, load_model
from dsdeploy.runner.parallel import Group
from dsdeploy.runner.score import score
from dsdeploy.runner.step import Span, Step
from dsdeploy.runner.weights import WeightSource

from ..runner.conftest import ODD
from .device import DEVICE, INTERPRETED

PAGES = (3, 5)
TOKENS = torch.tensor([1, 5, 9, 3, 7, 2, 8, 150, 33, 12, 4, 6])


@pytest.fixture(scope="module")
def fp8(synth, tmp_path_factory):
    return synth(tmp_path_factory.mktemp("fp8") / "fp8", **ODD)


def load(folder, kernels, **options):
    options = LoadOptions(kernels=kernels, device=DEVICE, **options)
    return load_model(open_checkpoint(folder), options)


def steps():
    """A prompt; one token; three at once, as drafts are checked; a step of both kinds; a batch."""
    return [
        Step(TOKENS[:6], (Span(0, 6, PAGES, True),)),
        Step(TOKENS[6:7], (Span(6, 1, PAGES, False),)),
        Step(TOKENS[7:10], (Span(7, 3, PAGES, False),)),
        Step(TOKENS[:5], (Span(10, 1, PAGES, False), Span(0, 4, (1,), True))),
        Step(TOKENS[5:7], (Span(11, 1, PAGES, False), Span(4, 1, (1,), False))),
    ]


def logits(model):
    cache, hidden, found = model.new_cache(8), None, []
    for step in steps():
        hidden = model.hidden(step.to(DEVICE), cache)
        found.append(model.logits(hidden).cpu())
    found.append(model.logits(model.draft(steps()[-1].to(DEVICE), hidden, cache)).cpu())
    return torch.cat(found)


def test_weights_in_float32_give_the_logits_of_plain_torch(fp8):
    expected = logits(load(fp8, "plain", dtype="float32"))
    found = logits(load(fp8, "triton", dtype="float32"))
    assert (found - expected).norm() / expected.norm() < (1e-5 if INTERPRETED else 1e-3)


def test_weights_in_fp8_give_the_logits_of_plain_torch_nearly(fp8):
    """BF16 in the cache, and codes that a last bit sends to the neighbour."""
    expected = logits(load(fp8, "plain"))
    found = logits(load(fp8, "triton"))
    assert (found - expected).norm() / expected.norm() < 0.1
    assert found.argmax(-1).eq(expected.argmax(-1)).float().mean() > 0.8


def test_scores_are_plain_torch_s(fp8):
    def scores(kernels):
        options = LoadOptions(kernels=kernels, device=DEVICE, dtype="float32")
        source = WeightSource(open_checkpoint(fp8), Group())
        return score(Loader(source, options, Group()), [TOKENS.tolist()])

    assert scores("triton")[0] == pytest.approx(scores("plain")[0], rel=1e-2, abs=1e-2)


class Launches(TorchDispatchMode):
    """Counts what torch itself would launch: not what only looks at memory or makes room."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "empty" not in func.__name__ and not func.is_view:
            self.names.append(func.__name__)
        return out


def test_an_moe_layer_decodes_in_fifteen_kernels(synth, tmp_path, kernels_launched):
    """With V3's own structure: a shared expert of an expert's size, values of whole groups."""
    config = ODD | {"v_head_dim": 128, "n_shared_experts": 1}
    model = load(synth(tmp_path / "fp8", **config), "triton")
    step, cache = steps()[1].to(DEVICE), model.new_cache(8)
    layer = model.layers[-1]
    with torch.inference_mode():
        x, turn = model.embedding[step.tokens].float(), model.rotation.at(step.positions)
        _ = step.queries, step.slots
        kernels_launched.clear()
        with Launches() as by_torch:
            layer(x, torch.zeros_like(x), step, cache, turn)
    assert by_torch.names == ["zeros_like.default"]
    assert len(kernels_launched) == 15
