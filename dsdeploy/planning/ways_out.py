"""What helps when nothing fits: single changes of the wish or the machine, each planned anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dsdeploy.hardware.profile import Link, Machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.planner import Outcome, Sizes, Wish, plan
from dsdeploy.planning.rules import Rules
from dsdeploy.planning.streaming import StreamedRun, streamed_run
from dsdeploy.units import format_bytes


@dataclass(frozen=True)
class WayOut:
    change: str
    """What to do, in a phrase."""
    result: str
    """What then runs, in a phrase."""


def shortage(outcome: Outcome) -> int | None:
    """Bytes that the closest candidate lacks on each device, at least; None where no layout is
    possible at all."""
    needs = [
        candidate.memory.cache_bytes(outcome.wish.context, outcome.wish.concurrency)
        - candidate.memory.free.high
        for candidate in outcome.candidates
        if candidate.memory is not None
    ]
    return int(min(needs)) if needs else None


def ways_out(
    outcome: Outcome, asked: Mapping[str, Rules], installed: Mapping[str, Rules]
) -> Iterator[WayOut]:
    """Those that work. `asked` are the backends that the user has allowed."""
    model, machine, wish = outcome.model, outcome.machine, outcome.wish

    def tried(
        change: str, machine: Machine = machine, wish: Wish = wish,
        backends: Mapping[str, Rules] = asked,
    ) -> Iterator[WayOut]:  # fmt: skip
        chosen = plan(model, machine, backends, wish).chosen
        if chosen is not None:
            kept = FORMATS[chosen.precision].title
            yield WayOut(change, f"{chosen.backend}, {kept}, {chosen.layout}")

    if wish.mtp:
        yield from tried("without --mtp", wish=replace(wish, mtp=False))
    yield from _less_context(outcome)
    if wish.cache_format == "bf16":
        yield from tried("--cache-format fp8", wish=replace(wish, cache_format="fp8"))
    if wish.sizes.any_fixed:
        yield from tried("without a fixed layout", wish=replace(wish, sizes=Sizes()))
    if len(asked) < len(installed):
        yield from tried("another backend", backends=installed)
    for other in FORMATS.values():
        if other.name != (wish.precision or model.stored):
            made = other.made_by.format(model=model.name.rpartition("/")[2])
            change = f"--precision {other.name} ({made})"
            today = {name: rules for name, rules in asked.items() if not rules.legacy(other)}
            yield from tried(change, wish=replace(wish, precision=other.name), backends=today)
    for nodes in range(machine.nodes + 1, 2 * machine.nodes + 4):
        more = list(
            tried(f"{nodes} nodes in place of {machine.nodes}", machine=_with_nodes(machine, nodes))
        )
        if more:
            yield from more
            break
    streamed = streamed_run(model, machine)
    if streamed is not None and streamed.fits(machine):
        yield WayOut("--backend native, experts streamed from disk", _of_streamed(streamed))


def _less_context(outcome: Outcome) -> Iterator[WayOut]:
    """The most of each that surely fits with the other as asked."""
    wish = outcome.wish
    memories = [found.memory for found in outcome.candidates if found.memory is not None]
    context = max((memory.largest_context(wish.concurrency) for memory in memories), default=0)
    if 256 <= context < wish.context:
        yield WayOut(f"--context {context}", f"{wish.concurrency} requests at once")
    concurrency = max((memory.largest_concurrency(wish.context) for memory in memories), default=0)
    if 1 <= concurrency < wish.concurrency:
        yield WayOut(f"--concurrency {concurrency}", f"{wish.context:,} tokens of context each")


def _with_nodes(machine: Machine, nodes: int) -> Machine:
    link = machine.inter_node or Link(kind="Ethernet", bandwidth=25 * 10**9 // 8)
    return machine.model_copy(update={"nodes": nodes, "inter_node": link})


def _of_streamed(run: StreamedRun) -> str:
    resident = format_bytes(run.memory_bytes)
    seconds = run.token_seconds.show(lambda value: f"{value:.1f}")
    return f"{resident} of memory, {seconds} s a token (modelled)"
