"""The few interfaces that the pipeline knows; `app.py` chooses what stands behind them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from gateway.admission import (
    Admission,
    Admitted,
    Baseline,
    BreakerRule,
    BreakerState,
    CounterState,
    Denied,
    Ending,
    Kill,
    Lookup,
    Quota,
    RunView,
    Settled,
    Settlement,
    Taken,
)
from gateway.domain import Millis, Nano

Clock = Callable[[], Millis]
"""Wall-clock now. Stores that several hosts share use their own server's clock instead."""


class Store(Protocol):
    """Live state: runs, budgets, rates, kill flags, reservations.

    Every method raises `StoreUnavailable` within the store's time limit when it cannot answer; none ever
    answers for another caller, whatever is cancelled.
    """

    async def start(self) -> None:
        """Connect, load what a restart must not forget. Called once before anything else."""

    async def close(self) -> None:
        """Flush and disconnect."""

    async def resolve(self, lookup: Lookup) -> RunView:
        """Find the run of a request, or open one."""

    async def admit(self, admission: Admission) -> Admitted | Denied:
        """Check every limit and take every reservation, or take nothing."""

    async def extend(self, attempt_id: str, amount: Nano) -> bool:
        """Add to an open reservation; false when a budget has no room or the attempt is not open."""

    async def settle(self, settlement: Settlement) -> Settled:
        """End a reservation with what was really spent. Idempotent per attempt."""

    async def renew(self, attempt_ids: Sequence[str]) -> None:
        """Keep the reservations of attempts that are still open."""

    async def reap(self) -> int:
        """Settle provisionally what outlived its lease, abandon idle runs; how many reservations ended."""

    async def remember(self, objects: Mapping[str, bytes], ttl_ms: int) -> None:
        """Keep small records about things that a provider holds, each under an opaque key."""

    async def recall(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Those of the records that are there."""

    async def forget(self, keys: Sequence[str]) -> None:
        """Drop records."""

    async def note(self, event: bytes) -> None:
        """Append an event that moves no money to the ledger stream."""

    async def stop_run(self, run_id: str, status: str, reason: str, ending: Ending | None = None) -> None:
        """Record why a run stands still; its next admitted step sets it running again, unless it has had its
        last answer: with an `ending` every later step is refused with it."""

    async def link(self, run_id: str, keys: Sequence[str], ttl_ms: int) -> None:
        """Let index keys lead to a run, for an answer that no settlement tells of."""

    async def take_events(self, limit: int) -> list[tuple[str, bytes]]:
        """The oldest ledger events not yet confirmed, as (id, event); they stay until confirmed."""

    async def confirm_events(self, ids: Sequence[str]) -> None:
        """Forget events that are safely in the ledger."""

    async def set_kill(self, kill: Kill, ttl_s: float | None) -> None:
        """Set a kill flag and tell every worker at once."""

    async def clear_kill(self, name: str) -> bool:
        """Remove a kill flag; false when there was none."""

    async def kills(self, names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that are killed, with the reason."""

    async def on_kill(self, callback: Callable[[Kill], None]) -> None:
        """Call back, in this process, for every kill from now on, as soon as it is known."""

    async def acknowledge_kill(self, name: str, worker: str, streams: int) -> None:
        """This worker has obeyed a kill and cut so many streams."""

    async def kill_acknowledgements(self, name: str) -> dict[str, tuple[Millis, int]]:
        """Per worker: when it obeyed, and how many streams it cut."""

    async def take(self, quotas: Sequence[Quota]) -> Taken:
        """Count tool calls against every quota, or against none when an enforced one has no room."""

    async def report(self, key: str, rule: BreakerRule, *, source: str, ok: int, failed: int) -> BreakerState:
        """Tell a breaker what came of calls. `source` is who saw it."""

    async def breakers(self, keys: Sequence[str] | None = None) -> list[BreakerState]:
        """Those of the breakers that anything was ever reported to and not forgotten; None means all."""

    async def probe(self, key: str, rule: BreakerRule) -> bool:
        """Whether one call may pass: always while closed, never while open, at most `rule.probes` at a time
        in all processes once `open_ms` is over. A probe nobody reports on is free again after `open_ms`."""

    async def reset_breaker(self, key: str) -> bool:
        """Close a breaker and forget what it counted; false when there was none."""

    async def observe(self, key: str, values: Mapping[str, float], decay: float) -> Baseline:
        """Add one run's figures to a baseline; older ones are weighted by `decay` each time. Figures that are
        not finite or negative, and more than sixteen, are left out."""

    async def baseline(self, key: str) -> Baseline | None:
        """What is usual; None when nothing is known."""

    async def forget_runs(self, run_ids: Sequence[str]) -> None:
        """Forget runs that have no call in flight: whoever goes on with one begins a new run."""

    async def forget_held(self, run_ids: Collection[str], names: Collection[str]) -> None:
        """Drop records about what providers hold that came from these runs, and runs of these names or
        sessions that never made a step. Goes through all records and runs."""

    async def forget_baseline(self, key: str) -> None:
        """Drop what is known to be usual."""

    async def forget_acknowledgements(self, names: Sequence[str]) -> None:
        """Drop who obeyed kills that are in force no longer."""

    async def counters(self, keys: Sequence[str]) -> dict[str, CounterState]:
        """Budget counters by full key (window included); absent ones are zero."""

    async def live_run(self, run_id: str) -> Mapping[str, Any] | None:
        """`status steps cost reserved open started_at last_at tool_calls tokens name session ancestors
        landed reason`, or None."""

    async def reseed(self, used: Mapping[str, tuple[Nano, Millis]]) -> None:
        """After a loss of state: set each counter's `used` to at least the ledger's figure."""

    async def ping(self) -> None:
        """Cheap liveness check."""


class Ledger(Protocol):
    """What happened, for good: SQL behind the store's event stream, and the control plane's records."""

    async def start(self) -> None:
        """Open the database and create what is missing."""

    async def close(self) -> None:
        """Finish what was begun and disconnect."""

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Write events; writing one twice changes nothing."""

    async def used_counters(self, now: Millis) -> dict[str, tuple[Nano, Millis]]:
        """Every counter that has not expired: (used, expires_at), the fold of the ledger."""
