"""What the native runner's kernels reach on a GPU, on DeepSeek-V3's true shapes.

    python benchmarks/gpu.py [--json FILE] [--device cuda]
    TRITON_INTERPRET=1 python benchmarks/gpu.py --rehearse

Under 8 minutes on one GPU with 80 GB, whose `dsdeploy tune` table is used if there is one. First what
the card itself reaches (copies, matrix products), then each product against torch's block-scaled one,
against BF16 and against the scheme of DeepSeek's demo, then attention and the small kernels, then layers
of the true model with random weights, with and without graphs. `--rehearse` goes the whole way with small shapes, in
the interpreter if there is no GPU: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import demo_scheme
import torch
import torch.nn.functional as F  # noqa: N812
from gpu_model import SliceModel, Workload
from report import Row, Target, document, markdown
from torch import Tensor

from dsdeploy.model.config import ModelConfig, load_config
from dsdeploy.resources import read_known_config
from dsdeploy.runner.gpu import libraries
from dsdeploy.runner.gpu.matmul import arithmetic_of
from dsdeploy.runner.gpu.ops import TritonOps
from dsdeploy.runner.gpu.routing import route, sort_by_slot
from dsdeploy.runner.gpu.table import Entry, load_table
from dsdeploy.runner.gpu.tiles import card_of
from dsdeploy.runner.gpu.trials import Operands, decode_trial, linear_shapes
from dsdeploy.runner.gpu.tune import gpu_named, timer_of
from dsdeploy.runner.ops import Activation, FeedForwardWeights, HeadShape, Routing
from dsdeploy.runner.plain import widen

SMALL = {
    "hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128,
    "num_attention_heads": 2, "q_lora_rank": 128, "kv_lora_rank": 128, "n_routed_experts": 4,
    "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "vocab_size": 512,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What is measured with: all of it, or a rehearsal."""

    copied: int
    """Bytes."""
    square: int
    """Of the matrix product that tells the card's rate."""
    rows: tuple[int, ...]
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    context: int


TRUE = Sizes(4 << 30, 8192, (1, 64, 4096), (1, 8, 64, 128), (1024, 4096, 8192), 4096)
REHEARSAL = Sizes(1 << 20, 64, (1, 3), (1, 2), (4,), 70)


