"""Serving a step when it is not simply sent and handed on: runs that land, answers that are not delivered.

    serve ──► sent, delivered                                              almost always
          ──► a rule ends the run: wrap_up, final_message, downgrade, stop or kill
          ──► tool calls withheld: the model is asked again, out of the client's sight, then delivered

Whatever happens, the client gets one valid answer in its own wire API, or one error; and a run that has had
its last answer is refused from then on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import orjson

from gateway.admission import Denied, Ending, Kill, RunLimits
from gateway.domain import Answer, Headers, Json, RunStatus, Step, Surface, Verdict
from gateway.errors import CallerError, GatewayError, Refusal, StoreUnavailable, UpstreamError
from gateway.metering.usage import request_context
from gateway.policy.sections.screening import Moderation
from gateway.protocols import Clock, Store
from gateway.rules.endings import (
    action_at,
    ending_of,
    final_text,
    is_budget,
    reason,
    refusal_for,
    refusal_of,
    status_of,
)
from gateway.rules.route import Route
from gateway.shaping import SHAPERS, Said
from gateway.steps.asides import NoRoom
from gateway.steps.attempt import Attempt, Undelivered
from gateway.steps.booking import INDEX_GRACE_MS, asked_of
from gateway.steps.delivery import ClientLeftError, Reply
from gateway.steps.dispatch import Ask, Dispatcher, Job
from gateway.steps.gate import NoCalls
from gateway.steps.governor import Plan
from gateway.steps.moderation import Moderator
from gateway.steps.provider_state import NOTHING, Held
from gateway.steps.replays import Replays
from gateway.steps.sending import DeniedLater, Place, Sender, Trip
from gateway.steps.steering import Steering, why_not
from gateway.surfaces import CODECS
from gateway.translation.base import OutputLimit
from gateway.upstreams import openai
from gateway.upstreams.dialects import wire_for
from gateway.upstreams.replies import is_error

log = logging.getLogger("gateway.last_steps")

MAX_ROUNDS = 2
"""How often a model is asked again within one step: once with its tools, once without."""
KILL_TTL_S = 86_400.0
"""How long a run stays killed by a rule: as long as anything of it could still come."""
DOWNGRADED = 2
"""A run that goes on with a cheaper model past its limits may go on to so many times these."""
_JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True)
class LastSteps:
    """Serves what the pipeline has prepared. One per worker."""

    store: Store
    dispatcher: Dispatcher
    sender: Sender
    clock: Clock
    notify: Callable[[str, dict[str, Any]], None]
    """Tells of what operators may want to know: (kind, facts)."""
    moderator: Moderator
    steering: Steering
    replays: Replays

    async def serve(self, job: Job, plan: Plan) -> Reply | None:
        """The answer, or None when it was streamed into the job's client. Raises `GatewayError`."""
        job.withheld, job.keep, job.review = plan.withheld, plan.keep, plan.review
        job.decisions += plan.decisions
        route = self._route(job, job.turn.step.model)
        job.facts.model = route.upstream_model
        if plan.ending is not None:
            return await self._end(job, route, plan, plan.ending, plan.action, plan.to, None)
        if plan.flagged and job.facts.verdict is Verdict.ALLOW:
            job.facts.verdict = Verdict.FLAG
        trip = self._trip(job, route, partial(self._ask, job, plan=plan))
        lookup = self.replays.lookup(job, plan, trip)
        if lookup is None:
            return await self._sent(job, route, plan, trip)
        async with self.replays.known(job, trip, lookup) as kept:
            if kept is not None:
                given = await self._given_again(job, trip, kept)
                if isinstance(given, Denied):
                    return await self._denied(job, route, plan, given)
                if given is not None:
                    return await self._say(job, Said(reply=given, model=given.get("model")), is_linked=True)
            recorder = self.replays.record(job)
            result = await self._sent(job, route, plan, trip)
            if kept is None:
                await self.replays.keep(job, lookup, trip, result, recorder)
            return result

    async def _sent(self, job: Job, route: Route, plan: Plan, trip: Trip) -> Reply | None:
        denied = await trip.start()
        if denied is None:
            if trip.steered is not None and trip.sent.route is trip.steered.route:
                self.sender.moved(job, trip.sent.route, route, trip.steered.rule.name)
            return await self._deliver(job, trip)
        return await self._denied(job, route, plan, denied)

    async def _denied(self, job: Job, route: Route, plan: Plan, denied: Denied) -> Reply | None:
        """What becomes of a step that was not let in."""
        if _is_landed(job) or status_of(denied.code, denied.rule) in (None, RunStatus.KILLED):
            raise await self.refuse(job, denied)
        action, to = action_at(job.generation.policy, denied)
        return await self._end(job, route, plan, ending_of(denied), action, to, denied)

    async def _given_again(self, job: Job, trip: Trip, kept: Json) -> Json | Denied | None:
        """A kept answer as the client gets it. None when this step cannot have it, since its calls are not
        delivered or a rule about whole answers finds it no good; then the model is to be asked."""
        attempt = await self.dispatcher.replay(job, trip.ask, kept)
        if isinstance(attempt, Denied):
            return attempt
        attempt.spent_before = trip.spent
        job.facts.model = trip.ask.route.upstream_model
        given = await attempt.run_kept(job.client, kept)
        if not isinstance(given, Undelivered):
            return given
        trip.ask = replace(trip.ask, ordinal=attempt.admitted.ordinal)
        return None

    async def unjudged(self, job: Job, denied: Denied) -> Reply | None:
        """The end of a step whose texts could not be judged, since a limit has no room for that. No model may
        read them, so a run that would have a last step is told its end."""
        if _is_landed(job) or status_of(denied.code, denied.rule) in (None, RunStatus.KILLED):
            raise await self.refuse(job, denied)
        action, _ = action_at(job.generation.policy, denied)
        if action == "wrap_up" and job.turn.run.steps:
            action = "final_message"
        if action == "final_message" and job.turn.step.surface in SHAPERS:
            return await self._final_message(job, ending_of(denied))
        raise await self.refuse(job, denied)

    # -- what is asked ------------------------------------------------------------------------------

    @staticmethod
    def _route(job: Job, model: str, *, any_key: bool = False) -> Route:
        """Where a model is served, or `any_key` might have it. Raises `CallerError`: unknown_model,
        model_not_allowed, unknown_price."""
        step, caller = job.turn.step, job.call.caller
        return job.generation.router.choose(
            replace(caller, models=None) if any_key else caller,
            model,
            job.turn.began_at,
            request_context(step.body),
            free=step.surface is Surface.MODERATIONS,
        )

    def _trip(self, job: Job, route: Route, make: Callable[[Route], Ask]) -> Trip:
        """The way of a step: to the model it asks for, or where a rule sends it first."""
        first, *places = self._places(job, route)

        def asks() -> Iterator[Ask]:
            yield make(first)
            yield from self._others(job, route, places, make)

        def home(ordinal: int = 0) -> Trip:
            ways = asks()
            ask = next(ways)
            return self.sender.trip(job, replace(ask, ordinal=ordinal) if ordinal else ask, ways)

        steered = self.steering.steer(job, first)
        if steered is None:
            return home()
        try:
            ask = make(steered.route)
        except CallerError as error:
            steered.decision.update(decision="keep", why=error.message)
            return home()
        put = _plain(ask.put) if steered.guard is not None else ask.put
        ask = replace(ask, put=put, guard=steered.guard, instead_of=first)
        trip = self.sender.trip(job, ask, chain(self._others(job, steered.route, (), make), asks()))
        trip.steered, trip.home = steered, home
        return trip

    def _places(self, job: Job, route: Route) -> list[Route]:
        """Where the model of a route is served, in the order in which this step tries them."""
        target = job.generation.router.target(route.requested)
        if target is None or not target.model.deployments:
            return [route]
        model, places = target.model, [Place(route, target.model.weight)]
        for name, weight in model.deployments.items():
            # They are the model that the caller may use, whatever they are called.
            with suppress(CallerError):
                other = self._route(job, name, any_key=True)
                wire_for(other, job.turn.step.surface)
                places.append(Place(other, weight))
        return self.sender.order(job, places, model.balance)

    def _others(
        self, job: Job, route: Route, places: Sequence[Route], make: Callable[[Route], Ask | None]
    ) -> Iterator[Ask]:
        """The step for each place and each model that may serve it when `route` fails, in the policy's order.
        One that this caller or this step cannot go to is left out, and why is on record."""
        target = job.generation.policy.find_model(route.requested)
        ways: list[Route | str] = [*places, *(target.model.fallbacks if target is not None else ())]
        for way in ways:
            ask, why = None, None
            name = way if isinstance(way, str) else way.requested
            try:
                other = self._route(job, way) if isinstance(way, str) else way
                why = why_not(job, route, other)
                ask = make(other) if why is None else None
            except CallerError as error:
                why = error.message
            if ask is not None:
                yield ask
            else:
                job.decisions.append(
                    {"rule": "fallback", "mode": "enforce", "decision": "skip", "to": name, "why": why}
                )

    @staticmethod
    def _ask(job: Job, route: Route, plan: Plan, *, limits: RunLimits | None = None) -> Ask:
        """The step as this route's provider reads it. Raises `CallerError` for what cannot be carried."""
        policy, step = job.generation.policy, job.turn.step
        wire = wire_for(route, step.surface)
        put = step
        if wire.translation is not None:
            limit = OutputLimit(policy.default_max_output_tokens, openai.limit_field(route.provider))
            put = wire.put(step, wire.translation, limit, max_depth=policy.server.max_json_depth)
        for note in plan.notes:
            put = _noted(put, wire.surface, note) or put
        if Moderator.rule(job) is not None:
            put = _plain(put)
            if "moderation" not in job.facts.checks:
                job.facts.checks.append("moderation")
        return Ask(route, wire, put, plan.gate, limits=limits)

    # -- runs that end ------------------------------------------------------------------------------

    async def _end(
        self,
        job: Job,
        route: Route,
        plan: Plan,
        ending: Ending,
        action: str,
        to: str | None,
        denied: Denied | None,
    ) -> Reply | None:
        """Do what the policy says at the end of a run; what cannot be done becomes the next harder thing."""
        if action == "downgrade" and to is not None:
            ask = self._downgraded(job, plan, to)
            if ask is not None:
                trip = self.sender.trip(job, ask)
                job.facts.model = ask.route.upstream_model
                denied = await trip.start()
                if denied is None:
                    return await self._deliver(job, trip)
        elif action == "wrap_up":
            ask = self._landing(job, route, plan, ending)
            if ask is not None:
                job.facts.verdict = Verdict.WRAP_UP
                job.decisions.append(_decision(ending, "wrap_up"))
                land = partial(self._landing, job, plan=plan, ending=ending)
                trip = self.sender.trip(job, ask, self._others(job, route, (), land))
                refused = await trip.start()
                if refused is None:
                    self._tell(job, ending, "wrap_up")
                    return await self._deliver(job, trip)
                job.facts.verdict = Verdict.ALLOW
                if not is_budget(refused.code):
                    raise await self.refuse(job, refused)
            action = "final_message" if job.turn.run.steps else "stop"
        if action == "final_message" and job.turn.step.surface in SHAPERS:
            return await self._final_message(job, ending)
        if action == "kill":
            run_id = job.turn.run.run_id
            await self.store.set_kill(Kill(f"run:{run_id}", reason(ending)), KILL_TTL_S)
            self.notify("kill", {"name": f"run:{run_id}", "reason": reason(ending), "streams": 0})
        raise await self.refuse(job, denied or ending)

    def _downgraded(self, job: Job, plan: Plan, to: str) -> Ask | None:
        """The step on a cheaper model; None where this caller or this step cannot go there."""
        limits = job.generation.rulebook.limits
        more = RunLimits(
            enforced=limits.enforced,
            max_steps=limits.max_steps * DOWNGRADED,
            max_wall_clock_ms=limits.max_wall_clock_ms * DOWNGRADED,
            max_tokens=limits.max_tokens * DOWNGRADED,
            max_tool_calls=limits.max_tool_calls * DOWNGRADED,
        )
        try:
            ask = self._ask(job, self._route(job, to), plan, limits=more)
        except CallerError:
            return None
        job.facts.verdict = Verdict.REROUTE
        job.decisions.append({"rule": "downgrade", "mode": "enforce", "decision": "reroute", "to": to})
        return ask

    def _landing(self, job: Job, route: Route, plan: Plan, ending: Ending) -> Ask | None:
        """The run's last step, in which the model answers from what it knows; None where there is no room or
        no way to say so."""
        policy, step = job.generation.policy, job.turn.step
        most = policy.runs.max_steps
        if ending.code == "step_limit_exceeded" and most is not None and job.turn.run.steps >= most:
            return None
        if step.surface not in SHAPERS or step.background:
            return None
        ask = self._ask(job, route, replace(plan, notes=()))
        shaper = SHAPERS[ask.wire.surface]
        final = [name for name in policy.runs.final_tools if name not in plan.withheld]
        body, forced = shaper.without_tool_use(ask.put.body, final)
        instruction = policy.runs.landing.instruction
        put = _noted(_rewritten(ask.put, body), ask.wire.surface, instruction)
        if put is None:
            return None
        gate = NoCalls(allowed=forced, gate=plan.gate) if step.tools else None
        if ending.code == "step_limit_exceeded" and most is not None:
            # It was stopped one step before, to have this one for its end.
            ending = replace(ending, limit=most, used=most)
        return replace(ask, put=put, gate=gate, lands=ending)

    async def _final_message(self, job: Job, ending: Ending) -> Reply | None:
        """An answer in the model's place that says what happened; the run is over."""
        job.facts.verdict = Verdict.WRAP_UP
        await self._record(job, ending, "final_message", landed=True)
        return await self._say(job, Said(text=final_text(ending, job.turn.run.run_id)))

    async def _say(self, job: Job, said: Said, *, is_linked: bool = False) -> Reply | None:
        step, shaper = job.turn.step, SHAPERS[job.turn.step.surface]
        created = int(time.time())
        said = replace(said, model=said.model or step.model)
        whole = shaper.compose(said, step.body, created)
        if not is_linked:
            await self._link(job, CODECS[step.surface].read_answer(whole))
        if not step.stream:
            return Reply(200, job.facts.headers(_JSON), orjson.dumps(whole))
        await job.client.start(200, job.facts.headers(_EVENTS))
        await job.client.send(shaper.compose_stream(said, step.body, created))
        await job.client.end()
        return None

    # -- answers that are not delivered -------------------------------------------------------------

    async def _deliver(self, job: Job, trip: Trip) -> Reply | None:
        """Run a step to its answer. One whose calls are withheld is continued with the model until it says
        something that can be delivered."""
        try:
            result = await trip.finish()
            if trip.steered is not None and trip.sent.route is trip.steered.route:
                self.steering.judged(trip.steered, trip.sent.rejected)
            if trip.sent.rejected and trip.home is not None:
                trip = await self._sent_home(job, trip, trip.home)
                result = await trip.finish()
        except DeniedLater as later:
            raise await self.refuse(job, later.denied) from None
        ask, attempt = trip.ask, trip.sent
        if job.generation.policy.routing.rules:
            self.steering.saw(attempt)
        if isinstance(result, Reply) and result.status == 200 and (rule := Moderator.rule(job)) is not None:
            return await self._moderated(job, rule, attempt, result)
        if isinstance(result, Reply) and result.status == 200 and job.turn.step.stream and not ask.put.stream:
            return await self._say(job, Said(reply=_whole_answer(result)), is_linked=True)
        if not isinstance(result, Undelivered):
            return result
        missed = result
        if job.facts.verdict is Verdict.ALLOW:
            job.facts.verdict = Verdict.FLAG
        try:
            said = await self._asked_again(job, ask, missed)
            if isinstance(said, Said) and said.reply is None and ask.wire.translation is None:
                said = replace(said, usage=missed.turn.get("usage"))
        except ClientLeftError:
            raise
        except GatewayError as error:
            if missed.relay is None or missed.head is not None:
                raise
            await self._fail(job, missed, error)
            return None
        if isinstance(said, Reply) and (rule := Moderator.rule(job)) is not None:
            return await self._moderated(job, rule, missed.attempt, said)
        return said if isinstance(said, Reply) else await self._rest(job, missed, said)

    async def _sent_home(self, job: Job, trip: Trip, home: Callable[[int], Trip]) -> Trip:
        """The step on its way to the model it asks for, since the answer of another was no good."""
        bad = trip.sent
        again = home(bad.admitted.ordinal)
        again.spent = trip.spent
        self.sender.came_home(job, again.ask.route)
        job.decisions.append(
            {
                "rule": f"routing.{trip.steered.rule.name}" if trip.steered is not None else "routing",
                "mode": "enforce",
                "decision": "escalate",
                "why": bad.rejected,
                "from": bad.route.requested,
                "to": again.ask.route.requested,
            }
        )
        denied = await again.start()
        if denied is not None:
            raise await self.refuse(job, denied)
        return again

    async def _moderated(self, job: Job, rule: Moderation, about: Attempt, reply: Reply) -> Reply | None:
        """An answer that has passed, told as its client wants it."""
        if reply.status != 200:
            return reply
        whole = _whole_answer(reply)
        try:
            await self.moderator.judge(job, rule, about, whole)
        except NoRoom as error:
            return await self.unjudged(job, error.denied)
        except Refusal as error:
            await self.block(job, error)
            raise
        return await self._say(job, Said(reply=whole)) if job.turn.step.stream else reply

    async def _asked_again(self, job: Job, ask: Ask, missed: Undelivered) -> Said | Reply:
        """What the model says when it is told why its calls were not made: told whole to a plain client, as
        the rest of what it had begun to say to a stream's."""
        first, spent = missed, missed.attempt.spent_before + missed.attempt.cost
        shaper = SHAPERS[ask.wire.surface]
        put, gate = ask.put, ask.gate
        for _ in range(MAX_ROUNDS if ask.lands is None else 0):
            results = missed.withheld.results
            if job.output is not None:
                # They may tell of arguments, in which the client has real values.
                results = tuple([job.output.hidden(result) for result in results])
            try:
                body = shaper.with_results(put.body, missed.turn, results)
            except ValueError:
                log.warning("the calls of attempt %s cannot be answered", missed.attempt.attempt_id)
                return await self._gave_up(job, first, ask.lands)
            if gate is not ask.gate or not missed.withheld.repairable:
                body, _ = shaper.without_tool_use(body, ())
                gate = NoCalls()
            put = _plain(_rewritten(put, body))
            ordinal = first.attempt.admitted.ordinal
            again = replace(ask, put=put, gate=gate, ordinal=ordinal, guard=None)
            trip = self.sender.trip(job, again)
            trip.spent = spent
            denied = await trip.start()
            if denied is None:
                try:
                    result = await trip.finish()
                except DeniedLater as later:
                    denied = later.denied
            if denied is not None:
                return await self._gave_up(job, first, ending_of(denied))
            spent = trip.spent
            if isinstance(result, Reply):
                if first.relay is None or (result.status != 200 and first.head is not None):
                    return result
                return Said(reply=_whole_answer(result))
            if result is None:
                raise UpstreamError(
                    "upstream_unavailable", "The provider streamed where it was not asked to.", status=502
                )
            missed = result
            if isinstance(gate, NoCalls):
                break
            gate = NoCalls()
        return await self._gave_up(job, first, ask.lands)

    async def _gave_up(self, job: Job, first: Undelivered, ending: Ending | None) -> Said:
        """The text that ends an answer whose calls were never delivered."""
        run = job.turn.run
        why = first.withheld
        if ending is None and not why.code:
            return Said(text=why.told)
        if ending is None:
            ending = Ending(why.code, "tools", "run", 0, len(first.answer.calls))
            await self._record(job, ending, "final_message", landed=True)
            return Said(text=why.told)
        if first.attempt.lands is None:
            await self._record(job, ending, "final_message", landed=True)
        spoken = "\n\n".join(text for text in first.answer.texts[:1] if text.strip())
        if spoken:
            # A stream's client has it already.
            return Said(text="" if first.relay is not None else spoken)
        return Said(text=final_text(ending, run.run_id))

    async def _rest(self, job: Job, missed: Undelivered, said: Said) -> Reply | None:
        if missed.relay is None:
            return await self._say(job, replace(said, model=missed.answer.model))
        await self._keep_as_told(job, missed, said)
        try:
            rest = missed.relay.splice(said)
        except Refusal as error:
            if missed.head is not None:
                raise
            await self._fail(job, missed, error)
            return None
        if missed.head is not None:
            await job.client.start(200, missed.head)
        await self._link(job, missed.relay.given())
        await job.client.send(missed.unsent + rest)
        await job.client.end()
        return None

    async def _link(self, job: Job, answer: Answer) -> None:
        """Let what the client has been told lead back to its run. No settlement tells of an answer that was
        made of several, or of none."""
        turn = job.turn
        machinery, idle_ms = self.dispatcher.machinery, job.generation.policy.runs.idle_ttl_s * 1000
        links, _ = machinery.lineage.links(turn.caller.id, turn.chain, answer, whole=True)
        try:
            await self.store.link(turn.run.run_id, links, int(idle_ms) + INDEX_GRACE_MS)
        except StoreUnavailable:
            log.warning("what follows this answer of run %s may be taken for another run", turn.run.run_id)

    async def _keep_as_told(self, job: Job, missed: Undelivered, said: Said) -> None:
        """The client knows the answer by the id that its stream began with; the provider keeps it, if at all,
        by that of the answer which was delivered in the end."""
        if missed.answer.response_id is None or not missed.answer.state:
            return
        last = said.reply.get("id") if said.reply is not None else None
        run, turn = job.turn.run, job.turn
        held = Held(
            missed.attempt.route.provider_name,
            turn.step.model,
            run.run_id,
            run.session,
            missed.attempt.usage.input_total + missed.attempt.usage.output_total,
            last if isinstance(last, str) else NOTHING,
        )
        state = self.dispatcher.machinery.provider_state
        try:
            await state.remember(turn.caller, [missed.answer.response_id], held)
        except StoreUnavailable:
            log.warning("what the provider keeps of attempt %s is not on record", missed.attempt.attempt_id)

    async def _fail(self, job: Job, missed: Undelivered, error: GatewayError) -> None:
        """End a stream that has begun in its surface's error grammar."""
        assert missed.relay is not None
        if isinstance(error, Refusal):
            job.facts.verdict = Verdict.REFUSE
        codex = job.turn.hints.codex
        await job.client.send(missed.relay.client.failure(error, job.facts.context(), codex=codex))
        await job.client.end()

    # -- on record ----------------------------------------------------------------------------------

    async def refuse(self, job: Job, why: Denied | Ending) -> GatewayError:
        """The refusal for a denial or an ending, on record."""
        run = job.turn.run
        if isinstance(why, Ending):
            await self._record(job, why, "refuse")
            return refusal_for(why, run.run_id)
        if not _is_landed(job):
            await self._record(job, ending_of(why), "refuse", told=why.reason)
        rates = [rate for rate in job.generation.policy.rates if rate.name == why.rule]
        money = any(rate.nano_per_minute == why.limit for rate in rates)
        return refusal_of(why, run, money=money)

    async def block(self, job: Job, error: Refusal) -> None:
        """Put on record that a request was refused for what it holds. Its run may go on without that."""
        ruling = error.ruling
        await self._record(
            job, Ending(error.code, ruling.rule, ruling.scope, ruling.limit, ruling.used), "refuse"
        )

    async def _record(
        self, job: Job, ending: Ending, decision: str, *, landed: bool = False, told: str = ""
    ) -> None:
        """Put a refusal, or an answer in the model's place, on record, and with it the end of the run."""
        turn, facts = job.turn, job.facts
        status = status_of(ending.code, ending.rule)
        now = self.clock()
        event: Json = {
            "t": "refusal",
            "id": facts.decision_id,
            "run": turn.run.run_id,
            "ordinal": facts.step,
            "at": now,
            "code": ending.code,
            "rule": ending.rule,
            "scope": ending.per,
            "limit": ending.limit,
            "used": ending.used,
            "money": is_budget(ending.code),
            "decision": decision,
            "decisions": job.decisions,
            "findings": job.findings,
            "surface": turn.step.surface.value,
            "requested_model": turn.step.model,
            "asked": asked_of(turn, job.asked),
            "meta": turn.meta(),
        }
        await self.store.note(orjson.dumps(event))
        if status is None:
            return
        because = told or ending.code
        await self.store.stop_run(turn.run.run_id, status.value, because, ending if landed else None)
        await self.store.note(
            orjson.dumps(
                {
                    "t": "run",
                    "run": turn.run.run_id,
                    "at": now,
                    "status": status.value,
                    "reason": because,
                    "meta": turn.meta(),
                }
            )
        )
        if turn.run.status is not status:
            self._tell(job, ending, decision)

    def _tell(self, job: Job, ending: Ending, decision: str) -> None:
        """Tell operators that a run has been stopped, or is having its last step."""
        turn = job.turn
        status = status_of(ending.code, ending.rule)
        facts = {
            **turn.meta(),
            "code": ending.code,
            "rule": ending.rule,
            "run": turn.run.run_id,
            "status": status.value if status is not None else "",
            "reason": reason(ending),
            "decision": decision,
            "steps": turn.run.steps,
            "cost": turn.run.cost,
            "tool_errors": [
                {"tool": result["name"], "error_type": result.get("error_type", "unknown")}
                for result in turn.results
                if not result["ok"]
            ],
        }
        if is_budget(ending.code):
            self.notify("budget_exceeded", facts)
        if ending.code == "loop_detected":
            self.notify("loop_detected", facts)
        self.notify("run_stopped", facts)


