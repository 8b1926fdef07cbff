"""What the ledger holds of runs, as steps that can be played again, and what was decided about each.

    rows of a run ──by request──► Recorded: who asked for what, what came of it, what it cost
    records of a request ──► Outcome: what was done with it, by which rule

An `Outcome` is read in one way from what is on record and from what a rehearsal writes, so the two compare.
Nothing here does input or output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.domain import USAGE_BUCKETS, Answer, Json, Millis, Nano, Surface, ToolCall, Usage
from gateway.replay.recorder import Content, Unreadable
from gateway.rules.trace import Trace
from gateway.rules.trace_news import Retold
from gateway.shaping.base import Finish
from gateway.values import frozen

UNKNOWN = "unknown"
STRENGTH = ("allow", "flag", "redact", "reroute", "wrap_up", "refuse")
"""Verdicts, the hardest last."""
_ENVIRONMENT = ("fallback", "retries", "runs.anomaly", "cache.", "context")
"""Rules whose decisions follow from what happened around a step, or change no verdict."""
_REDACTS = frozenset({"redact", "mask", "pseudonymise", "neutralise"})
_FLAGS = frozenset(
    {"flag", "withhold", "nudge", "notify", "error", "repair", "approve", "escalate", "downgrade"}
)
_CUT_SHORT = frozenset({"length", "max_tokens", "max_output_tokens"})
_OPERATORS = "kill"
_NO_CONTENT_ANSWER = "(not kept)"


@frozen
class Outcome:
    """What was done with a step. `rule` is the one that decided; empty where none did."""

    verdict: str = "allow"
    rule: str = ""
    code: str = ""
    """Why, of a refusal and of a run's last step."""
    to: str = ""
    """The model that a reroute leads to."""
    by_operator: bool = False
    """Somebody had stopped it: no policy decides that."""

    def differs(self, other: Outcome) -> bool:
        """Whether something else was done with the step."""
        return (self.verdict, self.code, self.to) != (other.verdict, other.code, other.to)


ALLOWED = Outcome()


def outcome_of(attempts: Sequence[Mapping[str, Any]], refusal: Mapping[str, Any] | None) -> Outcome:
    """What came of one request, by its records: the hardest of what its rules did."""
    found = [ALLOWED]
    if refusal is not None:
        found += _of_refusal(refusal)
        found += _of_decisions(refusal)
    for attempt in attempts:
        found += _of_decisions(attempt)
        if attempt.get("outcome") == "stopped" and (code := attempt.get("error")):
            found.append(Outcome("refuse", _rule_behind(attempt, str(code)), str(code)))
    return max(found, key=lambda each: STRENGTH.index(each.verdict))


def _of_refusal(refusal: Mapping[str, Any]) -> Iterator[Outcome]:
    rule, code = str(refusal.get("rule") or ""), str(refusal.get("code") or "")
    if refusal.get("decision") == "final_message":
        yield Outcome("wrap_up", rule, code)
    else:
        yield Outcome("refuse", rule, code, by_operator=rule == _OPERATORS)


def _of_decisions(record: Mapping[str, Any]) -> Iterator[Outcome]:
    for decision in record.get("decisions") or ():
        rule, what = str(decision.get("rule")), decision.get("decision")
        if decision.get("mode", "enforce") != "enforce" or rule.startswith(_ENVIRONMENT):
            continue
        if what == "wrap_up" and "code" in decision:
            yield Outcome("wrap_up", rule, str(decision["code"]))
        elif what == "reroute":
            yield Outcome("reroute", rule, to=str(decision.get("to") or ""))
        elif what in _FLAGS:
            yield Outcome("flag", rule)
    for finding in record.get("findings") or ():
        detector, action = str(finding.get("detector")), finding.get("action")
        rule = detector if detector == "claims" else f"screening.{detector}"
        if finding.get("mode") != "enforce":
            continue
        if action in _REDACTS:
            yield Outcome("redact", rule)
        elif action == "flag":
            yield Outcome("flag", rule)


def _rule_behind(attempt: Mapping[str, Any], code: str) -> str:
    """The rule that stopped an answer, as far as its record tells."""
    for finding in reversed(attempt.get("findings") or ()):
        if finding.get("mode") == "enforce" and finding.get("action") == "block":
            return f"screening.{finding.get('detector')}"
    for decision in reversed(attempt.get("decisions") or ()):
        if decision.get("mode", "enforce") == "enforce" and decision.get("decision") in ("stop", "withhold"):
            return str(decision.get("rule"))
    return code


# -- steps -------------------------------------------------------------------------------------------


@frozen
class Given:
    """An answer of a provider, as it was paid for."""

    id: str
    name: str
    """Of the model that gave it, as the policy calls it."""
    usage: Usage
    cost: Nano
    status: int | None
    outcome: str
    said: Answer
    """What it said; without its content only the calls, whose arguments are not known."""


