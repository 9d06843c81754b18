"""Figures for Prometheus, in a registry of their own: requests, tokens, drafts, waiting times, memory."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .endpoint import Backend
from .exchange import Finished
from .log import Record

NAMESPACE = "gemma4"
STATUSES = ("ok", "loading", "unloaded", "stuck", "dead")
KIND = CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ROUND = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
SPEEDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0)


class Metrics:
    """What has been counted since the server began, and how the backend does now.

    Args:
        backend: that is asked whenever the figures are read.
    """

    def __init__(self, backend: Backend):
        self._registry = CollectorRegistry()
        self._registry.register(_Now(backend))
        self._requests = self._counter("requests", "Requests that were answered.", "endpoint", "status")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = self._counter("cached_prompt_tokens", "Tokens of prompts that a cache had.")
        self._prefix_hits = self._counter("prefix_hits", "Requests of whose prompt a cache had something.")
        self._prefix_misses = self._counter("prefix_misses", "Requests of whose prompt no cache had anything.")
        self._tokens = self._counter("completion_tokens", "Tokens that were generated.")
        self._thoughts = self._counter("reasoning_tokens", "Of them, tokens of thoughts.")
        self._rounds = self._counter("rounds", "Forwards of the target behind prompts.")
        self._drafted = self._counter("drafted_tokens", "Drafts, by their place in a round.", "place")
        self._accepted = self._counter("accepted_tokens", "Drafts that stood, by their place in a round.", "place")
        self._seconds = self._histogram("request_seconds", "From a request to the end of its answer.", SECONDS)
        self._first = self._histogram("first_token_seconds", "From a request to its first token.", SECONDS)
        self._queued = self._histogram("queued_seconds", "Until a request's prompt was begun.", SECONDS)
        self._per_round = self._histogram("tokens_per_round", "Tokens of an answer over its rounds.", ROUND)
        self._speed = self._histogram("tokens_per_second", "Of an answer, from its first token on.", SPEEDS)

    def count(self, record: Record) -> None:
        """A request that has ended."""
        self._requests.labels(record.name, str(record.status)).inc()
        if record.prompt_tokens is None:
            return
        self._seconds.observe(record.seconds)
        self._first.observe(record.first_token or 0.0)
        self._prompt_tokens.inc(record.prompt_tokens)
        self._cached_tokens.inc(record.cached_tokens)
        (self._prefix_hits if record.cached_tokens else self._prefix_misses).inc()
        self._tokens.inc(record.usage.completion_tokens or record.tokens)
        for finished in record.finished:
            self._count_answer(finished)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them; ``KIND`` is their type."""
        return generate_latest(self._registry)

    def _count_answer(self, finished: Finished) -> None:
        usage = finished.usage
        self._thoughts.inc(usage.reasoning_tokens)
        self._rounds.inc(usage.rounds)
        for counter, counts in ((self._drafted, usage.drafted_at), (self._accepted, usage.accepted_at)):
            for place, count in enumerate(counts, start=1):
                counter.labels(str(place)).inc(count)
        self._queued.observe(finished.queued)
        if usage.rounds:
            self._per_round.observe(usage.completion_tokens / usage.rounds)
        if finished.speed > 0:
            self._speed.observe(finished.speed)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=NAMESPACE, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, namespace=NAMESPACE, registry=self._registry, buckets=buckets)


class _Now(Collector):
    """How the backend does at the moment."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        health = self._backend.health()
        figures = {
            "running_requests": ("Requests that are being answered.", health.running),
            "waiting_requests": ("Requests that wait for their turn.", health.waiting),
            "idle_seconds": ("Since the engine finished a step.", health.idle),
            "active_memory_bytes": ("Of MLX's arrays.", health.active_memory),
            "peak_memory_bytes": ("The most that MLX's arrays took.", health.peak_memory),
        }
        for name, (text, value) in figures.items():
            yield GaugeMetricFamily(f"{NAMESPACE}_{name}", text, value=value)
        status = GaugeMetricFamily(f"{NAMESPACE}_status", "1 for how the engine does.", labels=["status"])
        for each in dict.fromkeys((*STATUSES, health.status)):
            status.add_metric([each], float(each == health.status))
        yield status