def _is_landed(job: Job) -> bool:
    """The run has had its last step, and this is not that step again."""
    run = job.turn.run
    return bool(run.landed) and run.landed != run.retry_ordinal


def _decision(ending: Ending, decision: str) -> Json:
    return {
        "rule": ending.rule,
        "mode": "enforce",
        "decision": decision,
        "code": ending.code,
        "limit": ending.limit,
        "used": ending.used,
    }


def _whole_answer(reply: Reply) -> Json:
    """What a provider says when it is asked again. Raises `UpstreamError` for anything but an answer."""
    try:
        answer = orjson.loads(reply.body) if reply.status == 200 else None
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or is_error(answer):
        raise UpstreamError("upstream_unavailable", "The provider refused to go on.", status=502)
    return answer


def _noted(put: Step, surface: Surface, note: str) -> Step | None:
    """The step with a line to the model at its end; None where its surface has no place for one."""
    shaper = SHAPERS.get(surface)
    body = shaper.with_note(put.body, note) if shaper is not None else None
    if body is None:
        return None
    return _rewritten(put, body)


def _rewritten(put: Step, body: Json) -> Step:
    """The step with another body. What was added to it is read by the model, so it counts as input."""
    raw = orjson.dumps(body)
    grown = max(0, len(raw) - len(put.raw))
    return replace(put, body=body, raw=raw, text_bytes=put.text_bytes + grown)


def _plain(put: Step) -> Step:
    """The step asked for as a whole answer instead of a stream."""
    if not put.stream:
        return put
    body = {name: value for name, value in put.body.items() if name not in ("stream", "stream_options")}
    return replace(put, body=body, raw=orjson.dumps(body), stream=False)