@dataclass(slots=True)
class Recorded:
    """One request of a client, with everything that came of it."""

    decision: str
    run: Json
    """Its row."""
    ordinal: int
    at: Millis
    ended_at: Millis
    surface: Surface
    model: str
    """As asked for."""
    provider: str
    """Which served it last."""
    stream: bool
    policy: str
    who: Json
    """`principal key user team end_user session`, and `tags`."""
    was: Outcome
    cost: Nano
    """Of all attempts."""
    besides: Nano
    """What of it was paid for other than these answers: for attempts that failed, for judges."""
    answers: list[Given]
    asked: Json
    results: list[Json]
    """Tool results that came with it: `call_id name ok status error_type`."""
    fell_back: bool
    """Another model had to serve it since its own failed."""
    body: bytes | None = None
    """The request, where it was kept, can be read, and has been (`open`)."""
    trace: Trace = field(default_factory=Trace)
    """What the run had done, by digests."""
    is_traced: bool = False
    """`trace` is whole."""

    @property
    def tools(self) -> list[str]:
        """Names of the tools offered, where that is on record."""
        return [str(name) for name in self.asked.get("tools") or ()]

    @property
    def called(self) -> list[str]:
        """Names of the tools that the model called."""
        return [call.name for given in self.answers for call in given.said.calls]

    def open(self, content: Content) -> None:
        """Take in what was kept of the step. What cannot be read is as if it had not been kept."""
        try:
            self.body = content.request(self.decision)
            if self.body is None:
                return
            self.answers = [
                given if (said := content.answer(given.id)) is None else replace(given, said=said)
                for given in self.answers
            ]
        except Unreadable:
            self.body = None

    def close(self) -> None:
        """Let go of what was kept."""
        self.body = None
        self.answers = [
            replace(given, said=Answer(calls=tuple([ToolCall(c.id, c.name, "{}") for c in given.said.calls])))
            for given in self.answers
        ]


def steps_of(run: Json, rows: Iterable[Json]) -> list[Recorded]:
    """The requests of one run in their order, from its rows in theirs."""
    groups: dict[str, list[Json]] = {}
    for row in rows:
        decision = row.get("decision") if row["kind"] == "attempt" else row["id"]
        groups.setdefault(str(decision or row["id"]), []).append(row)
    steps = [_step(decision, run, group) for decision, group in groups.items()]
    steps.sort(key=lambda step: (step.at, step.ordinal, step.ended_at))
    retold, counts = Retold(), dict[str, tuple[int, int]]()
    for step in steps:
        for result in step.results:
            name = str(result.get("name") or "")
            calls, errors = counts.get(name, (0, 0))
            counts[name] = (calls + 1, errors + (not result.get("ok", True)))
        trace = retold.take(step.asked.get("trace"), step.ordinal)
        step.is_traced = trace is not None
        step.trace = trace or Trace(step.ordinal, counts=dict(counts))
    return steps


def _step(decision: str, run: Json, rows: Sequence[Json]) -> Recorded:
    refusal = next((row for row in rows if row["kind"] == "refusal"), None)
    attempts = [row for row in rows if row["kind"] == "attempt"]
    # What was asked about the step has another surface or came before.
    own = [row for row in attempts if row["surface"] == run["surface"]] or attempts
    main = own[-1] if own else refusal
    assert main is not None
    model = str((refusal or main).get("requested_model") or main.get("requested_model") or "")
    answers = [_given(row) for row in own if row["requested_model"] == model and _answered(row)]
    cost = sum(row["cost"] for row in attempts)
    return Recorded(
        decision=decision,
        run=run,
        ordinal=main["ordinal"],
        at=min(row["at"] for row in rows),
        ended_at=max(max(row["ended_at"] for row in rows), max(row["at"] for row in rows)),
        surface=_surface(main["surface"] or run["surface"]),
        model=model,
        provider=str(main.get("provider") or ""),
        stream=bool(main.get("stream")),
        policy=str(main.get("policy") or (main.get("meta") or {}).get("policy") or run.get("policy") or ""),
        who={
            name: main.get(name) or run.get(name)
            for name in ("principal", "key", "user", "team", "end_user", "session", "tags")
        },
        was=outcome_of(attempts, refusal),
        cost=cost,
        besides=cost - sum(given.cost for given in answers),
        answers=answers,
        asked=_object((refusal or {}).get("asked")) or _object(main.get("asked")),
        results=[row for row in main.get("tool_results") or () if isinstance(row, dict)],
        fell_back=any(
            d.get("rule") == "fallback" and d.get("decision") == "reroute"
            for row in own
            for d in row.get("decisions") or ()
        ),
    )


def _surface(name: Any) -> Surface:
    try:
        return Surface(name)
    except ValueError:
        return Surface.CHAT


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _answered(row: Json) -> bool:
    """Whether a provider has said something in an attempt, or refused the request."""
    status = row.get("http_status")
    if row.get("outcome") != "failed":
        return True
    return isinstance(status, int) and 400 <= status < 500 and status != 429


