"""What is decided about a step before it is sent: what its run has done so far, and what follows from it.

The evidence is in the request: agents send the history of their run with every step, so a replica that has
never seen the run judges it like any other. The store adds what a request cannot show, because its provider
keeps the history or its agent has cut it. The rules are pure functions (`gateway.rules`); this is where
they meet the policy, the breakers and the baselines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.admission import Ending
from gateway.domain import Answer, Item, Json, Role, Surface
from gateway.errors import CallerError, Refusal, Ruling
from gateway.policy.models import Policy
from gateway.policy.sections.loops import LOOP_RULES, Loops
from gateway.policy.sections.tools import Claims
from gateway.protocols import Store
from gateway.rules.budgets import applies
from gateway.rules.claims import claims
from gateway.rules.contracts import Contracts, definition_digest, drift, offers_all
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.lineage import Lineage
from gateway.rules.loops import Detection, LoopRules, detect
from gateway.rules.tool_results import ResultHealth
from gateway.rules.trace import EMPTY, MAX_FACTS, Trace, answered, dump, load, merged
from gateway.rules.trace_news import news
from gateway.steps.approvals import Approvals
from gateway.steps.baselines import Baselines
from gateway.steps.breakers import Breakers, tool_breaker
from gateway.steps.delivery import Gate
from gateway.steps.dispatch import Job
from gateway.steps.gate import ToolGate
from gateway.steps.turn import Turn
from gateway.values import frozen

_NO_AGENT = frozenset({Surface.EMBEDDINGS, Surface.MODERATIONS, Surface.PASSTHROUGH})
_CLAIMS = Claims()
_HARDNESS = ("observe", "notify", "nudge", "downgrade", "wrap_up", "final_message", "stop", "kill")
MAX_SESSIONS = 4096
MAX_TRACES = 1024
BYTES_PER_TOKEN = 4
"""Of ordinary text."""
DRIFT_MEMORY_MS = 35 * 86_400_000
"""How long the definitions of a session's tools are remembered: as long as any budget of it."""


@frozen
class Plan:
    """What is to be done with a step."""

    keep: Callable[[Answer], bytes] | None = None
    """What the run has done when it has got an answer, to be kept."""
    review: Callable[[Answer], list[Json]] | None = None
    """What is to be said about a final answer, as findings."""
    withheld: Collection[str] = ()
    """Tools that the model is not to know of."""
    notes: tuple[str, ...] = ()
    """Lines that the model is told besides."""
    gate: Gate | None = None
    """What its tool calls have to pass."""
    ending: Ending | None = None
    """Why the run ends here; `action` says how, `to` with which model it goes on if it does."""
    action: str = ""
    to: str | None = None
    decisions: tuple[Json, ...] = ()
    flagged: bool = False


