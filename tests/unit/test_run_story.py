"""A run told as a story, letter by letter, and with names of anyone's making."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.commands.run_story import MANY_STEPS, offset, short, story
from tests.unit.test_cli import RUN as PLAIN

RUN: dict[str, Any] = {
    **PLAIN,
    "agent": "mailer",
    "tags": {},
    "refusals": 0,
    "saved_usd": "0.000000000",
    "model_mix": {},
    "usual": None,
    "children": [],
    "inferred_parent": None,
}
STEP: dict[str, Any] = {
    "id": "att_1",
    "kind": "attempt",
    "ordinal": 1,
    "started_at": "2026-01-31T12:00:00.500Z",
    "model": "gpt-4o-mini",
    "requested_model": "gpt-4o",
    "usage": {"input_tokens": 12_000, "output_tokens": 600},
    "cost_usd": "0.010000000",
    "saved_usd": "0.001200000",
    "cost_source": "provider",
    "latency_ms": 1234.5,
    "tool_calls": [{"id": "1", "name": "search"}, {"id": "2", "name": "search"}, {"id": "3", "name": "fetch"}],
    "tool_results": [],
    "findings": [],
    "finish_reason": "tool_calls",
    "outcome": "ok",
    "error": None,
    "decisions": [
        {
            "rule": "routing.cheap", "mode": "enforce", "decision": "reroute", "step": "tool_selection",
            "why": "it chooses a tool", "from": "gpt-4o", "to": "gpt-4o-mini",
            "expected_usd": "0.011200000", "instead_usd": "0.010000000",
        }
    ],
}  # fmt: skip
REFUSAL: dict[str, Any] = {
    **STEP,
    "kind": "refusal",
    "ordinal": 4,
    "started_at": "2026-01-31T12:00:09.000Z",
    "tool_results": [],
    "tool_calls": [],
    "decisions": [
        {"code": "run_budget_exceeded", "rule": "run", "limit": "0.012500000", "used": "0.012500000"}
    ],
    "error": "run_budget_exceeded",
}


def test_a_run_is_told_as_a_story() -> None:
    steps = [
        STEP,
        {
            **STEP,
            "ordinal": 2,
            "started_at": "2026-01-31T12:00:03.000Z",
            "requested_model": "gpt-4o-mini",
            "usage": {"input_tokens": 345, "output_tokens": 78},
            "cost_usd": "0.002500000",
            "saved_usd": "0.000000000",
            "cost_source": "estimated",
            "tool_calls": [{"id": "4", "name": "delete", "delivered": False}],
            "tool_results": [
                {"name": "search", "ok": False, "status": "error", "error_type": "timeout"},
                {"name": "search", "ok": True},
                {"name": "fetch", "ok": True, "status": "empty"},
            ],
            "findings": [
                {"detector": "pii", "channel": "tool", "mode": "enforce", "action": "pseudonymise",
                 "type": "EMAIL_ADDRESS", "count": 2, "tool": "search"},
                {"detector": "injection", "channel": "user", "mode": "shadow", "action": "block",
                 "type": "OVERRIDE", "count": 1},
            ],
            "decisions": [
                {"rule": "loops.same_call", "mode": "shadow", "decision": "wrap_up", "count": 3, "why": "search"},
                {"rule": "tools.delete", "mode": "enforce", "decision": "withhold", "why": "tool_not_allowed"},
            ],
        },
        {
            **STEP,
            "ordinal": 3,
            "started_at": "2026-01-31T12:00:06.000Z",
            "decisions": [
                {"rule": "run", "mode": "enforce", "decision": "wrap_up", "code": "run_budget_exceeded",
                 "limit": 12_500_000, "used": 12_400_000},
                {"rule": "fallback", "mode": "enforce", "decision": "reroute", "why": "provider 'a' answered 503",
                 "from": "gpt-4o", "to": "claude"},
            ],
            "tool_calls": [],
            "finish_reason": None,
            "outcome": "cut",
            "error": "upstream_stream_interrupted",
            "saved_usd": "0.000000000",
        },
        REFUSAL,
        {**REFUSAL, "started_at": "2026-01-31T12:01:20.000Z"},
    ]  # fmt: skip
    run = {
        **RUN,
        "refusals": 9,
        "usual": {"runs": 30.0, "mean": {"steps": 4.2, "cost_usd": 0.004}, "spread": {}},
        "children": ["run_7"],
        "saved_usd": "0.001200000",
        "model_mix": {"gpt-4o-mini": {"cost_usd": "0.010000000"}, "gpt-4o": {"cost_usd": "0.002500000"}},
    }
    assert story(run, steps, successors=[{"id": "run_9", "status": "running"}]) == (
        """\
