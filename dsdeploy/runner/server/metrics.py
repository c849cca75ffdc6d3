"""Prometheus metrics under the names that vLLM's dashboards know."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dsdeploy.runner.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfTheEngine(engine, model))
        self._labels = {"model_name": model}
        self._ended = Counter(
            "vllm:request_success",
            "Requests that have ended, by reason.",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens.")
        self._whole = self._histogram("e2e_request_latency_seconds", "The whole request.")

    def _histogram(self, name: str, what: str) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", what, ("model_name",), buckets=_SECONDS, registry=self._registry
        )
        return histogram.labels(**self._labels)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self._between.observe(seconds)

    def ended(self, reason: str, seconds: float) -> None:
        self._ended.labels(**self._labels, finished_reason=reason).inc()
        self._whole.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _OfTheEngine(Collector):
    """Read off the engine when somebody asks."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def collect(self) -> Iterable[Metric]:
        engine, counters = self._engine, self._engine.counters
        gauges = {
            "num_requests_running": ("Requests in the batch.", len(engine.running)),
            "num_requests_waiting": ("Requests that wait.", len(engine.waiting)),
            "kv_cache_usage_perc": (
                "Share of the cache's pages in use, 0 to 1.",
                engine.pool.used / engine.pool.count,
            ),
        }
        totals = {
            "prompt_tokens": ("Tokens of prompts computed.", counters.prompt_tokens),
            "generation_tokens": ("Tokens generated.", counters.generated_tokens),
            "prefix_cache_hits": ("Tokens of prompts reused.", counters.reused_tokens),
            "num_preemptions": ("Requests that had to begin again.", counters.preemptions),
            "spec_decode_num_draft_tokens": ("Tokens drafted.", counters.drafted_tokens),
            "spec_decode_num_accepted_tokens": ("Drafts accepted.", counters.accepted_tokens),
        }
        for name, (what, value) in gauges.items():
            gauge = GaugeMetricFamily(f"vllm:{name}", what, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (what, value) in totals.items():
            total = CounterMetricFamily(f"vllm:{name}", what, labels=["model_name"])
            total.add_metric([self._model], value)
            yield total
