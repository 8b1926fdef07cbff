"""How a step gets its answer from providers that fail: again after a pause, else from a fallback.

    start ──► the first model whose breakers let it be asked, let in by every budget
    finish ─► its answer, or after a failure: wait and ask again (a few times, within the retry budget),
              then the next model, let in by every budget anew

A call is repeated only before anything of its answer has come, so no client reads anything twice and no tool
is called twice. What a provider refuses (4xx) is the caller's and is repeated by nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gateway.admission import Denied
from gateway.domain import Json, Millis, Nano, Verdict
from gateway.errors import GatewayError, UpstreamError
from gateway.policy.sections.routing import Retries
from gateway.protocols import Clock
from gateway.rules.route import Route
from gateway.steps.attempt import Attempt, Undelivered
from gateway.steps.breakers import Breaker, Breakers, provider_breakers
from gateway.steps.delivery import ClientLeftError, Reply
from gateway.steps.dispatch import Ask, Dispatcher, Job
from gateway.steps.steering import Steered
from gateway.upstreams.balance import Latencies, Strategy, order
from gateway.upstreams.capacity import MAX_PAUSES, Capacity, Overloaded
from gateway.values import frozen

FIRST_RETRIES = 3.0
"""Retries that a worker may make before any call has earned one."""
MOST_RETRIES = 20.0
"""Retries that a worker can have saved up."""
SAME_PAUSE_S = 0.01
"""Pauses whose ends are not farther apart are one."""
LOOK_UP_S = 0.1
"""How soon a pause notices that the client has left."""

_AGAIN = frozenset(("connect", "lost", "status", "broken"))
"""Failures that another try may mend. One that took all its time is not given as much again."""
_ELSEWHERE = _AGAIN | {"busy", "timeout", "credentials"}
"""Failures that another provider may not have."""
_BREAKS = frozenset(("connect", "lost", "status", "timeout", "broken", "garbled"))
"""Failures that count for breakers."""
_TOO_MANY = 429

Result = Reply | Undelivered | None


@frozen
class Place:
    """One of several places where a model is served."""

    route: Route
    weight: float

    @property
    def key(self) -> str:
        """Names it for its latency."""
        return place_key(self.route)


def place_key(route: Route) -> str:
    """Names the place that a route leads to."""
    return f"{route.provider_name}/{route.upstream_model}"


class RetryBudget:
    """How many calls a worker may try again: a share of those it makes. Since each worker keeps to its own
    share, so do all together."""

    def __init__(self) -> None:
        self._left = FIRST_RETRIES

    def earn(self, share: float) -> None:
        """A call is made."""
        self._left = min(MOST_RETRIES, self._left + share)

    def spend(self) -> bool:
        """Whether one may be tried again; if so, it is."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Sender:
    """Sends steps. One per worker."""

    dispatcher: Dispatcher
    breakers: Breakers
    capacity: Capacity
    clock: Clock
    routed: Callable[[str, str, str], None] = lambda _from, _to, _rule: None
    """Counts a step that another model serves: (from, to, rule)."""
    budget: RetryBudget = field(default_factory=RetryBudget)
    random: Random = field(default_factory=Random)
    latencies: Latencies = field(default_factory=Latencies)
    _gathering: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """The end of the pause that steps wait for and since when they do, by provider and model."""

    def trip(self, job: Job, ask: Ask, others: Iterator[Ask] = iter(())) -> Trip:
        """The way of one step to its answer. `others` are made as they are needed."""
        return Trip(self, job, ask, others)

    def order(self, job: Job, places: Sequence[Place], strategy: Strategy) -> list[Route]:
        """The places where a model is served, in the order in which a step tries them. What a provider keeps
        of the conversation binds the step to it."""
        turn = job.turn
        if turn.kept_at:
            places = [p for p in places if p.route.provider_name == turn.kept_at] or places
        now = time.monotonic()
        draw = int.from_bytes(hashlib.blake2b(turn.run.session.encode(), digest_size=6).digest(), "big")
        by_key = {place.key: place.route.provider_name for place in places}
        chosen = order(
            places,
            strategy=strategy,
            busy=lambda key: self.capacity.busy(by_key[key]),
            latency=lambda key: self.latencies.of(key, now),
            draw=draw / 2**48,
        )
        return [places[index].route for index in chosen]

    def moved(self, job: Job, to: Route, before: Route, rule: str) -> None:
        """Another model serves the step than the one it asks for."""
        facts = job.facts
        facts.model = to.upstream_model
        if facts.verdict in (Verdict.ALLOW, Verdict.FLAG):
            facts.verdict = Verdict.REROUTE
        self.routed(before.label, to.label, rule)

    @staticmethod
    def came_home(job: Job, route: Route) -> None:
        """The model that the step asks for serves it after all."""
        facts = job.facts
        facts.model = route.upstream_model
        if facts.verdict is Verdict.REROUTE:
            facts.verdict = Verdict.ALLOW

    async def closed_for_s(self, route: Route) -> float:
        """For how many seconds a route is to be left alone; 0 when it may be asked now, which takes a probe
        of a breaker that is half open. Raises `StoreUnavailable` when that cannot be asked for."""
        known = provider_breakers(route)
        until = max((self.breakers.open_until(breaker) for breaker in known), default=0)
        if until:
            return max(0.001, (until - self.clock()) / 1000)
        for breaker in known:
            if not await self.breakers.usable(breaker):
                # Its probes are under way, so it may be well again at any moment. Not all shall ask again at
                # the same one.
                return breaker.rule.open_ms / 1000 * self.random.uniform(0.1, 1.0)
        return 0.0

    def turn_in_s(self, route: Route, pause: float, now: float) -> float:
        """In how many seconds a step goes on that waits for the end of a provider's pause.

        Those that gather while it lasts go on as slowly as they came, not all at its end. Nobody waits for
        longer than the first of them. `now` is in Unix seconds.
        """
        key, until = (route.provider_name, route.upstream_model), now + pause
        known_until, since = self._gathering.get(key, (0.0, now))
        if abs(until - known_until) > SAME_PAUSE_S:
            # Another pause than that which others have waited for.
            since = now
        if len(self._gathering) >= MAX_PAUSES:
            self._gathering.clear()
        self._gathering[key] = (until, since)
        return pause + max(now - since, 0.0) * self.random.uniform(0.5, 1.0)

    def openings(self, route: Route) -> list[tuple[Breaker, Millis]]:
        """The breakers of a route, each with the opening that a call made now belongs to."""
        return [(breaker, self.breakers.opening(breaker)) for breaker in provider_breakers(route)]

    def report(self, attempt: Attempt, openings: Iterable[tuple[Breaker, Millis]]) -> None:
        """Take in how a provider has fared. `openings` are those from when it was asked. Nothing is told of
        what callers did."""
        if attempt.first_at and not attempt.fault:
            key = place_key(attempt.route)
            self.latencies.saw(key, attempt.first_at - attempt.sent_at, time.monotonic())
        failed = attempt.fault in _BREAKS
        if not failed and (attempt.status is None or attempt.status >= 300):
            return
        for breaker, opening in openings:
            self.breakers.saw(breaker, attempt.turn.caller.key, failed=failed, opening=opening)


