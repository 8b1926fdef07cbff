"""Tools that an operator has stopped: their definitions are withheld and their calls are not delivered.

A killed tool does not end a run: the agent goes on with the tools it has left. Flags are known the same
three ways as other kills: pushed by the store, polled for the tools that agents have offered lately (which
also finds a flag set in Redis by hand), and asked for when a tool is offered that was not seen before.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gateway.admission import Kill
from gateway.errors import Refusal, Ruling, StoreUnavailable
from gateway.protocols import Store

POLL_S = 0.5
MAX_TOOLS = 4096
_PREFIX = "tool:"


@dataclass(slots=True)
class ToolKills:
    """The flags that this worker knows. Known ones hold while the store is away."""

    store: Store
    _offered: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _killed: dict[str, str] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe and begin to poll."""
        await self.store.on_kill(self._told)
        self._task = asyncio.create_task(self._poll(), name="tool-kills")

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def stopped(self, tools: Collection[str]) -> frozenset[str]:
        """Those of the tools offered that are killed.

        Raises `StoreUnavailable` when the store has to be asked for one that was not offered lately.
        """
        new = [tool for tool in tools if tool not in self._offered]
        if new:
            flags = await self.store.kills([_PREFIX + tool for tool in new])
            self._killed.update({name[len(_PREFIX) :]: reason for name, reason in flags.items()})
            self._offered.update(dict.fromkeys(new))
            while len(self._offered) > MAX_TOOLS:
                oldest, _ = self._offered.popitem(last=False)
                self._killed.pop(oldest, None)
        if not self._killed:
            return frozenset()
        return frozenset(tool for tool in tools if tool in self._killed)

    def refusal(self, tools: Iterable[str], run_id: str) -> Refusal | None:
        """The refusal of an answer that calls a killed tool; None when it calls none."""
        for tool in tools:
            if tool in self._killed:
                why = f" Reason: {self._killed[tool]}" if self._killed[tool] else ""
                return Refusal(
                    Ruling("tool_killed", "kill", "tool", 0, 0),
                    f"An operator has stopped tool {tool[:64]!r}; its call was not delivered "
                    f"(run {run_id}).{why}",
                )
        return None

    def _told(self, kill: Kill) -> None:
        if kill.name.startswith(_PREFIX):
            tool = kill.name[len(_PREFIX) :]
            self._offered[tool] = None
            self._killed[tool] = kill.reason

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            names = [_PREFIX + tool for tool in self._offered]
            if not names:
                continue
            try:
                flags = await self.store.kills(names)
            except StoreUnavailable:
                continue
            self._killed = {name[len(_PREFIX) :]: reason for name, reason in flags.items()}
