"""What an outage does to agents: `python -m benchmarks.outage`.

Ten minutes of a provider that errs in 5 % of its calls, refuses all of them for twenty seconds every two
minutes, and is away for a whole minute. The clock is simulated, so it takes a few seconds; everything between
the request and the provider's answer is the gateway's own: retries, retry budget, breakers in a store that
four workers share, pauses. Printed for no retries and the default ones, without a fallback and with one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Literal, cast

from rich import box
from rich.console import Console
from rich.table import Table

from gateway.domain import Headers, Json, Principal, Verdict
from gateway.errors import GatewayError, UpstreamError
from gateway.policy.loading import load_text
from gateway.policy.models import Policy
from gateway.rules.route import Route, Router
from gateway.steps.attempt import Attempt, Fault
from gateway.steps.breakers import FLUSH_S, Breakers, provider_breakers
from gateway.steps.delivery import Client
from gateway.steps.delivery import Reply as Answered
from gateway.steps.dispatch import Ask, Dispatcher, Job
from gateway.steps.sending import Sender
from gateway.stores.embedded import EmbeddedStore
from gateway.upstreams.capacity import Capacity
from tests.support.virtual_time import run_virtually

WORKERS = 4
CALLERS = 50
BEGAN_MS = 1_800_000_000_000
POLICY = """
version: 1
providers:
  first: {{dialect: openai, base_url: "http://first.invalid/v1", api_key: none}}
  second: {{dialect: openai, base_url: "http://second.invalid/v1", api_key: none}}
models:
  usual: {{provider: first, price: free}}
  other: {{provider: second, price: free}}
routing: {{retries: {retries}}}
"""
Weather = Literal["fair", "wave", "outage"]


@dataclass(frozen=True, slots=True)
class Trace:
    """What the provider does, in seconds from the beginning; shares of calls."""

    length_s: float = 600.0
    rate: float = 20.0
    """Requests a second."""
    wave_every_s: float = 120.0
    wave_at_s: float = 30.0
    """Of the first wave of 429."""
    wave_s: float = 20.0
    outage_at_s: float = 300.0
    outage_s: float = 60.0
    errors: float = 0.035
    resets: float = 0.01
    stalls: float = 0.005
    first_byte_s: float = 8.0
    """How long the gateway waits for one that stalls."""

    def weather(self, now: float) -> Weather:
        """What it is like at this moment."""
        if 0 <= now - self.outage_at_s < self.outage_s:
            return "outage"
        since = now - self.wave_at_s
        return "wave" if since >= 0 and since % self.wave_every_s < self.wave_s else "fair"

    def wave_left_s(self, now: float) -> float:
        """Seconds to the end of the wave."""
        return self.wave_s - (now - self.wave_at_s) % self.wave_every_s


@dataclass(frozen=True, slots=True)
class Play:
    """What becomes of one call."""

    after_s: float
    status: int | None = None
    fault: Fault = ""
    headers: Headers = field(default_factory=list)
    heard: bool = False
    """It fails after something of its answer has come."""


def play(trace: Trace, provider: str, now: float, random: Random) -> Play:
    """The provider's part in a call that reaches it now."""
    if provider == "second":
        return _answer(random, 0.9, errors=0.01, resets=0.0)
    weather = trace.weather(now)
    if weather == "wave":
        # Told in whole seconds, rounded up, as providers do.
        wait = str(int(trace.wave_left_s(now)) + 1).encode()
        return Play(0.05, 429, headers=[(b"retry-after", wait)])
    share = random.random()
    if weather == "outage":
        if share < 0.6:
            return Play(0.005, fault="connect")
        return Play(0.05, 503, "status") if share < 0.9 else Play(trace.first_byte_s, fault="timeout")
    if share < trace.stalls:
        return Play(trace.first_byte_s, fault="timeout")
    return _answer(random, 0.6, trace.errors, trace.resets)


def _answer(random: Random, usual_s: float, errors: float, resets: float) -> Play:
    share = random.random()
    if share < errors:
        return Play(0.05, 503, "status")
    if share < errors + resets:
        return Play(0.1, fault="lost")
    return Play(random.lognormvariate(0.0, 0.4) * usual_s, 200)


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as its provider saw it."""

    provider: str
    at: float
    state: str
    """Of the provider's breaker in the store."""
    known: bool
    """The worker knew that it was open."""
    opening: int
    """When that breaker opened; 0 while closed."""