Run run_1 (nightly)
  user alice, key support-bot, session ses_1, agent mailer
  began 2026-01-31 12:00:00 UTC, its last step +9.0s later; found by the x-guardrail-run-id header;
    policy abc123
  started run_7

   +0.5s     1  gpt-4o-mini (asked for gpt-4o): 12,000 tokens in, 600 out, $0.0100, 1.23 s
                routing.cheap sent it to gpt-4o-mini instead of gpt-4o: it chooses a tool ($0.0100
                  instead of $0.0112)
                that saved $0.0012
                it called search x2, fetch
   +3.0s     2  results: search failed (timeout), search fine, fetch empty
                gpt-4o-mini: 345 tokens in, 78 out, $0.0025 (estimated), 1.23 s
                in shadow, not acted on: loops.same_call counts 3: search; one last step to answer
                  from what is known
                tools.delete was withheld: tool_not_allowed
                pii found 2 EMAIL_ADDRESS in tool results of search: replaced by stand-ins
                injection found 1 OVERRIDE in what the user said: in shadow, would have been refused
                its calls of delete were not delivered
   +6.0s     3  gpt-4o-mini (asked for gpt-4o): 12,000 tokens in, 600 out, $0.0100, 1.23 s
                run is reached (limit $0.0125, used $0.0124): one last step to answer from what is
                  known
                claude took the place of gpt-4o: provider 'a' answered 503
                cut: upstream_stream_interrupted
   +9.0s     4  refused: run_budget_exceeded by rule run (limit $0.0125, used $0.0125), 2 times
                  until +1m20s