@dataclass(slots=True)
class Trip:
    """One step on its way. `ask` and `attempt` are the latest."""

    sender: Sender
    job: Job
    ask: Ask
    others: Iterator[Ask]
    attempt: Attempt | None = None
    spent: Nano = 0
    """What earlier attempts have cost, of which the client is told the sum."""
    steered: Steered | None = None
    """The rule that sends the step here first."""
    home: Callable[[int], Trip] | None = None
    """The way to the model that was asked for, of the step with this ordinal."""
    _tries: int = 0
    _tried: set[str] = field(default_factory=set)
    """Places that were asked in vain: none is asked twice, by whichever way it is reached."""

    def __post_init__(self) -> None:
        # What asking about its texts has cost is a part of what the step costs.
        self.spent = self.job.facts.cost or 0

    async def start(self) -> Denied | None:
        """Let the step in. Returns the rule that has no room for it; raises `StoreUnavailable`, and
        `breaker_open` when there is nobody to ask."""
        await self._keep_pace()
        while wait := await self.sender.closed_for_s(self.ask.route):
            closed = self.ask.route
            if not self._on(f"the breaker of {closed.provider_name}/{closed.label} is open"):
                raise GatewayError(
                    "breaker_open",
                    f"Provider {closed.provider_name!r} has failed too often lately for model "
                    f"{closed.requested[:128]!r}; it is tried again soon.",
                    retry_after_s=wait,
                )
        self.sender.budget.earn(self._retries.share if self._retries is not None else 0.0)
        return await self._let_in()

    async def finish(self) -> Result:
        """The answer. Raises `GatewayError` when nobody gives one; a budget that has no room for a fallback
        is a `DeniedLater`."""
        while True:
            attempt = self.sent
            error: GatewayError | None = None
            result: Result = None
            openings = self.sender.openings(attempt.route)
            try:
                stream = self.ask.put.stream
                result = await (attempt.run_stream if stream else attempt.run_plain)(self.job.client)
            except (UpstreamError, Overloaded) as failure:
                error = failure
            finally:
                self.sender.report(attempt, openings)
            self.spent += attempt.cost
            again = await self._again(attempt, result)
            denied = await self._let_in() if again else None
            if denied is not None and not self._is_stopped(denied):
                raise DeniedLater(denied)
            if not again or denied is not None:
                if error is not None:
                    try:
                        raise error
                    finally:
                        # It holds this frame, and what holds each other waits for the garbage collector.
                        del error
                return result

    async def _keep_pace(self) -> None:
        """Heed what the provider has told of its rate limits: wait for a moment, or go elsewhere."""
        route, rules = self.ask.route, self._retries
        capacity = self.sender.capacity
        now = self.sender.clock() / 1000
        pause = capacity.pause(route.provider_name, route.upstream_model, now)
        if pause <= 0 or any(
            self.sender.breakers.open_until(breaker) for breaker in provider_breakers(route)
        ):
            return
        if rules is not None and pause <= rules.longest_wait_s:
            await self._sleep(self.sender.turn_in_s(route, pause, now))
        elif capacity.is_refusing(route.provider_name, route.upstream_model):
            # Without a fallback it is asked all the same: its refusal tells the caller how long to wait.
            self._on(f"provider {route.provider_name!r} asks for a pause of {pause:.0f} s")

    @property
    def sent(self) -> Attempt:
        """The latest attempt, once the step has been let in."""
        assert self.attempt is not None
        return self.attempt

    @property
    def _retries(self) -> Retries | None:
        return self.job.generation.policy.routing.retries

    async def _let_in(self) -> Denied | None:
        while True:
            outcome = await self.sender.dispatcher.attempt(self.job, self.ask)
            if not isinstance(outcome, Denied):
                outcome.spent_before = self.spent
                self.attempt = outcome
                return None
            if not self._is_stopped(outcome):
                return outcome
            route = self.ask.route
            if not await self._on_to_open(f"an operator has stopped {route.provider_name}/{route.label}"):
                return outcome

    def _is_stopped(self, denied: Denied) -> bool:
        """Whether an operator has stopped the model, and that is not the one that was asked for: then it is
        no target, and no reason to refuse the step."""
        return denied.code == "model_killed" and self.ask.route.requested != self.job.turn.step.model

    async def _on_to_open(self, why: str) -> bool:
        """Go on to the next model that may be asked now. False when there is none."""
        while self._on(why):
            if not await self.sender.closed_for_s(self.ask.route):
                return True
        return False

    async def _again(self, attempt: Attempt, result: Result) -> bool:
        """Whether the step is to be sent once more, after the pause that this takes."""
        limited = isinstance(result, Reply) and attempt.status == _TOO_MANY
        fault = attempt.fault
        if attempt.heard or not (limited or fault in _ELSEWHERE):
            return False
        if attempt.kill is not None or self.job.client.left:
            return False
        self.ask = replace(self.ask, ordinal=self.ask.ordinal or attempt.admitted.ordinal)
        why = _why(attempt)
        rules = self._retries
        if rules is not None and self._tries < rules.attempts and (limited or fault in _AGAIN):
            pause = self._pause(rules, attempt.retry_after)
            if pause is not None and self.sender.budget.spend():
                self._tries += 1
                self._decide("retries", "retry", why, after_ms=round(pause * 1000))
                await self._sleep(pause)
                if not await self.sender.closed_for_s(self.ask.route):
                    return True
        return await self._on_to_open(why)

    def _pause(self, rules: Retries, asked: float | None) -> float | None:
        """Seconds until the next try; None when the provider asks for more patience than the rules have."""
        if asked is not None and asked > rules.longest_wait_s:
            return None
        own: float = rules.first_delay_s * 2**self._tries * self.sender.random.uniform(0.5, 1.5)
        # What is asked for is asked of everybody at once.
        told = (asked or 0.0) * self.sender.random.uniform(1.0, 1.2)
        return max(min(own, rules.longest_wait_s), told)

    async def _sleep(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + pause
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_UP_S))
            if self.job.client.left:
                raise ClientLeftError

    def _on(self, why: str) -> bool:
        """Go on to the next model. False when there is none."""
        self._tried.add(place_key(self.ask.route))
        other = next((ask for ask in self.others if place_key(ask.route) not in self._tried), None)
        if other is None:
            return False
        before, self.ask = self.ask.route, replace(other, ordinal=self.ask.ordinal)
        self._tries = 0
        self._decide("fallback", "reroute", why, **{"from": before.requested, "to": other.route.requested})
        if other.route.requested == self.job.turn.step.model:
            self.sender.came_home(self.job, other.route)
        else:
            self.sender.moved(self.job, other.route, before, "fallback")
        return True

    def _decide(self, rule: str, decision: str, why: str, **more: Json | str | int) -> None:
        self.job.decisions.append({"rule": rule, "mode": "enforce", "decision": decision, "why": why, **more})


class DeniedLater(Exception):  # noqa: N818 - a rule's answer, not a fault
    """A budget that let the step in has no room for its fallback."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


def _why(attempt: Attempt) -> str:
    name = attempt.route.provider_name
    if attempt.status is not None:
        return f"provider {name!r} answered {attempt.status}"
    return f"provider {name!r}: {attempt.fault}"
