"""What each agent's runs are usually like, and which run is not.

An agent that takes eight steps on average and is at its fourteenth is worth a look long before any limit
stops it. The figures live in the store with decay, so that an agent which changes is soon judged by what it
does now; a stopped or killed run teaches nothing about what is usual.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from gateway.admission import Baseline
from gateway.domain import NANO_PER_USD
from gateway.errors import StoreUnavailable
from gateway.policy.sections.spending import Anomaly
from gateway.protocols import Clock, Store
from gateway.rules.budgets import counter_key
from gateway.steps.turn import Turn

DECAY = 0.95
"""Weight of what was known when a run is added: the last twenty runs or so count."""
FRESH_MS = 30_000
LEARN_EVERY_S = 0.25
MAX_ENDED = 1024
"""Runs that ended and are not in the store yet; of a larger crowd the rest is not learnt from."""
MAX_AGENTS = 4096
MAX_TOLD = 16_384


@dataclass(slots=True)
class _Known:
    at: int
    baseline: Baseline | None


@dataclass(slots=True)
class Baselines:
    """The baselines that this worker has met."""

    store: Store
    clock: Clock
    notify: Callable[[str, dict[str, Any]], None]
    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    _told: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _ended: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """Wait for what is on its way to the store."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def completed(self, turn: Turn, *, steps: int, cost: int) -> None:
        """A run has come to its natural end."""
        if not self._ended:
            self._later(self._learn())
        if len(self._ended) < MAX_ENDED:
            self._ended.append((_key(turn), {"steps": float(steps), "cost_usd": cost / NANO_PER_USD}))

    def check(self, turn: Turn, anomaly: Anomaly) -> dict[str, Any] | None:
        """What is unusual about a run that is about to make a step: the figure, what is usual, and by how
        much it is exceeded; None when nothing is, or nothing is known yet. Alerts once for each run."""
        if not turn.run.steps:
            return None
        key = _key(turn)
        known = self._known.get(key)
        baseline = known.baseline if known is not None else None
        if known is None or self.clock() - known.at > FRESH_MS:
            # What is known serves meanwhile, and the steps that come meanwhile do not ask again.
            self._remember(key, baseline)
            self._later(self._look(key))
        if baseline is None or baseline.runs < _weight(anomaly.min_runs):
            return None
        run = turn.run
        now = {"steps": float(run.steps + 1), "cost_usd": run.cost / NANO_PER_USD}
        for figure, value in now.items():
            usual = baseline.mean.get(figure, 0.0)
            spread = baseline.variance.get(figure, 0.0) ** 0.5
            if usual > 0 and value >= max(usual * anomaly.factor, usual + spread):
                found = {
                    "figure": figure,
                    "value": value,
                    "usual": round(usual, 9),
                    "agent": turn.scopes.agent,
                }
                if run.run_id not in self._told:
                    self._told[run.run_id] = None
                    while len(self._told) > MAX_TOLD:
                        self._told.popitem(last=False)
                    self.notify("spend_anomaly", {"run": run.run_id, **found, **turn.meta()})
                return found
        return None

    async def _learn(self) -> None:
        await asyncio.sleep(LEARN_EVERY_S)
        ended, self._ended = self._ended, []
        with contextlib.suppress(StoreUnavailable):
            for key, figures in ended:
                self._remember(key, await self.store.observe(key, figures, DECAY))

    async def _look(self, key: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            self._remember(key, await self.store.baseline(key))

    def _remember(self, key: str, baseline: Baseline | None) -> None:
        self._known[key] = _Known(self.clock(), baseline)
        self._known.move_to_end(key)
        while len(self._known) > MAX_AGENTS:
            self._known.popitem(last=False)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _weight(runs: int) -> float:
    """What `Baseline.runs` is after so many runs: old ones count less, so it stays below a bound."""
    return (1 - DECAY**runs) / (1 - DECAY) - 1e-9


def baseline_key(principal: str, agent: str) -> str:
    """Where the store keeps an agent's baseline. Agents of different callers are different agents."""
    return counter_key("baseline", "agent", "", f"{principal}\0{agent}")


def _key(turn: Turn) -> str:
    return baseline_key(turn.caller.id, turn.scopes.agent)
