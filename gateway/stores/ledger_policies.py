"""Versions of the policy: which there were, who made them, and which govern.

At most one active version governs everything (share 1), and at most one more governs a share of new runs. A
version that was rolled back stays away until somebody puts it in force again by name; finding it in a file is
not enough.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, case, delete, func, insert, select, update

from gateway.domain import Json, Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_control import LedgerConflict, bump, insert_into
from gateway.stores.ledger_database import Database

FILES = "files"
"""The author of what was found in the policy's files."""
_SEEN = "policy_files"


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A policy as it was sent, or as it stood in the files with its secrets hidden."""

    version: str
    text: str
    author: str
    note: str
    at: Millis
    share: float = 1.0
    """Share of new runs that it governs while active, 0 to 1."""
    active: bool = False
    activated_at: Millis | None = None
    activated_by: str | None = None
    rolled_back: str | None = None
    """Why it was rolled back, while it is."""
    watched: bool = True
    """It is rolled back by itself when its runs fare worse than others."""


@dataclass(frozen=True, slots=True)
class Fared:
    """How the runs that began under one version have fared: each counts once, whatever befell it first."""

    runs: int = 0
    refused: int = 0
    failed: int = 0
    cost: int = 0
    """Nano-dollars."""

    @property
    def bad(self) -> int:
        """Runs that met with a refusal or with a failure."""
        return self.refused + self.failed


class PolicyVersions(Database):
    """Writing and reading versions. Every method may raise `LedgerUnavailable`."""

    async def add_policy_version(self, policy: PolicyVersion) -> bool:
        """Keep a version without activating it; false, and nothing changed, when it is known already."""
        return await self._write(lambda conn: _add(conn, policy))

    async def activate_policy(
        self, version: str, *, share: float = 1.0, by: str, at: Millis, watched: bool = True
    ) -> None:
        """Let a kept version govern `share` of new runs; it is then no longer rolled back.

        Share 1 ends every other version; less ends the one that had less, and the rest stays with the
        version of share 1. Raises `LedgerConflict` when the version is not kept.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: got {share}, expected 0 to 1")
        await self._write(lambda conn: _activate(conn, version, share, by, at, watched=watched))

    async def found_in_files(self, policy: PolicyVersion) -> bool:
        """The files hold this version. When they held another one before, it is put in force, unless it was
        rolled back; whether that was done."""

        def work(conn: Connection) -> bool:
            m = schema.meta.c
            before = conn.execute(select(m.value).where(m.name == _SEEN)).scalar()
            if before == policy.version:
                return False
            conn.execute(delete(schema.meta).where(m.name == _SEEN))
            conn.execute(insert(schema.meta), {"name": _SEEN, "value": policy.version})
            _add(conn, policy)
            ends = schema.policy_ends
            if conn.execute(select(ends.c.version).where(ends.c.version == policy.version)).first():
                return False
            _activate(conn, policy.version, 1.0, FILES, policy.at)
            return True

        return await self._write(work)

    async def roll_back_policy(self, version: str, to: str | None, *, by: str, at: Millis, why: str) -> bool:
        """End an active version, and put `to` in its place where it governed everything. False, and nothing
        changed, when it is not active. Raises `LedgerConflict` when `to` is not kept."""
        p = schema.policy_versions.c

        def work(conn: Connection) -> bool:
            bump(conn)
            ended = conn.execute(
                update(schema.policy_versions).where(p.version == version, p.active).values(active=False)
            ).rowcount
            if not ended:
                return False
            conn.execute(delete(schema.policy_ends).where(schema.policy_ends.c.version == version))
            conn.execute(insert(schema.policy_ends), {"version": version, "at": at, "by": by, "why": why})
            if to is not None:
                _activate(conn, to, 1.0, by, at)
            return True

        return await self._write(work)

    async def policy_versions(self, *, limit: int = 100) -> list[PolicyVersion]:
        """The newest versions, by the time they were added."""
        p = schema.policy_versions.c
        return await self._read(lambda conn: _versions(conn, order=(p.at.desc(), p.version), limit=limit))

    async def policy_version(self, version: str) -> PolicyVersion | None:
        """One version by its hash."""
        wanted = schema.policy_versions.c.version == version
        return await self._read(lambda conn: next(iter(_versions(conn, wanted)), None))

    async def active_policies(self) -> list[PolicyVersion]:
        """The active versions, the one with the larger share first."""
        p = schema.policy_versions.c
        return await self._read(lambda conn: _versions(conn, p.active, order=(p.share.desc(), p.version)))

    async def earlier_policies(self, limit: int) -> list[PolicyVersion]:
        """Versions that governed once and are neither active nor rolled back, the latest first."""
        p, ended = schema.policy_versions.c, schema.policy_ends.c.version
        past = ~p.active & p.activated_at.is_not(None) & p.version.not_in(select(ended))
        order = (p.activated_at.desc(), p.version)
        return await self._read(lambda conn: _versions(conn, past, order=order, limit=limit))

    async def fared(self, since: Millis, until: Millis) -> dict[str, Fared]:
        """How the runs that began in `[since, until)` have fared, by the version that they began under."""
        r, s = schema.runs.c, schema.steps.c
        began = (r.started_at >= since) & (r.started_at < until) & r.policy.is_not(None)
        failed = (
            select(s.run)
            .where(s.at >= since, s.kind == "attempt", s.extra.like('%"outcome":"failed"%'))
            .distinct()
        )
        refused, worked = r.refusals > 0, r.id.not_in(failed)
        query = (
            select(
                r.policy,
                func.count(),
                func.sum(case((refused, 1), else_=0)),
                func.sum(case((refused | worked, 0), else_=1)),
                func.sum(r.cost),
            )
            .where(began)
            .group_by(r.policy)
        )

        def work(conn: Connection) -> dict[str, Fared]:
            return {version: Fared(*map(int, figures)) for version, *figures in conn.execute(query)}

        return await self._report(work)


