"""What sending makes of providers that fail, by a clock that only waiting moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from benchmarks import outage
from benchmarks.outage import WORKERS, Play, Scene, Trace, measured
from gateway.steps.breakers import LOOK_S, provider_breakers
from gateway.steps.sending import FIRST_RETRIES, LOOK_UP_S, MOST_RETRIES, RetryBudget
from tests.support.virtual_time import run_virtually

TRACE = Trace(length_s=150.0, wave_every_s=1000.0, wave_at_s=20.0, outage_at_s=70.0, outage_s=40.0)
BREAKER_S, PROBES, SHARE = 15.0, 3, 0.2
"""The policy's defaults."""
OK = Play(0.5, 200)
DOWN = Play(0.05, 503, "status")

# -- an outage, from beginning to end -------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> dict[tuple[bool, bool], Scene]:
    """By (retries, fallback)."""
    ways = [(retries, fallback) for retries in (False, True) for fallback in (False, True)]
    return {(r, f): measured(TRACE, retries=r, fallback=f) for r, f in ways}


every_way = pytest.mark.parametrize(
    "way", [(False, False), (True, False), (False, True), (True, True)], ids=str
)


def test_retries_mend_what_passes_and_a_fallback_serves_the_rest(
    scenes: dict[tuple[bool, bool], Scene],
) -> None:
    bare, tried, elsewhere, both = (
        scenes[way] for way in [(False, False), (True, False), (False, True), (True, True)]
    )
    before = Trace(length_s=20.0, wave_at_s=1e9, outage_at_s=1e9)
    assert measured(before, retries=False, fallback=False).served() < 0.97
    assert measured(before, retries=True, fallback=False).served() > 0.98
    assert bare.served("outage") < 0.05
    assert tried.served("outage") < 0.05
    assert bare.served("wave") < 0.05 < tried.served("wave")
    assert elsewhere.served() > 0.98
    assert both.served() > 0.995
    assert both.served("outage") > 0.98
    assert both.served("wave") > 0.995


@every_way
def test_an_outage_is_not_made_worse(scenes: dict[tuple[bool, bool], Scene], way: tuple[bool, bool]) -> None:
    scene = scenes[way]
    asked = len(scene.answers)
    assert len(list(scene.first())) <= asked * (1 + SHARE * way[0]) + FIRST_RETRIES * WORKERS * way[0]
    # Half of a window's calls have to fail first, and the window is 30 s; the rest is probes.
    assert len(list(scene.first("outage"))) < TRACE.outage_s * TRACE.rate * (0.55 if way[0] else 0.45)
    assert scene.openings >= 2
    assert scene.while_open(known=True) == 0
    assert scene.while_open(known=False) <= TRACE.rate * LOOK_S
    # Each probe that comes back well makes room for another, until enough have.
    assert max(scene.probes()) <= PROBES


@every_way
def test_nobody_comes_back_as_a_herd(scenes: dict[tuple[bool, bool], Scene], way: tuple[bool, bool]) -> None:
    scene = scenes[way]
    assert scene.busiest_s() <= 3.5 * TRACE.rate
    # One of the probes may meet with an error that passes.
    assert scene.first_answer_after_s(TRACE.outage_at_s + TRACE.outage_s) <= 2 * BREAKER_S
    assert scene.seconds(0.5) < 1.0
    assert scene.seconds(0.99) < TRACE.first_byte_s + 2


