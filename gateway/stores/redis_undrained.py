"""What a worker knows of its own attempts until the ledger does: Redis may lose what it has acknowledged.

A replica takes over without the last writes, a server comes back from an older snapshot. Then the worker that
made a reservation or a settlement is the only one who can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.admission import Admission, Admitted, Settlement
from gateway.domain import Nano

StreamId = tuple[int, int]

MAX_UNDRAINED = 5_000
"""Settlements that are remembered until they are in the ledger; more means that the ledger is away too."""


def stream_id(value: bytes) -> StreamId:
    """The id of a stream's entry, as one that can be compared."""
    millis, _, serial = value.partition(b"-")
    return int(millis), int(serial)


class Undrained:
    """Settlements that Redis has taken and the ledger may not have, oldest first. `drained` is told of each
    attempt whose settlement has reached the ledger."""

    def __init__(self, drained: Callable[[str], None]) -> None:
        self._drained = drained
        self._settled: dict[str, tuple[StreamId, Settlement]] = {}

    def add(self, event_id: StreamId, settlement: Settlement) -> None:
        """Redis has taken it, with this entry of the event stream or one before."""
        self._settled[settlement.attempt_id] = (event_id, settlement)
        if len(self._settled) > MAX_UNDRAINED:
            self._is_drained(next(iter(self._settled)))

    @property
    def latest(self) -> str | None:
        """The attempt that was settled last."""
        return next(reversed(self._settled), None)

    def drained_before(self, first: StreamId) -> None:
        """The oldest event that is left is this one: whatever is older is in the ledger."""
        while self._settled:
            attempt_id = next(iter(self._settled))
            if self._settled[attempt_id][0] >= first:
                return
            self._is_drained(attempt_id)

    def drained_through(self, latest: str) -> None:
        """No event was left when this was the latest that was settled."""
        while latest in self._settled:
            self._is_drained(next(iter(self._settled)))

    def confirmed(self, ids: Iterable[str]) -> None:
        """These events are in the ledger."""
        if self._settled:
            written = {stream_id(each.encode()) for each in ids}
            for attempt_id, (event_id, _) in list(self._settled.items()):
                if event_id in written:
                    self._is_drained(attempt_id)

    def take(self) -> dict[str, Settlement]:
        """All of them, by attempt; nothing is left here."""
        taken = {attempt_id: settlement for attempt_id, (_, settlement) in self._settled.items()}
        self._settled.clear()
        return taken

    def _is_drained(self, attempt_id: str) -> None:
        del self._settled[attempt_id]
        self._drained(attempt_id)


@dataclass(slots=True)
class Reservation:
    """An attempt that is open, as it was admitted, and by how much it was extended since."""

    admission: Admission
    admitted: Admitted
    extended: Nano = 0

    @property
    def reserved(self) -> Nano:
        """What it holds now."""
        return self.admitted.reserved + self.extended

    def limits(self) -> list[tuple[str, Nano]]:
        """Of each counter that an extension has to keep within: how much of it can be used."""
        pairs = zip(self.admission.charges, self.admitted.holds, strict=True)
        return [(hold.counter, charge.limit - charge.kept_back) for charge, hold in pairs if charge.enforced]