@dataclass(slots=True)
class Played:
    """An attempt, as far as sending looks at it."""

    scene: Scene
    sender: Sender
    route: Route
    turn: SimpleNamespace
    admitted: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(ordinal=1))
    fault: Fault = ""
    status: int | None = None
    retry_after: float | None = None
    heard: bool = False
    kill: None = None
    cost: int = 0
    spent_before: int = 0
    sent_at: float = 0.0
    first_at: float = 0.0

    async def run_plain(self, client: Client) -> Answered:
        """What the trace says, in the time that it takes."""
        del client
        scene, route = self.scene, self.route
        loop = asyncio.get_running_loop()
        async with self.sender.capacity.slot(route.provider_name, route.provider, owner=self.turn.caller.id):
            await scene.note(self.sender, route)
            self.sent_at = loop.time()
            part = play(scene.trace, route.provider_name, self.sent_at, scene.random)
            await asyncio.sleep(part.after_s)
        self.status, self.fault, self.heard = part.status, part.fault, part.heard
        if part.status is not None:
            self.first_at = loop.time()
            self.sender.capacity.learn(
                route.provider_name, route.upstream_model, part.status, part.headers, scene.clock() / 1000
            )
        told = dict(part.headers).get(b"retry-after")
        self.retry_after = float(told) if told is not None else None
        if part.fault == "timeout":
            raise UpstreamError("upstream_timeout", "It did not answer in time.")
        if part.fault:
            raise UpstreamError("upstream_unavailable", "It failed.")
        return Answered(part.status or 0, part.headers, b"{}")


@dataclass(slots=True)
class Scene:
    """Workers on one store before the providers of a trace."""

    trace: Trace
    retries: bool
    fallback: bool
    seed: int = 1
    random: Random = field(init=False)
    policy: Policy = field(init=False)
    routes: list[Route] = field(init=False)
    store: EmbeddedStore = field(init=False)
    calls: list[Seen] = field(default_factory=list)
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """(asked at, seconds, `ok` or why not: a status or an error's code) of each request."""
    openings: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        retries = "{}" if self.retries else "null"
        self.policy = load_text(POLICY.format(retries=retries), {})
        router = Router(self.policy)
        caller = Principal(id="u", key="u", user="u", team=None)
        self.routes = [router.choose(caller, model, BEGAN_MS) for model in ("usual", "other")]
        self.store = EmbeddedStore(clock=self.clock)

    @staticmethod
    def clock() -> int:
        """Milliseconds."""
        return BEGAN_MS + int(asyncio.get_running_loop().time() * 1000)

    async def run(self) -> Scene:
        """Play it to its end."""
        watch = asyncio.create_task(self._watch())
        senders = [self.worker() for _ in range(WORKERS)]
        async with asyncio.TaskGroup() as requests:
            at = 0.0
            while at < self.trace.length_s:
                pause = self.random.expovariate(self.trace.rate)
                await asyncio.sleep(pause)
                at += pause
                requests.create_task(self.ask(self.random.choice(senders)))
        watch.cancel()
        for sender in senders:
            await sender.breakers.close()
        return self

    def worker(self) -> Sender:
        """Another worker."""
        breakers = Breakers(self.store, self.clock, lambda _kind, _facts: None)
        breakers.start()
        capacity = Capacity(asyncio.get_running_loop().time)
        chance = Random(self.random.random())
        return Sender(cast(Dispatcher, self), breakers, capacity, self.clock, random=chance)

    async def ask(self, sender: Sender) -> str:
        """One request; what it is told."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = self.random.randrange(CALLERS)
        ask, *others = (_ask_of(route) for route in self.routes[: 1 + self.fallback])
        caller = Principal(id=f"c{number}", key=f"c{number}", user="u", team=None)
        job = SimpleNamespace(
            generation=SimpleNamespace(policy=self.policy),
            facts=SimpleNamespace(cost=None, model="", verdict=Verdict.ALLOW),
            client=SimpleNamespace(left=False),
            turn=SimpleNamespace(caller=caller, step=SimpleNamespace(model=ask.route.requested)),
            decisions=list[Json](),
            sender=sender,
        )
        trip = sender.trip(cast(Job, job), ask, iter(others))
        try:
            await trip.start()
            result = await trip.finish()
            status = result.status if isinstance(result, Answered) else 0
            told = "ok" if status == 200 else str(status)
        except GatewayError as error:
            told = error.code
        self.answers.append((began, loop.time() - began, told))
        return told

    async def attempt(self, job: Job, ask: Ask) -> Attempt:
        """In the dispatcher's stead: everything is let in."""
        sender: Sender = cast(SimpleNamespace, job).sender
        return cast(Attempt, Played(self, sender, ask.route, cast(SimpleNamespace, job.turn)))

    async def note(self, sender: Sender, route: Route) -> None:
        """A call reaches its provider."""
        breaker = provider_breakers(route)[0]
        states = await self.store.breakers([breaker.key])
        state, opening = (states[0].state, states[0].opened_at) if states else ("closed", 0)
        known = sender.breakers.open_until(breaker) > 0
        now = asyncio.get_running_loop().time()
        self.calls.append(Seen(route.provider_name, now, state, known, opening))

    async def _watch(self) -> None:
        breaker, opened_at = provider_breakers(self.routes[0])[0], 0
        while True:
            for state in await self.store.breakers([breaker.key]):
                self.openings += state.state == "open" and state.opened_at != opened_at
                opened_at = state.opened_at
            await asyncio.sleep(FLUSH_S / 4)

    # -- what came of it ----------------------------------------------------------------------------

    def first(self, during: Weather | None = None) -> Iterator[Seen]:
        """Calls of the provider that fails."""
        for call in self.calls:
            if call.provider == "first" and during in (None, self.trace.weather(call.at)):
                yield call

    def served(self, during: Weather | None = None) -> float:
        """Share of the requests that were answered."""
        told = [told for at, _, told in self.answers if during in (None, self.trace.weather(at))]
        return told.count("ok") / len(told)

    def seconds(self, share: float) -> float:
        """The latency that this share of the answered requests does not pass."""
        took = sorted(took for _, took, told in self.answers if told == "ok")
        return took[min(len(took) - 1, int(len(took) * share))]

    def busiest_s(self) -> int:
        """Most calls of the failing provider in any one second."""
        return max(Counter(int(call.at) for call in self.first()).values())

    def first_answer_after_s(self, at: float) -> float:
        """How long after a moment the failing provider has answered the next call outside of a trial."""
        return min(call.at for call in self.first() if call.at >= at and call.state == "closed") - at

    def probes(self) -> list[int]:
        """Calls of the failing provider while its breaker was half open, for each time that it was."""
        return list(Counter(call.opening for call in self.first() if call.state == "half_open").values())

    def while_open(self, *, known: bool) -> int:
        """Calls of the failing provider while its breaker was open, by workers that knew it or did not."""
        return sum(call.state == "open" and call.known is known for call in self.first())


