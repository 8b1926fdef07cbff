"""What a worker asks the store about an agent, and how often."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.admission import Baseline
from gateway.policy.sections.spending import Anomaly
from gateway.steps import baselines
from gateway.steps.baselines import FRESH_MS, Baselines, baseline_key
from gateway.steps.turn import Turn
from gateway.stores.embedded import EmbeddedStore

START = 1_800_000_000_000
ANOMALY = Anomaly(factor=3, min_runs=3)


class CountingStore(EmbeddedStore):
    """Counts how often it is asked."""

    asked = 0

    async def baseline(self, key: str) -> Baseline | None:
        self.asked += 1
        return await super().baseline(key)


def turn(run: str, steps: int, agent: str = "mailer") -> Turn:
    """A step of a run that has made so many before."""
    made = SimpleNamespace(
        caller=SimpleNamespace(id="p1"),
        scopes=SimpleNamespace(agent=agent),
        run=SimpleNamespace(run_id=run, steps=steps, cost=0),
        meta=lambda: {"agent": agent},
    )
    return cast(Turn, made)


class Scene:
    def __init__(self) -> None:
        self.now = START
        self.store = CountingStore(clock=lambda: self.now)
        self.told: list[str] = []
        self.baselines = Baselines(self.store, lambda: self.now, self._hear)

    def _hear(self, kind: str, facts: dict[str, Any]) -> None:
        self.told.append(f"{kind} {facts['run']}")

    async def learns(self, runs: int, steps: int = 2) -> None:
        for _ in range(runs):
            await self.store.observe(baseline_key("p1", "mailer"), {"steps": float(steps)}, 0.95)

    async def check(self, run: str, steps: int, agent: str = "mailer") -> dict[str, Any] | None:
        found = self.baselines.check(turn(run, steps, agent), ANOMALY)
        await asyncio.sleep(0)  # What was asked is known with the next step.
        return found


async def test_the_steps_of_a_busy_agent_ask_the_store_once() -> None:
    scene = Scene()
    await scene.learns(3)
    for _ in range(20):
        scene.baselines.check(turn("run", 2), ANOMALY)
    await asyncio.sleep(0)
    assert scene.store.asked == 1
    scene.now += FRESH_MS + 1
    for _ in range(20):
        scene.baselines.check(turn("run", 2), ANOMALY)
    await scene.baselines.close()
    assert scene.store.asked == 2


async def test_a_run_far_beyond_what_is_usual_is_told_once() -> None:
    scene = Scene()
    await scene.learns(3)
    assert await scene.check("run", 9) is None
    found = await scene.check("run", 5)
    assert found == {"figure": "steps", "value": 6.0, "usual": 2.0, "agent": "mailer"}
    assert await scene.check("run", 6) is not None
    assert await scene.check("other", 4) is None
    assert scene.told == ["spend_anomaly run"]
    # Old figures go on serving while newer ones are asked for.
    scene.now += FRESH_MS + 1
    assert await scene.check("third", 5) is not None


async def test_of_an_agent_seen_too_seldom_nothing_is_said() -> None:
    scene = Scene()
    await scene.learns(2)
    await scene.check("run", 50)
    assert await scene.check("run", 50) is None


async def test_an_agent_that_is_seen_is_remembered_longer_than_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "MAX_AGENTS", 2)
    scene = Scene()
    await scene.learns(3)
    await scene.check("run", 9)
    for other in ("b", "c", "d"):
        await scene.check("run", 9, agent=other)
        scene.now += FRESH_MS + 1
        assert await scene.check("run", 9) is not None
