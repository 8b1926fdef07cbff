"""From a step that may go on to an attempt on its way: what it may cost is reserved, its body is written.

    Job (one request)  +  Ask (one call of a provider that it needs)  ──►  Attempt, or why not

Most jobs need one ask. A run that lands, goes on with another model, or whose tool calls cannot be delivered
needs more; each is let in by the store with a reservation and a ledger entry of its own.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from gateway.admission import Admission, Admitted, Charge, Denied, Ending, Hold, RunLimits
from gateway.domain import Answer, Headers, Json, Nano, Principal, RunStatus, Step, Surface
from gateway.errors import Ruling
from gateway.metering.estimate import Quote, output_bound, quote, thinking_budget
from gateway.metering.learned import OutputEstimates
from gateway.metering.usage import read_usage
from gateway.policy.models import Policy
from gateway.policy.sections.operations import PassthroughRoute
from gateway.policy.sections.providers import Provider
from gateway.protocols import Store
from gateway.rules.budgets import Rulebook
from gateway.rules.contracts import Contracts
from gateway.rules.endings import action_at, is_budget
from gateway.rules.kills import kill_names
from gateway.rules.loops import LoopRules
from gateway.rules.route import Route, Router
from gateway.steps.attempt import Attempt, Machinery
from gateway.steps.delivery import Client, Gate
from gateway.steps.tool_kills import ToolKills
from gateway.steps.turn import Facts, Turn, new_id
from gateway.surfaces.body import joined
from gateway.upstreams import headers as header_rules
from gateway.upstreams import openai
from gateway.upstreams.capacity import priority_of
from gateway.upstreams.dialects import Dialect, Wire, headers_for, query_for
from gateway.upstreams.transport import Timeouts, Transport, UpstreamRequest
from gateway.values import frozen

if TYPE_CHECKING:
    from gateway.steps.screens import Output

_USAGE_ON_REQUEST = (Surface.CHAT, Surface.COMPLETIONS)
"""Surfaces whose streams tell their usage only when asked to."""
_FREE = Quote(input_tokens=0, input_nano=0, output_nano_per_mtok=0, fixed_nano=0, output_tokens=0, choices=1)
_UNSENT = UpstreamRequest("POST", "", [], b"", Timeouts(connect_s=0, first_byte_s=0, idle_s=0, total_s=0))
MIN_OUTPUT_TOKENS = 256
"""An answer clamped to less than this is not worth its input."""
MOST_WORTH = 4096
"""However long an agent's answers are, this much is worth a step."""
MIN_LAST_TOKENS = 64
"""The same for the last answer of a run, which is better than none."""


@frozen
class Call:
    """A request on the data plane, read and authenticated."""

    surface: Surface
    caller: Principal
    raw_headers: Headers
    headers: Mapping[bytes, bytes]
    query: bytes
    url_run: str | None
    body: bytes
    clock: float
    """`time.perf_counter()` when its head was read."""


@dataclass(slots=True)
class Generation:
    """One policy with everything made from it. Steps finish on the generation that they began on."""

    policy: Policy
    rulebook: Rulebook
    router: Router
    contracts: Contracts
    loop_rules: LoopRules
    version: str = field(init=False)
    """The policy's content hash."""
    screens: bool = field(init=False)
    """Texts are screened."""
    handed_on: list[tuple[re.Pattern[bytes], PassthroughRoute]] = field(init=False)
    """Paths that the policy lets pass."""
    profiles: Mapping[str, Generation] = field(default_factory=dict)
    """What serves the keys that have a profile, by the key's name."""

    def __post_init__(self) -> None:
        self.version = self.policy.version
        self.screens = self.policy.screening.is_on
        self.handed_on = [(_path_pattern(route.path), route) for route in self.policy.passthrough]

    def serving(self, caller: Principal) -> Generation:
        """What serves a caller: the policy, or its key's profile."""
        return self.profiles.get(caller.key, self) if self.profiles else self


