"""The life of one step, top to bottom: every guard in its order, with the refusal that it can raise.

    parse            CallerError: invalid_json, invalid_request
    find the run     StoreUnavailable
    govern           Refusal: a loop, a tool that its contract forbids
    screen           Refusal: a text that must not leave for the provider; where a model is asked about it,
                     what `admit` refuses
    choose a route   CallerError: unknown_model, model_not_allowed, unknown_price
    admit            Refusal: killed, over a limit, over a rate, over a budget
    call upstream    UpstreamError
    settle           never fails the step: what the store cannot take is in the journal

Two store round trips stand before the provider, one after it. What becomes of a run that a rule ends, and of
an answer whose tool calls are not delivered, is in `gateway.steps.last_steps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from gateway.admission import Denied, Lookup
from gateway.domain import Principal, RunSource, Step, Surface, Verdict
from gateway.errors import CallerError
from gateway.policy.models import Policy
from gateway.policy.sections.operations import PassthroughRoute
from gateway.protocols import Clock, Store
from gateway.replay.recorder import Recorder
from gateway.rollout import Rollout
from gateway.rules.budgets import applies, scopes_of
from gateway.rules.economy import economise
from gateway.rules.identity import Hints, read_hints
from gateway.rules.lineage import Lineage
from gateway.steps.asides import NoRoom
from gateway.steps.delivery import Client, Reply
from gateway.steps.dispatch import Ask, Call, Dispatcher, Generation, Job, request_to
from gateway.steps.governor import Governor
from gateway.steps.judge import Judges
from gateway.steps.last_steps import LastSteps
from gateway.steps.provider_state import ProviderState
from gateway.steps.screens import Blocked, Screens
from gateway.steps.tool_kills import ToolKills
from gateway.steps.turn import Facts, Turn, new_id
from gateway.surfaces import CODECS
from gateway.upstreams.dialects import DIALECTS, Wire, passthrough_url
from gateway.upstreams.transport import Upload

_STATE_FIELDS = ("previous_response_id", "conversation")


@dataclass(slots=True)
class Pipeline:
    """Serves steps. One per worker."""

    rollout: Rollout
    store: Store
    dispatcher: Dispatcher
    governor: Governor
    last_steps: LastSteps
    lineage: Lineage
    clock: Clock
    tool_kills: ToolKills
    provider_state: ProviderState
    screens: Screens
    judges: Judges
    shortened: Callable[[str, int], None] = lambda _mode, _tokens: None
    """Counts input tokens that were left out: (mode, tokens)."""
    builtin_models: Sequence[str] = ()
    """Models that no policy names and that are offered all the same."""
    recorder: Recorder | None = None
    """Keeps what steps hold, where a policy says so."""
    ensure_recorded: Callable[[], None] = lambda: None
    """Raises `GatewayError` while the audit log cannot be written and the policy refuses steps without it."""

    @property
    def generation(self) -> Generation:
        """The policy in force, for what belongs to no run."""
        return self.rollout.current

    async def handle(self, call: Call, facts: Facts, client: Client) -> Reply | None:
        """One step. None when the answer was streamed into `client`. Raises `GatewayError` before the
        first byte."""
        self.ensure_recorded()
        server = self.generation.policy.server
        step = CODECS[call.surface].parse(call.body, max_depth=server.max_json_depth)
        if step.surface is Surface.MESSAGES and step.body.get("fallbacks"):
            # They would run other models at the provider, past the key's models and every price.
            raise CallerError(
                "invalid_request",
                "'fallbacks' is not carried: name fallbacks in the gateway's policy.",
                param="fallbacks",
            )
        killed = await self.tool_kills.stopped([tool.name for tool in step.tools]) if step.tools else ()
        turn = await self._find_run(call, step, facts)
        if facts.trail is not None:
            facts.trail.found(turn)
        generation = self.rollout.of(turn.policy).serving(call.caller)
        job = Job(generation, call, turn, facts, client)
        if generation.policy.recording is not None and self.recorder is not None:
            self.recorder.asked(job)
        facts.checks = ["kill", "limits", "rates", "budgets"]
        plan = await self.governor.plan(job, killed)
        if generation.screens:
            try:
                await self._screen(job)
            except NoRoom as error:
                return await self.last_steps.unjudged(job, error.denied)
        self._shorten(job)
        return await self.last_steps.serve(job, plan)

    def _shorten(self, job: Job) -> None:
        """Leave out what the policy says of old and of huge tool results. Everything that judges the request
        has read it whole before."""
        rule, turn = job.generation.policy.context, job.turn
        if rule is None or rule.mode == "off" or not applies(rule.match, turn.scopes):
            return
        job.facts.checks.append("context")
        made = economise(turn.step, rule)
        if made is None:
            return
        job.decisions.append(
            {
                "rule": "context",
                "mode": rule.mode,
                "decision": "shorten",
                "results": made.results,
                "tokens": made.tokens,
            }
        )
        self.shortened(rule.mode, made.tokens)
        if rule.mode == "enforce":
            job.turn = replace(turn, step=made.step)

    async def _screen(self, job: Job) -> None:
        """Look through what the step would tell its provider, and leave out what must not leave."""
        turn = job.turn
        try:
            screened = await self.screens.request(
                job.generation.policy,
                job.generation.contracts.under(turn.scopes),
                turn.scopes,
                turn.step,
                {**turn.meta(), "run": turn.run.run_id},
                self.judges.of(job),
            )
        except Blocked as error:
            job.findings = error.findings
            await self.last_steps.block(job, error)
            raise
        if screened is None:
            return
        job.facts.checks.append("screening")
        job.turn = replace(job.turn, step=screened.step)
        job.findings, job.output = screened.findings, screened.output
        if screened.edited:
            job.facts.verdict = Verdict.REDACT
        elif any(found["mode"] == "enforce" for found in screened.findings):
            job.facts.verdict = Verdict.FLAG

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
        self.ensure_recorded()
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
        turn = await self._find_run(call, step, facts)
        if facts.trail is not None:
            facts.trail.found(turn)
        generation = self.rollout.of(turn.policy).serving(call.caller)
        job = Job(generation, call, turn, facts, client)
        if generation.screens:
            await self._screen(job)
        route = generation.router.passthrough(call.caller, declared)
        wire = Wire(DIALECTS[route.provider.dialect], Surface.PASSTHROUGH, CODECS[Surface.CHAT], None)
        facts.checks = ["kill", "limits", "rates", "budgets"]
        ask = Ask(route, wire, step)
        held = await self.dispatcher.reserve(job, ask)
        if isinstance(held, Denied):
            raise await self.last_steps.refuse(job, held)
        framing = [(n, call.headers[n]) for n in (b"content-type", b"content-encoding") if n in call.headers]
        request = request_to(
            call,
            route.provider,
            wire.dialect,
            method,
            passthrough_url(route.provider, path, call.query),
            [*framing, *wire.dialect.defaults(call.headers)],
            held.attempt_id,
        )
        attempt = self.dispatcher.held_attempt(job, ask, replace(request, upload=upload), held)
        return await attempt.run_opaque(client)

    # -- which run ----------------------------------------------------------------------------------

    async def _find_run(self, call: Call, step: Step, facts: Facts) -> Turn:
        """The step's run, found or opened, and the version of the policy that governs it."""
        policy, caller = self.generation.policy, call.caller
        hints = read_hints(call.headers, step.body, call.url_run)
        session = hints.session
        held = await self.provider_state.find(caller, (*step.state, *step.references)) if step.kept else {}
        known = next((held[i] for i in step.state if i in held), None)
        renamed = {i: held[i].stands_for for i in step.state if i in held and held[i].stands_for}
        if session is None and known is not None:
            session = known.session
        if session is None and hints.weak_session is not None:
            session = f"ses_{self.lineage.key(caller.id, 'session', hints.weak_session)[:24]}"
        chain = self.lineage.chain(f"{caller.id}\0{hints.session or ''}\0{hints.agent}", step.items)
        retry_key = self.lineage.retry_key(_asker(caller, hints, step.body), step, chain)
        name = hints.run_name
        run_id = new_id("run")
        run = await self.store.resolve(
            Lookup(
                new_run_id=run_id,
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
                parents=self._parent_keys(caller, hints),
                parent_run_id=hints.parent if (hints.parent or "").startswith("run_") else None,
                known_as=(self._agent_key(caller, hints.session, hints.agent),)
                if hints.session is not None
                else (),
                tasks=self.lineage.tasks_taken(caller.id, chain),
                policy=self.rollout.for_new(run_id).version,
            )
        )
        generation = self.rollout.of(run.policy).serving(caller)
        facts.policy = generation.version
        facts.run_id, facts.session, facts.source = run.run_id, run.session, run.source.value
        facts.step = run.retry_ordinal or run.steps + 1
        tags = dict(hints.tags)
        end_user = _end_user(policy, hints, step)
        named = hints.session is not None or hints.weak_session is not None
        shared = generation.policy.runs.children == "share"
        scopes = scopes_of(
            caller, step, run.run_id, run.session, named, end_user, tags, run.ancestors, shared=shared
        )
        return Turn(
            caller=caller,
            step=_with_state(step, renamed) if renamed else step,
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
            kept_at=next((found.provider for found in held.values()), ""),
        )

    def _parent_keys(self, caller: Principal, hints: Hints) -> tuple[str, ...]:
        """Where the run that started this one is found, as far as the caller tells."""
        if hints.parent is not None:
            return (self.lineage.key(caller.id, "name", hints.parent),)
        if hints.parent_agent is not None:
            return (self._agent_key(caller, *hints.parent_agent),)
        return ()

    def _agent_key(self, caller: Principal, session: str, agent: str) -> str:
        return self.lineage.key(caller.id, "agent", f"{session}\0{agent}")


def _with_state(step: Step, renamed: Mapping[str, str]) -> Step:
    """The step with the ids by which its provider knows the conversation."""
    body = {
        name: renamed.get(value, value) if isinstance(value, str) and name in _STATE_FIELDS else value
        for name, value in step.body.items()
    }
    return replace(step, body=body, raw=orjson.dumps(body))


def _asker(caller: Principal, hints: Hints, body: Mapping[str, Any]) -> str:
    """Everything that a request says of who asks. Two that differ in it are never one step."""
    told = (
        caller.id,
        hints.run_name,
        hints.session,
        hints.weak_session,
        hints.end_user,
        body.get("safety_identifier"),
        body.get("user"),
    )
    return "\0".join([value if isinstance(value, str) else "" for value in told])


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