def _ask_of(route: Route) -> Ask:
    put = SimpleNamespace(stream=False)
    return Ask(route, cast("object", None), put)  # type: ignore[arg-type]  # nobody writes a request


def measured(trace: Trace, *, retries: bool, fallback: bool, seed: int = 1) -> Scene:
    """What became of the trace under one policy."""
    return run_virtually(Scene(trace, retries, fallback, seed).run())


COLUMNS = (
    "retries", "fallback", "answered", "in fair weather", "during 429", "in the outage", "calls per request",
    "calls in the outage", "openings", "probes", "while open", "not yet told", "busiest second", "p50 s",
    "p99 s",
)  # fmt: skip


def show(scenes: Sequence[Scene]) -> Table:
    """One row each."""
    table = Table(box=box.MARKDOWN)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for scene in scenes:
        table.add_row(
            "1" if scene.retries else "none",
            "yes" if scene.fallback else "no",
            *(f"{scene.served(during):.1%}" for during in (None, "fair", "wave", "outage")),
            f"{len(scene.calls) / len(scene.answers):.2f}",
            str(sum(1 for _ in scene.first("outage"))),
            str(scene.openings),
            str(sum(scene.probes())),
            str(scene.while_open(known=True)),
            str(scene.while_open(known=False)),
            str(scene.busiest_s()),
            f"{scene.seconds(0.5):.2f}",
            f"{scene.seconds(0.99):.2f}",
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    trace = Trace()
    logging.getLogger("gateway").setLevel(logging.ERROR)
    scenes = [
        measured(trace, retries=retries, fallback=fallback, seed=seed)
        for fallback in (False, True)
        for retries in (False, True)
    ]
    Console(width=240).print(show(scenes))


if __name__ == "__main__":
    main()