@dataclass(slots=True)
class Job:
    """One request on its way through the gateway."""

    generation: Generation
    call: Call
    turn: Turn
    facts: Facts
    client: Client
    withheld: Collection[str] = ()
    """Tools whose definitions the model does not get."""
    keep: Callable[[Answer], bytes] | None = None
    """What the run has done when it has got this answer, to be kept in the store."""
    review: Callable[[Answer], list[Json]] | None = None
    """What is to be said about a final answer, as findings."""
    decisions: list[Json] = field(default_factory=list)
    """What rules decided about the request."""
    findings: list[Json] = field(default_factory=list)
    """What was found in its texts, until an attempt has it on record."""
    output: Output | None = None
    """What the texts of its answers have to pass."""
    asked: Json = field(default_factory=dict)
    """What was worked out about the request on its way, for the record: see `booking.asked_of`."""


@frozen
class Ask:
    """One call of a provider."""

    route: Route
    wire: Wire
    put: Step
    """The step as the provider will read it."""
    gate: Gate | None = None
    lands: Ending | None = None
    """It is the last of its run, for this reason."""
    ordinal: int = 0
    """Of the step it belongs to, when another ask of that step came before; else 0."""
    limits: RunLimits | None = None
    """Instead of the policy's."""
    inspect: Callable[[Json], list[Json]] | None = None
    """Reads the reply of an ask that is no part of the conversation; what it finds is put on record."""
    closes: bool = False
    """With `inspect`: the run was complete before."""
    guard: Callable[[Answer, bool], str | None] | None = None
    """Why an answer is not good enough to be delivered. See `Attempt`."""
    instead_of: Route | None = None
    """Where the step was to go before a rule sent it here."""
    kept: bool = False
    """It is answered with what is kept: nothing is sent, and nothing reserved for."""


@frozen
class Held:
    """A step that was let in, and what is reserved for it."""

    attempt_id: str
    admission: Admission
    admitted: Admitted
    bound: Quote
    base: dict[str, Any]


