"""Prometheus metrics, by the names that dashboards rely on. No id is ever a label."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

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
_DOLLARS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 25)


M = TypeVar("M", bound=MetricWrapperBase)


def _child(metric: M, *labels: str) -> M:
    return metric.labels(*labels)


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.child = lru_cache(maxsize=4096)(_child)
        """`child(metric, *labels)`: a metric under its labels, without the cost of looking it up anew."""
        self.registry = CollectorRegistry()
        r = self.registry
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
            "gateway_run_steps",
            "Steps of a run at its end.",
            buckets=(1, 2, 3, 5, 8, 13, 21, 34, 55),
            registry=r,
        )
        self.run_seconds = Histogram(
            "gateway_run_seconds", "Length of a run at its end.", buckets=_SECONDS, registry=r
        )
        self.tool_calls = Counter(
            "gateway_tool_calls", "Tool calls seen on the wire.", ["tool", "outcome"], registry=r
        )
        self.findings = Counter(
            "gateway_findings",
            "What detectors have found.",
            ["detector", "channel", "action"],
            registry=r,
        )
        self.kill_propagation = Histogram(
            "gateway_kill_propagation_seconds",
            "From an operator's kill to this worker's obedience.",
            buckets=_SECONDS,
            registry=r,
        )
        self.store_seconds = Histogram(
            "gateway_store_seconds", "Time of a store operation.", ["operation"], buckets=_SECONDS, registry=r
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
        self.policy_failures = Counter(
            "gateway_policy_reload_failures", "Policy files that were refused.", registry=r
        )
        self.budget_used = Gauge(
            "gateway_budget_used_ratio",
            "Highest share in use of a budget seen in the last steps.",
            ["budget", "per"],
            registry=r,
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