def _served_as(row: Json) -> str:
    """The model that an attempt was made at, as the policy calls it."""
    name = row["requested_model"]
    for decision in row.get("decisions") or ():
        enforced = decision.get("mode", "enforce") == "enforce"
        if enforced and decision.get("decision") in ("reroute", "escalate") and decision.get("to"):
            name = decision["to"]
    return str(name or "")


def _given(row: Json) -> Given:
    calls = tuple(
        [
            ToolCall(str(call.get("id") or ""), str(call.get("name") or ""), "{}")
            for call in row.get("tool_calls") or ()
        ]
    )
    usage = _object(row.get("usage"))
    buckets = {name: usage[name] for name in USAGE_BUCKETS if type(usage.get(name)) is int}
    return Given(
        id=row["id"],
        name=_served_as(row),
        usage=Usage(**buckets, source="provider"),
        cost=row["cost"],
        status=row.get("http_status"),
        outcome=str(row.get("outcome") or "ok"),
        said=Answer(
            texts=() if calls else (_NO_CONTENT_ANSWER,),
            calls=calls,
            finish_reason=row.get("finish_reason"),
        ),
    )


# -- a request without its content --------------------------------------------------------------------

_ANY: Json = {"type": "object"}
MAX_PADDING = 1_000_000


def request_of(step: Recorded) -> Json:
    """A request of the same surface, model, size, tools and results as one whose content was not kept."""
    body: Json = {"model": step.model}
    limit = step.asked.get("limit")
    padding = "x " * (min(_whole(step.asked.get("bytes")), MAX_PADDING) // 2) + step.decision
    if step.stream:
        body["stream"] = True
    if step.surface is Surface.EMBEDDINGS or step.surface is Surface.MODERATIONS:
        return {"model": step.model, "input": padding}
    if step.surface is Surface.COMPLETIONS:
        body["prompt"] = padding
    elif step.surface is Surface.RESPONSES:
        body["input"] = [{"role": "user", "content": padding}, *_responses_results(step)]
    elif step.surface is Surface.MESSAGES:
        body["messages"] = [{"role": "user", "content": padding}, *_messages_results(step)]
    else:
        body["messages"] = [{"role": "user", "content": padding}, *_chat_results(step)]
        if _whole(step.asked.get("choices")) > 1:
            body["n"] = step.asked["choices"]
    if step.surface is Surface.MESSAGES:
        body["max_tokens"] = limit if isinstance(limit, int) and limit > 0 else 1024
    elif isinstance(limit, int) and limit > 0:
        body["max_output_tokens" if step.surface is Surface.RESPONSES else "max_tokens"] = limit
    if step.tools and step.surface is not Surface.COMPLETIONS:
        body["tools"] = [_definition(step.surface, name) for name in step.tools]
    if step.who.get("end_user"):
        body["user"] = step.who["end_user"]
    return body


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _definition(surface: Surface, name: str) -> Json:
    if surface is Surface.MESSAGES:
        return {"name": name, "input_schema": _ANY}
    if surface is Surface.RESPONSES:
        return {"type": "function", "name": name, "parameters": _ANY}
    return {"type": "function", "function": {"name": name, "parameters": _ANY}}


def _results(step: Recorded) -> Iterator[tuple[str, str, str]]:
    """(call id, tool, text) of each result: the text says how it went, and nothing else is known of it."""
    for i, result in enumerate(step.results):
        call_id = str(result.get("call_id") or f"call_{i}")
        text = "done"
        if not result.get("ok", True):
            kind = str(result.get("error_type") or "unknown")
            text = (
                f'{{"status": "error", "error_type": "{kind}"}}' if kind.isidentifier() else "Error: failed"
            )
        elif result.get("status") == "pending":
            text = '{"status": "pending"}'
        yield call_id, str(result.get("name") or "tool"), text


def _chat_results(step: Recorded) -> list[Json]:
    results = list(_results(step))
    if not results:
        return []
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for call_id, name, _ in results
    ]
    told = [{"role": "tool", "tool_call_id": call_id, "content": text} for call_id, _, text in results]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *told]


def _responses_results(step: Recorded) -> list[Json]:
    results = list(_results(step))
    calls: list[Json] = [
        {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"}
        for call_id, name, _ in results
    ]
    return [
        *calls,
        *({"type": "function_call_output", "call_id": i, "output": text} for i, _, text in results),
    ]


def _messages_results(step: Recorded) -> list[Json]:
    results = list(_results(step))
    if not results:
        return []
    calls = [{"type": "tool_use", "id": i, "name": name, "input": {}} for i, name, _ in results]
    told = [{"type": "tool_result", "tool_use_id": i, "content": text} for i, _, text in results]
    return [{"role": "assistant", "content": calls}, {"role": "user", "content": told}]


def finish_of(answer: Answer) -> Finish:
    """How an answer ended, in the words of `shaping.Said`."""
    if answer.calls:
        return "tool_calls"
    return "length" if answer.finish_reason in _CUT_SHORT else "stop"
