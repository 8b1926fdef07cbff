"""How records look on the admin plane, and how what is sent there is read. Pure.

Money is a decimal string with nine places, times are RFC 3339 in UTC with milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from gateway.admission import BreakerState
from gateway.domain import NANO_PER_USD, Json, Millis, Nano, usd
from gateway.rules.breakers import BreakerName
from gateway.stores.audit_chain import AuditRecord
from gateway.stores.ledger_approvals import ApprovalRecord
from gateway.stores.ledger_control import KillRecord, Obeyed, Topup
from gateway.stores.ledger_policies import PolicyVersion

_DURATION = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


# -- what is sent ------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("control characters are not allowed")
    return text


def _moment(text: str) -> str:
    read_moment(text, datetime.now(UTC))
    return text


Label = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_printable)]
"""An id or name as callers and policies use them: any printable text."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+~-]{0,127}$")]
"""A name that we keep."""
Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_printable)]
Moment = Annotated[str, StringConstraints(max_length=40), AfterValidator(_moment)]
"""A time: RFC 3339, or how long ago, such as `24h` or `7d`."""
Dollars = Annotated[Decimal, Field(ge=-1_000_000, le=1_000_000, decimal_places=9)]


class Body(BaseModel):
    """What is sent to be changed. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_moment(text: str, now: datetime) -> Millis:
    """Milliseconds since the epoch for RFC 3339 text or a duration before `now`. Raises `ValueError`."""
    duration = _DURATION.fullmatch(text)
    try:
        if duration is not None:
            return millis(now - timedelta(seconds=int(duration[1]) * _UNIT_S[duration[2]]))
        # In a query string an unescaped "+" of the offset arrives as a space.
        then = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except (ValueError, OverflowError):
        raise ValueError("expected RFC 3339 such as 2026-01-31T12:00:00Z, or 24h, 7d") from None
    return millis(then if then.tzinfo is not None else then.replace(tzinfo=UTC))


def millis(at: AwareDatetime) -> Millis:
    """Milliseconds since the epoch, exactly."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def nano(dollars: Decimal) -> Nano:
    """Nano-dollars of an amount with at most nine places."""
    return int(dollars * NANO_PER_USD)


# -- what is shown -----------------------------------------------------------------------------------


def stamp(at: Millis) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"


def stamp_or_none(at: Millis | None) -> str | None:
    """As `stamp`; None stays."""
    return None if at is None else stamp(at)


def page(rows: Sequence[Json], cursor: str | None = None) -> Json:
    """The shape of every list."""
    return {"data": list(rows), "next_cursor": cursor}


def run_view(run: Mapping[str, Any], live: Mapping[str, Any] | None) -> Json:
    """A run as the ledger knows it, with what the store holds for it now. A run that the store has
    forgotten has nothing reserved."""
    return {
        "id": run["id"],
        "name": run["name"],
        "session": run["session"],
        "key": run["key"],
        "user": run["user"],
        "end_user": run["end_user"],
        "team": run["team"],
        "agent": run["agent"],
        "tags": run["tags"],
        "source": run["source"],
        "surface": run["surface"],
        "status": run["status"],
        "status_reason": run["status_reason"],
        "started_at": stamp(run["started_at"]),
        "last_step_at": stamp_or_none(run["last_step_at"]),
        "steps": run["steps"],
        "attempts": run["attempts"],
        "refusals": run["refusals"],
        "tool_calls": run["tool_calls"],
        "tools": run["tools"],
        "input_tokens": run["input_tokens"],
        "output_tokens": run["output_tokens"],
        "cached_tokens": run["cached_tokens"],
        "cost_usd": usd(run["cost"]),
        "reserved_usd": usd(live["reserved"] if live is not None else 0),
        "saved_usd": usd(run["saved"]),
        "model_mix": {
            model: {"attempts": each["attempts"], "cost_usd": usd(each["cost"])}
            for model, each in run["model_mix"].items()
        },
        "policy": run["policy"],
        "findings": run.get("findings", []),
        "usual": run.get("usual"),
        "continues": run["continues"],
        "parent": run["parent"],
        "inferred_parent": run.get("inferred_parent"),
        "children": run.get("children", []),
    }


def step_view(step: Mapping[str, Any]) -> Json:
    """An attempt, or a step that a rule refused."""
    get = step.get
    decisions = list(get("decisions") or [])
    if step["kind"] == "refusal":
        decisions.append(_refusal(step))
    return {
        "id": step["id"],
        "kind": step["kind"],
        "ordinal": step["ordinal"],
        "surface": step["surface"],
        "provider": step["provider"],
        "requested_model": step["requested_model"],
        "model": step["model"],
        "stream": get("stream"),
        "started_at": stamp(step["started_at"]),
        "ended_at": stamp(step["ended_at"]),
        "usage": {
            "input_tokens": step["input_tokens"],
            "output_tokens": step["output_tokens"],
            "cached_tokens": step["cached_tokens"],
            "source": get("usage_source"),
            "buckets": get("usage") or {},
        },
        "cost_usd": usd(step["cost"]),
        "cost_source": get("cost_source"),
        "reserved_usd": usd(get("reserved") or 0),
        "saved_usd": usd(step["saved"]),
        "provisional": step["provisional"],
        "latency_ms": get("latency_ms"),
        "ttft_ms": get("ttft_ms"),
        "overhead_ms": get("overhead_ms"),
        "verdict": step["verdict"],
        "decisions": decisions,
        "tool_calls": get("tool_calls") or [],
        "tool_results": get("tool_results") or [],
        "findings": get("findings") or [],
        "finish_reason": get("finish_reason"),
        "outcome": get("outcome") or ("refused" if step["kind"] == "refusal" else None),
        "http_status": get("http_status"),
        "error": get("error") or get("code"),
        "policy": get("policy"),
    }


