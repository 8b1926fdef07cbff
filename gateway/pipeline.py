"""The life of one step, top to bottom: every guard in its order, with the refusal that it can raise.

    parse            CallerError: invalid_json, invalid_request
    find the run     StoreUnavailable
    choose a route   CallerError: unknown_model, model_not_allowed, unknown_price
    admit            Refusal: killed, over a limit, over a rate, over a budget
    call upstream    UpstreamError
    settle           never fails the step: what the store cannot take is in the journal

Two store round trips stand before the provider, one after it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.admission import Admission, Admitted, Charge, Denied, Lookup, RunView
from gateway.attempt import Attempt, Client, Machinery, Reply
from gateway.domain import Headers, Nano, Principal, RunSource, RunStatus, Step, Surface, usd
from gateway.errors import CallerError, GatewayError, Refusal, Ruling
from gateway.metering.estimate import Quote, output_bound, quote, thinking_budget
from gateway.metering.learned import OutputEstimates
from gateway.metering.usage import request_context
from gateway.policy.models import PassthroughRoute, Policy, Provider
from gateway.protocols import Clock, Store
from gateway.provider_state import ProviderState
from gateway.rules.budgets import Rulebook, scopes_of
from gateway.rules.identity import Hints, read_hints
from gateway.rules.kills import kill_names, parse_kill_name
from gateway.rules.lineage import Lineage
from gateway.rules.route import Route, Router
from gateway.surfaces import CODECS
from gateway.surfaces.body import joined
from gateway.tool_kills import ToolKills
from gateway.translation.base import OutputLimit
from gateway.turn import Facts, Turn, new_id
from gateway.upstreams import headers as header_rules
from gateway.upstreams import openai
from gateway.upstreams.dialects import (
    DIALECTS,
    Dialect,
    Wire,
    headers_for,
    passthrough_url,
    wire_for,
)
from gateway.upstreams.transport import Timeouts, Transport, Upload, UpstreamRequest
from gateway.values import frozen

_USAGE_ON_REQUEST = (Surface.CHAT, Surface.COMPLETIONS)
"""Surfaces whose streams tell their usage only when asked to."""
MIN_OUTPUT_TOKENS = 256
"""An answer clamped to less than this is not worth its input."""

_LIMIT_STATUS = {
    "step_limit_exceeded": RunStatus.STOPPED_STEPS,
    "run_timeout": RunStatus.STOPPED_TIME,
    "token_limit_exceeded": RunStatus.STOPPED_TOKENS,
    "tool_limit_exceeded": RunStatus.STOPPED_TOOLS,
}


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


@frozen
class _Held:
    """A step that was let in, and what is reserved for it."""

    attempt_id: str
    admission: Admission
    admitted: Admitted
    bound: Quote
    base: dict[str, Any]


@dataclass(slots=True)
class Generation:
    """One policy with everything made from it. Steps finish on the generation that they began on."""

    policy: Policy
    rulebook: Rulebook
    router: Router
    version: str = field(init=False)
    """The policy's content hash."""
    handed_on: list[tuple[re.Pattern[bytes], PassthroughRoute]] = field(init=False)
    """Paths that the policy lets pass."""

    def __post_init__(self) -> None:
        self.version = self.policy.version
        self.handed_on = [(_path_pattern(route.path), route) for route in self.policy.passthrough]


