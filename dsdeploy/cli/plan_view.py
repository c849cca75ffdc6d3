"""A plan as people read it: the candidates, the chosen one's memory, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dsdeploy.hardware.profile import Machine
from dsdeploy.output import Output
from dsdeploy.planning.interval import Interval
from dsdeploy.planning.picture import memory_parts
from dsdeploy.planning.plan import Plan
from dsdeploy.planning.planner import Candidate, Outcome
from dsdeploy.planning.streaming import streamed_run
from dsdeploy.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from dsdeploy.planning.ways_out import WayOut

_COLUMNS = ("", "backend", "weights", "layout", "fits", "weights/device", "largest context",
            "most requests", "decode tokens/s", "prefill tokens/s")  # fmt: skip


def show_outcome(out: Output, outcome: Outcome, saved: Plan | None) -> None:
    wish = outcome.wish
    out.line(f"{outcome.model.name} on {machine_line(outcome.machine)}")
    out.line(f"for {wish.concurrency} requests of {wish.context:,} tokens" + _extras(outcome))
    chosen = outcome.chosen
    running = [candidate for candidate in outcome.candidates if candidate.runs]
    ordered = sorted(running, key=lambda c: (c is not chosen, c.verdict != "fits"))
    if ordered:
        out.table(
            "what runs (memory exact but for the engine's own share; speeds modelled)",
            _COLUMNS,
            (_row(candidate, outcome, candidate is chosen) for candidate in ordered),
            right=(5, 6, 7, 8, 9),
        )
    refused = _refused(outcome.candidates)
    if refused:
        out.table("what does not", ("backend", "weights", "layouts", "why"), refused)
    if chosen is not None and saved is not None:
        _show_chosen(out, outcome, chosen, saved)


def machine_line(machine: Machine) -> str:
    memory = format_bytes(machine.device_memory)
    nodes = f"{machine.nodes} x " if machine.nodes > 1 else ""
    chips = f"{nodes}{machine.accelerators_per_node} x {machine.accelerator.name}"
    return f"{machine.name}: {chips}, {memory} each"


def _extras(outcome: Outcome) -> str:
    wish = outcome.wish
    return (", with MTP" if wish.mtp else "") + (
        ", FP8 cache" if wish.cache_format == "fp8" else ""
    )


def _row(candidate: Candidate, outcome: Outcome, chosen: bool) -> Sequence[str]:
    memory, speed, wish = candidate.memory, candidate.speed, outcome.wish
    if memory is None or speed is None:
        raise ValueError("a candidate that runs has memory and speed")
    return (
        ">" if chosen else "",
        candidate.backend,
        candidate.precision,
        str(candidate.layout),
        candidate.verdict,
        format_bytes(memory.weight_bytes),
        f"{memory.largest_context(wish.concurrency):,}",
        f"{memory.largest_concurrency(wish.context):,}",
        speed.decode.show(_rate),
        speed.prefill.show(_rate),
    )


def _rate(value: float) -> str:
    """Two digits: no more is known."""
    if value < 10:
        return f"{value:.2g}"
    digits = len(str(int(value))) - 2
    return f"{round(value, -digits):,.0f}"


def _refused(candidates: Iterable[Candidate]) -> list[Sequence[str]]:
    """One row for all layouts that one reason excludes."""
    layouts: dict[tuple[str, str, str], list[str]] = {}
    for candidate in candidates:
        if not candidate.runs:
            key = (candidate.backend, candidate.precision, candidate.reason)
            layouts.setdefault(key, []).append(str(candidate.layout or "any"))
    return [
        (backend, precision, _few(names), reason)
        for (backend, precision, reason), names in layouts.items()
    ]


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _show_chosen(out: Output, outcome: Outcome, chosen: Candidate, saved: Plan) -> None:
    memory, speed, wish = chosen.memory, chosen.speed, outcome.wish
    if memory is None or speed is None:
        raise ValueError("the chosen candidate runs")
    rows = [
        ("weights", f"{memory.weight_bytes:,} B a device (exact)"),
        ("cache", f"{memory.cache_per_token:,} B a token on each device of a replica (exact)"),
        ("room", f"{_tokens(memory.tokens)} tokens a replica, {memory.replicas} replica(s)"),
        ("the engine's share", f"{saved.memory_flag} {saved.memory_value}"),
        ("first token", f"{_seconds(speed.first_token)} after {wish.context:,} tokens (modelled)"),
        ("loading", f"{_seconds(speed.load)} from disk (modelled)"),
    ]
    if chosen.verdict == "fits" and chosen.reason:
        rows.insert(0, ("legacy", chosen.reason))
    elif chosen.precision != outcome.model.stored:
        made = _made_by(chosen, outcome)
        rows.insert(0, ("first make it", made))
    out.table(f"chosen: {chosen.backend} {chosen.release}, {chosen.layout}", ("", ""), rows)
    parts = memory_parts(memory, wish.context, wish.concurrency)
    out.line("One device:")
    out.bar([(part.label, part.nbytes) for part in parts])


def _made_by(chosen: Candidate, outcome: Outcome) -> str:
    from dsdeploy.model.formats import FORMATS

    return FORMATS[chosen.precision].made_by.format(model=outcome.model.name.rpartition("/")[2])


def _tokens(tokens: Interval) -> str:
    return tokens.show(lambda value: f"{int(value):,}")


def _seconds(seconds: Interval) -> str:
    return seconds.show(lambda value: f"{value:.2g} s" if value < 60 else format_seconds(value))


def show_ways_out(
    out: Output, outcome: Outcome, lacking: int | None, ways: Sequence[WayOut]
) -> None:
    if lacking is not None:
        out.problem(f"Nothing fits: {format_bytes(lacking)} a device are missing at least.")
    else:
        out.problem("Nothing fits: no engine can run this here.")
    if ways:
        rows = [(way.change, way.result) for way in ways]
        out.table("ways out, each planned", ("change", "then"), rows)
        return
    streamed = streamed_run(outcome.model, outcome.machine)
    if streamed is not None:
        here = outcome.machine
        out.line(
            "The native runner streams experts from a disk: it wants "
            f"{format_bytes(streamed.memory_bytes)} of memory (here {format_bytes(here.host_memory)}) "
            f"and {format_bytes(streamed.disk_bytes)} of disk (here {format_bytes(here.disk.space)})."
        )


def show_comparison(out: Output, outcomes: Sequence[Outcome]) -> None:
    first = outcomes[0]
    out.line(f"{first.model.name} for {first.wish.concurrency} requests of "
             f"{first.wish.context:,} tokens" + _extras(first))  # fmt: skip
    columns = ("machine", "backend", "weights", "layout", "fits", "most requests",
               "decode tokens/s", "prefill tokens/s", "first token", "USD per million tokens")  # fmt: skip
    rows = (_compared(outcome) for outcome in outcomes)
    out.table("side by side (speeds modelled)", columns, rows, right=(5, 6, 7, 8, 9))


def _compared(outcome: Outcome) -> Sequence[str]:
    chosen = outcome.chosen
    if chosen is None or chosen.memory is None or chosen.speed is None:
        return (outcome.machine.name, "", "", "", "no", "", "", "", "", "")
    speed = chosen.speed
    return (
        outcome.machine.name,
        chosen.backend,
        chosen.precision,
        str(chosen.layout),
        chosen.verdict,
        f"{chosen.memory.largest_concurrency(outcome.wish.context):,}",
        speed.decode.show(_rate),
        speed.prefill.show(_rate),
        _seconds(speed.first_token),
        _price(outcome.machine, speed.decode),
    )


def _price(machine: Machine, decode: Interval) -> str:
    if machine.price_per_hour is None:
        return "no price"
    dollars = [machine.price_per_hour / (rate * 3600) * 1e6 for rate in (decode.high, decode.low)]
    return Interval(*dollars).show(lambda value: f"{value:.2f}" if value < 100 else f"{value:,.0f}")
