"""What the audit log says of steps: which decisions were taken, and what each step came to. Pure.

Every refusal, and every step with which something was done, is a record of its own. The figures of all steps
are in digests, one for each, that a record seals by the hundred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

import orjson

from gateway.domain import Json
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_events import Attempt, Note, Refusal
from gateway.stores.ledger_fold import STEP_COLUMNS, RunState, Written

Decisions = Literal["all", "refusals", "off"]

ACTOR = "gateway"
FIGURES = (
    "id",
    "provisional",
    "run",
    "ordinal",
    "surface",
    "provider",
    "model",
    "at",
    "ended_at",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost",
    "saved",
    "verdict",
)
"""Columns of a step that its digest covers. Names of people are none of them: they can be erased."""
_figures = itemgetter(*(STEP_COLUMNS.index(name) for name in FIGURES))
_VERDICT = STEP_COLUMNS.index("verdict")
_POLICY_TOLD = 20
"""Decisions and findings told of one step."""
_ENDINGS = frozenset(
    (
        "stopped_budget",
        "stopped_steps",
        "stopped_time",
        "stopped_tokens",
        "stopped_tools",
        "stopped_loop",
        "killed",
        "blocked",
    )
)


def step_digest(figures: Sequence[Any]) -> str:
    """What the audit log keeps of a step: 96 bits over the columns of `FIGURES`."""
    return hashlib.sha256(orjson.dumps(figures)).hexdigest()[:24]


def digests(attempts: Iterable[Attempt]) -> list[tuple[str, str, int]]:
    """`(id, digest, 1 when it is provisional)` of each attempt."""
    return [(each.id, step_digest(_figures(each.row)), int(each.provisional)) for each in attempts]


def entries(mode: Decisions, written: Written, notes: Iterable[Note]) -> list[AuditEntry]:
    """The records that events come to, each with a `ref` of its own, in the order of their times."""
    found = [AuditEntry(n.actor, n.action, n.details, n.at, n.id) for n in notes]
    if mode != "off":
        found += [_refused(refusal) for refusal in written.refusals]
        found += [_ended(run) for run in written.ended if run.status in _ENDINGS]
    if mode == "all":
        found += [entry for attempt in written.attempts if (entry := _decided(attempt)) is not None]
    found.sort(key=lambda entry: entry.at)
    return found


def _ended(run: RunState) -> AuditEntry:
    reason = run.reason if run.reason_status == run.status else None
    told = {"run": run.id, "status": run.status, "reason": _short(reason)}
    return AuditEntry(ACTOR, "run.stop", _told(told), run.status_at, f"{run.id}:{run.status}:{run.status_at}")


def _refused(refusal: Refusal) -> AuditEntry:
    extra = orjson.loads(refusal.row[-1])
    told = {
        "run": refusal.run or None,
        "step": refusal.row[4],
        "decision": refusal.id,
        "policy": _short(refusal.meta.get("policy")),
        **{name: _short(extra.get(name)) for name in ("code", "rule", "scope", "limit", "used")},
        **_lists(extra),
    }
    outcome = extra.get("decision")
    action = "step.refuse" if outcome in (None, "refuse", "stop") else f"step.{str(outcome)[:40]}"
    return AuditEntry(ACTOR, action, _told(told), refusal.at, refusal.id)


def _decided(attempt: Attempt) -> AuditEntry | None:
    """The record of a step with which something was done; None for one that merely passed."""
    verdict, text = attempt.row[_VERDICT], attempt.row[-1]
    quiet = verdict in ("allow", None) and attempt.status not in _ENDINGS
    if quiet and not (
        '"decisions":[{' in text
        or '"findings":[{' in text
        or '"delivered":false' in text
        or '"run_reason":"' in text
    ):
        return None
    extra = orjson.loads(text)
    lists = _lists(extra)
    if quiet and not lists and not extra.get("run_reason"):
        return None
    told = {
        "run": attempt.run,
        "step": attempt.ordinal,
        "decision": _short(extra.get("decision")),
        "policy": _short(extra.get("policy")),
        "verdict": verdict,
        "model": attempt.model or None,
        "status": attempt.status if attempt.status in _ENDINGS else None,
        "reason": _short(extra.get("run_reason")),
        "error": _short(extra.get("error")),
        **lists,
    }
    action = f"step.{verdict}" if verdict not in (None, "allow") else "step.decide"
    ref = f"{attempt.id}:provisional" if attempt.provisional else attempt.id
    return AuditEntry(ACTOR, action, _told(told), attempt.ended_at, ref)


def _lists(extra: Mapping[str, Any]) -> Json:
    """What rules and detectors did, without what they found it in; nothing of what was in shadow."""
    decisions = [
        {name: _short(each[name]) for name in ("rule", "decision", "code", "tool", "to") if name in each}
        for each in _enforced(extra.get("decisions"))
    ]
    findings = [
        {name: _short(each[name]) for name in ("detector", "channel", "action", "type") if name in each}
        for each in _enforced(extra.get("findings"))
    ]
    calls = extra.get("tool_calls")
    blocked = [
        _short(call.get("name"))
        for call in (calls if type(calls) is list else [])
        if type(call) is dict and call.get("delivered") is False
    ]
    told: Json = {"decisions": decisions, "findings": findings, "blocked": blocked}
    short = {name: each[:_POLICY_TOLD] for name, each in told.items() if each}
    more = {f"{name}_in_all": len(told[name]) for name in short if len(told[name]) > _POLICY_TOLD}
    return {**short, **more}


def _enforced(found: Any) -> list[Json]:
    rows = found if type(found) is list else []
    return [each for each in rows if type(each) is dict and each.get("mode") != "shadow"]


def _short(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    text = value if type(value) is str else orjson.dumps(value).decode()
    return text if len(text) <= 256 else text[:255] + "…"


def _told(told: Json) -> Json:
    return {name: value for name, value in told.items() if value is not None}