@dataclass(slots=True)
class Pipeline:
    """Serves steps. One per worker; `generation` may be replaced between two steps."""

    generation: Generation
    store: Store
    transport: Transport
    machinery: Machinery
    lineage: Lineage
    clock: Clock
    topups: Mapping[tuple[str, str], Nano]
    notify: Callable[[str, dict[str, Any]], None]
    """Tells of what operators may want to know: (kind, facts)."""
    estimates: OutputEstimates
    tool_kills: ToolKills
    provider_state: ProviderState
    builtin_models: Sequence[str] = ()
    """Models that no policy names and that are offered all the same."""

    async def handle(self, call: Call, facts: Facts, client: Client) -> Reply | None:
        """One step. None when the answer was streamed into `client`. Raises `GatewayError` before the
        first byte."""
        generation = self.generation
        max_depth = generation.policy.server.max_json_depth
        step = CODECS[call.surface].parse(call.body, max_depth=max_depth)
        if step.surface is Surface.MESSAGES and step.body.get("fallbacks"):
            # They would run other models at the provider, past the key's models and every price.
            raise CallerError(
                "invalid_request",
                "'fallbacks' is not carried: name fallbacks in the gateway's policy.",
                param="fallbacks",
            )
        withheld = await self.tool_kills.stopped([tool.name for tool in step.tools]) if step.tools else ()
        turn = await self._find_run(generation, call, step, facts)
        route = generation.router.choose(
            call.caller,
            step.model,
            turn.began_at,
            request_context(step.body),
            free=step.surface is Surface.MODERATIONS,
        )
        wire = wire_for(route, step.surface)
        put = step
        if wire.translation is not None:
            limit = OutputLimit(
                generation.policy.default_max_output_tokens, openai.limit_field(route.provider)
            )
            put = wire.put(step, wire.translation, limit, max_depth=max_depth)
        facts.model = route.upstream_model
        facts.checks = ["kill", "limits", "rates", "budgets"]
        attempt = await self._admit(generation, call, turn, route, wire, put, withheld, facts)
        if step.stream:
            return await attempt.run_stream(client)
        return await attempt.run_plain(client)

    async def hand_on(
        self,
        call: Call,
        path: str,
        declared: PassthroughRoute,
        method: str,
        upload: Upload | None,
        facts: Facts,
        client: Client,
    ) -> Reply | None:
        """A request that is none of the wire APIs and that the policy lets pass, at the price it declares."""
        generation = self.generation
        step = Step(
            surface=Surface.PASSTHROUGH,
            model=declared.path,
            stream=False,
            body={},
            # Nothing of such a request is known, so none is ever taken for a repetition of another.
            raw=facts.request_id.encode(),
            items=(),
            tools=(),
            output_limit=None,
            choices=1,
            wants_usage=False,
            text_bytes=0,
        )
        call = replace(call, body=step.raw)
        turn = await self._find_run(generation, call, step, facts)
        route = generation.router.passthrough(call.caller, declared)
        wire = Wire(DIALECTS[route.provider.dialect], Surface.PASSTHROUGH, CODECS[Surface.CHAT], None)
        facts.checks = ["kill", "limits", "rates", "budgets"]
        held = await self._reserve(generation, turn, route, step, facts)
        framing = [(n, call.headers[n]) for n in (b"content-type", b"content-encoding") if n in call.headers]
        request = _request(
            call,
            route.provider,
            wire.dialect,
            method,
            passthrough_url(route.provider, path, call.query),
            [*framing, *wire.dialect.defaults(call.headers)],
            held.attempt_id,
        )
        request = replace(request, upload=upload)
        attempt = self._attempt(generation, turn, route, wire, request, held, facts, False)
        return await attempt.run_opaque(client)

    # -- which run ----------------------------------------------------------------------------------

    async def _find_run(self, generation: Generation, call: Call, step: Step, facts: Facts) -> Turn:
        """The step's run, found or opened."""
        policy, caller = generation.policy, call.caller
        hints = read_hints(call.headers, step.body, call.url_run)
        session = hints.session
        held = await self.provider_state.find(caller, (*step.state, *step.references)) if step.kept else {}
        known = next((held[i] for i in step.state if i in held), None)
        if session is None and known is not None:
            session = known.session
        if session is None and hints.weak_session is not None:
            session = f"ses_{self.lineage.key(caller.id, 'session', hints.weak_session)[:24]}"
        chain = self.lineage.chain(f"{caller.id}\0{hints.session or ''}\0{hints.agent}", step.items)
        retry_scope = f"{caller.id}\0{hints.run_name or ''}\0{hints.session or ''}"
        retry_key = self.lineage.body_key(retry_scope, step.surface.value, call.body)
        name = hints.run_name
        run = await self.store.resolve(
            Lookup(
                new_run_id=new_id("run"),
                session=session or new_id("ses"),
                session_given=hints.session_given,
                name=name,
                name_key=self.lineage.key(caller.id, "name", name) if name is not None else None,
                named_source=RunSource.URL if hints.run_in_url else RunSource.HEADER,
                own_run_id=name if name is not None and name.startswith("run_") else None,
                principal=caller.id,
                retry_key=retry_key,
                retry_declared=hints.retry_count > 0,
                evidence=self.lineage.evidence(caller.id, chain, step.state) if name is None else (),
                speaks_text=not step.tools,
                idle_ttl_ms=int(policy.runs.idle_ttl_s * 1000),
                text_gap_ms=int(policy.runs.text_agent_gap_s * 1000),
            )
        )
        facts.run_id, facts.session, facts.source = run.run_id, run.session, run.source.value
        facts.step = run.retry_ordinal or run.steps + 1
        tags = dict(hints.tags)
        end_user = _end_user(policy, hints, step)
        named = hints.session is not None or hints.weak_session is not None
        scopes = scopes_of(caller, step, run.run_id, run.session, named, end_user, tags)
        return Turn(
            caller=caller,
            step=step,
            hints=replace(hints, end_user=end_user) if end_user != hints.end_user else hints,
            tags=tags,
            run=run,
            scopes=scopes,
            chain=chain,
            retry_key=retry_key,
            policy=generation.version,
            # When the request was read, not when its run was found: `clock` and this are one moment.
            began_at=self.clock() - round((time.perf_counter() - call.clock) * 1000),
            clock=call.clock,
            stored_tokens=known.tokens if known is not None else 0,
        )

    # -- admission ----------------------------------------------------------------------------------

    async def _admit(
        self,
        generation: Generation,
        call: Call,
        turn: Turn,
        route: Route,
        wire: Wire,
        put: Step,
        withheld: Collection[str],
        facts: Facts,
    ) -> Attempt:
        """Reserve what the step may cost, or refuse it and say so in the ledger."""
        held = await self._reserve(generation, turn, route, put, facts)
        asks_usage = put.stream and wire.surface in _USAGE_ON_REQUEST and route.provider.stream_usage
        body = wire.codec.forward(
            put,
            model=route.upstream_model,
            limit_field=openai.limit_field(route.provider),
            output_limit=_limit_to_send(put, held.bound, held.admitted),
            inject_usage=asks_usage,
            withheld=withheld,
        )
        url = wire.dialect.url(route.provider, wire.surface, route.upstream_model, call.query)
        raw, asked = headers_for(wire, call.raw_headers, call.headers)
        headers = [(b"content-type", b"application/json"), *asked]
        sent = call if raw is call.raw_headers else replace(call, raw_headers=raw)
        request = _request(sent, route.provider, wire.dialect, "POST", url, headers, held.attempt_id)
        return self._attempt(
            generation,
            turn,
            route,
            wire,
            replace(request, body=body),
            held,
            facts,
            asks_usage and not put.wants_usage,
        )

    async def _reserve(
        self, generation: Generation, turn: Turn, route: Route, put: Step, facts: Facts
    ) -> _Held:
        """What the step is reserved at. Raises the refusal of a rule."""
        policy = generation.policy
        wanted = output_bound(put, route.output_cap, policy.default_max_output_tokens)
        stored = turn.stored_tokens
        bound = quote(put, route.rates, wanted, model=route.upstream_model, stored_tokens=stored)
        attempt_id = new_id("att")
        base = self._base_event(attempt_id, turn, route, facts, policy)
        admission = self._admission(generation, turn, route, bound, attempt_id, base)
        outcome = await self.store.admit(admission)
        if isinstance(outcome, Denied) and outcome.code.endswith("_budget_exceeded"):
            # The bound counts bytes. Near a limit it is worth counting tokens before saying no.
            bound = quote(
                put, route.rates, wanted, model=route.upstream_model, stored_tokens=stored, exact=True
            )
            admission = replace(admission, fixed_nano=bound.base_nano, input_tokens=bound.input_tokens)
            outcome = await self.store.admit(admission)
        if isinstance(outcome, Denied):
            raise await self._refuse(turn, outcome, facts)
        facts.step = outcome.ordinal
        facts.run_cost, facts.run_remaining = turn.run.cost, outcome.run_remaining
        for rule in outcome.warned:
            self.notify("budget_warning", {"rule": rule, "run": turn.run.run_id, **turn.meta()})
        return _Held(attempt_id, admission, outcome, bound, base)

    def _attempt(
        self,
        generation: Generation,
        turn: Turn,
        route: Route,
        wire: Wire,
        request: UpstreamRequest,
        held: _Held,
        facts: Facts,
        strips_usage: bool,
    ) -> Attempt:
        policy = generation.policy
        return Attempt(
            attempt_id=held.attempt_id,
            kill_names=frozenset(held.admission.kill_names),
            machinery=self.machinery,
            router=generation.router,
            route=route,
            transport=self.transport,
            request=request,
            wire=wire,
            turn=turn,
            facts=facts,
            quote=held.bound,
            admitted=held.admitted,
            server=policy.server,
            final_tools=policy.runs.final_tools,
            strips_usage=strips_usage,
            base_event=held.base,
            tightest=self._tightest(held.admission.charges, held.admitted),
            tool_kills=self.tool_kills,
            reserve_tokens=held.admission.reserve_tokens,
        )

    def _admission(
        self,
        generation: Generation,
        turn: Turn,
        route: Route,
        bound: Quote,
        attempt_id: str,
        base: dict[str, Any],
    ) -> Admission:
        step, run = turn.step, turn.run
        reserve = bound.output_tokens
        if step.stream and step.output_limit is None:
            reserve = min(reserve, self.estimates.reserve(turn.caller.id, turn.scopes.agent, step.model))
        return Admission(
            attempt_id=attempt_id,
            run_id=run.run_id,
            retry_ordinal=run.retry_ordinal,
            retry_key=turn.retry_key,
            kill_names=kill_names(turn.scopes, run.name, route.upstream_model, turn.caller.id),
            limits=generation.rulebook.limits,
            charges=generation.rulebook.charges(turn.scopes, turn.began_at, self.topups),
            rates=generation.rulebook.rates(turn.scopes),
            fixed_nano=bound.base_nano,
            output_rate=bound.output_rate,
            want_tokens=bound.output_tokens,
            reserve_tokens=reserve,
            floor_tokens=min(_floor(step), bound.output_tokens),
            halve=step.output_limit is None,
            input_tokens=bound.input_tokens,
            choices=bound.choices,
            lease_ms=int(self.machinery.live.lease_s * 1000),
            event=_run_opened(turn) if run.steps == 0 else b"",
            orphan=base["orphan"],
            idle_ttl_ms=base["idle_ttl_ms"],
        )

    @staticmethod
    def _base_event(
        attempt_id: str, turn: Turn, route: Route, facts: Facts, policy: Policy
    ) -> dict[str, Any]:
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
            "tool_results": [{"call_id": i.call_id} for i in step.items[-8:] if i.call_id is not None],
            "policy": turn.policy,
            "saved": 0,
            "meta": turn.meta(),
        }
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

    async def _refuse(self, turn: Turn, denied: Denied, facts: Facts) -> GatewayError:
        """The refusal for a denial, on record."""
        run = turn.run
        status = _LIMIT_STATUS.get(denied.code)
        if denied.code.endswith("_budget_exceeded"):
            status = RunStatus.STOPPED_BUDGET
        elif denied.rule == "kill":
            status = RunStatus.KILLED
        now = self.clock()
        event: dict[str, Any] = {
            "t": "refusal",
            "id": facts.decision_id,
            "run": run.run_id,
            "ordinal": facts.step,
            "at": now,
            "code": denied.code,
            "rule": denied.rule,
            "scope": denied.per,
            "limit": denied.limit,
            "used": denied.used,
            "money": denied.code.endswith("_budget_exceeded"),
            "surface": turn.step.surface.value,
            "requested_model": turn.step.model,
            "meta": turn.meta(),
        }
        await self.store.note(orjson.dumps(event))
        if status is not None:
            reason = denied.reason or denied.code
            await self.store.stop_run(run.run_id, status.value, reason)
            await self.store.note(
                orjson.dumps(
                    {
                        "t": "run",
                        "run": run.run_id,
                        "at": now,
                        "status": status.value,
                        "reason": reason,
                        "meta": turn.meta(),
                    }
                )
            )
            if run.status is not status:
                self.notify(
                    "run_stopped",
                    {"code": denied.code, "rule": denied.rule, "run": run.run_id, "status": status.value},
                )
        return refusal_of(denied, run)

    def _tightest(
        self, charges: tuple[Charge, ...], admitted: Admitted
    ) -> Callable[[Nano], Awaitable[Ruling | None]]:
        async def ask(amount: Nano) -> Ruling | None:
            counters = await self.store.counters([hold.counter for hold in admitted.holds])
            for charge, hold in zip(charges, admitted.holds, strict=True):
                state = counters[hold.counter]
                if charge.enforced and state.used + state.reserved + amount > charge.limit:
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


