"""Metrics for Prometheus: requests of this process, and jobs and trials of the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, exposition
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from anon_tune.ledger import Ledger
from anon_tune.records import WorkerState

__all__ = ["Metrics"]


_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Metrics:
    """Metrics of one instance of the service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("anon_tune_requests", "Requests.", labels, registry=self._registry)
        self._seconds = Histogram(
            "anon_tune_request_seconds",
            "Time until the response.",
            ("method", "route"),
            registry=self._registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        method = (
            method if method in _METHODS else "other"
        )  # a client may send any word, and each would be kept
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def exposition(self, ledger: Ledger) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its media type."""
        of_ledger = CollectorRegistry()
        of_ledger.register(_Counts(ledger))
        text = exposition.generate_latest(self._registry) + exposition.generate_latest(of_ledger)
        return text, exposition.CONTENT_TYPE_PLAIN_0_0_4


class _Counts(Collector):
    """Numbers of jobs, trials and workers in each state, of the whole ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the current numbers."""
        for kind, counts in self._ledger.overviews.counts().items():
            family = GaugeMetricFamily(
                f"anon_tune_{kind}", f"{kind.capitalize()} by state.", labels=["state"]
            )
            for state, count in counts.items():
                family.add_metric([state], count)
            yield family
        family = GaugeMetricFamily("anon_tune_workers", "Workers by state.", labels=["state"])
        states = [worker.state for worker in self._ledger.workers.all()]
        for state in WorkerState:  # also 0, so that an alert sees that the last one has gone
            family.add_metric([state], states.count(state))
        yield family
