"""What an outage does to agents: `python -m benchmarks.outage`.

Ten minutes of a provider that errs in 5 % of its calls, refuses all of them for twenty seconds every two
minutes, and is away for a whole minute. The clock is simulated, so it takes a few seconds; everything between
the request and the provider's answer is the gateway's own: retries, retry budget, breakers in a store that
four workers share, pauses. Printed for no retries and the default ones, without a fallback and with one.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Literal, cast

from rich.console import Console
from rich.table import Table

from gateway.attempt import Attempt, Client, Fault
from gateway.attempt import Reply as Answered
from gateway.breakers import FLUSH_S, Breakers, provider_breakers
from gateway.dispatch import Ask, Dispatcher, Job
from gateway.domain import Headers, Json, Principal, Verdict
from gateway.errors import GatewayError, UpstreamError
from gateway.policy.loading import load_text
from gateway.policy.models import Policy
from gateway.rules.route import Route, Router
from gateway.sending import Sender
from gateway.stores.embedded import EmbeddedStore
from gateway.upstreams.capacity import Capacity
from tests.support.virtual_time import run_virtually

WORKERS = 4
CALLERS = 50
BEGAN_MS = 1_800_000_000_000
POLICY = """
version: 1
providers:
  first: {{dialect: openai, base_url: "http://first.invalid/v1", api_key: none, timeouts: {{first_byte_s: {first_byte_s}}}}}
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
    errors: float = 0.03
    resets: float = 0.01
    stalls: float = 0.01
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
        self.status, self.fault = part.status, part.fault
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
    senders: list[Sender] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """(asked at, seconds, `ok` or why not) of each request."""
    openings: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        retries = "{}" if self.retries else "null"
        self.policy = load_text(POLICY.format(retries=retries, first_byte_s=self.trace.first_byte_s), {})
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
        for number in range(WORKERS):
            breakers = Breakers(self.store, self.clock, lambda _kind, _facts: None)
            breakers.start()
            sender = Sender(
                cast(Dispatcher, self), breakers, Capacity(asyncio.get_running_loop().time), self.clock,
                random=Random(self.seed + number),
            )  # fmt: skip
            self.senders.append(sender)
        async with asyncio.TaskGroup() as requests:
            at = 0.0
            while at < self.trace.length_s:
                pause = self.random.expovariate(self.trace.rate)
                await asyncio.sleep(pause)
                at += pause
                requests.create_task(self._ask(self.random.choice(self.senders)))
        watch.cancel()
        for sender in self.senders:
            await sender.breakers.close()
        return self

    async def _ask(self, sender: Sender) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = self.random.randrange(CALLERS)
        job = SimpleNamespace(
            generation=SimpleNamespace(policy=self.policy),
            facts=SimpleNamespace(cost=None, model="", verdict=Verdict.ALLOW),
            client=SimpleNamespace(left=False),
            turn=SimpleNamespace(caller=Principal(id=f"c{number}", key=f"c{number}", user="u", team=None)),
            decisions=list[Json](),
            sender=sender,
        )
        ask, *others = (_ask_of(route) for route in self.routes[: 1 + self.fallback])
        trip = sender.trip(cast(Job, job), ask, iter(others))
        try:
            await trip.start()
            result = await trip.finish()
            told = "ok" if isinstance(result, Answered) and result.status == 200 else "limited"
        except GatewayError as error:
            told = error.code
        self.answers.append((began, loop.time() - began, told))

    async def attempt(self, job: Job, ask: Ask) -> Attempt:
        """In the dispatcher's stead: everything is let in."""
        sender: Sender = cast(SimpleNamespace, job).sender
        return cast(Attempt, Played(self, sender, ask.route, cast(SimpleNamespace, job.turn)))

    async def note(self, sender: Sender, route: Route) -> None:
        """A call reaches its provider."""
        breaker = provider_breakers(route)[0]
        states = await self.store.breakers([breaker.key])
        state = states[0].state if states else "closed"
        known = sender.breakers.open_until(breaker) > 0
        self.calls.append(Seen(route.provider_name, asyncio.get_running_loop().time(), state, known))

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

    def told(self) -> Counter[str]:
        """What requests were told, by how many."""
        return Counter(told for _, _, told in self.answers)

    def seconds(self, share: float) -> float:
        """The latency that this share of the answered requests does not pass."""
        took = sorted(took for _, took, told in self.answers if told == "ok")
        return took[min(len(took) - 1, int(len(took) * share))]

    def busiest_s(self) -> int:
        """Most calls of the failing provider in any one second."""
        return max(Counter(int(call.at) for call in self.first()).values())

    def probes(self) -> int:
        """Calls of the failing provider while its breaker was half open."""
        return sum(call.state == "half_open" for call in self.first())

    def late(self) -> int:
        """Calls that workers made which did not know yet that the breaker was open."""
        return sum(call.state == "open" and not call.known for call in self.first())


def _ask_of(route: Route) -> Ask:
    put = SimpleNamespace(stream=False)
    return Ask(route, cast("object", None), put)  # type: ignore[arg-type]  # nobody writes a request


def measured(trace: Trace, *, retries: bool, fallback: bool, seed: int = 1) -> Scene:
    """What became of the trace under one policy."""
    return run_virtually(Scene(trace, retries, fallback, seed).run())


def show(scenes: Sequence[Scene]) -> Table:
    """One row each."""
    table = Table(title="ten minutes, 20 requests a second; of the failing provider unless told otherwise")
    for name in (
        "retries", "fallback", "answered", "fair", "429 wave", "outage", "calls/request, all",
        "calls in the outage", "openings", "probes", "late", "busiest second", "p50 s", "p99 s",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for scene in scenes:
        table.add_row(
            "1" if scene.retries else "none",
            "yes" if scene.fallback else "no",
            *(f"{scene.served(during):.1%}" for during in (None, "fair", "wave", "outage")),
            f"{len(scene.calls) / len(scene.answers):.3f}",
            str(sum(1 for _ in scene.first("outage"))),
            str(scene.openings),
            str(scene.probes()),
            str(scene.late()),
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
    scenes = [
        measured(trace, retries=retries, fallback=fallback, seed=seed)
        for fallback in (False, True)
        for retries in (False, True)
    ]
    Console(width=180).print(show(scenes))


if __name__ == "__main__":
    main()
