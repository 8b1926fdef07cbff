"""What an attempt comes to: its bill, and what the store and the ledger are told of its end."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal

from gateway.admission import Settlement
from gateway.domain import USAGE_BUCKETS, Answer, Json, Nano, RunStatus, Surface, Usage
from gateway.metering.estimate import GENERATES_NOTHING, estimated_usage, repaired, with_later_rounds
from gateway.metering.usage import ReadUsage
from gateway.rules.endings import status_of
from gateway.surfaces.body import joined
from gateway.values import frozen

if TYPE_CHECKING:
    from gateway.steps.attempt import Attempt
    from gateway.steps.turn import Turn

Outcome = Literal["ok", "failed", "disconnected", "cut", "killed", "stopped"]

_NO_CONVERSATION = GENERATES_NOTHING | {Surface.COMPLETIONS, Surface.PASSTHROUGH}
_UNFINISHED = ("pause_turn", "compaction")
"""Finish reasons after which the client asks the model to go on."""
IN_FLIGHT_S = 0.2
IN_FLIGHT_TOKENS = 32
"""What a provider may have generated beyond what arrived when a stream breaks off: so long at the speed
seen, and at least so many tokens."""
MAX_TOOLS, MAX_TOOL_NAME = 128, 128
"""Of the tools that a step offers, so many are on record, by so many characters of their names."""
INDEX_GRACE_MS = 3_600_000
"""How long beyond its idle TTL a run can be found again, to be continued by a new one."""


@frozen
class Ended:
    """How an attempt ended, and what it cost. `source` says where the cost comes from."""

    outcome: Outcome
    usage: Usage
    cost: Nano
    source: str
    answer: Answer | None
    error: str | None


def bill(attempt: Attempt, read: ReadUsage | None, answer: Answer) -> tuple[Usage, Nano, str]:
    """Usage, cost and where the cost comes from, for an answer that came whole."""
    route = attempt.route
    if read is not None and read.input_trusted and read.output_trusted:
        source = "free" if route.rates.free else "provider"
        return read.usage, attempt.router.cost(route, read, attempt.admitted.admitted_at), source
    step = attempt.turn.step
    usage = estimated_usage(
        step,
        (*answer.texts, answer.reasoning),
        answer.calls,
        model=route.upstream_model,
        hosted=answer.hosted,
        context_window=route.context_window,
    )
    if read is not None:
        usage = repaired(with_later_rounds(step, read, answer.hosted), usage)
    return usage, route.rates.cost(usage), "free" if route.rates.free else "estimated"


def with_flight(attempt: Attempt, usage: Usage, *, unseen: bool) -> tuple[Usage, Nano]:
    """Add what the provider may have generated before it noticed the end, at the speed seen; all that it was
    asked for where it had been talking to somebody who did not listen (`unseen`)."""
    elapsed = max(time.perf_counter() - (attempt.first_at or attempt.sent_at), 0.001)
    flight = min(
        max(IN_FLIGHT_TOKENS, math.ceil(usage.output_text * IN_FLIGHT_S / elapsed)),
        max(IN_FLIGHT_TOKENS, attempt.covered_tokens - usage.output_text),
    )
    if unseen:
        flight = max(flight, attempt.admitted.output_tokens * attempt.quote.choices - usage.output_text)
    values = {name: getattr(usage, name) for name in USAGE_BUCKETS}
    values["output_text"] += flight
    grown = Usage(**values, source="estimated")
    return grown, attempt.route.rates.cost(grown)


def settlement_of(attempt: Attempt, end: Ended) -> Settlement:
    """What the store is told. An answer whose calls are withheld leaves no trace in the conversation."""
    turn = attempt.turn
    answer = end.answer if attempt.withheld is None else None
    links: tuple[str, ...] = ()
    head = ""
    if answer is not None and attempt.wire.surface not in _NO_CONVERSATION:
        # Whatever ended the answer, its client may go on from what had come of it.
        links, head = attempt.machinery.lineage.links(
            turn.caller.id, turn.chain, answer, whole=end.outcome == "ok"
        )
        if answer.calls and end.outcome == "ok":
            links += attempt.machinery.lineage.tasks_given(turn.caller.id, answer.calls)
    completes = attempt.closes if attempt.inspect is not None else _completes(attempt, end, answer)
    status = _status_from(attempt, end)
    because = _because(attempt, end) if status is not None else ""
    natural = RunStatus.COMPLETED if completes and not turn.run.explicit else RunStatus.RUNNING
    return Settlement(
        attempt_id=attempt.attempt_id,
        run_id=turn.run.run_id,
        cost=end.cost,
        tokens=end.usage.charged_tokens,
        provisional=False,
        succeeded=end.outcome == "ok",
        completes=completes,
        tool_calls=len(answer.calls) if answer is not None else 0,
        links=links,
        head=head,
        retry_key=turn.retry_key,
        index_ttl_ms=attempt.base_event["idle_ttl_ms"] + INDEX_GRACE_MS,
        event=_event(attempt, end, status or natural, because),
        holds=attempt.admitted.holds,
        adopt=False,
        ends_as=status.value if status is not None else "",
        ends_because=because,
        waited_ms=attempt.waited_ms,
        progress=attempt.keep(answer) if attempt.keep is not None and answer is not None else b"",
    )


def _completes(attempt: Attempt, end: Ended, answer: Answer | None) -> bool:
    """Whether a run that was not named ends with this answer."""
    return (
        end.outcome == "ok"
        and answer is not None
        and answer.finish_reason not in _UNFINISHED
        and all(call.name in attempt.final_tools for call in answer.calls)
    )


def _status_from(attempt: Attempt, end: Ended) -> RunStatus | None:
    """The status that this attempt puts an end to its run in; None when the run goes on."""
    if end.outcome == "killed":
        kill = attempt.kill
        if attempt.inspect is not None and kill is not None and kill.name.startswith("model:"):
            # The model that was asked about the step is gone; the run may go on without it.
            return None
        return RunStatus.KILLED
    if attempt.lands is not None:
        return status_of(attempt.lands.code)
    return status_of(end.error or "") if end.outcome == "stopped" else None


def _because(attempt: Attempt, end: Ended) -> str:
    if attempt.kill is not None:
        return attempt.kill.reason or "run_killed"
    return attempt.lands.code if attempt.lands is not None else end.error or end.outcome


def _event(attempt: Attempt, end: Ended, status: RunStatus, because: str) -> bytes:
    """The attempt in the ledger."""
    now = time.perf_counter()
    upstream = (attempt.done_at or now) - attempt.sent_at if attempt.sent_at else 0.0
    total = now - attempt.turn.clock
    answer = end.answer
    known: Json = {
        "provisional": False,
        "ordinal": attempt.admitted.ordinal,
        "model": attempt.route.upstream_model,
        "ended_at": attempt.turn.began_at + int(total * 1000),
        "usage": {name: value for name in USAGE_BUCKETS if (value := getattr(end.usage, name))},
        "usage_source": end.usage.source,
        "cost": end.cost,
        "cost_source": end.source,
        "reserved": attempt.reserved,
        "latency_ms": round(total * 1000, 3),
        "ttft_ms": round((attempt.first_at - attempt.sent_at) * 1000, 3) if attempt.first_at else None,
        "overhead_ms": round((total - upstream) * 1000 - attempt.waited_ms - attempt.queued_ms, 3),
        "http_status": attempt.status,
        "outcome": end.outcome,
        "finish_reason": answer.finish_reason if answer is not None else None,
        "error": end.error,
        "tool_calls": _calls(attempt, answer),
        "decisions": _decisions(attempt),
        "findings": attempt.findings,
        "charges": [[hold.counter, hold.expires_at] for hold in attempt.admitted.holds],
        "run_status": status.value,
        "asked": asked_of(attempt.turn, attempt.base_event["asked"]),
    }
    if because:
        known["run_reason"] = because
    if attempt.queued_ms:
        known["queued_ms"] = attempt.queued_ms
    if attempt.saved:
        known["saved"] = attempt.saved
    return joined(attempt.base_event["attempt"], known)


def asked_of(turn: Turn, found: Json) -> Json:
    """What a step asked for, without its content: what other limits and rules would have decided over.

    `tools` are the names of those it offered, `limit` is its output limit, `bytes` the text for its model to
    read, `stored` the tokens that the provider kept of it. `found` is what was worked out on the way: `bound`
    and `counted` are input tokens by size and by tokenizer, `trace` is `rules.trace_news.news`.
    """
    step = turn.step
    told: Json = {"bytes": step.text_bytes, **found}
    if step.tools:
        told["tools"] = [tool.name[:MAX_TOOL_NAME] for tool in step.tools[:MAX_TOOLS]]
    if step.output_limit is not None:
        told["limit"] = step.output_limit
    if step.choices != 1:
        told["choices"] = step.choices
    if turn.stored_tokens:
        told["stored"] = turn.stored_tokens
    return told


def _calls(attempt: Attempt, answer: Answer | None) -> list[Json]:
    if answer is None:
        return []
    if attempt.withheld is not None:
        return [{"id": c.id, "name": c.name, "delivered": False} for c in answer.calls]
    return [{"id": c.id, "name": c.name} for c in answer.calls]


def _decisions(attempt: Attempt) -> list[Json]:
    gate = attempt.gate.decisions if attempt.gate is not None else ()
    shadow = [
        {"rule": rule, "mode": "shadow", "decision": "refuse"} for rule in attempt.admitted.shadow_denied
    ]
    return [*attempt.decisions, *gate, *shadow]
