"""How an alert is written for whom it goes to: our own JSON, Slack, PagerDuty or Teams. Pure.

Every function takes what our own format says (`gateway.alerting.events.payload`); chats and pagers get one
message for several events that are alike. What an event holds was written by callers, models and tools:
nowhere does it become markup, a mention or a link.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gateway.alerting.events import CLOSES
from gateway.domain import Json

Format = Literal["generic", "slack", "pagerduty", "teams"]
TOGETHER: frozenset[str] = frozenset({"slack", "pagerduty", "teams"})
"""Formats that tell several events of one kind in one message."""
GAP_MS = 30_000
"""After a message about something, more of it is gathered for so long."""

Severity = Literal["critical", "error", "warning", "info"]
_SEVERITIES: dict[str, Severity] = {
    "audit_failed": "critical",
    "ledger_drift": "critical",
    "upstream_credentials_rejected": "critical",
    "breaker_open": "error",
    "budget_exceeded": "error",
    "exfiltration": "error",
    "kill": "error",
    "leak": "error",
    "policy_reload_failed": "error",
    "policy_rolled_back": "error",
    "run_stopped": "error",
    "secret": "error",
    "approval_requested": "warning",
    "budget_warning": "warning",
    "claim": "warning",
    "injection": "warning",
    "key_expiring": "warning",
    "limit_exceeded": "warning",
    "loop_detected": "warning",
    "moderation": "warning",
    "pii": "warning",
    "routing_rule_off": "warning",
    "spend_anomaly": "warning",
    "tool_drift": "warning",
}
_SIGNS: dict[Severity, str] = {"critical": "🔴", "error": "🔴", "warning": "🟠", "info": "🔵"}

_FIELDS = (
    ("Run", ("run", "name"), ("run", "id")),
    ("User", ("run", "user"), ("facts", "user")),
    ("Team", ("run", "team"), ("facts", "team")),
    ("Agent", ("run", "agent"), ("facts", "agent")),
    ("Cost", ("run", "cost_usd"), ("facts", "cost_usd")),
    ("Rule", ("facts", "rule")),
    ("Code", ("facts", "code")),
    ("Tool", ("facts", "tool")),
    ("Breaker", ("facts", "breaker")),
    ("Reason", ("facts", "reason"), ("facts", "error")),
)
"""What is shown beside the sentence: a label, and where it is looked for in turn."""
_LISTED = 10
_DETAILED = 50
_FACT_BYTES = 8192


def severity_of(kind: str) -> Severity:
    """How loud it is told."""
    return _SEVERITIES.get(kind, "info")


def written(format_: Format, events: Sequence[Json], *, incident: str, routing_key: str = "") -> bytes:
    """The body for one event, or for several of one kind where the format can say that."""
    match format_:
        case "generic":
            message = events[0]
        case "slack":
            message = _slack(events)
        case "teams":
            message = _teams(events)
        case "pagerduty":
            message = _pagerduty(events, incident, routing_key)
    return json.dumps(_storable(message), separators=(",", ":")).encode()


def _title(events: Sequence[Json]) -> str:
    what = str(events[0]["event"]).replace("_", " ").capitalize()
    return f"{len(events)} × {what}" if len(events) > 1 else what


def _sentence(event: Json) -> str:
    """The sentence as people read it: the generic format has it escaped for chats already."""
    text = str(event["text"])
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _fields(event: Json) -> list[tuple[str, str]]:
    found = []
    for label, *places in _FIELDS:
        for part, name in places:
            value = (event.get(part) or {}).get(name)
            if value not in (None, ""):
                found.append((label, f"${value}" if label == "Cost" else _line(value, 300)))
                break
    return found


def _line(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:limit])


def _storable(value: Any) -> Any:
    """The same without lone surrogates, which are no JSON to most readers."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return value


def _href(event: Json) -> str | None:
    """The link, where it leads somewhere from outside of the gateway."""
    link = str(event.get("link") or "")
    usable = link.startswith(("https://", "http://")) and link.isprintable()
    return link.replace("|", "%7C").replace("<", "%3C").replace(">", "%3E") if usable else None


def _opens(event: Json) -> str:
    return "Open the run" if event.get("run") else "Open"


# -- Slack -------------------------------------------------------------------------------------------