@dataclass(slots=True)
class Governor:
    """Plans steps. One per worker."""

    store: Store
    lineage: Lineage
    breakers: Breakers
    baselines: Baselines
    approvals: Approvals
    notify: Callable[[str, dict[str, Any]], None]
    read_results: Callable[[Sequence[Json]], None] = lambda _results: None
    """Told once of the tool results that a step has brought."""
    _prints: Fingerprints = field(default_factory=Fingerprints)
    _traces: OrderedDict[str, Trace] = field(default_factory=OrderedDict)
    """By run: what was known after its last answer here. The store has it where nobody else could tell."""
    _tools: OrderedDict[str, dict[str, str]] = field(default_factory=OrderedDict)
    """By session: the definitions that its first request showed, as digests."""

    async def plan(self, job: Job, killed: Collection[str]) -> Plan:
        """What follows from what the run has done. Raises `Refusal` for tools that must not be offered,
        `CallerError` for what cannot be governed, `StoreUnavailable`."""
        turn, policy = job.turn, job.generation.policy
        step = turn.step
        if step.surface in _NO_AGENT:
            return Plan(withheld=killed)
        governs = policy.governs_tools and step.surface is not Surface.COMPLETIONS
        loops = policy.loops if policy.loops is not None and policy.loops.mode != "off" else None
        trace = self._trace(job) if governs or loops is not None else EMPTY
        if trace is not EMPTY:
            job.asked["trace"] = news(trace)
        fresh = _fresh_results(step.items, trace, self._prints)
        contracts = job.generation.contracts.under(turn.scopes) if governs else None
        if contracts is not None:
            fresh = _in_time(fresh, contracts, turn.run.idle_ms)
        turn.results.extend([_told(name, item, health) for name, item, health in fresh])
        if turn.results and not turn.run.retry_ordinal:
            self.read_results(turn.results)
        notes: list[str] = []
        decisions: list[Json] = []
        withheld: dict[str, str] = dict.fromkeys(killed, "an operator has stopped it")
        unavailable: dict[str, str] = {}
        gate: ToolGate | None = None
        if contracts is not None:
            job.facts.checks.append("tools")
            if step.background and (step.tools or not offers_all(step)):
                raise CallerError(
                    "invalid_request",
                    "'background' is not to be had with tools whose calls are judged: leave it out.",
                    param="background",
                )
            for name, why in contracts.withheld(step.tools, turn.caller.max_tool_level, trace.counts).items():
                decisions.append(_decided(f"tools.{name[:64]}", "withhold", why))
                withheld[name] = why
            if step.tools:
                withheld |= await self._drifted(turn, contracts, decisions)
            self._report(turn, contracts, fresh)
            unavailable = await self._unavailable(turn, contracts, withheld)
            for name, told in unavailable.items():
                decisions.append(_decided(f"tools.{name[:64]}.breaker", "withhold", "its breaker is open"))
                if contracts.tool(name).on_open == "withhold":
                    withheld[name] = told
                    notes.append(told)
            gate = ToolGate(turn, policy, contracts, trace, unavailable, self.approvals, self.store)
        anomaly = policy.runs.anomaly if policy.runs.mode != "off" else None
        if anomaly is not None and (found := self.baselines.check(turn, anomaly)) is not None:
            decisions.append({"rule": "runs.anomaly", "mode": "enforce", "decision": "flag", **found})
        ending, action, to = None, "", None
        if loops is not None and applies(loops.match, turn.scopes):
            job.facts.checks.append("loops")
            ending, action, to = self._loops(job, loops, trace, notes, decisions)
        return Plan(
            keep=self._keeper(turn, trace) if trace is not EMPTY else None,
            review=self._review(job, trace),
            withheld=tuple(withheld),
            notes=tuple(notes),
            gate=gate,
            ending=ending,
            action=action,
            to=to,
            decisions=tuple(decisions),
            flagged=bool(notes) or any(d["decision"] == "flag" for d in decisions),
        )

    # -- what is kept of a run ----------------------------------------------------------------------

    def _trace(self, job: Job) -> Trace:
        """What the run has done up to this request."""
        turn = job.turn
        # What the provider keeps of the conversation is read again too.
        read = turn.step.text_bytes + BYTES_PER_TOKEN * turn.stored_tokens
        return merged(self._recorded(turn), turn.step.items, job.facts.step or 1, read, self._prints)

    def _recorded(self, turn: Turn) -> Trace:
        """What is known of the run's earlier steps: as this worker saw the last one, else as it was kept."""
        seen = self._traces.get(turn.run.run_id)
        if seen is not None and seen.step >= turn.run.steps:
            self._traces.move_to_end(turn.run.run_id)
            return seen
        return load(turn.run.progress)

    def _keeper(self, turn: Turn, trace: Trace) -> Callable[[Answer], bytes]:
        """What becomes of a trace with an answer. In the store it is kept only where later requests may not
        show all of it themselves: the provider keeps the history, or the agent has begun to cut it."""
        step = turn.step
        hidden = bool(step.state) or (
            step.surface is Surface.RESPONSES and step.body.get("store") is not False
        )
        cut = 0 < len(trace.facts) < MAX_FACTS and trace.facts[0].step > 2

        def keep(answer: Answer) -> bytes:
            known = answered(trace, answer, self._prints)
            self._traces[turn.run.run_id] = known
            while len(self._traces) > MAX_TRACES:
                self._traces.popitem(last=False)
            return dump(known) if hidden or cut else b""

        return keep

    # -- loops --------------------------------------------------------------------------------------

    def _loops(
        self, job: Job, loops: Loops, trace: Trace, notes: list[str], decisions: list[Json]
    ) -> tuple[Ending | None, str, str | None]:
        """How a run that goes in circles ends, by the hardest rung that one of its loops has reached."""
        turn = job.turn
        rules = job.generation.loop_rules
        found = detect(trace, rules)
        if not found:
            return None, "", None
        for detection in found:
            decisions.append(
                {
                    "rule": f"loops.{detection.rule}",
                    "mode": loops.mode,
                    "decision": detection.action,
                    "count": detection.count,
                    "why": detection.evidence,
                }
            )
        if loops.mode == "shadow":
            return None, "", None
        worst: Detection = max(found, key=lambda d: _HARDNESS.index(d.action))
        if worst.action in ("notify", "nudge", "downgrade"):
            facts = {**turn.meta(), "run": turn.run.run_id, "rule": worst.rule, "why": worst.evidence}
            self.notify("loop_detected", {**facts, "decision": worst.action})
        if worst.action == "nudge":
            notes.append(nudge(worst))
        if worst.action in ("observe", "notify", "nudge"):
            return None, "", None
        limit = max(
            n for n, action in getattr(rules, worst.rule) if n <= worst.count and action == worst.action
        )
        ending = Ending("loop_detected", f"loops.{worst.rule}", "run", limit, worst.count)
        return ending, worst.action, loops.to

    # -- answers ------------------------------------------------------------------------------------

    def _review(self, job: Job, trace: Trace) -> Callable[[Answer], list[Json]] | None:
        """Looks for claims in a final answer that the run does not bear out; None where nobody wants to know.

        A finding names tools and their outcomes, and nothing of the answer's text."""
        step = job.turn.step
        config = job.generation.policy.claims or _CLAIMS
        if config.mode == "off" or not step.tools:
            return None

        def facts() -> list[tuple[str, str]]:
            known = trace if trace is not EMPTY else self._trace(job)
            return [(fact.name, fact.status) for fact in known.facts]

        def review(answer: Answer) -> list[Json]:
            text = answer.texts[0] if answer.texts else ""
            return [
                {
                    "detector": "claims",
                    "channel": "output",
                    "mode": config.mode,
                    "action": "flag",
                    "kind": claim.kind,
                    "verb": claim.verb,
                    "tools": list(claim.tools),
                    "facts": [list(fact) for fact in claim.facts],
                }
                for claim in claims(text, facts, [tool.name for tool in step.tools], config)
            ]

        return review

    # -- tools --------------------------------------------------------------------------------------

    async def _drifted(self, turn: Turn, contracts: Contracts, decisions: list[Json]) -> dict[str, str]:
        """Tools whose definition is not what it was when the session began, as far as they are withheld."""
        known = await self._definitions(turn)
        changed = drift(known, turn.step.tools)
        withheld: dict[str, str] = {}
        for name in changed:
            contract = contracts.tool(name)
            if contract.on_drift == "allow" or contract.mode == "off":
                continue
            acts = contract.mode == "enforce" and contract.on_drift != "flag"
            decisions.append(
                {
                    "rule": f"tools.{name[:64]}.on_drift",
                    "mode": contract.mode,
                    "decision": contract.on_drift if acts else "flag",
                    "why": "its definition has changed within the session",
                }
            )
            owner = {"owner": contract.owner} if contract.owner is not None else {}
            self.notify(
                "tool_drift",
                {
                    **turn.meta(),
                    "run": turn.run.run_id,
                    "tool": name,
                    "decision": contract.on_drift,
                    **owner,
                },
            )
            if acts and contract.on_drift == "stop":
                raise Refusal(
                    Ruling("tool_not_allowed", f"tools.{name[:64]}.on_drift", "tool", 0, 0),
                    f"The definition of tool {name[:64]!r} is not what it was when this session began "
                    f"(run {turn.run.run_id}).",
                )
            if acts:
                withheld[name] = "its definition has changed"
        return withheld

    def session_key(self, principal: str, session: str) -> str:
        """Where the store keeps what is known of a session's tools."""
        return self.lineage.key(principal, "tools", session)

    def forget(self) -> None:
        """Drop what is at hand here; the store has what is still needed."""
        self._tools.clear()

    async def _definitions(self, turn: Turn) -> Mapping[str, str]:
        """The digests of the session's tools as it first showed them. A tool that is new is remembered."""
        key = self.session_key(turn.caller.id, turn.run.session)
        known = self._tools.get(key)
        if known is None:
            kept = (await self.store.recall([key])).get(key)
            known = orjson.loads(kept) if kept is not None else {}
        else:
            self._tools.move_to_end(key)
        new = {t.name: definition_digest(t) for t in turn.step.tools if t.name not in known}
        if new:
            known = {**known, **new}
            await self.store.remember({key: orjson.dumps(known)}, DRIFT_MEMORY_MS)
        self._tools[key] = known
        while len(self._tools) > MAX_SESSIONS:
            self._tools.popitem(last=False)
        return known

    def _report(self, turn: Turn, contracts: Contracts, fresh: Sequence[_Result]) -> None:
        """Tell the breakers how the tools fared. A step that is tried again shows the same results again."""
        if turn.run.retry_ordinal:
            return
        for name, _, health in fresh:
            breaker = tool_breaker(turn.caller, name, contracts.tool(name)) if name else None
            if breaker is None or health.status == "pending":
                continue
            failed = health.status == "error"
            if failed and health.cause == "caller":
                continue
            self.breakers.saw(breaker, turn.caller.key, failed=failed)

    async def _unavailable(
        self, turn: Turn, contracts: Contracts, withheld: Collection[str]
    ) -> dict[str, str]:
        """Tools that fail so often that they are left alone for a while, and what the model is told."""
        found = {}
        for tool in turn.step.tools:
            contract = contracts.tool(tool.name)
            breaker = tool_breaker(turn.caller, tool.name, contract)
            if breaker is None or contract.mode != "enforce" or tool.name in withheld:
                continue
            if not await self.breakers.usable(breaker):
                found[tool.name] = (
                    f"Tool '{tool.name}' does not work at the moment and cannot be used. Go on without it, "
                    "and say so if that leaves something open."
                )
        return found