@dataclass(slots=True)
class Dispatcher:
    """Lets steps in and sends them. One per worker."""

    store: Store
    transport: Transport
    machinery: Machinery
    notify: Callable[[str, dict[str, Any]], None]
    estimates: OutputEstimates
    tool_kills: ToolKills
    topups: Mapping[tuple[str, str], Nano]
    held: Callable[[Sequence[Charge], Sequence[Hold]], None] = lambda _charges, _holds: None
    """Told of the budgets that a step was let in by, in the same order."""

    async def attempt(self, job: Job, ask: Ask) -> Attempt | Denied:
        """The attempt that serves the ask, let in and ready to run; else the rule that has no room for it.
        Raises `StoreUnavailable`."""
        held = await self.reserve(job, ask)
        if isinstance(held, Denied):
            return held
        route, wire, put = ask.route, ask.wire, ask.put
        asks_usage = put.stream and wire.surface in _USAGE_ON_REQUEST and route.provider.stream_usage
        limit = _limit_to_send(put, held.bound, held.admitted)
        body = wire.codec.forward(
            put,
            model=route.upstream_model,
            limit_field=openai.limit_field(route.provider),
            output_limit=limit,
            inject_usage=asks_usage,
            withheld=job.withheld,
        )
        call = job.call
        query = query_for(wire, call.surface, call.query)
        url = wire.dialect.url(route.provider, wire.surface, route.upstream_model, query)
        raw, asked = headers_for(wire, call.raw_headers, call.headers)
        headers = [(b"content-type", b"application/json"), *asked]
        sent = call if raw is call.raw_headers else replace(call, raw_headers=raw)
        attempt_id = held.attempt_id
        request = request_to(sent, route.provider, wire.dialect, "POST", url, headers, attempt_id, body)
        return self.held_attempt(
            job,
            ask,
            request,
            held,
            strips_usage=asks_usage and not put.wants_usage,
            clamped=limit is not None and limit < held.bound.output_tokens,
        )

    async def replay(self, job: Job, ask: Ask, reply: Json) -> Attempt | Denied:
        """The attempt that gives a kept reply of the client's surface once more: let in by every kill, rate
        and limit as any step, at no cost. Raises `StoreUnavailable`."""
        ask = replace(ask, kept=True)
        held = await self.reserve(job, ask)
        if isinstance(held, Denied):
            return held
        attempt = self.held_attempt(job, ask, _UNSENT, held)
        read = read_usage(job.turn.step.surface, reply)
        if read is not None:
            full_price = ask.instead_of or ask.route
            attempt.worth = job.generation.router.cost(full_price, read, held.admitted.admitted_at)
        return attempt

    async def reserve(self, job: Job, ask: Ask) -> Held | Denied:
        """Reserve what the ask may cost at most."""
        policy, turn, put, route = job.generation.policy, job.turn, ask.put, ask.route
        wanted = output_bound(put, route.output_cap, policy.default_max_output_tokens)
        if ask.lands is not None:
            wanted = min(wanted, policy.runs.landing.output_tokens + thinking_budget(put))
        bound = _FREE if ask.kept else self._quote(turn, put, route, wanted)
        attempt_id = new_id("att")
        base = _base_event(attempt_id, turn, route, job.facts, policy)
        base["asked"] = job.asked
        endings = job.generation.rulebook.endings if ask.lands is None else frozenset[str]()
        least = max(self._least(job, ask, bound, ending) for ending in ("stop", *endings))
        admission = self._admission(job, ask, bound, attempt_id, base, least)
        job.asked.setdefault("bound", bound.input_tokens)
        outcome = await self.store.admit(admission)
        if isinstance(outcome, Denied) and _is_near(outcome) and not ask.kept:
            # The bound counts bytes. Near a limit it is worth counting tokens before saying no.
            bound = self._quote(turn, put, route, wanted, exact=True)
            job.asked.setdefault("counted", bound.input_tokens)
            admission = self._admission(job, ask, bound, attempt_id, base, least)
            outcome = await self.store.admit(admission)
        while isinstance(outcome, Denied) and is_budget(outcome.code) and ask.lands is None:
            # The limit that said no may be content with a shorter answer than others demand.
            enough = self._least(job, ask, bound, action_at(policy, outcome)[0])
            if enough >= admission.floor_tokens:
                break
            admission = replace(admission, floor_tokens=enough)
            outcome = await self.store.admit(admission)
        if isinstance(outcome, Denied):
            return outcome
        self.held(admission.charges, outcome.holds)
        facts = job.facts
        facts.step = outcome.ordinal
        facts.run_cost, facts.run_remaining = turn.run.cost, outcome.run_remaining
        for rule in outcome.warned:
            self.notify("budget_warning", {"rule": rule, "run": turn.run.run_id, **turn.meta()})
        for rule in outcome.shadow_denied:
            self._alert_only(turn, policy, rule)
        return Held(attempt_id, admission, outcome, bound, base)

    @staticmethod
    def _quote(turn: Turn, put: Step, route: Route, wanted: int, *, exact: bool = False) -> Quote:
        return quote(
            put,
            route.rates,
            wanted,
            model=route.upstream_model,
            context_window=route.context_window,
            stored_tokens=turn.stored_tokens,
            exact=exact,
        )

    def _alert_only(self, turn: Turn, policy: Policy, rule: str) -> None:
        """Tell of a limit at which the policy wants nothing but that."""
        facts = {**turn.meta(), "rule": rule, "run": turn.run.run_id, "decision": "notify"}
        if rule.startswith("runs."):
            if policy.runs.mode == "enforce":
                self.notify("limit_exceeded", facts)
        elif any(b.name == rule and b.mode == "enforce" for b in policy.budgets):
            self.notify("budget_exceeded", facts)

    def held_attempt(
        self,
        job: Job,
        ask: Ask,
        request: UpstreamRequest,
        held: Held,
        *,
        strips_usage: bool = False,
        clamped: bool = False,
    ) -> Attempt:
        """The attempt for what was let in."""
        policy = job.generation.policy
        findings, job.findings = job.findings, []
        return Attempt(
            attempt_id=held.attempt_id,
            kill_names=frozenset(held.admission.kill_names),
            machinery=self.machinery,
            router=job.generation.router,
            route=ask.route,
            transport=self.transport,
            request=request,
            wire=ask.wire,
            turn=job.turn,
            facts=job.facts,
            quote=held.bound,
            admitted=held.admitted,
            server=policy.server,
            final_tools=policy.runs.final_tools,
            strips_usage=strips_usage,
            base_event=held.base,
            tightest=self._tightest(held.admission.charges, held.admitted),
            tool_kills=self.tool_kills,
            reserve_tokens=held.admission.reserve_tokens,
            clamped=clamped,
            gate=ask.gate,
            lands=ask.lands,
            decisions=job.decisions,
            keep=job.keep,
            review=job.review,
            output=job.output,
            findings=findings,
            inspect=ask.inspect,
            closes=ask.closes,
            guard=ask.guard,
            instead_of=ask.instead_of,
            kept=ask.kept,
            priority=priority_of(job.call.caller.priority, job.call.headers.get(b"x-guardrail-priority")),
        )

    def _admission(
        self, job: Job, ask: Ask, bound: Quote, attempt_id: str, base: dict[str, Any], least: int
    ) -> Admission:
        turn, rulebook = job.turn, job.generation.rulebook
        step, run = turn.step, turn.run
        reserve = bound.output_tokens
        if step.stream and step.output_limit is None and ask.lands is None:
            reserve = min(reserve, self.estimates.reserve(turn.caller.id, turn.scopes.agent, step.model))
        kept_back = 0
        if ask.lands is None and rulebook.lands:
            kept_back = _landing_cost(bound, ask.put, job.generation.policy)
        names = kill_names(turn.scopes, run.name, ask.route.upstream_model, turn.caller.id, turn.hints.parent)
        return Admission(
            attempt_id=attempt_id,
            run_id=run.run_id,
            retry_ordinal=ask.ordinal or run.retry_ordinal,
            retry_key=turn.retry_key,
            kill_names=names,
            limits=ask.limits or rulebook.run_limits(bound.input_tokens),
            charges=rulebook.charges(turn.scopes, turn.began_at, self.topups, kept_back),
            rates=rulebook.rates(turn.scopes),
            fixed_nano=bound.base_nano,
            output_rate=bound.output_rate,
            want_tokens=bound.output_tokens,
            reserve_tokens=reserve,
            floor_tokens=least,
            halve=step.output_limit is None and ask.lands is None,
            input_tokens=bound.input_tokens,
            choices=bound.choices,
            lease_ms=int(self.machinery.live.lease_s * 1000),
            event=_run_opened(turn) if run.steps == 0 else b"",
            orphan=base["orphan"],
            idle_ttl_ms=base["idle_ttl_ms"],
            landing=ask.lands,
        )

    def _least(self, job: Job, ask: Ask, bound: Quote, ending: str) -> int:
        """The least output worth admitting under a budget that does this at its limit.

        One that lands its runs does not cut a step below what this agent's answers take, since a tool call
        would break off; one that goes on with a cheaper model does not cut any. Else some answer is better
        than none.
        """
        turn = job.turn
        if ending == "downgrade" and ask.limits is None and not ask.ordinal:
            return bound.output_tokens
        least = _floor(turn.step, last=ask.lands is not None)
        if ending == "wrap_up" and ask.lands is None:
            usual = self.estimates.reserve(turn.caller.id, turn.scopes.agent, turn.step.model)
            usual = max(job.generation.policy.runs.landing.output_tokens, min(usual, MOST_WORTH))
            least = max(least, usual + thinking_budget(turn.step))
        return min(least, turn.step.output_limit or least, bound.output_tokens)

    def _tightest(
        self, charges: tuple[Charge, ...], admitted: Admitted
    ) -> Callable[[Nano], Awaitable[Ruling | None]]:
        async def ask(amount: Nano) -> Ruling | None:
            counters = await self.store.counters([hold.counter for hold in admitted.holds])
            for charge, hold in zip(charges, admitted.holds, strict=True):
                state = counters[hold.counter]
                if charge.enforced and state.used + state.reserved + amount > charge.limit - charge.kept_back:
                    scope = charge.per.split(":", 1)[0]
                    return Ruling(
                        f"{scope}_budget_exceeded",
                        charge.rule,
                        charge.per,
                        charge.limit,
                        state.used + state.reserved,
                        money=True,
                    )
            return None

        return ask


