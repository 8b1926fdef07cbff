"""What the gateway keeps of runs, read from its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.gateway import ThreadedGateway


@dataclass
class Run:
    """One run with its attempts and refusals, in their order."""

    id: str
    status: str
    session: str
    source: str
    name: str | None
    continues: str | None
    attempts: list[dict[str, Any]]
    refusals: list[dict[str, Any]]

    @property
    def steps(self) -> list[int]:
        """The ordinals of the steps that were sent, each once."""
        return sorted({int(attempt["ordinal"]) for attempt in self.attempts})

    @property
    def cost(self) -> int:
        """What its attempts cost together, in nano-dollars."""
        return sum(attempt["cost"] for attempt in self.attempts)


def runs_of(gateway: ThreadedGateway) -> list[Run]:
    """Every run in the ledger, oldest first, after everything pending was written."""

    async def read() -> list[Run]:
        await gateway.worker.drain.flush()
        rows, _ = await gateway.worker.ledger.runs(limit=1000)
        found: list[Run] = []
        for row in sorted(rows, key=lambda r: (r["started_at"], r["id"])):
            steps, _ = await gateway.worker.ledger.steps(row["id"], limit=1000)
            found.append(
                Run(
                    id=row["id"],
                    status=row["status"],
                    session=row["session"],
                    source=row["source"],
                    name=row["name"],
                    continues=row["continues"],
                    attempts=[dict(step) for step in steps if step["kind"] == "attempt"],
                    refusals=[dict(step) for step in steps if step["kind"] == "refusal"],
                )
            )
        return found

    result: list[Run] = gateway.run(read)
    return result
