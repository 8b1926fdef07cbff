"""Makes a database of Redis whole again: one without counters, and one that lost what it had acknowledged.

A complete database says so by its *epoch*, which begins with the server's own id, so that what another server
was filled with counts for nothing. Every script that admits is given the epoch that the worker knows, and
refuses where it differs. Then one worker fills the counters from the ledger while the others wait, and each
worker makes good what it knows itself: it reserves for its open calls, and settles again what it never saw
reach the ledger.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gateway.admission import Admission, Admitted, Settled, Settlement
from gateway.domain import Millis, Nano
from gateway.errors import StoreUnavailable
from gateway.stores.ledger_database import LedgerUnavailable
from gateway.stores.redis_calls import BATCH, Calls, as_str, batches
from gateway.stores.redis_undrained import Reservation, Undrained, stream_id
from gateway.stores.redis_wire import Arg, Link, Reply, Unsent, pack

log = logging.getLogger("gateway.stores.redis")

UsedCounters = Callable[[Millis], Awaitable[Mapping[str, tuple[Nano, Millis]]]]

MAX_VOIDS = 10_000
VOID_BATCH = 100
REBUILD_LOCK_MS = 15_000
REBUILD_LIMIT_S = 10.0
REBUILD_PAUSE_S = 0.25
MAKE_GOOD_PAUSE_S = 0.05
UNKNOWN_EPOCH = "?"
RUNS_LOST_S = 60.0
"""How long after a database was lost a step may still come whose run was in it."""
REJOIN_S = 0.2
REJOIN_ELSEWHERE_S = 0.6
"""How long a database that was lost stays shut, so that every worker finds it, on another server too, and
reserves again what its open calls hold."""


class Recovery:
    """What one worker knows of the database's state, and does about it."""

    def __init__(
        self,
        calls: Calls,
        *,
        worker_id: str,
        settle: Callable[[Settlement], Awaitable[Settled]],
        used_counters: UsedCounters | None,
        in_ledger: Callable[[str], Awaitable[bool]] | None,
        drained: Callable[[str], None],
    ) -> None:
        """`settle` is the store's; the others are told as `RedisStore` says."""
        self.epoch = UNKNOWN_EPOCH
        self.doubtful: dict[str, Settlement] = {}
        """Settlements that a database which lost its last writes may have lost."""
        self.unreserved: dict[str, Reservation] = {}
        """Reservations of open attempts that it may have lost."""
        self.voids: deque[str] = deque(maxlen=MAX_VOIDS)
        """Attempts that nobody waits for any more, and that may hold a reservation."""
        self._calls = calls
        self._script, self._command, self._keys = calls.script, calls.command, calls.keys
        self._worker_id = worker_id
        self._settle = settle
        self._used_counters = used_counters
        self._in_ledger = in_ledger
        self._drained = drained
        self.undrained = Undrained(drained)
        self._open: dict[str, Reservation] = {}
        self._server = ""
        """The connected server's run id; the epoch of a database that it serves begins with it."""
        self._heard: Callable[[], float] = lambda: 0.0
        """When the latest server was last heard, by the loop's clock."""
        self._may_lack_runs_until = 0.0
        """By the loop's clock: until then steps are under way whose runs a lost database had."""
        self._filled = ""
        """The server whose database was last known to be complete."""
        self._seeding: asyncio.Task[None] | None = None
        self._seed_again_at = 0.0
        self._making_good: asyncio.Task[None] | None = None
        self._voiding: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Give back what is reserved for nobody, and end what runs."""
        if self.voids:
            try:
                await self._send_voids()
            except StoreUnavailable:
                log.warning("redis: %d admissions could not be undone; their leases end", len(self.voids))
        if self.doubtful:
            log.warning("redis: %d settlements may be lost to it; the journal has them", len(self.doubtful))
        running = (self._voiding, self._seeding, self._making_good)
        tasks = [task for task in running if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what is told to it -------------------------------------------------------------------------

    def admitted(self, admission: Admission, admitted: Admitted) -> None:
        """An attempt is open."""
        self._open[admission.attempt_id] = Reservation(admission, admitted)

    def extended(self, attempt_id: str, amount: Nano) -> None:
        """An open attempt holds more."""
        if (reservation := self._open.get(attempt_id)) is not None:
            reservation.extended += amount

    def settled(self, settlement: Settlement, event: bytes) -> None:
        """An attempt has ended; `event` is where the stream has it, empty where it says nothing new."""
        self._open.pop(settlement.attempt_id, None)
        if event:
            self.undrained.add(stream_id(event), settlement)

    def given_up(self, attempt_id: str) -> None:
        """An admission may stand, or be made when a stopped server goes on, and nobody would use it."""
        self._open.pop(attempt_id, None)
        self.voids.append(attempt_id)
        self.start_voiding()

    @property
    def may_lack_runs(self) -> bool:
        """Whether a run that is not known may have been there a moment ago."""
        return asyncio.get_running_loop().time() < self._may_lack_runs_until

    # -- a server ----------------------------------------------------------------------------------

    async def meet(self, link: Link, server: str, epoch: str, time: Reply, asked_at: float) -> None:
        """Learn whether this server's data is complete, as far as this worker is concerned. `time` is the
        server's, no earlier than `asked_at` by the loop's clock."""
        moved = bool(self._server) and server != self._server
        if moved and epoch.startswith(f"{server}:") and isinstance(time, list):
            # What we wrote to another server after this one was filled is not in its counters.
            now = int(time[0]) * 1000 + int(time[1]) // 1000
            silent_ms = (asked_at - self._heard()) * 1000
            if now - silent_ms > _began_at(epoch):
                log.warning("redis: counters are filled again: this worker wrote elsewhere until now")
                await link.send(pack("DEL", self._keys.epoch))
                epoch = ""
        self._server = server
        self._heard = lambda: link.heard_at
        if epoch.startswith(f"{server}:"):
            self._adopt(epoch)
        elif moved:
            self.epoch = UNKNOWN_EPOCH
            self._doubt_everything()

    # -- a database without counters ----------------------------------------------------------------

    async def wait_seeded(self, deadline: float) -> None:
        """Wait until the database is filled. Raises: `StoreUnavailable` when it is not, in time or at all."""
        loop = asyncio.get_running_loop()
        task = self.start_seeding()
        if task is None:
            raise Unsent
        await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
        if not task.done() or task.cancelled():
            raise Unsent
        if (error := task.exception()) is not None:
            raise Unsent from error
        if loop.time() >= deadline:
            raise Unsent

    def start_seeding(self) -> asyncio.Task[None] | None:
        """The task that fills the database, begun unless it runs; None when the last one failed just now."""
        if self._seeding is None or self._seeding.done():
            if asyncio.get_running_loop().time() < self._seed_again_at:
                return None
            self._seeding = asyncio.create_task(self._seed(), name="redis rebuild")
            self._seeding.add_done_callback(self._seeding_ended)
            # At once: what is held has to be there before the database is opened again.
            self._doubt_everything()
        return self._seeding

    def _seeding_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._seed_again_at = asyncio.get_running_loop().time() + REBUILD_PAUSE_S
            self._calls.health.failed(
                f"the counters could not be read from the ledger: {type(error).__name__}: {error}"
            )

    async def _seed(self) -> None:
        """Fill the database from the ledger, or wait for the worker that does."""
        token = f"{self._worker_id}:{secrets.token_hex(8)}"
        server = self._server
        while True:
            locked = await self._command("SET", self._keys.rebuild, token, "NX", "PX", REBUILD_LOCK_MS)
            # Looked at after the lock, which the worker before us gave up when it was done.
            epoch = as_str(await self._command("GET", self._keys.epoch) or b"")
            if epoch.startswith(f"{server}:"):
                if locked is not None:
                    await self._script("unlock", [token])
                self._adopt(epoch)
                return
            if locked is not None:
                break
            await asyncio.sleep(random.uniform(0.02, 0.05))
        try:
            if epoch or self._filled:
                await asyncio.sleep(REJOIN_S if self._filled == server else REJOIN_ELSEWHERE_S)
            epoch = f"{server}:{await self._calls.server_time()}:{secrets.token_hex(4)}"
            if self._used_counters is not None:
                async with asyncio.timeout(REBUILD_LIMIT_S):
                    await self.reseed(await self._used_counters(await self._calls.time()))
                    await self._release_what_is_in_the_ledger()
            done = await self._script("seeded", [token, epoch])
        except BaseException:
            try:
                await self._script("unlock", [token])
            except StoreUnavailable:
                log.info("redis: the rebuild lock is left to expire")
            raise
        if done[1] != b"1":
            raise StoreUnavailable("the database changed under the rebuild")
        log.info("redis: counters taken over from the ledger")
        self._adopt(epoch)

    async def reseed(self, used: Mapping[str, tuple[Nano, Millis]]) -> None:
        """Put these counters into the database, over what it has."""
        for batch in batches(list(used.items()), BATCH):
            args: list[Arg] = [len(batch)]
            for counter, (nano, expires_at) in batch:
                args += (counter, nano, expires_at)
            await self._script("reseed", args)

    async def _release_what_is_in_the_ledger(self) -> None:
        """End attempts that are open here because only their settlement was lost: they would be charged in
        full when their leases end, on top of what was taken over for them."""
        if self._in_ledger is None:
            return
        for attempt_id in map(as_str, await self._command("ZRANGE", f"{self._keys.tag}leases", 0, -1)):
            if attempt_id not in self._open and await self._in_ledger(attempt_id):
                await self._script("void", [attempt_id])

    # -- what it had taken and lost -----------------------------------------------------------------

    def _adopt(self, epoch: str) -> None:
        """From now on this is the database we mean. One that was filled anew may lack what we had written."""
        first = not self._filled
        self._filled = self._server
        if epoch != self.epoch:
            self.epoch = epoch
            if not first:
                self._may_lack_runs_until = asyncio.get_running_loop().time() + RUNS_LOST_S
            self._doubt_everything()

    def _doubt_everything(self) -> None:
        """What we hold is reserved again, and what we settled and never saw drained is settled again, where
        it is not known."""
        self.doubtful.update(self.undrained.take())
        self.unreserved.update(self._open)
        if (self.doubtful or self.unreserved) and (self._making_good is None or self._making_good.done()):
            self._making_good = asyncio.create_task(self._make_good(), name="redis doubts")

    async def _make_good(self) -> None:
        told, again, reserved = len(self.doubtful), 0, 0
        while self.unreserved or self.doubtful:
            try:
                reserved += await self._reserve_again()
                while self.doubtful and not self.unreserved:
                    attempt_id, settlement = next(iter(self.doubtful.items()))
                    again += await self._settle_doubt(settlement)
                    self.doubtful.pop(attempt_id, None)
            except (StoreUnavailable, LedgerUnavailable):
                await asyncio.sleep(MAKE_GOOD_PAUSE_S)
        if told or reserved:
            log.warning(
                "redis: it may have lost what it had acknowledged: of %d settlements %d were made again, "
                "%d open calls were reserved for again",
                told,
                again,
                reserved,
            )

    async def _reserve_again(self) -> int:
        """How many reservations were not known."""
        batch = [self._open[attempt_id] for attempt_id in list(self.unreserved) if attempt_id in self._open]
        answers = await asyncio.gather(*(self._restore(reservation) for reservation in batch))
        self.unreserved.clear()
        return sum(answers)

    async def _restore(self, reservation: Reservation) -> bool:
        a, admitted, limits = reservation.admission, reservation.admitted, reservation.limits()
        args: list[Arg] = [
            a.attempt_id,
            a.run_id,
            admitted.ordinal,
            reservation.reserved,
            a.lease_ms,
            a.orphan,
        ]
        args += (len(admitted.holds), len(limits))
        for hold in admitted.holds:
            args += (hold.counter, hold.expires_at)
        for counter, usable in limits:
            args += (counter, usable)
        reply = await self._script("restore", args)
        return bool(reply[1] == b"1")

    async def _settle_doubt(self, settlement: Settlement) -> bool:
        """Whether it had to be made again. The ledger goes first: what is there was taken over with it, and
        only the reservation may be left."""
        attempt_id = settlement.attempt_id
        if self._in_ledger is not None and await self._in_ledger(attempt_id):
            await self._script("void", [attempt_id])
            self._drained(attempt_id)
            return False
        settled = await self._settle(settlement)
        if not settled.known:
            settled = await self._settle(replace(settlement, adopt=True))
        return settled.applied

    # -- admissions that nobody waits for any more --------------------------------------------------

    def start_voiding(self) -> None:
        """Give back what is reserved for nobody, as soon as Redis takes it."""
        if self.voids and (self._voiding is None or self._voiding.done()):
            self._voiding = asyncio.create_task(self._void_until_done(), name="redis void")

    async def _void_until_done(self) -> None:
        while self.voids:
            try:
                await self._send_voids()
            except StoreUnavailable:
                await asyncio.sleep(REBUILD_PAUSE_S)

    async def _send_voids(self) -> None:
        while self.voids:
            batch = list(self.voids)[:VOID_BATCH]
            await asyncio.gather(*(self._script("void", [attempt_id]) for attempt_id in batch))
            for attempt_id in batch:
                if self.voids and self.voids[0] == attempt_id:
                    self.voids.popleft()


def _began_at(epoch: str) -> Millis:
    """When the filling began that made an epoch; long ago for one that somebody else has written."""
    began = epoch.split(":")[1]
    return int(began) if began.isascii() and began.isdigit() else 0
