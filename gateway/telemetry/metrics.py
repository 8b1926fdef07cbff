"""Prometheus metrics, by the names that dashboards rely on. No id is ever a label.

Series stay few whatever callers send: labels are names from the policy or fixed words, and a metric that
nevertheless reaches `MAX_SERIES` counts the rest under `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# A second series for each counter, with the time at which it was made, tells nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own gap

OTHER = "other"
"""A label's value for everything that the policy does not name."""
MAX_SERIES = 2000
"""Of one metric in one worker: room for a large policy, and a bound for what nobody foresaw."""

_SECONDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
)
_LONG_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_DOLLARS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 25)
_SESSION_DOLLARS = (*_DOLLARS, 50, 100, 250)
_STEPS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)

MERGED: dict[str, Callable[[Iterable[float]], float]] = {
    "gateway_in_flight_requests": sum,
    "gateway_workers": sum,
    "gateway_policy_healthy": min,
    "gateway_drain_lag_seconds": min,
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}
"""How the gauges of several workers become one; the highest counts where nothing is said."""


M = TypeVar("M", bound=MetricWrapperBase)


class Timings(Collector):
    """A histogram with one label for the hottest places: one thread writes to it, so it needs no lock."""

    def __init__(self, name: str, about: str, label: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._about = about
        self._labelnames = (label,)
        self._rows: dict[str, list[float]] = {}
        """By label: a count for each bucket, the sum of what was observed last."""
        registry.register(self)

    def observe(self, value: str, seconds: float) -> None:
        """Count one duration. `value` is one of few words of this code."""
        row = self._rows.get(value)
        if row is None:
            row = self._rows[value] = [0.0] * (len(_SECONDS) + 2)
        row[bisect_left(_SECONDS, seconds)] += 1
        row[-1] += seconds

    def describe(self) -> list[Metric]:
        """Name and kind, without figures."""
        return [HistogramMetricFamily(self._name, self._about, labels=self._labelnames)]

    def collect(self) -> list[Metric]:
        """The figures as they are now."""
        family = HistogramMetricFamily(self._name, self._about, labels=self._labelnames)
        for value, row in list(self._rows.items()):
            bounds = [*(_bound(bound) for bound in _SECONDS), "+Inf"]
            buckets = list(zip(bounds, accumulate(row[:-1]), strict=True))
            family.add_metric([value], buckets, row[-1])
        return [family]


def _bound(bound: float) -> str:
    return repr(float(bound))


def rule_label(rule: str, tools: Collection[str]) -> str:
    """A rule as a label. `tools.NAME.RULE` is `tools.other` where the policy does not list the tool: agents
    may give tools any name."""
    if not rule.startswith("tools."):
        return rule
    tool = rule[len("tools.") :]
    return rule if tool in tools or tool.rpartition(".")[0] in tools else f"tools.{OTHER}"


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self._series: dict[MetricWrapperBase, set[tuple[str, ...]]] = {}
        self.child = lru_cache(maxsize=4096)(self._child)
        """`child(metric, *labels)`: a metric under its labels, without the cost of looking it up anew."""
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self.requests = Counter(
            "gateway_requests",
            "Steps by how they ended.",
            ["surface", "model", "provider", "outcome"],
            registry=r,
        )
        self.tokens = Counter("gateway_tokens", "Tokens by bucket.", ["model", "kind"], registry=r)
        self.cost = Counter("gateway_cost_usd", "Dollars settled.", ["model", "team"], registry=r)
        self.refusals = Counter("gateway_refusals", "Steps refused.", ["code", "rule"], registry=r)
        self.overhead = Histogram(
            "gateway_overhead_seconds",
            "Time a step spent in the gateway itself.",
            buckets=_SECONDS,
            registry=r,
        )
        self.upstream = Histogram(
            "gateway_upstream_seconds",
            "Time a step spent at the provider.",
            ["provider"],
            buckets=_SECONDS,
            registry=r,
        )
        self.queued = Histogram(
            "gateway_queue_seconds",
            "Time a step waited for a provider with no slot for it.",
            ["provider"],
            buckets=_SECONDS,
            registry=r,
        )
        self.ttft = Histogram(
            "gateway_time_to_first_token_seconds",
            "Time from dispatch to the first event of a stream.",
            ["provider"],
            buckets=_SECONDS,
            registry=r,
        )
        self.runs_ended = Counter("gateway_runs_ended", "Runs by their ending.", ["status"], registry=r)
        self.run_cost = Histogram(
            "gateway_run_cost_usd", "Dollars of a run at its end.", buckets=_DOLLARS, registry=r
        )
        self.run_steps = Histogram(
            "gateway_run_steps", "Steps of a run at its end.", buckets=_STEPS, registry=r
        )
        self.run_seconds = Histogram(
            "gateway_run_seconds", "Length of a run at its end.", buckets=_LONG_SECONDS, registry=r
        )
        self.session_cost = Histogram(
            "gateway_session_cost_usd",
            "Dollars of a session until now, at the end of each of its runs.",
            buckets=_SESSION_DOLLARS,
            registry=r,
        )
        self.session_seconds = Histogram(
            "gateway_session_seconds",
            "Length of a session until now, at the end of each of its runs.",
            buckets=_LONG_SECONDS,
            registry=r,
        )
        self.tool_calls = Counter(
            "gateway_tool_calls", "Tool calls seen on the wire.", ["tool", "outcome"], registry=r
        )
        self.tool_results = Counter(
            "gateway_tool_results", "Tool results by their health.", ["tool", "outcome"], registry=r
        )
        self.findings = Counter(
            "gateway_findings",
            "What detectors have found.",
            ["detector", "channel", "action"],
            registry=r,
        )
        self.events = Counter(
            "gateway_events", "What operators are told of, by its kind.", ["event"], registry=r
        )
        self.kill_propagation = Histogram(
            "gateway_kill_propagation_seconds",
            "From an operator's kill to this worker's obedience.",
            buckets=_SECONDS,
            registry=r,
        )
        self.store_seconds = Timings(
            "gateway_store_seconds", "Time of a store operation.", "operation", registry=r
        )
        self.store_errors = Counter("gateway_store_errors", "Store operations that failed.", registry=r)
        self.bypassed = Counter(
            "gateway_bypassed",
            "Checks that could not run and were let pass by policy.",
            ["check"],
            registry=r,
        )
        self.routed = Counter(
            "gateway_routed", "Steps that another model served.", ["from", "to", "rule"], registry=r
        )
        self.shortened = Counter(
            "gateway_context_saved_tokens",
            "Input tokens of tool results that were left out, or would have been.",
            ["mode"],
            registry=r,
        )
        self.cache = Counter(
            "gateway_cache",
            "Steps that were looked up among the kept answers, by what came of it.",
            ["tier", "outcome"],
            registry=r,
        )
        self.saved = Counter(
            "gateway_saved_usd", "Dollars that steps cost less than where they were to go.", registry=r
        )
        self.alerts = Counter(
            "gateway_alerts", "Alerts by what came of them.", ["event", "outcome"], registry=r
        )
        self.alert_queue = Gauge(
            "gateway_alert_queue_length",
            "Deliveries that wait in the ledger, all workers' together.",
            ["alert"],
            registry=r,
        )
        self.alert_oldest = Gauge(
            "gateway_alert_queue_oldest_seconds",
            "How long the oldest delivery has waited.",
            ["alert"],
            registry=r,
        )
        self.audit_unwritten = Gauge(
            "gateway_audit_unwritten_seconds",
            "How long the audit log could not be written; 0 while it can.",
            registry=r,
        )
        self.recordings_lost = Counter(
            "gateway_recordings_lost",
            "Requests and answers that were to be recorded and could not be.",
            registry=r,
        )
        self.trace_spans = Counter(
            "gateway_trace_spans", "Spans by what came of them.", ["outcome"], registry=r
        )
        self.unpriced = Counter("gateway_unpriced", "Steps refused for want of a price.", registry=r)
        self.breaker_state = Gauge(
            "gateway_breaker_state",
            "Breakers met by this process: 0 closed, 1 half open, 2 open. Other tools are `other`.",
            ["kind", "id"],
            registry=r,
        )
        self.policy_generation = Gauge(
            "gateway_policy_generation", "How often a policy was taken over since start.", registry=r
        )
        self.policy_healthy = Gauge(
            "gateway_policy_healthy", "1 while the policy in force is the one in the files.", registry=r
        )
        self.policy_failures = Counter(
            "gateway_policy_reload_failures", "Policy files that were refused.", registry=r
        )
        self.budget_used = Gauge(
            "gateway_budget_used_ratio",
            "Highest share in use of a budget, over the scopes it was lately asked for.",
            ["budget", "per"],
            registry=r,
        )
        self.drain_lag = Gauge(
            "gateway_drain_lag_seconds",
            "How long ago everything settled was in the ledger database.",
            registry=r,
        )
        self.ledger_drift = Gauge(
            "gateway_ledger_drift_usd",
            "Dollars by which two records of the same spending differ.",
            ["between"],
            registry=r,
        )
        self.in_flight = Gauge(
            "gateway_in_flight_requests", "Requests of the data plane being served now.", registry=r
        )
        self.loop_lag = Gauge(
            "gateway_loop_lag_seconds",
            "The longest that the event loop was late in the last seconds.",
            registry=r,
        )
        self.forgotten = Counter(
            "gateway_forgotten_rows",
            "Ledger rows that retention or an erasure removed or made anonymous.",
            ["what"],
            registry=r,
        )
        self.workers = Gauge("gateway_workers", "Processes that serve.", registry=r)

    def _child(self, metric: M, *labels: str) -> M:
        known = self._series.setdefault(metric, set())
        if labels not in known:
            if len(known) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            known.add(labels)
        return metric.labels(*labels)

    def render(self) -> bytes:
        """The exposition text of this worker alone."""
        return generate_latest(self.registry)