def _landing_cost(bound: Quote, put: Step, policy: Policy) -> Nano:
    """What the run's last step will cost at most, as far as this step tells: it reads what this one reads,
    what comes of it, and a little more."""
    tokens = policy.runs.landing.output_tokens + thinking_budget(put)
    return bound.base_nano * 5 // 4 + bound.cost_of(tokens) - bound.base_nano


def _base_event(attempt_id: str, turn: Turn, route: Route, facts: Facts, policy: Policy) -> dict[str, Any]:
    """The part of an attempt's ledger event that is known before it is sent."""
    caller, step = turn.caller, turn.step
    known: dict[str, Any] = {
        "t": "attempt",
        "id": attempt_id,
        "run": turn.run.run_id,
        "session": turn.run.session,
        "principal": caller.id,
        "key": caller.key,
        "user": turn.scopes.user,
        "team": caller.team,
        "end_user": turn.hints.end_user,
        "tags": turn.tags,
        "surface": step.surface.value,
        "provider": route.provider_name,
        "requested_model": step.model,
        "stream": step.stream,
        "started_at": turn.began_at,
        "verdict": facts.verdict.value,
        "decision": facts.decision_id,
        "tool_results": turn.results,
        "policy": turn.policy,
        "meta": turn.meta(),
    }
    if turn.run.asked_by is not None:
        known["asked_by"] = turn.run.asked_by
    attempt = orjson.dumps(known)
    orphan = joined(
        attempt,
        {
            "provisional": True,
            "model": route.upstream_model,
            "usage": {},
            "usage_source": "missing",
            "cost_source": "reserved",
            "outcome": "failed",
            "error": "orphaned",
            "run_status": RunStatus.RUNNING.value,
        },
    )
    return {
        "attempt": attempt,
        "orphan": orphan,
        "idle_ttl_ms": int(policy.runs.idle_ttl_s * 1000),
    }