def _refusal(step: Mapping[str, Any]) -> Json:
    show = usd if step.get("money") else int
    limit, used = step.get("limit"), step.get("used")
    return {
        "action": "refuse",
        "code": step.get("code"),
        "rule": step.get("rule"),
        "scope": step.get("scope"),
        "limit": show(limit) if limit is not None else None,
        "used": show(used) if used is not None else None,
    }


def spend_view(row: Mapping[str, Any], group_by: str) -> Json:
    """One sum of spend. The group stands under `group`, and under the name that was asked for."""
    return {
        "group": row["group"],
        group_by: row["group"],
        "at": stamp_or_none(row["at"]),
        "cost_usd": usd(row["cost"]),
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cached_tokens": row["cached_tokens"],
        "steps": row["steps"],
        "attempts": row["attempts"],
        "saved_usd": usd(row["saved"]),
    }


def kill_view(kill: KillRecord, now: Millis) -> Json:
    """A kill and when each worker obeyed it. `id` is what was killed, `kill_id` the record's own."""
    return {
        "kill_id": kill.id,
        "scope": kill.scope,
        "id": kill.target,
        "reason": kill.reason,
        "by": kill.by,
        "at": stamp(kill.at),
        "expires_at": stamp_or_none(kill.expires_at),
        "revived_at": stamp_or_none(kill.revived_at),
        "revived_by": kill.revived_by,
        "active": kill.active(now),
        "streams": sum(each.streams for each in kill.obeyed),
        "workers": [obeyed_view(each) for each in kill.obeyed],
    }


def obeyed_view(obeyed: Obeyed) -> Json:
    """One worker's obedience."""
    return {"worker": obeyed.worker, "obeyed_at": stamp(obeyed.at), "streams": obeyed.streams}


def topup_view(topup: Topup) -> Json:
    """Money added to a budget. `id` is whose budget, `topup_id` the record's own."""
    return {
        "topup_id": topup.id,
        "budget": topup.budget,
        "id": topup.target,
        "amount_usd": usd(topup.amount),
        "reason": topup.reason,
        "by": topup.by,
        "at": stamp(topup.at),
        "expires_at": stamp_or_none(topup.expires_at),
    }


def approval_view(approval: ApprovalRecord) -> Json:
    """A tool call that needed a decision. `arguments` is JSON text, cut where `truncated` says so."""
    return {
        "id": approval.id,
        "state": approval.state,
        "tool": approval.tool,
        "arguments": approval.arguments,
        "truncated": approval.truncated,
        "digest": approval.digest,
        "run": approval.run,
        "session": approval.session,
        "key": approval.key,
        "user": approval.user,
        "team": approval.team,
        "cost_usd": usd(approval.cost),
        "policy": approval.policy,
        "created_at": stamp(approval.created_at),
        "expires_at": stamp(approval.expires_at),
        "decided_by": approval.decided_by,
        "decided_at": stamp_or_none(approval.decided_at),
        "reason": approval.reason,
        "used_at": stamp_or_none(approval.used_at),
    }


def breaker_view(breaker: BreakerState, name: BreakerName) -> Json:
    """A circuit breaker. `id` is what a reset takes."""
    return {
        "id": breaker.key,
        "kind": name.kind,
        "name": name.name,
        "scope": name.scope,
        "state": breaker.state,
        "ok": breaker.ok,
        "failed": breaker.failed,
        "opened_at": stamp_or_none(breaker.opened_at or None),
        "until": stamp_or_none(breaker.until or None),
    }


def version_view(version: PolicyVersion) -> Json:
    """A policy that was sent."""
    return {
        "version": version.version,
        "author": version.author,
        "note": version.note,
        "at": stamp(version.at),
        "share": version.share,
        "active": version.active,
        "activated_at": stamp_or_none(version.activated_at),
        "activated_by": version.activated_by,
        "rolled_back": version.rolled_back,
        "watched": version.watched,
    }


def audit_view(record: AuditRecord) -> Json:
    """A link of the audit chain. Nothing is lost: `audit_record` reads it back."""
    return {
        "seq": record.seq,
        "at": stamp(record.at),
        "actor": record.actor,
        "action": record.action,
        "details": record.details,
        "ref": record.ref,
        "prev_hash": record.prev_hash,
        "hash": record.hash,
    }


def audit_record(view: Mapping[str, Any]) -> AuditRecord:
    """The record behind an `audit_view`. Raises `ValueError` for anything else."""
    try:
        at = datetime.fromisoformat(view["at"])
        record = AuditRecord(
            seq=view["seq"],
            at=millis(at),
            actor=view["actor"],
            action=view["action"],
            details=view["details"],
            ref=view["ref"],
            prev_hash=view["prev_hash"],
            hash=view["hash"],
        )
        same = audit_view(record)["at"] == view["at"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not a record of the audit log: {error}") from error
    if not same:
        raise ValueError("not a record of the audit log: its time is written in another way")
    return record
