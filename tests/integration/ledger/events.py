"""Events as the gateway's stores emit them."""

from __future__ import annotations

from typing import Any

import orjson

T0 = 1_760_000_000_000


def encode(*events: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Stream entries with made-up stream ids."""
    return [(f"{number}-0", orjson.dumps(event)) for number, event in enumerate(events, 1)]


def meta(**changes: Any) -> dict[str, Any]:
    return {
        "principal": "p1",
        "key": "support-bot",
        "user": "support",
        "team": "cx",
        "end_user": None,
        "session": "s1",
        "name": None,
        "source": "new",
        "agent": "triage",
        "tags": {"env": "prod"},
        "surface": "chat",
        "policy": "v1",
        "continues": None,
        "parent": None,
        "started_at": T0,
        **changes,
    }


def attempt(
    attempt_id: str, run: str = "r1", ordinal: int = 1, cost: int = 100, **changes: Any
) -> dict[str, Any]:
    at = T0 + ordinal * 1000
    return {
        "t": "attempt",
        "id": attempt_id,
        "provisional": False,
        "run": run,
        "ordinal": ordinal,
        "session": "s1",
        "principal": "p1",
        "key": "support-bot",
        "user": "support",
        "team": "cx",
        "end_user": None,
        "tags": {"env": "prod"},
        "surface": "chat",
        "provider": "openai",
        "requested_model": "gpt-4o",
        "model": "gpt-4o-mini",
        "stream": True,
        "started_at": at,
        "ended_at": at + 500,
        "usage": {"input_uncached": 10, "cache_read": 5, "output_text": 7, "output_reasoning": 1},
        "usage_source": "provider",
        "cost": cost,
        "cost_source": "provider",
        "saved": 3,
        "reserved": 400,
        "latency_ms": 500.0,
        "ttft_ms": 120.5,
        "overhead_ms": 1.5,
        "http_status": 200,
        "outcome": "ok",
        "finish_reason": "stop",
        "error": None,
        "verdict": "allow",
        "decision": f"d-{attempt_id}",
        "decisions": [],
        "tool_calls": [],
        "tool_results": [],
        "charges": [[f"run:{run}", 0], ["global:h1", T0 + 3_600_000]],
        "policy": "v1",
        "run_status": "running",
        "meta": meta(),
        **changes,
    }


def status(run: str, status: str, at: int, reason: str | None = None, **changes: Any) -> dict[str, Any]:
    return {"t": "run", "run": run, "at": at, "status": status, "reason": reason, **changes}


def refusal(decision: str, run: str | None = "r1", at: int = T0, **changes: Any) -> dict[str, Any]:
    return {
        "t": "refusal",
        "id": decision,
        "run": run,
        "ordinal": 2,
        "at": at,
        "code": "run_budget_exceeded",
        "rule": "run",
        "scope": "run",
        "limit": 500,
        "used": 480,
        "money": True,
        "surface": "chat",
        "requested_model": "gpt-4o",
        "meta": meta(),
        **changes,
    }
