"""The audit log's hash chain: pure functions over records, so that an export can be checked offline.

Each record's hash covers its own fields and the hash before it. A record that was changed, removed from the
middle or moved breaks the chain at that place. Records cut off at the end are found by comparing the head
with one noted elsewhere; the ledger keeps its own note of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.domain import Millis

GENESIS = "0" * 64
REDACTED = "privacy.redacted"
"""Action of the record that answers for others whose details were made anonymous:
`{"records": {number: digest of the record as it is now}}`."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something to be recorded. An entry with a `ref` is recorded once, however often it is appended."""

    actor: str
    action: str
    details: dict[str, Any]
    at: Millis
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of the chain; `seq` counts from 1 without gaps."""

    seq: int
    at: Millis
    actor: str
    action: str
    details: dict[str, Any]
    ref: str | None
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """What a check of the chain found. `head` is the hash of the last good record."""

    ok: bool
    records: int
    head: str
    broken_at: int | None = None
    """Sequence number of the first record that does not fit, or whose steps do not."""
    reason: str | None = None
    steps: int = 0
    """Steps whose figures were compared with what the log says of them."""


def seal(entry: AuditEntry, seq: int, prev_hash: str) -> AuditRecord:
    """The record of `entry` that follows `prev_hash`."""
    digest = _hash(seq, entry.at, entry.actor, entry.action, entry.details, entry.ref, prev_hash)
    return AuditRecord(seq, entry.at, entry.actor, entry.action, entry.details, entry.ref, prev_hash, digest)


class ChainCheck:
    """Checks records as they come, in their order; it remembers nothing of those that are good.

    A record whose details do not fit its hash is good when a later record of the action `REDACTED` names it
    and the digest of what it says now: the person that it named was erased.
    """

    def __init__(self, *, seq: int = 1, prev_hash: str = GENESIS) -> None:
        self.seq = seq
        """The number that the next record must have."""
        self.records = 0
        self.head = prev_hash
        self._broken: AuditCheck | None = None
        self._changed: dict[int, tuple[str, AuditCheck]] = {}
        """By number: the digest of a record as it is, and what is wrong unless somebody answers for it."""

    def add(self, record: AuditRecord) -> bool:
        """Check the next record; false, from then on, when the chain does not go on with it."""
        if self._broken is not None:
            return False
        seq, problem = self.seq, ""
        if record.seq != seq:
            problem = f"record {seq} is missing or out of place"
        elif record.prev_hash != self.head:
            problem = f"record {seq} does not follow the one before it"
        if problem:
            self._broken = AuditCheck(False, self.records, self.head, seq, problem)
            return False
        digest = content_digest(record)
        if record.hash != digest:
            found = AuditCheck(False, self.records, self.head, seq, f"record {seq} was changed")
            self._changed[seq] = (digest, found)
        elif record.action == REDACTED:
            told = record.details.get("records")
            for number, redacted in (told if isinstance(told, dict) else {}).items():
                if number.isdecimal() and self._changed.get(int(number), ("",))[0] == redacted:
                    del self._changed[int(number)]
        self.head = record.hash
        self.seq += 1
        self.records += 1
        return True

    def end(self, seq: int, head: str) -> None:
        """Say which record was noted to be the last one."""
        if self._broken is not None or (seq, head) == (self.seq - 1, self.head):
            return
        problem = "records are missing at the end"
        if seq < self.seq:
            problem = "the chain does not end as the ledger noted"
        self._broken = AuditCheck(False, self.records, self.head, self.seq, problem)

    def result(self) -> AuditCheck:
        """What was found so far; of several places the first."""
        if self._changed:
            return self._changed[min(self._changed)][1]
        return self._broken or AuditCheck(True, self.records, self.head)


def verify_chain(records: Iterable[AuditRecord], *, seq: int = 1, prev_hash: str = GENESIS) -> AuditCheck:
    """Check records in their order; the first must be number `seq` and follow `prev_hash`."""
    check = ChainCheck(seq=seq, prev_hash=prev_hash)
    for record in records:
        if not check.add(record):
            break
    return check.result()


def content_digest(record: AuditRecord) -> str:
    """The hash that a record with this content has."""
    return _hash(
        record.seq, record.at, record.actor, record.action, record.details, record.ref, record.prev_hash
    )


def _hash(
    seq: int, at: Millis, actor: str, action: str, details: dict[str, Any], ref: str | None, prev_hash: str
) -> str:
    # JSON frames and escapes every field, so no field can be read as the start of another.
    payload = orjson.dumps([seq, at, actor, action, details, ref, prev_hash], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(payload).hexdigest()