class Bench:
    def __init__(self, config: ModelConfig, sizes: Sizes, device: torch.device) -> None:
        self.config, self.sizes, self.device = config, sizes, device
        self.card, self.timer = card_of(device), timer_of(device)
        self.arithmetic = arithmetic_of(device, False)
        self.ops = TritonOps(self.arithmetic, self.card, load_table(self.card))
        self.operands = Operands.on(device)
        self.copy_rate = self.matrix_rate = 0.0

    def rows(self) -> Iterator[Row]:
        yield from self.limits()
        for count in self.sizes.rows:
            for label, (outputs, k) in linear_shapes(self.config).items():
                yield from self.product(label, outputs, k, count)
            yield from self.experts(count)
            yield from self.small(count)
        for batch in self.sizes.batches:
            yield self.attention(batch)
        yield from self.layers()

    def limits(self) -> Iterator[Row]:
        """What the card reaches on this day: bytes read and written by a copy, and FP8 products."""
        source = torch.empty(self.sizes.copied, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        self.copy_rate = 2 * len(source) / self._seconds(lambda: target.copy_(source))
        yield Row("copy rate", self.copy_rate / 1e9, "GB/s", detail="read and written")
        side = self.sizes.square
        a = self.operands.values(side, side).to(torch.bfloat16)
        rate = 2 * side**3 / self._seconds(lambda: F.linear(a, a))
        yield Row("matrix rate, BF16", rate / 1e12, "TFLOP/s", detail=f"{side} cubed, torch")
        self.matrix_rate = rate
        if self.arithmetic.fp8 and self.device.type == "cuda":
            codes = self.operands.weight(side, side).values
            self.matrix_rate = 2 * side**3 / self._seconds(lambda: _fp8_product(codes))
            yield Row(
                "matrix rate, FP8", self.matrix_rate / 1e12, "TFLOP/s",
                detail=f"{side} cubed, torch, one scale",
            )  # fmt: skip

    def product(self, label: str, outputs: tuple[int, ...], k: int, count: int) -> Iterator[Row]:
        weights = [self.operands.weight(n, k) for n in outputs]
        x = Activation(self.operands.values(count, k))
        x = self.ops.input_for(x, weights[0])
        wide = [widen(w).to(torch.bfloat16) for w in weights]
        narrow = x.values_TK.to(torch.bfloat16)
        others: dict[str, Callable[[], object]] = {
            "BF16": lambda: [F.linear(narrow, w) for w in wide],
            "the demo's": lambda: [demo_scheme.linear(x.values_TK, w) for w in weights],
        }
        on_gpu = self.arithmetic.fp8 and self.device.type == "cuda"
        if on_gpu and all(libraries.torch_takes(n, k) for n in outputs):
            others["torch's"] = lambda: [libraries.linear_by_torch(x, w) for w in weights]
        seconds = self._seconds(lambda: self.ops.linear(x, *weights))
        nbytes, operations = sum(w.nbytes for w in weights), 2 * count * sum(outputs) * k
        dense = count >= 4096 and label in ("q_b", "o", "dense gate, up", "dense down")
        target = Target(">=", 600) if dense else None
        yield self._row(f"{label}, {count} rows", seconds, nbytes, operations, others, target)

    def experts(self, count: int) -> Iterator[Row]:
        config, operands = self.config, self.operands
        hidden, width = config.hidden_size, config.moe_intermediate_size
        slots, choices = config.n_routed_experts, config.num_experts_per_tok
        weights = FeedForwardWeights(
            operands.weight(slots, width, hidden), operands.weight(slots, width, hidden),
            operands.weight(slots, hidden, width),
        )  # fmt: skip
        chosen = operands.slots(count, slots, choices)
        x = self.ops.input_for(Activation(operands.values(count, hidden)), weights.gate)
        y = torch.empty(count, choices, hidden, device=self.device)
        seconds = self._seconds(lambda: self._feed_forward(x, chosen, weights, y))
        hit = len(chosen.unique())
        nbytes, operations = 3 * hit * hidden * width, 6 * chosen.numel() * hidden * width
        others: dict[str, Callable[[], object]] = {}
        if count <= 64:
            shares = torch.ones_like(chosen, dtype=torch.float32)
            others["the demo's"] = lambda: demo_scheme.experts(x.values_TK, chosen, shares, weights)
        target = Target(">=", 500) if count >= 4096 else None
        yield self._row(f"experts, {count} rows", seconds, nbytes, operations, others, target)

    def _feed_forward(
        self, x: Activation, chosen: Tensor, weights: FeedForwardWeights, y: Tensor
    ) -> Tensor:
        self.ops.feed_forward(x, chosen, weights, y)
        return y

    def _row(
        self, what: str, seconds: float, nbytes: int, operations: int,
        others: dict[str, Callable[[], object]], target: Target | None,
    ) -> Row:  # fmt: skip
        """Products bound by arithmetic in TFLOP/s, the others in GB/s."""
        rate, read = operations / seconds, nbytes / seconds
        told = [f"{1e6 * seconds:.1f} us"]
        told += [f"{read / self.copy_rate:.0%} of the copy rate"]
        told += [f"{rate / self.matrix_rate:.0%} of the matrix rate"]
        for name, compute in others.items():
            told.append(f"{name} {1e6 * self._seconds(compute):.1f} us")
        if target is None and nbytes / self.copy_rate > operations / self.matrix_rate:
            return Row(what, read / 1e9, "GB/s", detail=", ".join(told))
        return Row(what, rate / 1e12, "TFLOP/s", target, ", ".join(told))

    def small(self, count: int) -> Iterator[Row]:
        """What reads no weights to speak of: bound by being launched, or by activations."""
        config, operands = self.config, self.operands
        x, added = (operands.values(count, config.hidden_size) for _ in range(2))
        norm = torch.ones(config.hidden_size, device=self.device)
        logits = operands.values(count, config.n_routed_experts)
        bias = torch.zeros(config.n_routed_experts, device=self.device)
        choices = config.num_experts_per_tok
        routing = Routing(choices, config.n_group, config.topk_group, True, 2.5)
        chosen = operands.slots(count, config.n_routed_experts, choices)
        y, shares = operands.values(count, choices, config.hidden_size), chosen.float()
        kernels: dict[str, Callable[[], object]] = {
            "add, norm, round": lambda: self.ops.rms_norm(x, norm, 1e-6, added),
            "gate": lambda: route(logits, bias, routing),
            "sort": lambda: sort_by_slot(chosen, config.n_routed_experts, 16),
            "combine": lambda: self.ops.combine(y, shares),
        }
        for name, compute in kernels.items():
            yield Row(f"{name}, {count} rows", 1e6 * self._seconds(compute), "us")

    def attention(self, batch: int) -> Row:
        """Absorbed queries over the cache, split and put together again."""
        shape, context = HeadShape.of(self.config, 1), self.sizes.context
        dtype = torch.float32 if self.device.type == "cpu" else self.arithmetic.dtype
        trial = decode_trial(shape, batch, context, dtype, self.operands, self.card)
        known = self.ops.table.find("decode", (shape.heads,), batch)
        first = trial.candidates[0]
        by = next((c for c in trial.candidates if known and _same(c.entry, known)), first)
        seconds = self._seconds(by.compute)
        return self._row(
            f"{trial.label}, batch {batch}", seconds, trial.nbytes, trial.operations, {}, None
        )

    def layers(self) -> Iterator[Row]:
        """Of the true model: dense and MoE, at each batch and for each length of prompt."""
        model = SliceModel(self.config, self.ops, self.operands, self.arithmetic)
        for batch in self.sizes.batches:
            yield from self._decoding(model, batch)
        for count in self.sizes.prompts:
            load = Workload.prompt(count, self.device)
            dense, moe = (self._layer(model, kind, load, False) for kind in ("dense", "moe"))
            seconds = self._whole(dense, moe) + self._seconds(model.head(1))
            yield Row(
                f"prefill of {count} tokens", count / seconds, "tokens/s",
                detail=f"reckoned to {self.config.num_hidden_layers} layers: {1e6 * moe:.0f} us an MoE layer",
            )  # fmt: skip

    def _layer(self, model: SliceModel, kind: str, load: Workload, graphs: bool) -> float:
        """Seconds of one of them, of those that follow each other."""
        compute = model.layers(kind, load)
        return self._seconds(model.recorded(compute) if graphs else compute) / model.count(kind)

    def _decoding(self, model: SliceModel, batch: int) -> Iterator[Row]:
        load = Workload.decoding(batch, self.sizes.context, self.device)
        dense, moe = (self._layer(model, kind, load, True) for kind in ("dense", "moe"))
        eager = self._layer(model, "moe", load, False)
        share = model.moe_bytes(load) / self.copy_rate / moe
        yield Row(
            f"MoE layer, batch {batch}", 1e6 * moe, "us",
            Target("<=", 230) if batch == 1 else None,
            f"{1e6 * eager:.0f} us without graphs, {share:.0%} of the copy rate",
        )  # fmt: skip
        if batch == 64:
            yield Row("share of the copy rate, batch 64", 100 * share, "%", Target(">=", 70))
        seconds = self._whole(dense, moe) + self._seconds(model.recorded(model.head(batch)))
        yield Row(
            f"decoding, batch {batch}", batch / seconds, "tokens/s",
            detail=f"reckoned to {self.config.num_hidden_layers} layers and the head once, "
            f"{self.sizes.context} keys each",
        )  # fmt: skip
        if batch == 1:
            demo = self._seconds(model.moe_by_demo(load))
            yield Row(
                "the demo's scheme / ours, batch 1", demo / moe, "x", Target(">=", 8),
                f"an MoE layer: {1e6 * demo:.0f} us without attention over the cache",
            )  # fmt: skip

    def _whole(self, dense: float, moe: float) -> float:
        """Seconds of all layers of the true model."""
        first = self.config.first_k_dense_replace
        return first * dense + (self.config.num_hidden_layers - first) * moe

    def _seconds(self, compute: Callable[[], object]) -> float:
        return self.timer(compute) / 1e6


def _same(one: Entry, other: Entry) -> bool:
    """Whether the same is to compute it, in the same tiles."""
    return (one.by, one.decode) == (other.by, other.decode)


def _fp8_product(codes: Tensor) -> Tensor:
    one = torch.ones((), device=codes.device)
    return torch._scaled_mm(codes, codes.T, one, one, out_dtype=torch.bfloat16)


def main() -> None:
    arguments = _arguments()
    device = gpu_named(arguments.device)
    raw = json.loads(read_known_config("v3"))
    if arguments.rehearse:
        raw |= SMALL
    config = load_config(json.dumps(raw), "the benchmark's config")
    bench = Bench(config, REHEARSAL if arguments.rehearse else TRUE, device)
    begun, rows = time.perf_counter(), []
    for row in bench.rows():
        print(f"   {row.what}: {row.figure:,.2f} {row.unit} ({row.detail})", file=sys.stderr)
        rows.append(row)
    facts = {"date": time.strftime("%Y-%m-%d"), "card": bench.card.name}
    facts |= {name: version(name) for name in ("torch", "triton", "dsdeploy")}
    facts |= {"seconds": f"{time.perf_counter() - begun:.0f}"}
    print(markdown(facts, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(document(facts, rows), indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="small shapes, to try the way")
    return parser.parse_args()


if __name__ == "__main__":
    main()
