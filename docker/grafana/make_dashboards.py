"""Writes the Grafana dashboards beside it: `python docker/grafana/make_dashboards.py`.

A dashboard here is rows of panels; a panel is a title, what it says, a unit and its queries. Where panels stand,
their ids and everything that Grafana wants besides follows from that. Tests compare the files with what this
writes.
"""

# Queries are read best on one line.
# ruff: noqa: E501
from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
HERE = Path(__file__).parent / "dashboards"
SCHEMA_VERSION = 39
"""Grafana 11; newer ones migrate it when they load it."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
J = 'job=~"$job"'


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are (expression, legend); `steps` are (from, colour), the first from None."""

    title: str
    about: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ()
    stacked: bool = False
    decimals: int | None = None
    maximum: float | None = None
    mappings: tuple[tuple[str, str, str], ...] = ()
    """(value, text, colour)"""


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels under a title. `variables` are names from `VARIABLES`."""

    uid: str
    title: str
    about: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=("guardrail-gateway",))


def stat(title: str, about: str, unit: str, expr: str, **more: Any) -> Panel:
    """A single figure with its recent course."""
    return Panel(title, about, unit, ((expr, ""),), kind="stat", **{"width": 4, "height": 5, **more})


def lines(title: str, about: str, unit: str, *queries: tuple[str, str], **more: Any) -> Panel:
    """Courses over time."""
    return Panel(title, about, unit, queries, **more)


def bars(title: str, about: str, unit: str, expr: str, legend: str, **more: Any) -> Panel:
    """Sums over the time shown, the largest first."""
    return Panel(title, about, unit, ((expr, legend),), kind="bargauge", **more)


VARIABLES: dict[str, tuple[str, str, str]] = {
    "job": ("Gateway", "gateway_workers", "job"),
    "model": ("Model", "gateway_requests_total", "model"),
    "provider": ("Provider", "gateway_requests_total", "provider"),
    "team": ("Team", "gateway_cost_usd_total", "team"),
}
"""By name: label, metric and label that its values are read from."""

OK_WARN_BAD = ((None, GREEN), (0.75, YELLOW), (1.0, RED))
ANY_IS_BAD = ((None, GREEN), (0.000000001, RED))


def quantiles(metric: str, by: str = "", labels: str = J) -> tuple[tuple[str, str], ...]:
    """The median, the 95th and the 99th percentile."""
    legend = f"{{{{{by}}}}} " if by else ""
    group = f"{by}, le" if by else "le"
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({group}) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))",
            f"{legend}p{round(q * 100)}",
        )
        for q in (0.5, 0.95, 0.99)
    )


SPEND_RATE = f"sum(rate(gateway_cost_usd_total{{{J}}}[5m])) * 3600"
STEPS = f"sum(rate(gateway_overhead_seconds_count{{{J}}}[5m]))"
SUCCESS = f"min(gateway:runs_ended:success_ratio1h{{{J}}})"
BREAKERS = (("0", "closed", GREEN), ("1", "half open", YELLOW), ("2", "open", RED))

OVERVIEW = Dashboard(
    "gw-overview",
    "Gateway / Overview",
    "What is burning, at a glance. The gateway's own dashboard has the runs, and the kill button.",
    (
        (
            "Now",
            (
                stat(
                    "Spending",
                    "Dollars an hour at the pace of the last five minutes.",
                    "currencyUSD",
                    SPEND_RATE,
                ),
                stat("Steps", "Model calls a second that were let in.", "reqps", STEPS),
                stat(
                    "Refused",
                    "Share of steps refused in the last 15 minutes.",
                    "percentunit",
                    f"max(gateway:refusals:ratio15m{{{J}}}) or vector(0)",
                    steps=((None, GREEN), (0.05, YELLOW), (0.2, RED)),
                ),
                stat(
                    "Runs that complete",
                    "Share of the last hour's runs that ended with an answer; those that nobody went on with are left out.",
                    "percentunit",
                    SUCCESS,
                    steps=((None, RED), (0.9, YELLOW), (0.97, GREEN)),
                ),
                stat(
                    "Fullest budget",
                    "Highest share in use of a budget that outlives a run or session.",
                    "percentunit",
                    f'max(gateway:budget_used:ratio{{{J}, per!~"run|session"}}) or vector(0)',
                    steps=OK_WARN_BAD,
                ),
                stat(
                    "Alerts firing",
                    "Alerts of docker/prometheus/alerts.yaml that fire now.",
                    "short",
                    'count(ALERTS{alertname=~"Gateway.*", alertstate="firing"}) or vector(0)',
                    steps=((None, GREEN), (1, RED)),
                    decimals=0,
                ),
            ),
        ),
        (
            "Course",
            (
                lines(
                    "Spending by model",
                    "Dollars an hour.",
                    "currencyUSD",
                    (
                        f"sum by (model) (rate(gateway_cost_usd_total{{{J}}}[$__rate_interval])) * 3600",
                        "{{model}}",
                    ),
                    stacked=True,
                ),
                lines(
                    "Steps by outcome",
                    "How attempts ended, and what was refused before one was made.",
                    "reqps",
                    (
                        f"sum by (outcome) (rate(gateway_requests_total{{{J}}}[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                    (f"sum(rate(gateway_refusals_total{{{J}}}[$__rate_interval]))", "refused"),
                    stacked=True,
                ),
                lines(
                    "Time that the gateway adds",
                    "A step's time in the gateway itself, screening included.",
                    "s",
                    *quantiles("gateway_overhead_seconds"),
                ),
                lines(
                    "Budgets",
                    "Highest share in use of each budget, over the scopes lately charged.",
                    "percentunit",
                    (f"max by (budget, per) (gateway_budget_used_ratio{{{J}}})", "{{budget}} per {{per}}"),
                    steps=OK_WARN_BAD,
                    maximum=1,
                ),
                lines(
                    "Refusals by code",
                    "Steps a second. docs/errors.md says what each code means.",
                    "reqps",
                    (f"sum by (code) (rate(gateway_refusals_total{{{J}}}[$__rate_interval]))", "{{code}}"),
                    stacked=True,
                ),
                lines(
                    "What operators are told",
                    "Events a minute: warnings, stops, loops, kills, approvals.",
                    "short",
                    (
                        f"sum by (event) (rate(gateway_events_total{{{J}}}[$__rate_interval])) * 60",
                        "{{event}}",
                    ),
                ),
            ),
        ),
    ),
    variables=("job",),
)

RUNS = Dashboard(
    "gw-runs",
    "Gateway / Runs and loops",
    "How runs go and how they end.",
    (
        (
            "Endings",
            (
                lines(
                    "Runs by ending",
                    "Runs an hour, by what ended them.",
                    "short",
                    (
                        f"sum by (status) (rate(gateway_runs_ended_total{{{J}}}[$__rate_interval])) * 3600",
                        "{{status}}",
                    ),
                    stacked=True,
                    width=12,
                ),
                lines(
                    "Runs that complete",
                    "Share of the last hour's runs that ended with an answer. Below 90 % an alert fires.",
                    "percentunit",
                    (f"gateway:runs_ended:success_ratio1h{{{J}}}", "{{job}}"),
                    steps=((None, RED), (0.9, GREEN)),
                    maximum=1,
                    width=12,
                ),
            ),
        ),
        (
            "Length and cost",
            (
                lines("Steps of a run", "At the run's end.", "short", *quantiles("gateway_run_steps")),
                lines(
                    "Length of a run",
                    "From its beginning to its last answer.",
                    "s",
                    *quantiles("gateway_run_seconds"),
                ),
                lines(
                    "Cost of a run", "At the run's end.", "currencyUSD", *quantiles("gateway_run_cost_usd")
                ),
                lines(
                    "Steps, and what is usual",
                    "The mean of the last hour beside that of the last week.",
                    "short",
                    (f"gateway:run_steps:mean1h{{{J}}}", "last hour"),
                    (f"gateway:run_steps:mean7d{{{J}}}", "last week"),
                ),
                lines(
                    "Cost of a session, and what is usual",
                    "The mean of the last hour beside that of the last week.",
                    "currencyUSD",
                    (f"gateway:session_cost_usd:mean1h{{{J}}}", "last hour"),
                    (f"gateway:session_cost_usd:mean7d{{{J}}}", "last week"),
                ),
                lines(
                    "Length of a session",
                    "Until the end of its latest run.",
                    "s",
                    *quantiles("gateway_session_seconds"),
                ),
            ),
        ),
        (
            "Loops, tools and people",
            (
                lines(
                    "Loops and limits",
                    "Refusals a minute by the rule that stopped a run.",
                    "short",
                    (
                        f'sum by (code) (rate(gateway_refusals_total{{{J}, code=~"loop_detected|step_limit_exceeded|run_timeout|tool_limit_exceeded|token_limit_exceeded"}}[$__rate_interval])) * 60',
                        "{{code}}",
                    ),
                    (
                        f'sum(rate(gateway_events_total{{{J}, event="loop_detected"}}[$__rate_interval])) * 60',
                        "loops seen",
                    ),
                ),
                lines(
                    "Tool errors",
                    "Share of a tool's results that are errors, over 15 minutes.",
                    "percentunit",
                    (f"gateway:tool_results:error_ratio15m{{{J}}}", "{{tool}}"),
                    steps=((None, GREEN), (0.2, RED)),
                    maximum=1,
                ),
                lines(
                    "Approvals asked for",
                    "Approvals for each run that ends, over an hour.",
                    "short",
                    (f"gateway:escalations:ratio1h{{{J}}}", "{{job}}"),
                    steps=((None, GREEN), (0.1, RED)),
                ),
            ),
        ),
    ),
    variables=("job",),
)

MT = f'{J}, model=~"$model", team=~"$team"'
SPEND = Dashboard(
    "gw-spend",
    "Gateway / Spend and savings",
    "Where the money goes. Figures for charts; GET /admin/v1/spend has the exact ones.",
    (
        (
            "In the time shown",
            (
                stat(
                    "Spent",
                    "Dollars settled.",
                    "currencyUSD",
                    f"sum(increase(gateway_cost_usd_total{{{MT}}}[$__range]))",
                ),
                stat(
                    "Saved",
                    "By routing, and by answers given again.",
                    "currencyUSD",
                    f"sum(increase(gateway_saved_usd_total{{{J}}}[$__range]))",
                ),
                stat(
                    "By the day",
                    "Dollars a day at the pace of the time shown.",
                    "currencyUSD",
                    f"sum(rate(gateway_cost_usd_total{{{MT}}}[$__range])) * 86400",
                ),
                stat(
                    "A run",
                    "Mean cost of the runs that ended.",
                    "currencyUSD",
                    f"sum(increase(gateway_run_cost_usd_sum{{{J}}}[$__range])) / sum(increase(gateway_run_cost_usd_count{{{J}}}[$__range]))",
                ),
                stat(
                    "Answers from the cache",
                    "Share of lookups that found one.",
                    "percentunit",
                    f'sum(increase(gateway_cache_total{{{J}, outcome="hit"}}[$__range])) / sum(increase(gateway_cache_total{{{J}, outcome=~"hit|miss"}}[$__range]))',
                ),
                stat(
                    "Without a price",
                    "Steps refused because a model has no price.",
                    "short",
                    f"sum(increase(gateway_unpriced_total{{{J}}}[$__range]))",
                    steps=((None, GREEN), (1, RED)),
                    decimals=0,
                ),
            ),
        ),
        (
            "By whom and for what",
            (
                lines(
                    "By model",
                    "Dollars an hour.",
                    "currencyUSD",
                    (
                        f"sum by (model) (rate(gateway_cost_usd_total{{{MT}}}[$__rate_interval])) * 3600",
                        "{{model}}",
                    ),
                    stacked=True,
                    width=12,
                ),
                lines(
                    "By team",
                    "Dollars an hour.",
                    "currencyUSD",
                    (
                        f"sum by (team) (rate(gateway_cost_usd_total{{{MT}}}[$__rate_interval])) * 3600",
                        "{{team}}",
                    ),
                    stacked=True,
                    width=12,
                ),
                bars(
                    "Dearest models",
                    "Dollars in the time shown.",
                    "currencyUSD",
                    f"topk(10, sum by (model) (increase(gateway_cost_usd_total{{{MT}}}[$__range])))",
                    "{{model}}",
                ),
                bars(
                    "Dearest teams",
                    "Dollars in the time shown.",
                    "currencyUSD",
                    f"topk(10, sum by (team) (increase(gateway_cost_usd_total{{{MT}}}[$__range])))",
                    "{{team}}",
                ),
                lines(
                    "Tokens",
                    "A second, by bucket.",
                    "short",
                    (
                        f'sum by (kind) (rate(gateway_tokens_total{{{J}, model=~"$model"}}[$__rate_interval]))',
                        "{{kind}}",
                    ),
                    stacked=True,
                ),
            ),
        ),
        (
            "Savings",
            (
                lines(
                    "Savings",
                    "Dollars an hour.",
                    "currencyUSD",
                    (
                        f"sum by (job) (rate(gateway_saved_usd_total{{{J}}}[$__rate_interval])) * 3600",
                        "{{job}}",
                    ),
                ),
                lines(
                    "Steps that another model served",
                    "A second, by rule. `fallback` is a provider that failed.",
                    "reqps",
                    (
                        f"sum by (from, to, rule) (rate(gateway_routed_total{{{J}}}[$__rate_interval]))",
                        "{{from}} to {{to}} ({{rule}})",
                    ),
                ),
                lines(
                    "Cache and shortened results",
                    "Lookups a second by what came of them, and thousands of tokens a second left out of tool results.",
                    "short",
                    (
                        f"sum by (tier, outcome) (rate(gateway_cache_total{{{J}}}[$__rate_interval]))",
                        "{{tier}} {{outcome}}",
                    ),
                    (
                        f"sum by (mode) (rate(gateway_context_saved_tokens_total{{{J}}}[$__rate_interval])) / 1000",
                        "k tokens shortened ({{mode}})",
                    ),
                ),
            ),
        ),
    ),
    variables=("job", "model", "team"),
)

GUARDS = Dashboard(
    "gw-guards",
    "Gateway / Guards",
    "What detectors find, what is refused, and what could not be checked.",
    (
        (
            "In the time shown",
            (
                stat(
                    "Findings",
                    "Of all detectors.",
                    "short",
                    f"sum(increase(gateway_findings_total{{{J}}}[$__range]))",
                    decimals=0,
                ),
                stat(
                    "Injections",
                    "Findings of the injection detector, by hundred steps.",
                    "percentunit",
                    f'sum(increase(gateway_findings_total{{{J}, detector="injection"}}[$__range])) / sum(increase(gateway_overhead_seconds_count{{{J}}}[$__range]))',
                ),
                stat(
                    "Refusals",
                    "Steps refused.",
                    "short",
                    f"sum(increase(gateway_refusals_total{{{J}}}[$__range]))",
                    decimals=0,
                ),
                stat(
                    "Bypassed",
                    "Checks that could not run and were let pass. Anything but 0 is an alert.",
                    "short",
                    f"sum(increase(gateway_bypassed_total{{{J}}}[$__range])) or vector(0)",
                    steps=ANY_IS_BAD,
                    decimals=0,
                ),
                stat(
                    "Kills over a second",
                    "Kills that took longer than a second to reach a worker, in the last 15 minutes.",
                    "short",
                    f"sum(gateway:kills_slow:increase15m{{{J}}}) or vector(0)",
                    steps=((None, GREEN), (0.5, RED)),
                    decimals=0,
                ),
                stat(
                    "Audit log unwritten",
                    "How long the audit log could not be written.",
                    "s",
                    f"max(gateway_audit_unwritten_seconds{{{J}}})",
                    steps=ANY_IS_BAD,
                ),
            ),
        ),
        (
            "Findings",
            (
                lines(
                    "By detector",
                    "A minute.",
                    "short",
                    (
                        f"sum by (detector) (rate(gateway_findings_total{{{J}}}[$__rate_interval])) * 60",
                        "{{detector}}",
                    ),
                    stacked=True,
                ),
                lines(
                    "By channel and action",
                    "A minute: where the text came from, and what was done.",
                    "short",
                    (
                        f"sum by (channel, action) (rate(gateway_findings_total{{{J}}}[$__rate_interval])) * 60",
                        "{{channel}}: {{action}}",
                    ),
                    stacked=True,
                ),
                lines(
                    "Injections, and what is usual",
                    "Findings by step, of the last hour and the last week.",
                    "percentunit",
                    (f"gateway:injections:ratio1h{{{J}}}", "last hour"),
                    (f"gateway:injections:ratio7d{{{J}}}", "last week"),
                ),
            ),
        ),
        (
            "Refusals and operators",
            (
                bars(
                    "Rules that refuse most",
                    "Refusals in the time shown.",
                    "short",
                    f"topk(12, sum by (code, rule) (increase(gateway_refusals_total{{{J}}}[$__range])))",
                    "{{code}} {{rule}}",
                    width=12,
                    decimals=0,
                ),
                lines(
                    "From a kill to obedience",
                    "Seen by the worker that was asked. A second is the promise.",
                    "s",
                    *quantiles("gateway_kill_propagation_seconds"),
                    steps=((None, GREEN), (1, RED)),
                    width=12,
                ),
                lines(
                    "Webhook alerts",
                    "A minute, by what came of them.",
                    "short",
                    (
                        f"sum by (outcome) (rate(gateway_alerts_total{{{J}}}[$__rate_interval])) * 60",
                        "{{outcome}}",
                    ),
                ),
                lines(
                    "Webhook alerts that wait",
                    "Age of the oldest delivery, by alert.",
                    "s",
                    (f"max by (alert) (gateway_alert_queue_oldest_seconds{{{J}}})", "{{alert}}"),
                    steps=((None, GREEN), (600, RED)),
                ),
                lines(
                    "Policy",
                    "Policies taken over, and files refused, since the start.",
                    "short",
                    (f"max by (job) (gateway_policy_generation{{{J}}})", "generation"),
                    (f"sum by (job) (gateway_policy_reload_failures_total{{{J}}})", "refused"),
                ),
            ),
        ),
    ),
    variables=("job",),
)

P = f'{J}, provider=~"$provider"'
PROVIDERS = Dashboard(
    "gw-providers",
    "Gateway / Providers and breakers",
    "Who answers, how fast, and who is left alone.",
    (
        (
            "Breakers",
            (
                Panel(
                    "Breakers",
                    "Of providers, models and tools that the gateway has met. Other tools are one.",
                    "short",
                    ((f"max by (kind, id) (gateway_breaker_state{{{J}}})", "{{kind}} {{id}}"),),
                    kind="state-timeline",
                    width=24,
                    mappings=BREAKERS,
                ),
            ),
        ),
        (
            "Attempts",
            (
                lines(
                    "By provider and outcome",
                    "A second.",
                    "reqps",
                    (
                        f"sum by (provider, outcome) (rate(gateway_requests_total{{{P}}}[$__rate_interval]))",
                        "{{provider}} {{outcome}}",
                    ),
                    stacked=True,
                ),
                lines(
                    "Failures",
                    "Share of a provider's attempts that failed, over five minutes.",
                    "percentunit",
                    (f"gateway:upstream_failures:ratio5m{{{P}}}", "{{provider}}"),
                    steps=((None, GREEN), (0.1, RED)),
                    maximum=1,
                ),
                lines(
                    "Served by another model",
                    "Fallbacks a second.",
                    "reqps",
                    (
                        f'sum by (from, to) (rate(gateway_routed_total{{{J}, rule="fallback"}}[$__rate_interval]))',
                        "{{from}} to {{to}}",
                    ),
                ),
            ),
        ),
        (
            "Time",
            (
                lines(
                    "At the provider",
                    "From dispatch to the end of the answer.",
                    "s",
                    *quantiles("gateway_upstream_seconds", "provider", P),
                ),
                lines(
                    "To the first token",
                    "Of streams, from dispatch.",
                    "s",
                    *quantiles("gateway_time_to_first_token_seconds", "provider", P),
                ),
                lines(
                    "In the queue",
                    "Before a provider with max_concurrency, of steps that waited.",
                    "s",
                    *quantiles("gateway_queue_seconds", "provider", P),
                ),
            ),
        ),
    ),
    variables=("job", "provider"),
)

INTERNALS = Dashboard(
    "gw-internals",
    "Gateway / Internals",
    "The gateway's own health: store, ledger, processes.",
    (
        (
            "Now",
            (
                stat("Workers", "Processes that serve.", "short", f"sum(gateway_workers{{{J}}})", decimals=0),
                stat(
                    "In flight",
                    "Requests being served, those that wait included.",
                    "short",
                    f"sum(gateway_in_flight_requests{{{J}}})",
                    decimals=0,
                ),
                stat(
                    "Ledger lag",
                    "How long ago everything settled was in the ledger database.",
                    "s",
                    f"max(gateway_drain_lag_seconds{{{J}}})",
                    steps=((None, GREEN), (10, YELLOW), (60, RED)),
                ),
                stat(
                    "Ledger drift",
                    "Dollars by which two records of the same spending differ. 0 is right.",
                    "currencyUSD",
                    f"max(gateway_ledger_drift_usd{{{J}}}) or vector(0)",
                    steps=ANY_IS_BAD,
                ),
                stat(
                    "Policy",
                    "Whether the policy in force is the one in the files.",
                    "short",
                    f"min(gateway_policy_healthy{{{J}}})",
                    steps=((None, RED), (1, GREEN)),
                    mappings=(("0", "refused", RED), ("1", "in force", GREEN)),
                ),
                stat(
                    "Store errors",
                    "Failed store operations of the last five minutes.",
                    "short",
                    f"sum(increase(gateway_store_errors_total{{{J}}}[5m]))",
                    steps=((None, GREEN), (1, RED)),
                    decimals=0,
                ),
            ),
        ),
        (
            "Time",
            (
                lines(
                    "Added to a step",
                    "A step's time in the gateway itself.",
                    "s",
                    *quantiles("gateway_overhead_seconds"),
                ),
                lines(
                    "Store, by operation",
                    "The 99th percentile. At 0.25 s steps are refused.",
                    "s",
                    (f"gateway:store_seconds:p99_5m{{{J}}}", "{{operation}}"),
                    steps=((None, GREEN), (0.1, RED)),
                ),
                lines(
                    "Event loop lag",
                    "The longest that an event loop was late within half a minute.",
                    "s",
                    (f"max by (instance) (gateway_loop_lag_seconds{{{J}}})", "{{instance}}"),
                    steps=((None, GREEN), (0.5, RED)),
                ),
            ),
        ),
        (
            "Processes",
            (
                lines(
                    "CPU",
                    "Cores in use, all workers of an instance.",
                    "short",
                    (
                        f"sum by (instance) (rate(process_cpu_seconds_total{{{J}}}[$__rate_interval]))",
                        "{{instance}}",
                    ),
                ),
                lines(
                    "Memory",
                    "Resident, all workers of an instance; screening processes are not in it.",
                    "bytes",
                    (f"sum by (instance) (process_resident_memory_bytes{{{J}}})", "{{instance}}"),
                ),
                lines(
                    "In flight by instance",
                    "Requests being served.",
                    "short",
                    (f"sum by (instance) (gateway_in_flight_requests{{{J}}})", "{{instance}}"),
                ),
                lines(
                    "Store operations",
                    "A second, by operation.",
                    "ops",
                    (
                        f"sum by (operation) (rate(gateway_store_seconds_count{{{J}}}[$__rate_interval]))",
                        "{{operation}}",
                    ),
                    stacked=True,
                ),
                lines(
                    "What is lost",
                    "A minute: recordings that could not be kept. Neither money nor decisions are in it.",
                    "short",
                    (
                        f"sum by (job) (rate(gateway_recordings_lost_total{{{J}}}[$__rate_interval])) * 60",
                        "recordings",
                    ),
                ),
                lines(
                    "Open files",
                    "All workers of an instance.",
                    "short",
                    (f"sum by (instance) (process_open_fds{{{J}}})", "{{instance}}"),
                ),
            ),
        ),
    ),
    variables=("job",),
)

DASHBOARDS = (OVERVIEW, RUNS, SPEND, GUARDS, PROVIDERS, INTERNALS)


def _panel(panel: Panel, number: int, x: int, y: int) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps or ((None, BLUE),)],
        },
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.mappings:
        options = {value: {"text": text, "color": colour} for value, text, colour in panel.mappings}
        defaults["mappings"] = [{"type": "value", "options": options}]
    reduce = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
    options_of: dict[str, Json] = {
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {"reduceOptions": reduce, "colorMode": "value", "graphMode": "area", "textMode": "value"},
        "bargauge": {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"},
        "state-timeline": {
            "showValue": "auto",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        },
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
        }
    instant = panel.kind == "bargauge"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options_of[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend or "__auto",
                "instant": instant,
                "range": not instant,
            }
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _variable(name: str) -> Json:
    label, metric, of = VARIABLES[name]
    scope = "" if name == "job" else f"{{{J}}}"
    query = f"label_values({metric}{scope}, {of})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def render(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana imports it."""
    panels: list[Json] = []
    number, y = 1, 0
    for title, content in dashboard.rows:
        panels.append(
            {
                "id": number,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        number, x, y, tallest = number + 1, 0, y + 1, 0
        for panel in content:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append(_panel(panel, number, x, y))
            number, x, tallest = number + 1, x + panel.width, max(tallest, panel.height)
        y += tallest
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    address = {
        "name": "gateway_url",
        "label": "Gateway",
        "type": "constant",
        "query": "http://127.0.0.1:8081",
        "hide": 2,
    }
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, *map(_variable, dashboard.variables), address]},
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": SOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "expr": 'ALERTS{alertname=~"Gateway.*", alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "links": [
            {
                "type": "dashboards",
                "title": "Gateway",
                "tags": list(dashboard.tags),
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            },
            {
                "type": "link",
                "title": "Runs and kill buttons",
                "icon": "external link",
                "url": "${gateway_url}/dashboard",
                "targetBlank": True,
            },
        ],
        "panels": panels,
    }


def written() -> dict[Path, str]:
    """Every file and what it has to hold."""
    return {
        HERE / f"{dashboard.uid.removeprefix('gw-')}.json": json.dumps(
            render(dashboard), indent=2, ensure_ascii=False
        )
        + "\n"
        for dashboard in DASHBOARDS
    }


if __name__ == "__main__":
    HERE.mkdir(parents=True, exist_ok=True)
    for path, text in written().items():
        path.write_text(text)
        sys.stdout.write(f"{path}\n")
