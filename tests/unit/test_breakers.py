"""How a worker tells the store what came of tools, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.admission import BreakerRule, BreakerState
from gateway.errors import StoreUnavailable
from gateway.steps import breakers
from gateway.steps.breakers import Breaker, Breakers
from gateway.stores.embedded import EmbeddedStore

START = 1_800_000_000_000
RULE = BreakerRule(error_rate=0.5, min_calls=2, window_ms=60_000, open_ms=10_000, probes=1)


class FragileStore(EmbeddedStore):
    """Fails or hangs when it is told to."""

    away = False
    hung: asyncio.Event | None = None

    async def report(self, key: str, rule: BreakerRule, **what: Any) -> BreakerState:
        if self.away:
            raise StoreUnavailable
        if self.hung is not None:
            self.hung.set()
            await asyncio.Event().wait()
        return await super().report(key, rule, **what)


@dataclass
class Scene:
    """One worker on a store, by a clock that stands still."""

    now: int = START
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FragileStore(clock=lambda: self.now)
        self.breakers = self.worker()

    def worker(self) -> Breakers:
        return Breakers(self.store, lambda: self.now, lambda kind, facts: self.told.append((kind, facts)))

    async def counted(self, key: str = "b") -> tuple[int, int]:
        states = await self.store.breakers([key])
        return (states[0].ok, states[0].failed) if states else (0, 0)


async def test_results_are_told_together_and_a_breaker_that_opens_is_told_once() -> None:
    scene = Scene()
    for failed in (True, True, False, True):
        scene.breakers.saw(Breaker("b", RULE), "ann", failed=failed)
    assert await scene.breakers.usable(Breaker("b", RULE))
    await scene.breakers.flush()
    assert await scene.counted() == (1, 3)
    assert not await scene.breakers.usable(Breaker("b", RULE))
    await scene.breakers.look(["b"])
    until = START + 10_000
    assert scene.told == [("breaker_open", {"breaker": "b", "ok": 1, "failed": 3, "until": until})]


async def test_what_the_store_could_not_take_is_told_later() -> None:
    scene = Scene()
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    scene.breakers.saw(Breaker("c", RULE), "ann", failed=False)
    scene.store.away = True
    with pytest.raises(StoreUnavailable):
        await scene.breakers.flush()
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=False)
    scene.store.away = False
    await scene.breakers.flush()
    assert (await scene.counted("b"), await scene.counted("c")) == ((1, 1), (1, 0))


async def test_a_worker_that_ends_while_it_reports_loses_nothing() -> None:
    scene = Scene()
    scene.store.hung = asyncio.Event()
    scene.breakers.start()
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    scene.breakers.saw(Breaker("c", RULE), "ann", failed=True)
    async with asyncio.timeout(10):
        await scene.store.hung.wait()
    scene.store.hung = None
    await scene.breakers.close()
    assert (await scene.counted("b"), await scene.counted("c")) == ((0, 1), (0, 1))


async def test_what_other_workers_found_is_learnt_by_looking() -> None:
    scene = Scene()
    other = scene.worker()
    assert await other.usable(Breaker("b", RULE))
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    await scene.breakers.flush()
    await other.look(["b"])
    assert not await other.usable(Breaker("b", RULE))
    scene.now += 10_000
    assert [await w.usable(Breaker("b", RULE)) for w in (scene.breakers, other)] == [True, False]
    await scene.store.reset_breaker("b")
    await other.look(["b"])
    assert await other.usable(Breaker("b", RULE))


async def test_a_tool_that_is_used_is_remembered_longer_than_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breakers, "MAX_BREAKERS", 2)
    scene = Scene()
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    scene.breakers.saw(Breaker("b", RULE), "ann", failed=True)
    await scene.breakers.flush()
    for other in ("c", "d", "e"):
        assert await scene.breakers.usable(Breaker(other, RULE))
        assert not await scene.breakers.usable(Breaker("b", RULE))
