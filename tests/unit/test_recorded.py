"""Steps and outcomes as they are read from the ledger's rows."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.domain import Surface
from gateway.replay.recorded import ALLOWED, Outcome, outcome_of, request_of, steps_of
from gateway.surfaces import CODECS

RUN = {"id": "run_1", "surface": "chat", "principal": "key:a", "key": "a", "policy": "p", "name": None}


def attempt(n: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "attempt",
        "id": f"att_{n}",
        "decision": f"dec_{n}",
        "run": "run_1",
        "ordinal": n,
        "surface": "chat",
        "provider": "p",
        "requested_model": "gpt-4o",
        "model": "gpt-4o",
        "at": n * 1000,
        "ended_at": n * 1000 + 500,
        "cost": 100,
        "usage": {"input_uncached": 10, "output_text": 2},
        "outcome": "ok",
        "tool_calls": [],
        **more,
    }


def refusal(n: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "refusal",
        "id": f"dec_{n}",
        "run": "run_1",
        "ordinal": n,
        "surface": "chat",
        "requested_model": "gpt-4o",
        "model": None,
        "at": n * 1000,
        "ended_at": n * 1000,
        "cost": 0,
        "code": "run_budget_exceeded",
        "rule": "run",
        "decision": "refuse",
        **more,
    }


def decided(rule: str, decision: str, mode: str = "enforce", **more: Any) -> dict[str, Any]:
    return {"decisions": [{"rule": rule, "decision": decision, "mode": mode, **more}]}


def found(detector: str, action: str, mode: str = "enforce") -> dict[str, Any]:
    return {"findings": [{"detector": detector, "action": action, "mode": mode}]}


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        ({}, ALLOWED),
        (decided("loops.same_call", "nudge"), Outcome("flag", "loops.same_call")),
        (decided("loops.same_call", "stop", "shadow"), ALLOWED),
        (decided("tools.search", "withhold"), Outcome("flag", "tools.search")),
        (decided("routing.down", "reroute", to="cheap"), Outcome("reroute", "routing.down", to="cheap")),
        (decided("routing.down", "keep"), ALLOWED),
        (decided("fallback", "reroute", to="other"), ALLOWED),
        (decided("runs.anomaly", "flag"), ALLOWED),
        (decided("cache.exact", "hit"), ALLOWED),
        (
            decided("run", "wrap_up", code="run_budget_exceeded"),
            Outcome("wrap_up", "run", "run_budget_exceeded"),
        ),
        # A rung of a loop's ladder is not yet the last step.
        (decided("loops.same_call", "wrap_up"), ALLOWED),
        (found("pii", "pseudonymise"), Outcome("redact", "screening.pii")),
        (found("pii", "pseudonymise", "shadow"), ALLOWED),
        (found("injection", "neutralise"), Outcome("redact", "screening.injection")),
        (found("claims", "flag"), Outcome("flag", "claims")),
        (
            {"outcome": "stopped", "error": "output_blocked", **found("leak", "block")},
            Outcome("refuse", "screening.leak", "output_blocked"),
        ),
        (
            {"outcome": "stopped", "error": "run_budget_exceeded"},
            Outcome("refuse", "run_budget_exceeded", "run_budget_exceeded"),
        ),
        ({"outcome": "failed", "error": "upstream_unavailable"}, ALLOWED),
    ],
)
def test_what_a_record_says(record: dict[str, Any], outcome: Outcome) -> None:
    assert outcome_of([record], None) == outcome


def test_the_hardest_counts() -> None:
    records = [decided("tools.search", "withhold"), found("pii", "redact"), decided("a", "nudge")]
    assert outcome_of(records, None) == Outcome("redact", "screening.pii")
    assert outcome_of(records, refusal(1)) == Outcome("refuse", "run", "run_budget_exceeded")
    message = refusal(1, decision="final_message")
    assert outcome_of([], message) == Outcome("wrap_up", "run", "run_budget_exceeded")
    assert outcome_of([], refusal(1, rule="kill", code="run_killed")).by_operator


def test_all_attempts_of_a_request_are_one_step() -> None:
    rows = [
        attempt(1, id="a", outcome="failed", http_status=500, cost=7),
        attempt(1, id="b", outcome="failed", http_status=None, cost=5),
        attempt(1, id="judge", requested_model="judge", cost=3),
        attempt(1, id="c", cost=100, tool_calls=[{"id": "x", "name": "search"}]),
        attempt(2),
    ]
    first, second = steps_of(RUN, rows)
    assert (first.cost, first.besides, first.called) == (115, 15, ["search"])
    assert [given.id for given in first.answers] == ["c"]
    assert (second.ordinal, second.model, second.surface) == (2, "gpt-4o", Surface.CHAT)


def test_what_a_provider_refuses_is_an_answer() -> None:
    (step,) = steps_of(RUN, [attempt(1, outcome="failed", http_status=400, cost=0)])
    assert [given.status for given in step.answers] == [400]
    (step,) = steps_of(RUN, [attempt(1, outcome="failed", http_status=429, cost=0)])
    assert step.answers == []


@pytest.mark.parametrize(
    "odd",
    [
        {"surface": "telepathy"},
        {"decision": None},
        {"usage": None},
        {"usage": {"input_uncached": "many"}},
        {"asked": 5},
        {"asked": {"tools": None, "bytes": -1, "limit": "x", "trace": {"n": "x"}}},
        {"tool_results": [None, 3]},
        {"tool_calls": [{}]},
    ],
)
def test_odd_rows_are_read_all_the_same(odd: dict[str, Any]) -> None:
    (step,) = steps_of(RUN, [attempt(1, **odd)])
    assert step.cost == 100
    assert request_of(step)["model"] == "gpt-4o"


@pytest.mark.parametrize(
    "surface", ["chat", "responses", "messages", "completions", "embeddings", "moderations"]
)
def test_a_request_without_its_content_is_valid(surface: str) -> None:
    asked = {"bytes": 500, "tools": ["search", "read file"], "limit": 64, "choices": 2}
    results = [
        {"call_id": "call_1", "name": "search", "ok": True},
        {"call_id": None, "name": "search", "ok": False, "error_type": "timeout"},
        {"call_id": "call_3", "name": "", "ok": False, "error_type": 'a"b'},
        {"call_id": "call_4", "name": "search", "ok": True, "status": "pending"},
    ]
    row = attempt(1, surface=surface, asked=asked, tool_results=results, stream=True, end_user="u")
    (step,) = steps_of({**RUN, "surface": surface}, [row])
    parsed = CODECS[Surface(surface)].parse(orjson.dumps(request_of(step)))
    assert parsed.model == "gpt-4o"
    assert parsed.text_bytes >= 500
    if surface in ("chat", "responses", "messages"):
        assert parsed.output_limit == 64
        assert [tool.name for tool in parsed.tools] == ["search", "read file"]
        assert len([item for item in parsed.items if item.call_id]) == 4