def _add(conn: Connection, policy: PolicyVersion) -> bool:
    row: Json = {**asdict(policy), "active": False, "activated_at": None, "activated_by": None}
    del row["rolled_back"], row["watched"]
    added = conn.execute(
        insert_into(conn, schema.policy_versions).on_conflict_do_nothing(),
        row,
        execution_options={"preserve_rowcount": True},
    ).rowcount
    if added:
        bump(conn)
    return bool(added > 0)


def _activate(
    conn: Connection, version: str, share: float, by: str, at: Millis, *, watched: bool = True
) -> None:
    p, left_alone = schema.policy_versions.c, schema.policy_unwatched
    bump(conn)
    others = update(schema.policy_versions).where(p.active, p.version != version)
    conn.execute((others if share == 1 else others.where(p.share < 1)).values(active=False))
    changed = conn.execute(
        update(schema.policy_versions)
        .where(p.version == version)
        .values(active=True, share=share, activated_at=at, activated_by=by)
    ).rowcount
    if not changed:
        raise LedgerConflict(f"there is no policy version '{version}'")
    conn.execute(delete(schema.policy_ends).where(schema.policy_ends.c.version == version))
    conn.execute(delete(left_alone).where(left_alone.c.version == version))
    if not watched:
        conn.execute(insert(left_alone), {"version": version})


def _versions(
    conn: Connection, *wanted: object, order: tuple[object, ...] = (), limit: int | None = None
) -> list[PolicyVersion]:
    p, ends, left_alone = schema.policy_versions, schema.policy_ends, schema.policy_unwatched
    query = (
        select(p, ends.c.why.label("rolled_back"), left_alone.c.version.is_(None).label("watched"))
        .select_from(
            p.outerjoin(ends, p.c.version == ends.c.version).outerjoin(
                left_alone, p.c.version == left_alone.c.version
            )
        )
        .where(*wanted)  # type: ignore[arg-type]  # conditions on columns
        .order_by(*order)  # type: ignore[arg-type]  # columns
        .limit(limit)
    )
    return [PolicyVersion(**row) for row in conn.execute(query).mappings()]
