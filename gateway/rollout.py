"""Which version of the policy governs which run.

    files ──► found_in_files ─┐
                              ├─► versions in the ledger ──► current, and a candidate for a share of new runs
    POST /policy ─────────────┘                                  │
                                                        run keeps its own

A run keeps the version that it began under, with the limits of the current one where those are tighter; runs
of a version that was rolled back go on under the current one. All workers follow the ledger. While a version
that was sent is new, how its runs fare is compared with the others', and it is rolled back when refusals or
failures jump.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.domain import Json, Millis, usd
from gateway.policy.loading import load_kept
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.policy.sent import as_text
from gateway.policy.tightening import tightened
from gateway.protocols import Clock
from gateway.steps.dispatch import Generation
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger import LedgerError, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_policies import FILES, Fared, PolicyVersion

log = logging.getLogger("gateway.rollout")

EARLIER = 4
"""Versions that runs may still be under, besides those in force."""
LIVE_MS = 24 * 3_600_000
"""How long ago a version may have been put in force for a start to look for runs under it."""
LOOK_S = 5.0
PROBATION_MS = 30 * 60_000
"""How long a version that governs everything is watched."""
BEFORE_MS = 60 * 60_000
"""What it is compared with where there is nothing beside it: the predecessor's last hour."""
MIN_RUNS = 20
JUMP = 0.1
"""The share of runs by which it has to be worse, and by so many standard errors."""
SURE = 3.0
ALONE = 0.5
"""The share of bad runs that is too much with nothing to compare with."""
_BY_ITSELF = "gateway"


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that is watched, and what it is compared with."""

    version: PolicyVersion
    against: str | None
    fared: Fared
    others: Fared

    @property
    def too_bad(self) -> str | None:
        """Why it is to be rolled back; None while it may stay."""
        for what in ("refused", "failed"):
            bad, before = getattr(self.fared, what), getattr(self.others, what)
            if jumped(bad, self.fared.runs, before, self.others.runs):
                return f"{bad} of {self.fared.runs} runs {what}, {before} of {self.others.runs} without it"
        return None


def jumped(bad: int, runs: int, bad_before: int, runs_before: int) -> bool:
    """Whether a share of bad runs is higher than another beyond chance, and by enough to matter."""
    if runs < MIN_RUNS:
        return False
    share = bad / runs
    if runs_before < MIN_RUNS:
        return share >= ALONE and (not runs_before or share - bad_before / runs_before >= JUMP)
    before = bad_before / runs_before
    pooled = (bad + bad_before) / (runs + runs_before)
    error = math.sqrt(pooled * (1 - pooled) * (1 / runs + 1 / runs_before))
    return share - before >= JUMP and share - before >= SURE * error


@dataclass(slots=True)
class Rollout:
    """One per worker. `ensure` raises `PolicyError` for a policy that cannot be served by, `build` makes of
    one what steps are served by, `in_force` is told when another governs."""

    ledger: SqlLedger
    clock: Clock
    notify: Callable[[str, dict[str, Any]], None]
    ensure: Callable[[Policy], Awaitable[None]]
    build: Callable[[Policy], Generation]
    in_force: Callable[[Generation], None]
    files: Policy
    """The policy in the files: the base of every version, for where traffic goes and who may send it."""
    current: Generation
    candidate: Generation | None = None
    share: float = 0.0
    """Share of new runs that the candidate governs."""
    changes: int = 1
    problem: str | None = None
    """Why the version that the ledger names is not the one in force, while it is not."""
    _earlier: dict[str, Policy] = field(default_factory=dict)
    """Versions that runs began under, the latest last."""
    _kept: dict[str, Generation] = field(default_factory=dict)
    """The same with the tighter of the current limits."""
    _followed: tuple[object, ...] = ()
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    # -- for each step ------------------------------------------------------------------------------

    def for_new(self, run_id: str) -> Generation:
        """What governs a run that begins now. Run ids are random, so they are the dice."""
        if self.candidate is not None and int(run_id[-8:], 16) < self.share * 2**32:
            return self.candidate
        return self.current

    def of(self, version: str) -> Generation:
        """What governs a run that began under this version."""
        if version == self.current.version:
            return self.current
        if self.candidate is not None and version == self.candidate.version:
            return self.candidate
        return self._kept.get(version, self.current)

    # -- changes ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what the ledger says. Raises `LedgerUnavailable`."""
        await self.ledger.found_in_files(self._version_of_files())
        async with self._turn:
            for version in reversed(await self.ledger.earlier_policies(EARLIER)):
                if (version.activated_at or 0) > self.clock() - LIVE_MS and (
                    policy := await self._loaded(version)
                ):
                    self._earlier[version.version] = policy
        await self.follow(await self.ledger.active_policies())

    async def files_changed(self, policy: Policy) -> None:
        """The files hold another policy. It governs from now on, unless it was rolled back. Raises
        `PolicyError` when it cannot."""
        await self.ensure(policy)
        self.files = policy
        try:
            await self.ledger.found_in_files(self._version_of_files())
            active = await self.ledger.active_policies()
        except (LedgerUnavailable, LedgerError) as error:
            log.warning("the policy's files govern, whatever was sent: the ledger is away (%s)", error)
            active = []
        await self.follow(active)

    async def follow(self, active: Sequence[PolicyVersion]) -> None:
        """Let the ledger's active versions govern. One that cannot be used changes nothing."""
        async with self._turn:
            whole = next((version for version in active if version.share == 1), None)
            part = next((version for version in active if version.share < 1), None)
            seen = (
                id(self.files),
                whole and whole.version,
                part and (part.version, part.share),
            )
            if seen == self._followed:
                return
            self._followed = seen
            self.problem = None
            # With nothing usable sent, the files' policy is what there is.
            current = (await self._loaded(whole) if whole is not None else None) or self.files
            candidate = await self._loaded(part) if part is not None else None
            self._change(current, candidate, part.share if part is not None else 0.0)

    def _change(self, current: Policy, candidate: Policy | None, share: float) -> None:
        for generation in filter(None, (self.candidate, self.current)):
            self._earlier.pop(generation.version, None)
            self._earlier[generation.version] = generation.policy
        while len(self._earlier) > EARLIER:
            del self._earlier[next(iter(self._earlier))]
        governing = {policy.version for policy in (current, candidate) if policy is not None}
        self._kept = {
            version: self.build(tightened(policy, current))
            for version, policy in self._earlier.items()
            if version not in governing
        }
        self.share = share if candidate is not None else 0.0
        self.candidate = self.build(candidate) if candidate is not None else None
        if candidate is not None:
            log.info("policy %s governs %g %% of new runs", candidate.version, share * 100)
        if current is not self.current.policy:
            self.current = self.build(current)
            self.changes += 1
            self.in_force(self.current)
            log.info("policy %s is in force", current.version)

    def forget(self, version: str) -> None:
        """Runs that began under this version go on under the current one."""
        self._earlier.pop(version, None)
        self._kept.pop(version, None)

    async def _loaded(self, version: PolicyVersion) -> Policy | None:
        """The policy of a version; None, and operators are told where it should govern, when it cannot be."""
        if version.version == self.files.version:
            return self.files
        try:
            policy = await asyncio.to_thread(load_kept, version.version, version.text, self.files)
            await self.ensure(policy)
        except PolicyError as error:
            if version.active:
                self.problem = f"version {version.version} cannot be used with the policy's files: {error}"
                log.error("policy %s", self.problem)
                self.notify("policy_reload_failed", {"version": version.version, "error": str(error)})
            return None
        return policy

    def _version_of_files(self) -> PolicyVersion:
        source = ", ".join(path.name for path in self.files.source)
        return PolicyVersion(self.files.version, as_text(self.files), FILES, source, self.clock())

    # -- the watch ----------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Roll back what makes runs worse, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except (LedgerUnavailable, LedgerError) as error:
                log.debug("how a policy fares cannot be seen: %s", error)

    async def look(self) -> bool:
        """Look once; whether something was rolled back."""
        trial = await self.trial()
        if trial is None or not trial.version.watched or (why := trial.too_bad) is None:
            return False
        return await self.roll_back(trial.version, by=_BY_ITSELF, why=why)

    async def trial(self) -> Trial | None:
        """What is being watched. Raises `LedgerUnavailable`."""
        active = await self.ledger.active_policies()
        now = self.clock()
        part = next((version for version in active if version.share < 1), None)
        whole = next((version for version in active if version.share == 1), None)
        if part is not None:
            against = whole.version if whole is not None else None
            return await self._trial(part, against, now)
        if whole is None or whole.activated_by == FILES or whole.activated_at is None:
            return None
        if now - whole.activated_at > PROBATION_MS:
            return None
        before = await self.ledger.earlier_policies(1)
        return await self._trial(whole, before[0].version if before else None, now)

    async def _trial(self, version: PolicyVersion, against: str | None, now: Millis) -> Trial:
        since = version.activated_at or 0
        fared = await self.ledger.fared(since, now + 1)
        others = fared.get(against or "", Fared())
        if others.runs < MIN_RUNS and against is not None:
            others = (await self.ledger.fared(since - BEFORE_MS, since)).get(against, Fared())
        return Trial(version, against, fared.get(version.version, Fared()), others)

    async def roll_back(self, version: PolicyVersion, *, by: str, why: str, to: str | None = None) -> bool:
        """End an active version; where it governed everything its predecessor, or `to`, does from now on.
        False when it is not active any more. Raises `LedgerUnavailable`, and `LedgerConflict` for an unknown
        `to`."""
        if version.share == 1 and to is None:
            before = await self.ledger.earlier_policies(1)
            if not before:
                return False
            to = before[0].version
        done = await self.ledger.roll_back_policy(version.version, to, by=by, at=self.clock(), why=why)
        if done:
            facts = {"version": version.version, "to": to, "by": by, "reason": why}
            await self.ledger.audit_append([AuditEntry(by, "policy.rolled_back", facts, self.clock())])
            self.notify("policy_rolled_back", facts)
            log.warning("policy %s is rolled back: %s", version.version, why)
            await self.follow(await self.ledger.active_policies())
            self.forget(version.version)
        return done


def fared_view(fared: Fared) -> Json:
    """How runs have fared, as the admin API shows it."""
    return {
        "runs": fared.runs,
        "refused": fared.refused,
        "failed": fared.failed,
        "cost_usd": usd(fared.cost),
    }
