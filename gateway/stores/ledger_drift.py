"""Whether two records of the same spending agree: runs and their steps, counters and the live store's.

Both questions are answered by the database itself, so that asking them often, or of a large ledger, takes no
time from the steps under way. `SqlLedger.verify` compares every figure instead, and takes its time.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, func, select

from gateway.domain import Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_database import Database


class Drift(Database):
    """Comparisons over the ledger. Each method may raise `LedgerUnavailable`."""

    async def runs_drift(self) -> Nano:
        """By how much the costs of runs differ from those of their attempts, all differences added."""
        r, s = schema.runs.c, schema.steps.c

        def work(conn: Connection) -> Nano:
            folded = (
                select(s.run, func.sum(s.cost).label("cost"))
                .where(and_(s.kind == "attempt", s.run != ""))
                .group_by(s.run)
                .subquery()
            )
            removed = schema.folded_runs
            joined = schema.runs.outerjoin(folded, folded.c.run == r.id).outerjoin(
                removed, removed.c.run == r.id
            )
            wrong = func.abs(r.cost - func.coalesce(folded.c.cost, 0) - func.coalesce(removed.c.cost, 0))
            found = conn.execute(select(func.coalesce(func.sum(wrong), 0)).select_from(joined)).scalar()
            return int(found or 0)

        return await self._report(work)

    async def counters_used(self, counters: Sequence[str]) -> dict[str, Nano]:
        """What the ledger says was spent under each of at most a few hundred counters; absent ones are not
        there."""
        c = schema.counters.c

        def work(conn: Connection) -> dict[str, Nano]:
            rows = conn.execute(select(c.counter, c.used).where(c.counter.in_(counters)))
            return {counter: used for counter, used in rows}

        return await self._read(work) if counters else {}
