"""What happened, as metrics: which child of which metric counts it, with labels that stay few."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import NANO_PER_USD, USAGE_BUCKETS, Json, Nano
from gateway.metering.prices import SIM_PREFIX, SIM_PROVIDER
from gateway.policy.models import Policy
from gateway.rules.breakers import parse_breaker_key
from gateway.steps.attempt import Attempt
from gateway.steps.booking import Outcome
from gateway.stores.ledger_fold import EndedRun
from gateway.telemetry.metrics import OTHER, Metrics

BREAKER_STATES = ("closed", "half_open", "open")
FINDING_EVENTS = {
    "claims": "claim",
    "injection": "injection",
    "pii": "pii",
    "secrets": "secret",
    "links": "exfiltration",
    "leak": "leak",
    "moderation": "moderation",
}
"""The event that a detector's finding is, where its rule acts."""


@dataclass(slots=True)
class Counts:
    """One per worker. Tools, providers and models that `policy` does not name count as `other`."""

    metrics: Metrics
    policy: Callable[[], Policy]
    notify: Callable[[str, dict[str, Any]], None]
    _saved: Nano = 0
    """Nano-dollars not counted yet; negative while what was tried in vain is not made up for."""
    _not_closed: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """State by breaker, under the kind and the name that metrics show it by."""

    def attempt_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """One attempt, with its money, tokens and times."""
        m, step, route, child = self.metrics, attempt.turn.step, attempt.route, self.metrics.child
        now = time.perf_counter()
        model = route.label
        child(m.requests, step.surface.value, model, route.provider_name, outcome).inc()
        self._saved += attempt.saved
        if self._saved > 0:
            m.saved.inc(self._saved / NANO_PER_USD)
            self._saved = 0
        for bucket in USAGE_BUCKETS:
            if amount := getattr(attempt.usage, bucket):
                child(m.tokens, model, bucket).inc(amount)
        if attempt.cost:
            child(m.cost, model, attempt.turn.caller.team or "").inc(attempt.cost / NANO_PER_USD)
        upstream = (attempt.done_at or now) - attempt.sent_at if attempt.sent_at else 0.0
        if not attempt.kept:
            child(m.upstream, route.provider_name).observe(upstream)
        if attempt.queued_ms:
            child(m.queued, route.provider_name).observe(attempt.queued_ms / 1000)
        waited = (attempt.waited_ms + attempt.queued_ms) / 1000
        m.overhead.observe(max(0.0, now - attempt.turn.clock - upstream - waited))
        if step.stream and attempt.first_at:
            child(m.ttft, route.provider_name).observe(attempt.first_at - attempt.sent_at)
        if attempt.calls:
            tools = self.policy().tools
            for call in attempt.calls:
                child(m.tool_calls, call.name if call.name in tools else OTHER, outcome).inc()

    def results_read(self, results: Sequence[Json]) -> None:
        """Tool results that a request brought."""
        m, tools = self.metrics, self.policy().tools
        for result in results:
            name = result["name"] if result["name"] in tools else OTHER
            m.child(m.tool_results, name, "ok" if result["ok"] else "error").inc()

    def runs_ended(self, runs: Sequence[EndedRun]) -> None:
        """Runs whose ending has come to the ledger."""
        m = self.metrics
        for run in runs:
            m.child(m.runs_ended, run.status).inc()
            m.run_cost.observe(run.cost / NANO_PER_USD)
            m.run_steps.observe(run.steps)
            m.run_seconds.observe(run.lasted / 1000)
            if run.session_cost is not None and run.session_lasted is not None:
                m.session_cost.observe(run.session_cost / NANO_PER_USD)
                m.session_seconds.observe(run.session_lasted / 1000)

    def found(self, about: Mapping[str, Any], findings: Sequence[Json]) -> None:
        """Findings, of which operators are told that count."""
        m = self.metrics
        for finding in findings:
            m.child(m.findings, finding["detector"], finding["channel"], finding["action"]).inc()
            kind = FINDING_EVENTS.get(finding["detector"])
            if kind is not None and finding["mode"] == "enforce":
                self.notify(kind, {**about, **finding})

    def breaker_is(self, key: str, state: str) -> None:
        """A breaker's new state. Of several that share a name, of teams or of a model's providers, the worst
        is shown."""
        name = parse_breaker_key(key)
        if name is None:
            return
        policy = self.policy()
        known: Collection[str] = policy.tools
        shown = name.name
        if name.kind == "provider":
            known = {*policy.providers, SIM_PROVIDER}
        elif name.kind == "model":
            known = {*policy.models, f"{SIM_PREFIX}*"}
            # A model's breaker is named PROVIDER/MODEL.
            shown = shown.partition("/")[2]
        shown = shown if shown in known else OTHER
        states = self._not_closed.setdefault((name.kind, shown), {})
        if state == "closed":
            states.pop(key, None)
        else:
            states[key] = BREAKER_STATES.index(state)
        worst = max(states.values(), default=0)
        self.metrics.child(self.metrics.breaker_state, name.kind, shown).set(worst)

    def routed(self, asked: str, served: str, rule: str) -> None:
        """A step that another model served than the one it asked for."""
        self.metrics.child(self.metrics.routed, asked, served, rule).inc()

    def looked_up(self, tier: str, outcome: str) -> None:
        """A question to the cache of answers."""
        self.metrics.child(self.metrics.cache, tier, outcome).inc()

    def shortened(self, mode: str, tokens: int) -> None:
        """Input that was left out."""
        self.metrics.child(self.metrics.shortened, mode).inc(tokens)

    def bypassed(self, check: str) -> None:
        """A check that a step passed without, because it could not be made."""
        self.metrics.child(self.metrics.bypassed, check).inc()

    def forgotten(self, what: str, rows: int) -> None:
        """Rows that retention or an erasure removed."""
        if rows:
            self.metrics.child(self.metrics.forgotten, what).inc(rows)
