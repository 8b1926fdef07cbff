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
    """Sequence number of the first record that does not fit."""
    reason: str | None = None


def seal(entry: AuditEntry, seq: int, prev_hash: str) -> AuditRecord:
    """The record of `entry` that follows `prev_hash`."""
    digest = _hash(seq, entry.at, entry.actor, entry.action, entry.details, entry.ref, prev_hash)
    return AuditRecord(seq, entry.at, entry.actor, entry.action, entry.details, entry.ref, prev_hash, digest)


def verify_chain(records: Iterable[AuditRecord], *, seq: int = 1, prev_hash: str = GENESIS) -> AuditCheck:
    """Check records in their order; the first must be number `seq` and follow `prev_hash`."""
    count = 0
    for record in records:
        if record.seq != seq:
            return AuditCheck(False, count, prev_hash, seq, f"record {seq} is missing or out of place")
        if record.prev_hash != prev_hash:
            return AuditCheck(False, count, prev_hash, seq, f"record {seq} does not follow the one before it")
        expected = _hash(
            record.seq,
            record.at,
            record.actor,
            record.action,
            record.details,
            record.ref,
            record.prev_hash,
        )
        if record.hash != expected:
            return AuditCheck(False, count, prev_hash, seq, f"record {seq} was changed")
        prev_hash = record.hash
        seq += 1
        count += 1
    return AuditCheck(True, count, prev_hash)


def _hash(
    seq: int, at: Millis, actor: str, action: str, details: dict[str, Any], ref: str | None, prev_hash: str
) -> str:
    # JSON frames and escapes every field, so no field can be read as the start of another.
    payload = orjson.dumps([seq, at, actor, action, details, ref, prev_hash], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(payload).hexdigest()
