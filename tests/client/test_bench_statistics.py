"""What a measurement amounts to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.client.bench.load import Rate, arrivals
from dsdeploy.client.bench.reading import Failure, Sample
from dsdeploy.client.bench.run import Measurement
from dsdeploy.client.bench.statistics import Target, distribution, percentile, summarise
from dsdeploy.errors import DeployError

SECONDS = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(SECONDS, min_size=1), st.floats(0, 100))
def test_percentiles_are_numpys(values, percent):
    found = percentile(sorted(values), percent)
    assert found == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


@given(st.lists(SECONDS, min_size=1))
def test_a_distribution_does_not_depend_on_the_order(values):
    found = distribution(values)
    assert found == distribution(reversed(values))
    assert found.count == len(values)
    assert found.p50 <= found.p90 <= found.p99 <= found.most == max(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)


def test_nothing_has_no_distribution():
    assert distribution([]) is None


def busy(kind="HTTP 503"):
    return Failure(kind, DeployError(f"It is {kind}."))


SAMPLES = (
    Sample(0.0, texts=(1.0, 1.1, 1.4), ended=1.5, prompt_tokens=10, output_tokens=6),
    Sample(2.0, texts=(2.2, 2.3), ended=2.3, prompt_tokens=20, output_tokens=2),
    Sample(3.0, ended=3.1, failure=busy()),
    Sample(3.0, ended=3.1, failure=busy("time-out")),
    Sample(3.0, ended=3.1, failure=busy()),
)


def test_a_summary():
    summary = summarise(Measurement(SAMPLES, seconds=4.0, late=0.0))
    assert (summary.requests, summary.succeeded) == (5, 2)
    assert summary.failures == {"HTTP 503": 2, "time-out": 1}
    assert summary.examples["time-out"] == "It is time-out."
    assert (summary.prompt_tokens, summary.output_tokens, summary.events) == (30, 8, 5)
    assert (summary.output_tokens_per_second, summary.requests_per_second) == (2.0, 0.5)
    assert summary.ttft.most == 1.0
    assert summary.ttft.p50 == pytest.approx(0.6)
    assert summary.itl.count == 3
    assert summary.itl.most == pytest.approx(0.3)
    # (1.4 - 1.0) over 5 tokens, and (2.3 - 2.2) over one
    assert summary.tpot.mean == pytest.approx((0.08 + 0.1) / 2)
    assert summary.e2e.p50 == pytest.approx((1.5 + 0.3) / 2)


@pytest.mark.parametrize(
    ("target", "good"),
    [
        (Target(), 2),
        (Target(ttft=0.5), 1),
        (Target(itl=0.09), 1),
        (Target(ttft=0.5, itl=0.09), 0),
        (Target(ttft=1.0, itl=0.11), 2),
    ],
)
def test_goodput_counts_what_meets_both_targets(target, good):
    summary = summarise(Measurement(SAMPLES, seconds=4.0, late=0.0), target)
    assert summary.goodput == good / 4


def test_where_one_answer_is_not_counted_no_total_of_the_endpoint_is_claimed():
    samples = (*SAMPLES, Sample(0.0, texts=(1.0, 2.0), ended=3.0))
    summary = summarise(Measurement(samples, seconds=1.0, late=0.0))
    assert (summary.counted, summary.prompt_tokens, summary.output_tokens) == (False, None, 10)


def test_where_all_fail_there_are_no_latencies():
    summary = summarise(Measurement(SAMPLES[2:], seconds=1.0, late=0.0))
    assert (summary.ttft, summary.itl, summary.tpot, summary.e2e) == (None,) * 4
    assert summary.goodput == 0


def test_measurements_add_up():
    both = Measurement(SAMPLES[:1], 2.0, 0.1) + Measurement(SAMPLES[1:], 3.0, 0.0)
    assert both == Measurement(SAMPLES, 5.0, 0.1)


def test_arrivals_are_a_poisson_process_of_the_seed():
    times = arrivals(Rate(50), 20_000, seed=3)
    gaps = np.diff(times)
    assert times == arrivals(Rate(50), 20_000, seed=3) != arrivals(Rate(50), 20_000, seed=4)
    assert times[0] == 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)  # of an exponential, as its mean
