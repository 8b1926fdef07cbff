"""What is told of an event: whom and what it is about, and in which words. Pure; no database, no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from gateway.domain import Json, Millis, Surface, usd
from gateway.policy.sections.callers import EVERYTHING
from gateway.policy.sections.operations import Alert
from gateway.rules.breakers import parse_breaker_key
from gateway.rules.kills import kill_name, parse_kill_name
from gateway.stores.ledger_credentials import KeyRecord, TokenRecord
from gateway.values import frozen
from gateway.web.admin_views import stamp

QUIET_MS = 10 * 60 * 1000
"""The same event about the same thing is told once in so long."""
_QUIET_MS = {"key_expiring": 24 * 3_600_000}
SOON_MS = 7 * 86_400_000
"""Keys and tokens that expire within so long are told of, once a day."""

CLOSES = {
    "approval_decided": "approval_requested",
    "audit_recovered": "audit_failed",
    "breaker_closed": "breaker_open",
    "policy_reloaded": "policy_reload_failed",
    "revive": "kill",
}
"""Events that say that what another event told of is over."""

_IDENTITY = (
    "run",
    "approval",
    "rule",
    "breaker",
    "provider",
    "tool",
    "detector",
    "code",
    "status",
    "error",
)
"""Facts that say what an event is about, and `name` where that is not its run's. Events that agree in these
are the same."""
_TOLD = ("tool", "rule", "code", "status", "name", "breaker", "provider", "reason", "error")
_NOT_TOLD = ("link", "principal")
_PLACES = {
    "audit_failed": "/audit",
    "audit_recovered": "/audit",
    "audit_head": "/audit",
    "policy_reload_failed": "/policy",
    "policy_reloaded": "/policy",
    "policy_rolled_back": "/policy",
    "policy_rollout": "/policy",
}


@frozen
class Happened:
    """An event that some alert is about."""

    id: str
    kind: str
    at: Millis
    facts: Json

    @property
    def run(self) -> str | None:
        """The run that it is about."""
        run = self.facts.get("run")
        if run is None and self.kind == "kill":
            scope, target = parse_kill_name(str(self.facts.get("name")))
            run = target if scope == "run" else None
        return str(run) if run is not None else None

    @property
    def place(self) -> str:
        """The page of the dashboard that shows what it is about."""
        run = self.run
        return (
            f"/runs/{quote(run, safe='', errors='replace')}"
            if run is not None
            else _PLACES.get(self.kind, "/now")
        )


def quiet_ms(kind: str) -> Millis:
    """How long an event of this kind keeps the same one from being told again."""
    return _QUIET_MS.get(kind, QUIET_MS)


def subject_of(kind: str, facts: Mapping[str, Any]) -> str:
    """Equal for events that tell the same."""
    about = [kind, *(str(facts.get(name, "")) for name in _IDENTITY)]
    if "run" not in facts:
        about.append(str(facts.get("name", "")))
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def incident_of(kind: str, facts: Mapping[str, Any]) -> str:
    """Equal for events about one trouble, whichever runs meet it, and for the event that it is over."""
    opening = CLOSES.get(kind, kind)
    match opening:
        case "kill":
            name = str(facts.get("name") or kill_name(str(facts.get("scope")), str(facts.get("id"))))
            about = ["kill", name]
        case "breaker_open":
            about = ["breaker", str(facts.get("breaker"))]
        case "approval_requested":
            about = ["approval", str(facts.get("approval"))]
        case "policy_reload_failed" | "audit_failed":
            about = [opening]
        case _:
            named = [str(facts.get(name, "")) for name in _IDENTITY if name not in ("run", "status")]
            about = [kind, *named, "" if "run" in facts else str(facts.get("name", ""))]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def payload(event: Happened, run: Json | None, link: str) -> Json:
    """What a webhook is told: `id event at text run facts link`."""
    return {
        "id": event.id,
        "event": event.kind,
        "at": stamp(event.at),
        "text": sentence(event.kind, event.facts, run),
        "run": run,
        "facts": _readable(event.facts),
        "link": link,
    }


def _readable(facts: Mapping[str, Any]) -> Json:
    """Facts with money and times as the admin API writes them."""
    told: Json = {}
    for name, value in facts.items():
        if name == "cost" and isinstance(value, int):
            told["cost_usd"] = usd(value)
        elif (name.endswith("_at") or name == "until") and isinstance(value, int):
            told[name] = stamp(value)
        elif name not in _NOT_TOLD:
            told[name] = value
    return told


def sentence(kind: str, facts: Mapping[str, Any], run: Mapping[str, Any] | None) -> str:
    """One line for people, as chat webhooks show the field `text`: nothing in it is markup or a mention."""
    parts = [f"{name} {facts[name]}" for name in _TOLD if facts.get(name) not in (None, "")]
    if run is not None:
        parts.append(f"run {run['id']}")
        parts += [f"{name} {run[name]}" for name in ("user", "team", "agent") if run.get(name)]
        if "cost_usd" in run:
            parts.append(f"{run['steps']} steps, ${run['cost_usd']}")
    text = f"{kind.replace('_', ' ')}: {', '.join(parts)}"[:1000]
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wanted_by(rule: Alert) -> frozenset[str]:
    """The events that an alert is sent. A pager is also told when what it was called for is over."""
    wanted: set[str] = set(rule.on)
    if rule.format == "pagerduty":
        wanted |= {closing for closing, opening in CLOSES.items() if opening in wanted}
    return frozenset(wanted)


def covers(rule: Alert, event: Happened, run: Mapping[str, Any] | None) -> bool:
    """Whether the event is one that the alert is narrowed to, by what it says itself, else by its run."""
    if rule.match is EVERYTHING:
        return True
    known = {**(run or {}), **{name: value for name, value in event.facts.items() if value is not None}}
    known.update(_meant(event))
    surface, tags = known.get("surface"), known.get("tags")
    return rule.match.covers(
        key=known.get("key"),
        user=known.get("user"),
        team=known.get("team"),
        model=known.get("model"),
        surface=Surface(surface) if surface in set(Surface) else None,
        agent=known.get("agent"),
        tags=tags if isinstance(tags, Mapping) else {},
    )


def _meant(event: Happened) -> dict[str, str]:
    """Whom an event is about that belongs to no step: `{"team": "cx"}` for a breaker of that team."""
    if event.kind == "kill":
        return dict([parse_kill_name(str(event.facts.get("name")))])
    if event.kind == "revive":
        return {str(event.facts.get("scope")): str(event.facts.get("id"))}
    breaker = parse_breaker_key(str(event.facts.get("breaker")))
    if breaker is None:
        return {}
    word, _, whose = breaker.scope.partition("/")
    return {word: whose}


def freed_by(kind: str, facts: Mapping[str, Any]) -> str | None:
    """The subject that may be told again once this event has said that it is over."""
    opening = CLOSES.get(kind)
    if opening is None:
        return None
    if opening == "kill":
        facts = {"name": kill_name(str(facts.get("scope")), str(facts.get("id")))}
    names = {"breaker_open": ("breaker",), "kill": ("name",)}.get(
        opening, ("approval", "run", "tool", "error")
    )
    return subject_of(opening, {name: facts[name] for name in names if name in facts})


def expiring(keys: Iterable[KeyRecord], tokens: Iterable[TokenRecord], now: Millis) -> Iterator[Json]:
    """The facts of `key_expiring` for each key and admin token that ends soon."""
    for key in keys:
        if key.expires_at is not None and now < key.expires_at <= now + SOON_MS:
            whose = {"key": key.name, "user": key.user, "team": key.team}
            yield {"name": key.name, "kind": "key", "id": key.id, "expires_at": key.expires_at, **whose}
    for token in tokens:
        if token.expires_at is not None and now < token.expires_at <= now + SOON_MS:
            yield {"name": token.name, "kind": "token", "id": token.id, "expires_at": token.expires_at}