It was stopped: its money ran out (run_budget_exceeded).  [stopped_budget]
  2 steps, 3 tool calls, 12,345 tokens in, 678 out, $0.0125
  $0.0012 saved
  tools: fetch 1, search 2 (1 failed)
  models: gpt-4o-mini $0.0100, gpt-4o $0.0025
  runs of this agent usually take 4.2 steps, $0.0040
  9 later requests were refused (run_budget_exceeded x2)
  went on as run_9 (running)"""
    )


def test_a_run_without_steps_is_told_too() -> None:
    run = {
        **RUN,
        "status": "running",
        "status_reason": None,
        "tools": {},
        "last_step_at": None,
        "reserved_usd": "0.1",
    }
    told = story(run, []).splitlines()
    assert "  No step is on record." in told
    assert "It is still running.  [running]" in told
    assert told[-1].endswith("$0.0125, $0.1000 reserved for calls under way")


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ({"rule": "routing.r", "decision": "keep", "why": "the run is held out", "from": "a"}, "routing.r left it with a: the run is held out"),
        ({"rule": "routing.r", "decision": "escalate", "why": "empty", "from": "b", "to": "a"}, "routing.r asked a, because the answer of b was no good: empty"),
        ({"rule": "retries", "decision": "retry", "why": "HTTP 500"}, "tried again: HTTP 500"),
        ({"rule": "fallback", "decision": "skip", "to": "c", "why": "it lacks tools"}, "c was passed over: it lacks tools"),
        ({"rule": "downgrade", "decision": "reroute", "to": "c"}, "it went on with c"),
        ({"rule": "cache.exact", "decision": "hit"}, "cache.exact had the answer already"),
        ({"rule": "context", "decision": "shorten", "tokens": 1200}, "old and huge tool results were shortened, 1,200 tokens"),
        ({"rule": "runs.anomaly", "decision": "flag", "figure": "steps", "value": 12.0, "usual": 4.0}, "unusual for this agent: steps 12, usually 4"),
        ({"rule": "tools.mail.requires_approval", "decision": "approved", "by": "token:ann"}, "token:ann approved the call (tools.mail.requires_approval)"),
        ({"rule": "user-day", "mode": "shadow", "decision": "refuse"}, "in shadow, not acted on: user-day would have refused it"),
        ({"rule": "loops.cycle", "decision": "stop", "count": 3, "why": "a b a b"}, "loops.cycle counts 3: a b a b; it was stopped"),
        ({"rule": "something.new", "decision": "dance", "why": "music"}, "something.new: dance: music"),
        ({}, "a rule: "),
    ],
)  # fmt: skip
def test_decisions_are_sentences(decision: dict[str, Any], told: str) -> None:
    lines = story(RUN, [{**STEP, "decisions": [decision]}], width=200).splitlines()
    assert told.strip() in [line.strip() for line in lines] or f"{told.strip()}" in "\n".join(lines)


def test_what_a_history_brings_again_is_told_once() -> None:
    found = {
        "detector": "pii",
        "channel": "user",
        "mode": "enforce",
        "action": "mask",
        "type": "EMAIL",
        "count": 1,
    }
    withheld = {"rule": "tools.rm", "mode": "enforce", "decision": "withhold", "why": "not allowed"}
    steps = [
        {**STEP, "ordinal": n, "decisions": [withheld], "findings": [{**found, "count": count}]}
        for n, count in ((1, 1), (2, 1), (3, 4))
    ]
    told = story(RUN, steps)
    assert told.count("tools.rm was withheld: not allowed") == 1
    assert told.count("pii found 1 EMAIL in what the user said: masked") == 1
    assert told.count("pii found 3 EMAIL in what the user said: masked") == 1
    assert told.count("pii found") == 2


def test_a_cache_that_had_nothing_is_not_worth_a_word() -> None:
    assert "cache" not in story(RUN, [{**STEP, "decisions": [{"rule": "cache.exact", "decision": "miss"}]}])


def test_a_claim_names_what_was_never_done() -> None:
    claim = {
        "detector": "claims",
        "channel": "output",
        "mode": "enforce",
        "action": "flag",
        "verb": "sent",
        "tools": ["send_mail"],
    }
    assert "it claims to have sent, and no such call succeeded (send_mail)" in story(
        RUN, [{**STEP, "findings": [claim]}]
    )


def test_the_middle_of_a_very_long_run_is_left_out() -> None:
    steps = [{**STEP, "ordinal": n, "decisions": []} for n in range(1, 1001)]
    told = story(RUN, steps)
    assert "… 800 more …" in told
    assert told.count("gpt-4o-mini (asked for") == MANY_STEPS
    assert " 1000  " in told


_value = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), st.text(max_size=20)
)
_RULES = ("routing.x", "fallback", "retries", "downgrade", "cache.exact", "context", "runs.anomaly", "loops.cycle",
          "tools.x", "run", "new")  # fmt: skip
_WORDS = (
    "reroute",
    "keep",
    "escalate",
    "skip",
    "withhold",
    "approved",
    "refuse",
    "wrap_up",
    "flag",
    "hit",
    "?",
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"rule": st.sampled_from(_RULES), "decision": st.sampled_from(_WORDS)},
            optional=dict.fromkeys(
                (
                    "mode",
                    "why",
                    "from",
                    "to",
                    "count",
                    "limit",
                    "used",
                    "code",
                    "tokens",
                    "figure",
                    "value",
                    "usual",
                    "expected_usd",
                    "instead_usd",
                    "by",
                ),
                _value,
            ),
        ),
        max_size=3,
    ),
    st.lists(
        st.dictionaries(
            st.sampled_from(["detector", "channel", "mode", "action", "type", "count", "tool", "verb"]),
            _value,
        ),
        max_size=3,
    ),
    st.sampled_from([STEP, REFUSAL]),
)
def test_no_decision_and_no_finding_breaks_the_story(
    decisions: list[dict[str, Any]], findings: list[dict[str, Any]], step: dict[str, Any]
) -> None:
    told = story(RUN, [{**step, "decisions": decisions, "findings": findings}] * 2)
    assert all(c.isprintable() or c == "\n" for c in told)


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e[red]x\r\n\ud800"


def evil(value: Any) -> Any:
    """The same shape with every text hostile, but for those that the gateway itself makes."""
    if isinstance(value, str):
        return EVIL
    if isinstance(value, list):
        return [evil(each) for each in value]
    if isinstance(value, dict):
        kept = ("started_at", "last_step_at", "cost_usd", "saved_usd", "reserved_usd", "kind")
        return {key: each if key in kept else evil(each) for key, each in value.items()}
    return value


def test_nothing_of_anyones_text_reaches_the_terminal_as_a_command() -> None:
    run = evil({**RUN, "tags": {"a": "b"}, "children": ["c"], "continues": "x", "parent": "p"})
    run["tags"] = {EVIL: EVIL}
    run["tools"] = {EVIL: {"calls": 1, "errors": 1}}
    run["model_mix"] = {EVIL: {"cost_usd": "1"}, "b": {"cost_usd": "1"}}
    finding = {
        "detector": "d",
        "channel": "c",
        "mode": "m",
        "action": "a",
        "type": "t",
        "tool": "x",
        "count": 1,
    }
    result = {"name": "n", "ok": False, "error_type": "e"}
    steps = [
        evil({**STEP, "findings": [finding], "tool_results": [result], "error": "e"}),
        evil(REFUSAL),
        evil({**STEP, "decisions": [{"rule": "routing.x", "decision": "keep"}]}),
    ]
    told = story(run, steps, successors=[{"id": EVIL, "status": EVIL}])
    assert all(c.isprintable() or c == "\n" for c in told)
    assert max(map(len, told.splitlines())) <= 100


def test_huge_names_are_cut() -> None:
    told = story({**RUN, "name": "n" * 10_000}, [{**STEP, "model": "m" * 10_000, "error": "e" * 10_000}])
    assert len(told) < 3000
    assert short("n" * 100) == "n" * 63 + "…"


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("2026-01-31T12:00:00.500Z", "+0.5s"),
        ("2026-01-31T12:01:05.999Z", "+1m05s"),
        ("2026-01-31T14:03:00.000Z", "+2h03m"),
        ("2026-01-31T11:59:59.000Z", "-1.0s"),
        ("2026-01-31T11:59:59.990Z", "+0.0s"),
    ],
)
def test_offsets_are_short(at: str, told: str) -> None:
    assert offset("2026-01-31T12:00:00.000Z", at) == told