def _slack(events: Sequence[Json]) -> Json:
    """https://api.slack.com/reference/block-kit: `text` is what notifications show."""
    first = events[0]
    sign = _SIGNS[severity_of(str(first["event"]))]
    blocks: list[Json] = [
        {"type": "header", "text": {"type": "plain_text", "text": f"{sign} {_title(events)}"[:150]}}
    ]
    if len(events) == 1:
        blocks.append(_section(_escaped(_sentence(first))))
        fields = [f"*{label}*\n{_escaped(value)}" for label, value in _fields(first)]
        if fields:
            blocks.append({"type": "section", "fields": [_mrkdwn(text[:2000]) for text in fields]})
        if (href := _href(first)) is not None:
            blocks.append(_section(f"<{_escaped(href)}|{_opens(first)}>"))
    else:
        blocks.append(_section("\n".join(_listed(event) for event in events[:_LISTED])))
        if len(events) > _LISTED:
            blocks.append(_section(f"… and {len(events) - _LISTED} more"))
    ids = f"{first['id']}" if len(events) == 1 else f"{first['id']} to {events[-1]['id']}"
    blocks.append({"type": "context", "elements": [_mrkdwn(f"{first['at']} · {ids}")]})
    text = first["text"] if len(events) == 1 else f"{_title(events)}, such as {first['text']}"
    return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def _listed(event: Json) -> str:
    text = _escaped(_sentence(event)[:200])
    href = _href(event)
    return f"• {text}" + (f" <{_escaped(href)}|open>" if href is not None else "")


def _section(text: str) -> Json:
    return {"type": "section", "text": _mrkdwn(text[:3000])}


def _mrkdwn(text: str) -> Json:
    # Verbatim: names and addresses in it do not become mentions and links.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# -- Teams -------------------------------------------------------------------------------------------


def _teams(events: Sequence[Json]) -> Json:
    """An adaptive card, as Teams' workflows take it. Text runs hold no markup."""
    first = events[0]
    body = [_run_block(_title(events), weight="bolder", size="large")]
    body += [_run_block(_sentence(event)[:1000]) for event in events[:_LISTED]]
    if len(events) > _LISTED:
        body.append(_run_block(f"… and {len(events) - _LISTED} more"))
    elif len(events) == 1:
        body += [_run_block(f"{label}: {value}") for label, value in _fields(first)]
    card: Json = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    if (href := _href(first)) is not None:
        card["actions"] = [{"type": "Action.OpenUrl", "title": _opens(first), "url": href}]
    content = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [content]}


def _run_block(text: str, **style: str) -> Json:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


# -- PagerDuty ---------------------------------------------------------------------------------------


def _pagerduty(events: Sequence[Json], incident: str, routing_key: str) -> Json:
    """https://developer.pagerduty.com/docs/events-api-v2: what is over is resolved under the key under which
    it was told."""
    first = events[0]
    kind = str(first["event"])
    told: Json = {
        "routing_key": routing_key,
        "dedup_key": f"guardrail-{incident}",
        "event_action": "resolve" if kind in CLOSES else "trigger",
        "client": "guardrail gateway",
    }
    if (href := _href(first)) is not None:
        told["client_url"] = href
        told["links"] = [{"href": href, "text": _opens(first)}]
    summary = _sentence(first) if len(events) == 1 else f"{_title(events)}, such as {_sentence(first)}"
    told["payload"] = {
        "summary": summary[:1024],
        "source": "guardrail-gateway",
        "severity": severity_of(kind),
        "timestamp": first["at"],
        "class": kind,
        "custom_details": _details(events),
    }
    fields = dict(_fields(first))
    for name, label in (("component", "Breaker"), ("group", "Team")):
        if label in fields:
            told["payload"][name] = fields[label]
    return told


def _details(events: Sequence[Json]) -> Json:
    first = events[0]
    facts: Mapping[str, Any] = first.get("facts") or {}
    details: Json = {"id": first["id"], **{label.lower(): value for label, value in _fields(first)}}
    if len(json.dumps(facts)) <= _FACT_BYTES:
        details["facts"] = facts
    if len(events) > 1:
        runs = [(event.get("run") or {}).get("id") for event in events]
        details["count"] = len(events)
        details["runs"] = [run for run in dict.fromkeys(runs) if run][:_DETAILED]
        details["ids"] = [event["id"] for event in events[:_DETAILED]]
    return details
