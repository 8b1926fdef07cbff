"""The launch checklist and how what was seen is judged, without a gateway."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.doctor import told
from gateway.doctor import (
    ITEMS,
    anchor,
    complete,
    fail,
    guessable,
    of_disk,
    of_lag,
    of_prices,
    of_redis,
    of_secret,
    of_skew,
    of_token,
    ok,
    size,
    skip,
    warn,
)

CHECKLIST = Path(__file__).parents[2] / "docs" / "launch-checklist.md"
GOOD: dict[str, Any] = {
    "address": "redis:6379/0", "version": "7.2.4", "role": "master", "eviction": "noeviction", "evicted": 0,
    "appendonly": True, "save": "", "write_failures": [], "used_memory": 1 << 20, "maxmemory": 1 << 30,
    "total_memory": 1 << 33, "denied": [], "latency_ms": 0.4, "ahead_ms": 3, "seeded": True, "waiting": 2,
    "hits": 90, "misses": 10,
}  # fmt: skip


def test_the_checklist_and_the_doctor_have_the_same_items() -> None:
    text = CHECKLIST.read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    ids = [section.split("\n", 1)[0] for section in sections]
    assert ids == [item.id for item in ITEMS]
    by_hand = {section.split("\n", 1)[0] for section in sections if "**By hand.**" in section}
    assert by_hand == {item.id for item in ITEMS if item.by_hand}
    for item_id in ids:
        assert anchor(item_id) == re.sub(r"[^\w\- ]", "", item_id)


def test_every_item_has_its_finding_and_the_worst_counts() -> None:
    found = complete(
        [ok("store.kind", "a"), fail("store.kind", "b", "c"), warn("store.kind", "d", "e")], "no"
    )
    assert [each.id for each in found] == [item.id for item in ITEMS]
    by_id = {each.id: each for each in found}
    assert (by_id["store.kind"].seen, by_id["store.kind"].status) == ("b", "fail")
    assert (by_id["ledger.lag"].seen, by_id["ledger.lag"].status) == ("no", "skip")
    assert by_id["manual.drill"].status == "manual"
    assert by_id["store.kind"].view() == {
        "id": "store.kind", "status": "fail", "seen": "b", "todo": "c",
        "docs": "docs/launch-checklist.md#storekind",
    }  # fmt: skip


def of(**changed: Any) -> dict[str, tuple[str, str]]:
    return {each.id: (each.status, each.seen) for each in of_redis({**GOOD, **changed})}


def test_a_good_redis_is_fine() -> None:
    found = of()
    assert {status for status, _ in found.values()} == {"ok"}
    assert (
        found["store.keys"][1] == "counters are there, 2 events wait for the ledger; 90% of all look-ups hit"
    )
    assert found["store.memory"][1] == "1.0 MiB of 1.0 GiB (maxmemory), 0%"


@pytest.mark.parametrize(
    ("changed", "item_id", "status", "seen"),
    [
        ({"version": "6.0.16"}, "store.version", "fail", "Redis 6.0.16"),
        ({"version": "unknown"}, "store.version", "ok", "Redis unknown"),
        ({"role": "slave"}, "store.role", "fail", "a replica, which takes no writes"),
        ({"eviction": "allkeys-lru"}, "store.eviction", "fail", "maxmemory-policy allkeys-lru"),
        ({"evicted": 12}, "store.eviction", "warn", "noeviction now, but 12 keys were evicted earlier"),
        ({"appendonly": False}, "store.persistence", "fail", "nothing is written to disk"),
        ({"appendonly": False, "save": "60 1"}, "store.persistence", "warn", "snapshots alone (save 60 1)"),
        ({"appendonly": False, "save": None}, "store.persistence", "warn", "appendonly no; whether it saves is not told"),
        ({"write_failures": ["aof_last_write_status"]}, "store.persistence", "fail", "the last write failed (aof_last_write_status)"),
        ({"used_memory": 800 << 20}, "store.memory", "warn", "800.0 MiB of 1.0 GiB (maxmemory), 78%"),
        ({"used_memory": 1000 << 20}, "store.memory", "fail", "1000.0 MiB of 1.0 GiB (maxmemory), 98%"),
        ({"maxmemory": 0}, "store.memory", "ok", "1.0 MiB of 8.0 GiB (the machine's memory), 0%"),
        ({"maxmemory": 0, "total_memory": 0}, "store.memory", "ok", "1.0 MiB in use, no limit known"),
        ({"denied": ["EVAL", "PUBLISH"]}, "store.rights", "fail", "refused: EVAL, PUBLISH"),
        ({"latency_ms": 12.0}, "store.latency", "warn", "12.0 ms for a round trip"),
        ({"latency_ms": 80.0}, "store.latency", "fail", "80.0 ms for a round trip"),
        ({"seeded": False}, "store.keys", "warn", "no counters of a gateway in this database"),
    ],
)  # fmt: skip
def test_a_redis_is_judged(changed: dict[str, Any], item_id: str, status: str, seen: str) -> None:
    found = of(**changed)
    assert found.pop(item_id) == (status, seen)
    assert {status for status, _ in found.values()} == {"ok"}


def test_a_redis_that_does_not_answer_is_one_finding() -> None:
    found = of(error="no")
    assert found.pop("store.answers") == ("fail", "no")
    assert set(found.values()) == {("skip", "Redis does not answer")}
    assert found.keys() == of().keys() - {"store.answers"} | {"clock.store"}
    assert "store.keys" not in of(seeded=None)


@pytest.mark.parametrize(
    ("ahead", "status", "seen"),
    [
        ({}, "skip", "no worker told its time"),
        ({"a": 3, "b": -40}, "ok", "-40 ms at most, in b"),
        ({"a": 3, "b": -600}, "warn", "-600 ms at most, in b"),
        ({"a": 6000, "b": -40}, "fail", "+6,000 ms at most, in a"),
    ],
)
def test_clocks_are_judged(ahead: dict[str, int], status: str, seen: str) -> None:
    found = of_skew(ahead)
    assert (found.status, found.seen) == (status, seen)


@pytest.mark.parametrize(
    ("newest", "status"),
    [(date(2026, 1, 1), "ok"), (date(2025, 11, 1), "warn"), (date(2025, 1, 1), "fail"), (None, "warn")],
)
def test_prices_grow_old(newest: date | None, status: str) -> None:
    assert of_prices("1.0", newest, date(2026, 1, 31)).status == status


def test_disks_and_lags_are_judged() -> None:
    gib = 1 << 30
    assert [of_disk(free, 100 * gib).status for free in (50 * gib, 4 * gib, 3 * gib // 2, gib // 8)] == [
        "ok", "warn", "warn", "fail",
    ]  # fmt: skip
    assert [of_lag(lag).status for lag in (0.1, 4.9, 5.0, 59.0, 60.0)] == ["ok", "ok", "warn", "warn", "fail"]


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("changeme", "has fewer than 24 characters"),
        ("a" * 40, "has very few different characters"),
        ("test-admin-token-0123456789", "is made of common words"),
        ("gateway-secret-password-1234567", "is made of common words"),
        ("k7Qz1v9XwLr4TbN8sYcE2mHdPa5GfJu3", ""),
        ("7f3a9c1be4d82056f7a1c3e59b0d4826", ""),
        ("correct-horse-battery-staple-again", ""),
    ],
)
def test_what_can_be_guessed_is_told(secret: str, problem: str) -> None:
    assert guessable(secret, 24) == problem


def test_no_secret_is_shown() -> None:
    secret = "changeme-0123456789"
    for found in (of_token(secret, given=True), of_secret([secret], given=True, shared=True)):
        assert found.status == "fail"
        assert secret not in f"{found}"
    assert of_token("", given=False).status == "ok"
    assert of_secret([""], given=False, shared=True).status == "fail"
    assert of_secret([""], given=False, shared=False).status == "ok"
    good = "k7Qz1v9XwLr4TbN8sYcE2mHdPa5GfJu3"
    assert of_secret([good, "short"], given=True, shared=True).status == "fail"
    assert of_secret([good], given=True, shared=True).status == "ok"


@pytest.mark.parametrize(
    ("count", "told_as"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 40, "1.0 TiB")]
)
def test_sizes_are_short(count: int, told_as: str) -> None:
    assert size(count) == told_as


def test_the_list_fits_the_terminal_and_obeys_nobody() -> None:
    evil = "\x1b]0;owned\x07\u202e" + "x" * 300 + "\r\n"
    findings = [ok("store.kind", evil), fail("ledger.lag", evil, evil), skip("audit.chain", evil)]
    for width in (20, 80, 200):
        lines = told(findings, width).splitlines()
        assert all(line.isprintable() for line in lines)
        assert all(len(line) <= max(width, 50) for line in lines)
    shown = told([ok("store.kind", "a"), fail("ledger.lag", "b", "c."), skip("audit.chain", "d")], 80)
    assert shown == (
        """\
ok    store.kind   a
FAIL  ledger.lag   b
                   > c. (docs/launch-checklist.md#ledgerlag)

Not looked at (d): audit.chain

1 ok, 0 warnings, 1 FAILED"""
    )