def refusal_of(denied: Denied, run: RunView) -> GatewayError:
    """The error that a denial becomes: its message names the rule, the run, the limit and the value."""
    if denied.rule == "kill":
        scope, _ = parse_kill_name(denied.per if denied.per == "global" else f"{denied.per}:")
        why = f" Reason: {denied.reason}" if denied.reason else ""
        return Refusal(
            Ruling(denied.code, "kill", scope, 0, 0),
            f"An operator has stopped this {scope}; run {run.run_id} must not go on.{why}",
        )
    money = denied.code.endswith("_budget_exceeded")
    resets = (
        datetime.fromtimestamp(denied.resets_at / 1000, UTC).isoformat().replace("+00:00", "Z")
        if denied.resets_at
        else None
    )
    ruling = Ruling(denied.code, denied.rule, denied.per, denied.limit, denied.used, money, resets)
    if money:
        until = f" It is fresh at {resets}." if resets else ""
        message = (
            f"Budget '{denied.rule}' of this {denied.per} has no room: limit ${usd(denied.limit)}, spent and "
            f"reserved ${usd(denied.used)}, this step needs ${usd(denied.need)} (run {run.run_id}).{until}"
        )
    elif denied.code in ("rate_limit_exceeded", "concurrency_limit_exceeded"):
        message = (
            f"Rate '{denied.rule}' of this {denied.per} is used up: limit {denied.limit}, now {denied.used} "
            f"(run {run.run_id})."
        )
    else:
        message = (
            f"Limit '{denied.rule}' is reached: limit {denied.limit}, now {denied.used} (run {run.run_id})."
        )
    wait = denied.retry_after_ms / 1000 if denied.retry_after_ms else None
    if denied.code == "rate_limit_exceeded" and (wait is None or wait > 60):
        return Refusal(ruling, message, status=400)
    return Refusal(ruling, message, retry_after_s=wait)


def _end_user(policy: Policy, hints: Hints, step: Step) -> str | None:
    """The end user that counts, where the policy lets the caller name one."""
    if policy.auth.user_from == "header":
        return hints.end_user
    if policy.auth.user_from == "body":
        for name in ("safety_identifier", "user"):
            value = step.body.get(name)
            if isinstance(value, str) and value:
                return value[:256]
    return None


def _floor(step: Step) -> int:
    """The least output worth admitting beyond what is thought, or the caller's own limit if it is smaller."""
    least = MIN_OUTPUT_TOKENS + thinking_budget(step)
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


def _request(
    call: Call,
    provider: Provider,
    dialect: Dialect,
    method: str,
    url: str,
    headers: Headers,
    attempt_id: str,
) -> UpstreamRequest:
    """A request to a provider, without its body: the client's headers, ours, and the credential."""
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
        body=b"",
        timeouts=Timeouts(
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_byte_s,
            idle_s=timeouts.idle_s,
            total_s=timeouts.total_s,
        ),
    )
