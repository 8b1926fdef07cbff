"""A ledger full of plausible runs: for timing, and for pictures that look like a working day.

Events are those that the gateway's stores emit, written by `SqlLedger.append`; the same seed gives the same
runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.stores.ledger import SqlLedger

MINUTE = 60_000
DAY = 86_400_000

PEOPLE = (
    ("support-bot", "support", "customer-care", "triage"),
    ("support-bot", "support", "customer-care", "refunds"),
    ("code-review", "ci", "platform", "reviewer"),
    ("code-review", "dana", "platform", "refactor"),
    ("research", "imani", "insights", "deep-research"),
    ("research", "tomas", "insights", "summaries"),
    ("sales-agent", "sales", "revenue", "outreach"),
    ("data-team", "noor", "insights", "sql-writer"),
)
MODELS = (
    ("openai", "gpt-4o", 2.5, 10.0),
    ("openai", "gpt-4o-mini", 0.15, 0.6),
    ("anthropic", "claude-sonnet-4-5", 3.0, 15.0),
    ("anthropic", "claude-haiku-4-5", 1.0, 5.0),
)
TOOLS = (
    *("search_docs", "get_order_status", "read_file", "run_tests"),
    *("query_warehouse", "send_email", "create_ticket"),
)
ENDINGS = (
    *(("completed", None),) * 14,
    ("stopped_budget", "run_budget_exceeded"),
    ("stopped_loop", "loop_detected"),
    ("stopped_steps", "step_limit_exceeded"),
    ("killed", "looks stuck, see ticket 4711"),
    ("blocked", "prompt_injection_blocked"),
    ("failed", "upstream_unavailable"),
)
FINDINGS = (
    ("pii", "user", "enforce", "pseudonymise", "EMAIL_ADDRESS"),
    ("pii", "user", "enforce", "pseudonymise", "PHONE_NUMBER"),
    ("pii", "tool", "shadow", "redact", "CREDIT_CARD"),
    ("secrets", "user", "enforce", "block", "AWS_ACCESS_KEY"),
    ("injection", "tool", "enforce", "neutralise", "INSTRUCTION"),
    ("injection", "user", "shadow", "block", "INSTRUCTION"),
    ("links", "output", "enforce", "redact", "MARKDOWN_IMAGE"),
)


@dataclass(frozen=True)
class Seed:
    """How much, and until when (milliseconds)."""

    now: int
    runs: int = 10_000
    steps: int = 10
    days: float = 7
    number: int = 7


def events(seed: Seed) -> Iterator[dict[str, Any]]:
    """Runs spread over the days before `now`, the busier hours busier, the oldest first."""
    rng = random.Random(seed.number)
    span = int(seed.days * DAY)
    begins = sorted(seed.now - 3 * MINUTE - int(span * rng.random() ** 1.15) for _ in range(seed.runs))
    for number, at in enumerate(begins):
        yield from run_events(
            rng, f"run_{number:012x}", at, steps=1 + min(60, int(rng.expovariate(1 / seed.steps)))
        )


def run_events(
    rng: random.Random,
    run: str,
    at: int,
    *,
    steps: int,
    who: tuple[str, str, str, str] | None = None,
    model: tuple[str, str, float, float] | None = None,
    status: tuple[str, str | None] | None = None,
    pace: float = 1.0,
    name: str | None = None,
) -> Iterator[dict[str, Any]]:
    """One run from its beginning to its end, or to where it is now (`status` running)."""
    key, user, team, agent = who or rng.choice(PEOPLE)
    asked = model or rng.choices(MODELS, (5, 3, 4, 2))[0]
    ending = status or rng.choice(ENDINGS)
    meta = {
        "principal": f"k-{key}",
        "key": key,
        "user": user,
        "team": team,
        "end_user": None,
        "session": f"session-{run[-6:]}",
        "name": name,
        "source": "header" if name else "lineage",
        "agent": agent,
        "tags": {"env": "prod" if rng.random() < 0.8 else "staging", "agent": agent},
        "surface": "messages" if asked[0] == "anthropic" else "chat",
        "policy": "b3f1c09a",
        "continues": None,
        "parent": None,
        "started_at": at,
    }
    tokens = rng.randrange(600, 4000)
    waiting: list[dict[str, Any]] = []
    for ordinal in range(1, steps + 1):
        last = ordinal == steps
        cheap = rng.random() < 0.16 and asked[1] in ("gpt-4o", "claude-sonnet-4-5")
        served = next(m for m in MODELS if m[0] == asked[0] and m is not asked) if cheap else asked
        wrote = rng.randrange(40, 900)
        cached = int(tokens * rng.random() * 0.7) if ordinal > 1 else 0
        cost = _cost(served, tokens, wrote)
        ttft = rng.uniform(180, 900)
        latency = ttft + wrote * rng.uniform(6, 14)
        failed = last and ending[0] == "failed"
        findings = [_finding(rng)] if rng.random() < 0.07 else []
        decisions: list[dict[str, Any]] = []
        if cheap:
            decisions.append(
                {"rule": "routing.cheap-steps", "mode": "enforce", "decision": "reroute", "from": asked[1],
                 "to": served[1], "why": "tool selection needs no large model"}
            )  # fmt: skip
        if rng.random() < 0.03:
            decisions.append(
                {
                    "rule": "loops.same_call",
                    "mode": "shadow",
                    "decision": "wrap_up",
                    "why": "search_docs was called 3 times with equal arguments and results",
                }
            )
        calls = [] if last else [
            {"id": f"call_{run[-4:]}_{ordinal}_{n}", "name": rng.choice(TOOLS)} for n in range(rng.choice((1, 1, 1, 2)))
        ]  # fmt: skip
        yield {
            "t": "attempt",
            "id": f"{run}-{ordinal}",
            "provisional": False,
            "run": run,
            "ordinal": ordinal,
            **{field: meta[field] for field in ("session", "principal", "key", "user", "team", "end_user", "tags", "surface")},
            "provider": served[0],
            "requested_model": asked[1],
            "model": served[1],
            "stream": True,
            "started_at": at,
            "ended_at": int(at + latency),
            "usage": {"input_uncached": tokens - cached, "cache_read": cached, "output_text": 0 if failed else wrote},
            "usage_source": "provider",
            "cost": 0 if failed else cost,
            "cost_source": "provider",
            "saved": max(0, _cost(asked, tokens, wrote) - cost),
            "reserved": cost * 3,
            "latency_ms": round(latency, 3),
            "ttft_ms": None if failed else round(ttft, 3),
            "overhead_ms": round(rng.uniform(0.4, 2.5), 3),
            "http_status": 503 if failed else 200,
            "outcome": "failed" if failed else "ok",
            "finish_reason": None if failed else ("stop" if last else "tool_calls"),
            "error": "upstream_unavailable" if failed else None,
            "verdict": "reroute" if cheap else ("redact" if findings else "allow"),
            "decision": f"dec_{run[-8:]}{ordinal}",
            "decisions": decisions,
            "findings": findings,
            "tool_calls": calls,
            "tool_results": waiting,
            "charges": [],
            "policy": meta["policy"],
            "run_status": ending[0] if last and ending[0] in ("completed", "failed") else "running",
            "meta": meta,
        }  # fmt: skip
        waiting = [_result(rng, call) for call in calls]
        at = int(at + latency + rng.uniform(200, 2500) * pace)
        tokens += wrote + rng.randrange(100, 1200)
    status_word, reason = ending
    if status_word in ("running", "completed", "failed"):
        return
    money = status_word == "stopped_budget"
    if status_word != "killed":
        yield {
            "t": "refusal",
            "id": f"dec_{run}",
            "run": run,
            "ordinal": steps + 1,
            "at": at,
            "code": reason,
            "rule": {
                "stopped_budget": "run",
                "stopped_loop": "loops.same_call",
                "stopped_steps": "runs.max_steps",
            }.get(status_word, "screening.injection"),
            "scope": "run",
            "limit": 500_000_000 if money else (3 if status_word == "stopped_loop" else 25),
            "used": 498_211_000 if money else (3 if status_word == "stopped_loop" else 25),
            "money": money,
            "decision": "refuse",
            "decisions": [],
            "findings": [],
            "surface": meta["surface"],
            "requested_model": asked[1],
            "meta": meta,
        }  # fmt: skip
    yield {"t": "run", "run": run, "at": at, "status": status_word, "reason": reason, "meta": meta}


def _cost(model: tuple[str, str, float, float], read: int, wrote: int) -> int:
    return int(read * model[2] * 1000 + wrote * model[3] * 1000)


def _finding(rng: random.Random) -> dict[str, Any]:
    detector, channel, mode, action, kind = rng.choice(FINDINGS)
    found: dict[str, Any] = {
        "detector": detector, "channel": channel, "mode": mode, "action": action, "type": kind,
        "count": rng.choice((1, 1, 1, 2, 4)),
    }  # fmt: skip
    if channel == "tool":
        found["tool"] = rng.choice(TOOLS)
    return found


def _result(rng: random.Random, call: dict[str, Any]) -> dict[str, Any]:
    if rng.random() < 0.12:
        kind = rng.choice(("timeout", "not_found", "rate_limited", "invalid_arguments"))
        return {"call_id": call["id"], "name": call["name"], "ok": False, "error_type": kind}
    return {"call_id": call["id"], "name": call["name"], "ok": True}


async def fill(ledger: SqlLedger, seed: Seed) -> int:
    """Write it all; how many events there were."""
    batch: list[tuple[str, bytes]] = []
    count = 0
    for event in events(seed):
        count += 1
        batch.append((f"{count}-0", orjson.dumps(event)))
        if len(batch) >= 2000:
            await ledger.append(batch)
            batch = []
    await ledger.append(batch)
    return count
