"""What a measurement amounts to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dsdeploy.client.bench.reading import Sample
from dsdeploy.client.bench.run import Measurement


@dataclass(frozen=True)
class Distribution:
    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    most: float


@dataclass(frozen=True)
class Target:
    """Seconds that a request may take to count as good; None: whatever it takes."""

    ttft: float | None = None
    itl: float | None = None

    def __bool__(self) -> bool:
        return self.ttft is not None or self.itl is not None


NO_TARGET = Target()


@dataclass(frozen=True)
class Summary:
    requests: int
    failures: Mapping[str, int]
    """Of each kind, the most frequent first."""
    examples: Mapping[str, str]
    """A sentence of each kind."""
    seconds: float
    prompt_tokens: int | None
    """Of all that succeeded; None where the server does not count."""
    output_tokens: int
    counted: bool
    """Whether by the server. If not, an event with text counts as a token."""
    events: int
    """With text. Fewer than tokens where one brings several."""
    ttft: Distribution | None
    """Seconds; None where no request succeeded. So those below."""
    itl: Distribution | None
    """Between one event with text and the next, over all requests; None if none had two."""
    tpot: Distribution | None
    """Time per output token after the first: a request's mean."""
    e2e: Distribution | None
    good: int
    """Requests within the target; all that succeeded without one."""
    late: float

    @property
    def succeeded(self) -> int:
        return self.requests - sum(self.failures.values())

    @property
    def requests_per_second(self) -> float:
        return self.succeeded / self.seconds

    @property
    def output_tokens_per_second(self) -> float:
        return self.output_tokens / self.seconds

    @property
    def goodput(self) -> float:
        """Requests a second within the target."""
        return self.good / self.seconds


def summarise(measurement: Measurement, target: Target = NO_TARGET) -> Summary:
    samples = [sample for sample in measurement.samples if sample.failure is None]
    failures = [s.failure for s in measurement.samples if s.failure is not None]
    failed = Counter(failure.kind for failure in failures)
    counted = all(sample.output_tokens is not None for sample in samples)
    prompts = [sample.prompt_tokens for sample in samples]
    return Summary(
        requests=len(measurement.samples),
        failures=dict(failed.most_common()),
        examples={failure.kind: failure.error.message for failure in reversed(failures)},
        seconds=measurement.seconds,
        prompt_tokens=None if None in prompts else sum(each or 0 for each in prompts),
        output_tokens=sum(map(output_tokens, samples)),
        counted=counted,
        events=sum(len(sample.texts) for sample in samples),
        ttft=distribution(each for s in samples if (each := ttft(s)) is not None),
        itl=distribution(gap for sample in samples for gap in gaps(sample)),
        tpot=distribution(each for s in samples if (each := tpot(s)) is not None),
        e2e=distribution(sample.ended - sample.sent for sample in samples),
        good=sum(is_good(sample, target) for sample in samples),
        late=measurement.late,
    )


def distribution(values: Iterable[float]) -> Distribution | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return Distribution(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p90=percentile(ordered, 90),
        p99=percentile(ordered, 99),
        most=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between the two values around it, as numpy's."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def output_tokens(sample: Sample) -> int:
    return len(sample.texts) if sample.output_tokens is None else sample.output_tokens


def ttft(sample: Sample) -> float | None:
    """None for an answer whose tokens show no text."""
    return sample.texts[0] - sample.sent if sample.texts else None


def gaps(sample: Sample) -> list[float]:
    return [after - before for before, after in pairwise(sample.texts)]


def tpot(sample: Sample) -> float | None:
    tokens = output_tokens(sample)
    if tokens < 2 or not sample.texts:
        return None
    return (sample.texts[-1] - sample.texts[0]) / (tokens - 1)


def is_good(sample: Sample, target: Target) -> bool:
    """Its time to the first token and its mean time per token after that are within the target."""
    first, each = ttft(sample), tpot(sample)
    return (target.ttft is None or (first is not None and first <= target.ttft)) and (
        target.itl is None or each is None or each <= target.itl
    )