def _is_near(denied: Denied) -> bool:
    """Whether a closer look at what a step needs may change the answer."""
    if denied.code == "rate_limit_exceeded":
        return denied.need > 1 and denied.used < denied.limit
    return is_budget(denied.code)


def _floor(step: Step, *, last: bool) -> int:
    """The least output worth admitting beyond what is thought, or the caller's own limit if it is smaller."""
    least = (MIN_LAST_TOKENS if last else MIN_OUTPUT_TOKENS) + thinking_budget(step)
    return min(least, step.output_limit or least)


def _limit_to_send(step: Step, bound: Quote, admitted: Admitted) -> int | None:
    """The output limit to set upstream; None leaves the caller's own as it is, or where none is generated."""
    if not bound.output_tokens:
        return None
    if step.output_limit is not None and admitted.output_tokens >= step.output_limit:
        return None
    return admitted.output_tokens


def _run_opened(turn: Turn) -> bytes:
    return orjson.dumps(
        {
            "t": "run",
            "run": turn.run.run_id,
            "at": turn.began_at,
            "status": RunStatus.RUNNING.value,
            "reason": None,
            "meta": turn.meta(),
        }
    )


def _path_pattern(path: str) -> re.Pattern[bytes]:
    """What a declared path matches: `{name}` is one plain segment, so nothing climbs out of it."""
    parts = [
        r"(?!\.{1,2}(?:/|$))([A-Za-z0-9_.~-]+)" if re.fullmatch(r"\{\w+\}", part) else re.escape(part)
        for part in path.split("/")
    ]
    return re.compile("/".join(parts).encode())


def request_to(
    call: Call,
    provider: Provider,
    dialect: Dialect,
    method: str,
    url: str,
    headers: Headers,
    attempt_id: str,
    body: bytes = b"",
) -> UpstreamRequest:
    """A request to a provider: the client's headers, ours, and the credential."""
    secret = call.caller.credential
    if secret is None and provider.api_key is not None:
        secret = provider.api_key.get_secret_value()
    added: Headers = [
        *headers,
        (b"accept-encoding", b"identity"),
        (b"x-guardrail-attempt-id", attempt_id.encode()),
        *dialect.credentials(secret),
    ]
    timeouts = provider.timeouts
    return UpstreamRequest(
        method=method,
        url=url,
        headers=header_rules.to_upstream(call.raw_headers, call.headers, added),
        body=body,
        timeouts=Timeouts(
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_byte_s,
            idle_s=timeouts.idle_s,
            total_s=timeouts.total_s,
        ),
    )
