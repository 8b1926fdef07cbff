"""What operators hear, keep and set: alerts, audit, recording, traces, retention, passthrough, the server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.policy.fields import (
    Bytes,
    Characters,
    Count,
    Days,
    Flag,
    JsonDepth,
    Mode,
    Name,
    OneOrMore,
    Portion,
    Seconds,
    Secret,
    SecretUrl,
    UrlPath,
)
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match, Names
from gateway.policy.sections.providers import PriceOrFree

AlertEvent = Literal[
    "approval_decided",
    "approval_requested",
    "audit_failed",
    "audit_head",
    "audit_recovered",
    "breaker_closed",
    "breaker_open",
    "budget_exceeded",
    "budget_warning",
    "claim",
    "exfiltration",
    "injection",
    "key_expiring",
    "kill",
    "leak",
    "ledger_drift",
    "limit_exceeded",
    "loop_detected",
    "moderation",
    "pii",
    "policy_reload_failed",
    "policy_reloaded",
    "policy_rolled_back",
    "policy_rollout",
    "revive",
    "routing_rule_off",
    "run_stopped",
    "secret",
    "spend_anomaly",
    "tool_drift",
    "upstream_credentials_rejected",
]


AlertFormat = Literal["generic", "slack", "pagerduty", "teams"]


class Alert(Section):
    """A webhook."""

    name: Name
    """What the alert is called in logs and metrics."""
    url: SecretUrl
    """Where it is sent; never shown, for many such URLs are credentials."""
    on: Annotated[tuple[AlertEvent, ...], Field(min_length=1), OneOrMore]
    """Events that are sent."""
    secret: Secret | None = None
    """Signs `x-guardrail-signature`; absent means a key made from the gateway's own secret."""
    mode: Mode = "enforce"
    """`shadow` records what would have been sent."""
    match: Match = EVERYTHING
    """Calls whose events are sent."""
    format: AlertFormat = "generic"
    """Whose webhook it is: what is said is the same, its form differs. `pagerduty` takes its routing key from
    `secret`."""
    retry_for_s: Seconds = 86_400.0
    """How long a receiver that cannot be reached is tried; then the delivery has failed."""


class Audit(Section):
    """What the audit log holds beside the changes that operators make, and what happens without it."""

    decisions: Literal["all", "refusals", "off"] = "all"
    """`all`: each decision about a step, and the figures of every step; `refusals`: refusals alone, and the
    figures; `off`: neither."""
    on_failure: Literal["continue", "refuse"] = "continue"
    """While it cannot be written for longer than `grace_s`: `refuse` lets no step begin."""
    grace_s: Seconds = 60.0
    """How long it may go unwritten before that is a failure. Nothing is lost meanwhile."""


class Recording(Section):
    """What is kept of steps besides their facts, encrypted, for `gateway backtest` and `gateway replay`."""

    content: Flag = False
    """Keep requests as clients sent them and answers as providers gave them. Without, rules about content
    cannot be tried on what has been, and say `unknown`."""
    retention_days: Annotated[Count, Field(le=3650)] = 30
    """Days until what is kept is deleted."""
    match: Match = EVERYTHING
    """Calls whose content is kept."""


class Tracing(Section):
    """What OpenTelemetry is told, where an OTLP endpoint is configured."""

    content: Literal["off", "redacted"] = "off"
    """`redacted` attaches what was said, arguments and results of tools included, after personal data and
    credentials in it were replaced, whatever `screening` says. `off` attaches nothing of it."""
    content_chars: Characters = 8192
    """Characters of a step's newest messages, and of its answer, that are attached."""
    match: Match = EVERYTHING
    """Calls whose content is attached."""
    sample: Portion | None = None
    """Share of runs that are traced; absent means what `OTEL_TRACES_SAMPLER` says, else all. A run that a
    rule or an operator stopped is always traced."""


class Tenant(Section):
    """Whose data a rule of `retention` is about. Every key given must match; of a list, one entry must."""

    key: Names | None = None
    """Names of gateway keys."""
    team: Names | None = None
    """Teams."""


class RetentionRule(Section):
    """How long some tenants' data is kept. Of each figure the first rule that matches and gives it counts."""

    name: Name
    """What the rule is called."""
    match: Tenant
    """Whose data is meant."""
    steps_days: Days | None = None
    """As `retention.steps_days`."""
    runs_days: Days | None = None
    """As `retention.runs_days`."""
    labels_days: Days | None = None
    """As `retention.labels_days`."""


class Retention(Section):
    """How many days the ledger keeps what happened. Absent or `forever` means without an end. Days count from
    the last that is known of a run, so that its steps go together; the sums of what is removed stay."""

    steps_days: Days | None = None
    """Steps with their decisions, findings and tool calls, refusals, approvals, and events that could not be
    read. Afterwards the run keeps its sums, and spend is known by day, key, team, user, model, provider and
    surface."""
    runs_days: Days | None = None
    """Runs, and with a run whatever is left of its steps."""
    labels_days: Days | None = None
    """Names: of the user, the end user, the session, the run and the agent, tags, and texts about them.
    Afterwards `removed` stands in their place; key, team and model stay."""
    rules: tuple[RetentionRule, ...] = ()
    """Tenants whose data is kept for another time."""


class PassthroughRoute(Section):
    """A provider path that is forwarded as it is."""

    path: UrlPath
    """The path below the gateway, such as `/v1/audio/speech`; `{name}` stands for one segment."""
    provider: Name
    """Which of `providers` serves it."""
    methods: Annotated[
        tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...], Field(min_length=1), OneOrMore
    ] = ("POST",)
    """HTTP methods that are forwarded."""
    price: PriceOrFree
    """`free`, or what a request costs; there is no default."""


class Server(Section):
    """Limits on what a client may send, and what happens when it leaves."""

    max_body_bytes: Bytes = 33_554_432
    """Most bytes of a request body as sent."""
    max_decompressed_bytes: Bytes = 33_554_432
    """Most bytes of a request body after decompression."""
    max_json_depth: JsonDepth = 128
    """Deepest nesting of a JSON body."""
    on_disconnect: Literal["abort", "drain"] = "abort"
    """When a client leaves: abort the provider's call, or read it to its end for the exact usage."""