# -- one request ------------------------------------------------------------------------------------


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what the failing provider does with each call, the last one for all that follow; the other is well."""

    def say(*parts: Play) -> None:
        left = list(parts)

        def play(_trace: Trace, provider: str, *_: object) -> Play:
            if provider == "second":
                return OK
            return left.pop(0) if len(left) > 1 else left[0]

        monkeypatch.setattr(outage, "play", play)

    return say


def asked(scene: Scene, pauses: Iterator[float] = iter(()), requests: int = 1) -> list[str]:
    """What so many requests are told by one worker, one after another with these pauses between."""

    async def run() -> list[str]:
        sender = scene.worker()
        told = []
        for _ in range(requests):
            told.append(await scene.ask(sender))
            await asyncio.sleep(next(pauses, 0.0))
        await sender.breakers.close()
        return told

    return run_virtually(run())


def providers(scene: Scene) -> list[str]:
    return [call.provider for call in scene.calls]


def limited(seconds: str) -> Play:
    return Play(0.05, 429, headers=[(b"retry-after", seconds.encode())])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (DOWN, ["first", "first", "second"]),
        (Play(0.005, fault="connect"), ["first", "first", "second"]),
        (Play(0.1, fault="lost"), ["first", "first", "second"]),
        (Play(0.1, 200, "broken"), ["first", "first", "second"]),
        (Play(8.0, fault="timeout"), ["first", "second"]),
        (Play(0.1, 401, "credentials"), ["first", "second"]),
        (limited("2"), ["first", "first", "second"]),
        (limited("30"), ["first", "second"]),
    ],
)
def test_what_may_pass_is_tried_again_and_then_elsewhere(
    plays: Callable[..., None], part: Play, expected: list[str]
) -> None:
    plays(part)
    scene = Scene(TRACE, retries=True, fallback=True)
    assert asked(scene) == ["ok"]
    assert providers(scene) == expected


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (Play(0.1, 400), "400"),
        (Play(0.1, 404), "404"),
        (Play(0.1, 422), "422"),
        (Play(0.1, 200, "garbled"), "upstream_unavailable"),
        (Play(0.1, 200, "broken", heard=True), "upstream_unavailable"),
        (Play(9.0, 200, "timeout", heard=True), "upstream_timeout"),
    ],
)
def test_what_is_the_callers_or_was_heard_is_asked_once(
    plays: Callable[..., None], part: Play, told: str
) -> None:
    plays(part)
    scene = Scene(TRACE, retries=True, fallback=True)
    assert asked(scene) == [told]
    assert providers(scene) == ["first"]


@pytest.mark.parametrize(("fallback", "told"), [(False, "upstream_unavailable"), (True, "ok")])
def test_without_retries_each_model_is_asked_once(
    plays: Callable[..., None], fallback: bool, told: str
) -> None:
    plays(DOWN)
    scene = Scene(TRACE, retries=False, fallback=fallback)
    assert asked(scene) == [told]
    assert providers(scene) == ["first", "second"][: 1 + fallback]


def test_pauses_that_the_provider_asks_for_do_not_end_together(plays: Callable[..., None]) -> None:
    plays(*[limited("2")] * 40, OK)
    scene = Scene(TRACE, retries=True, fallback=False)

    async def run() -> None:
        workers = [scene.worker() for _ in range(40)]
        await asyncio.gather(*(scene.ask(worker) for worker in workers))

    run_virtually(run())
    again = sorted(call.at for call in scene.calls)[40:]
    assert len(again) == 40
    assert again[0] >= 2.05
    assert again[-1] <= 2.05 + 0.4 + 0.1
    assert again[-1] - again[0] > 0.3


def test_steps_that_gather_in_a_pause_go_on_as_slowly_as_they_came(plays: Callable[..., None]) -> None:
    """Ten a second for the five seconds before a pause ends: all of them wait, and none longer than the first."""
    plays(limited("5"), OK)
    scene = Scene(TRACE, retries=True, fallback=False)

    async def run() -> None:
        sender = scene.worker()
        async with asyncio.TaskGroup() as requests:
            for _ in range(50):
                requests.create_task(scene.ask(sender))
                await asyncio.sleep(0.1)

    run_virtually(run())
    assert {told for _, _, told in scene.answers} == {"ok"}
    again = Counter(int(call.at - 5.05) for call in scene.calls[1:])
    assert all(call.at >= 5.05 for call in scene.calls[1:])
    assert max(again.values()) <= 20
    assert max(took for _, took, _ in scene.answers) <= 5.05 * 1.2 + OK.after_s + LOOK_UP_S


def test_short_pauses_one_after_another_stay_short(plays: Callable[..., None]) -> None:
    """A provider at the edge of its limit: each answer says that there is room again in a moment."""
    headers = [(b"x-ratelimit-remaining-requests", b"0"), (b"x-ratelimit-reset-requests", b"150ms")]
    plays(Play(0.5, 200, headers=headers))
    scene = Scene(TRACE, retries=True, fallback=False)

    async def run() -> None:
        sender = scene.worker()
        async with asyncio.TaskGroup() as requests:
            for _ in range(200):
                requests.create_task(scene.ask(sender))
                await asyncio.sleep(0.1)

    run_virtually(run())
    assert len(scene.answers) == 200
    took = [took for _, took, _ in scene.answers]
    assert sum(each > 0.51 for each in took) > 100
    assert max(took) <= 0.5 + 2 * 0.15


def test_nobody_waits_for_the_pause_of_a_provider_whose_breaker_is_open(plays: Callable[..., None]) -> None:
    plays(*[DOWN] * 9, limited("4"), DOWN)
    scene = Scene(TRACE, retries=False, fallback=False)

    async def run() -> float:
        sender = scene.worker()
        for _ in range(9):
            await scene.ask(sender)
        await asyncio.gather(*(scene.ask(sender) for _ in range(2)))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        scene.fallback, scene.retries = True, True
        scene.policy = Scene(TRACE, retries=True, fallback=True).policy
        assert await scene.ask(sender) == "ok"
        return asyncio.get_running_loop().time() - began

    assert run_virtually(run()) == pytest.approx(OK.after_s)
    assert providers(scene)[-1] == "second"


# -- breakers ---------------------------------------------------------------------------------------


def test_a_call_that_hung_in_an_outage_is_no_probe(plays: Callable[..., None]) -> None:
    """It fails long after the provider is well again, while that is being found out."""
    plays(*[Play(16.0, fault="timeout")] * 3, *[DOWN] * 12, Play(3.0, 200))
    scene = Scene(TRACE, retries=False, fallback=False)

    async def run() -> list[str]:
        sender = scene.worker()
        hung = [asyncio.create_task(scene.ask(sender)) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(12):
            await scene.ask(sender)
        await asyncio.sleep(BREAKER_S + 0.25)
        assert not any(task.done() for task in hung)
        assert await scene.ask(sender) == "ok"
        assert all(task.done() for task in hung)
        await asyncio.gather(*(scene.ask(sender) for _ in range(2)))
        await asyncio.sleep(1)
        return [state.state for state in await scene.store.breakers(None)]

    assert run_virtually(run()) == ["closed", "closed"]


def test_whoever_meets_a_breaker_whose_probes_are_out_is_not_told_to_come_back_together(
    plays: Callable[..., None],
) -> None:
    plays(*[DOWN] * 10, Play(5.0, 200))
    scene = Scene(TRACE, retries=False, fallback=False)

    async def run() -> list[float]:
        sender = scene.worker()
        for _ in range(10):
            await scene.ask(sender)
        await asyncio.sleep(1)
        (route, _) = scene.routes
        until = sender.breakers.open_until(provider_breakers(route)[0])
        assert await sender.closed_for_s(route) == pytest.approx((until - scene.clock()) / 1000)
        await asyncio.sleep(BREAKER_S)
        async with asyncio.TaskGroup() as probes:
            for _ in range(PROBES):
                probes.create_task(scene.ask(sender))
            await asyncio.sleep(0.1)
            return [await sender.closed_for_s(route) for _ in range(100)]

    waits = run_virtually(run())
    assert min(waits) >= BREAKER_S * 0.1
    assert max(waits) <= BREAKER_S
    assert max(waits) - min(waits) > BREAKER_S / 2


# -- the retry budget -------------------------------------------------------------------------------


def test_retries_are_a_share_of_the_calls() -> None:
    budget = RetryBudget()
    tried = 0
    for _ in range(1000):
        budget.earn(0.2)
        tried += budget.spend()
    assert tried == 200 + FIRST_RETRIES


def test_quiet_times_do_not_save_up_a_storm() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn(0.2)
    assert sum(budget.spend() for _ in range(1000)) == MOST_RETRIES


@pytest.mark.parametrize("requests", [5, 50])
def test_a_worker_keeps_to_its_retries(plays: Callable[..., None], requests: int) -> None:
    plays(Play(0.005, fault="connect"))
    scene = Scene(TRACE, retries=True, fallback=False)
    # So slowly that no breaker opens.
    told = asked(scene, iter([40.0] * requests), requests)
    assert set(told) == {"upstream_unavailable"}
    assert len(scene.calls) - requests == min(requests, int(FIRST_RETRIES + SHARE * requests + 1e-9))
