"""What the gateway asks a model on its own behalf, beside the step that it is about.

An aside is an attempt of that step: let in by the same budgets, in the ledger, stopped by the same kills. It
is no part of the conversation and no step of the run: no rule about answers reads it, nothing of it reaches
the client, and of what the client sent nothing reaches its provider but what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.admission import Denied, RunLimits
from gateway.domain import Headers, Json, Step
from gateway.errors import GatewayError, Refusal
from gateway.rules.route import Route
from gateway.steps.attempt import Attempt
from gateway.steps.delivery import Client, Reply
from gateway.steps.dispatch import Ask, Call, Dispatcher, Job
from gateway.steps.turn import Turn, new_id
from gateway.upstreams.dialects import Wire
from gateway.upstreams.transport import Timeouts

UNLIMITED = RunLimits(enforced=False)
"""Limits of a run are for its steps."""


class NoRoom(GatewayError):  # noqa: N818 - read as a state
    """A budget, a rate or a kill did not let the question through."""

    def __init__(self, denied: Denied) -> None:
        super().__init__("guardrail_unavailable", f"No room to ask: {denied.rule}.", retry_after_s=1)
        self.denied = denied


@dataclass(slots=True)
class Asides:
    """Asks. One per worker."""

    dispatcher: Dispatcher

    @staticmethod
    def route(job: Job, model: str, *, free: bool = False) -> Route:
        """Where a model of the policy is served, whatever the caller's key may use. Raises `CallerError`."""
        caller = replace(job.call.caller, models=None)
        return job.generation.router.choose(caller, model, job.turn.began_at, free=free)

    def turn(self, job: Job, put: Step, *, begun: bool = False) -> Turn:
        """The step as the question belongs to it: with nothing of its conversation, to which the answer would
        be linked. `begun`: an attempt of the step itself was let in before."""
        turn, lineage = job.turn, self.dispatcher.machinery.lineage
        own = new_id("ask")
        fresh = turn.run.steps and not turn.run.retry_ordinal and not begun
        return replace(
            turn,
            step=replace(put, surface=turn.step.surface),
            scopes=replace(turn.scopes, model=put.model),
            chain=lineage.chain(own, ()),
            # Asked again after a failure, the step that was opened is the same.
            retry_key=lineage.key(turn.caller.id, "ask", own) if fresh else turn.retry_key,
            stored_tokens=0,
            results=[],
        )

    @staticmethod
    def only_asked(job: Job, route: Route, error: GatewayError) -> bool:
        """Whether an error is a kill of the model that was asked, and not of what the step asks for."""
        scope = error.ruling.scope if isinstance(error, Refusal) else ""
        if isinstance(error, NoRoom) and error.denied.rule == "kill":
            scope = error.denied.per
        if scope != "model":
            return False
        model = job.turn.step.model
        target = job.generation.policy.find_model(model)
        return model != route.requested and (
            target is None
            or (target.provider_name, target.upstream_model) != (route.provider_name, route.upstream_model)
        )

    async def ask(
        self,
        job: Job,
        turn: Turn,
        put: Step,
        route: Route,
        wire: Wire,
        *,
        read: Callable[[Json], list[Json]],
        ordinal: int,
        closes: bool = False,
        timeout_s: float | None = None,
        listeners: Listeners | None = None,
    ) -> None:
        """Send `put`, and let `read` read the whole reply; what it finds is put on record.

        `turn` says what for. `ordinal` is that of a step that the run has had; with 0 the aside opens the
        step that it is about, and what is sent for that later is a part of it. `closes`: the run was complete
        before. `listeners` is for asides that go out together. Raises `NoRoom`, and what an attempt does: the
        `Refusal` of a kill, `ClientLeftError`, `UpstreamError`; `guardrail_unavailable` for a reply that is
        none.
        """
        facts = replace(job.facts, checks=list(job.facts.checks))
        asking = replace(
            job,
            call=_bare(job.call),
            turn=turn,
            facts=facts,
            withheld=(),
            keep=None,
            review=None,
            decisions=[],
            findings=[],
            output=None,
            asked={},
        )
        ask = Ask(route, wire, put, ordinal=ordinal, limits=UNLIMITED, inspect=read, closes=closes)
        outcome = await self.dispatcher.attempt(asking, ask)
        if isinstance(outcome, Denied):
            raise NoRoom(outcome)
        if not ordinal:
            run = replace(job.turn.run, retry_ordinal=outcome.admitted.ordinal)
            job.turn = replace(job.turn, run=run)
        elif job.facts.step:
            # On record it belongs to the step that it was asked for, which may have no place in the run yet.
            outcome.admitted = replace(outcome.admitted, ordinal=job.facts.step)
        if timeout_s is not None:
            _hurry(outcome, timeout_s)
        try:
            reply = await outcome.run_plain(Unheard(listeners or Listeners(job.client)))
        finally:
            job.facts.cost = (job.facts.cost or 0) + outcome.cost
            job.facts.run_cost, job.facts.run_remaining = facts.run_cost, facts.run_remaining
        if not isinstance(reply, Reply) or reply.status != 200:
            raise GatewayError("guardrail_unavailable", "The model that was asked refused.")


def _bare(call: Call) -> Call:
    """The request without what its client tells its own provider."""
    return replace(call, raw_headers=[], headers={}, query=b"")


def _hurry(attempt: Attempt, timeout_s: float) -> None:
    """Let the provider have no more than so many seconds."""
    limits = attempt.request.timeouts
    attempt.request = replace(
        attempt.request,
        timeouts=Timeouts(
            connect_s=min(limits.connect_s, timeout_s),
            first_byte_s=min(limits.first_byte_s, timeout_s),
            idle_s=min(limits.idle_s, timeout_s),
            total_s=min(limits.total_s, timeout_s),
        ),
    )


class Listeners:
    """One client's connection for several asides at once: all hear when it leaves."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._callbacks: dict[Unheard, Callable[[], None]] = {}

    def listen(self, who: Unheard, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves; `None` ends that."""
        self._callbacks.pop(who, None)
        if callback is not None:
            self._callbacks[who] = callback
        self.client.on_leave(self._left if self._callbacks else None)

    def _left(self) -> None:
        for callback in list(self._callbacks.values()):
            callback()


class Unheard:
    """The client as one aside sees it: it may leave, and it is told nothing."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners

    @property
    def left(self) -> bool:
        """The caller has gone."""
        return self._listeners.client.left

    def on_leave(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves."""
        self._listeners.listen(self, callback)

    async def start(self, status: int, headers: Headers) -> None:
        """Nothing: a provider may stream where it was not asked to."""

    async def send(self, data: bytes) -> None:
        """Nothing."""

    async def end(self) -> None:
        """Nothing."""

    def cut(self) -> None:
        """Nothing."""