def loop_rules(policy: Policy) -> LoopRules:
    """The policy's rules as the detectors take them."""
    loops = policy.loops
    if loops is None:
        return LoopRules()
    rungs = {name: loops.ladders().get(name, ()) for name in LOOP_RULES}
    return LoopRules(
        **rungs,
        ignore_tools=frozenset(loops.ignore_tools),
        polling_tools=frozenset(loops.polling_tools),
    )


def nudge(detection: Detection) -> str:
    """The line that tells a model that it goes in circles."""
    return (
        f"Note: {detection.evidence}. Doing the same again will not bring anything new. Use what you already "
        "know, try something different, or say what is missing."
    )


def _decided(rule: str, decision: str, why: str) -> Json:
    return {"rule": rule, "mode": "enforce", "decision": decision, "why": why}


_Result = tuple[str, Item, ResultHealth]
"""A tool's name, its result, and how it went."""


def _fresh_results(items: Sequence[Item], trace: Trace, prints: Fingerprints) -> list[_Result]:
    """The results behind the last answer, each with its tool's name and how it went. The trace knows the
    names where the provider keeps the history."""
    fresh: list[Item] = []
    names: dict[str, str] = {}
    in_order: list[str] = []
    for item in reversed(items):
        if item.aside or item.role is Role.SYSTEM:
            continue
        if item.role is Role.ASSISTANT:
            for call in item.calls:
                names[call.id] = call.name
                in_order.append(call.name)
            break
        if item.role is Role.TOOL:
            fresh.append(item)
    fresh.reverse()
    if not fresh:
        return []
    if not in_order:
        recorded = [fact.name for fact in trace.facts if fact.step == trace.step]
        in_order = recorded if len(recorded) == len(fresh) else []
    found = []
    for i, item in enumerate(fresh):
        name = names.get(item.call_id or "") or (in_order[i] if i < len(in_order) else "")
        found.append((name, item, prints.health(item)))
    return found


def _in_time(fresh: list[_Result], contracts: Contracts, idle_ms: int) -> list[_Result]:
    """The results, of which the last has failed if they took longer than their tool's contract gives them.

    What is seen of a call is the time between the answer that asks for it and the request that brings its
    result. Where several tools were called in between, nobody can tell which of them took it; where one was
    called several times, perhaps one after the other, all of its calls together are given that much each.
    """
    names = {name for name, _, _ in fresh}
    if len(names) != 1:
        return fresh
    name, item, health = fresh[-1]
    limit = contracts.tool(name).timeout_seconds
    if limit is None or health.status == "error" or idle_ms <= limit * 1000 * len(fresh):
        return fresh
    return [*fresh[:-1], (name, item, ResultHealth("error", "timeout", cause="tool"))]


def _told(name: str, item: Item, health: ResultHealth) -> Json:
    told: Json = {"call_id": item.call_id, "name": name, "ok": health.status != "error"}
    if health.status != "ok":
        told["status"] = health.status
    if health.error_type:
        told["error_type"] = health.error_type
    return told
