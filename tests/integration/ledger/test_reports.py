"""What the ledger answers about runs, steps and spend."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.stores.ledger import AmbiguousRun, BadCursor, SqlLedger
from gateway.stores.ledger_cursor import make_cursor

from .events import T0, attempt, encode, meta, refusal, status

HOUR = 3_600_000


def _opened(run: str, at: int, **changes: Any) -> dict[str, Any]:
    return status(run, "running", at, meta=meta(started_at=at, **changes))


async def _ids(ledger: SqlLedger, **filters: Any) -> list[str]:
    rows, _ = await ledger.runs(**filters)
    return [row["id"] for row in rows]


async def test_runs_come_newest_first_and_pages_join_without_gaps(ledger: SqlLedger) -> None:
    # Equal start times: the cursor has to order by id as well.
    await ledger.append(encode(*[_opened(f"r{n:02}", T0 + n // 3) for n in range(20)]))
    seen: list[str] = []
    cursor = None
    while True:
        rows, cursor = await ledger.runs(limit=6, cursor=cursor)
        seen += [row["id"] for row in rows]
        if cursor is None:
            break
    assert seen == [f"r{n:02}" for n in reversed(range(20))]


async def test_a_page_that_ends_exactly_has_no_next(ledger: SqlLedger) -> None:
    await ledger.append(encode(*[_opened(f"r{n}", T0 + n) for n in range(4)]))
    assert (await ledger.runs(limit=4))[1] is None
    assert (await ledger.runs(limit=3))[1] is not None


async def test_runs_are_filtered(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            _opened("r1", T0, user="ann", session="s1", key="k1"),
            _opened("r2", T0 + 1, user="bob", session="s2", key="k1", principal="p2"),
            status("r2", "killed", T0 + 5, "operator"),
            attempt("a1", run="r1", requested_model="gpt-4o", model="mini", meta={}),
        )
    )
    assert await _ids(ledger, user="ann") == ["r1"]
    assert await _ids(ledger, session="s2") == ["r2"]
    assert await _ids(ledger, key="k1") == ["r2", "r1"]
    assert await _ids(ledger, status="killed") == ["r2"]
    assert await _ids(ledger, model="mini") == ["r1"]
    assert await _ids(ledger, model="gpt-4o") == ["r1"]
    assert await _ids(ledger, model="other") == []
    assert await _ids(ledger, since=T0 + 1) == ["r2"]
    assert await _ids(ledger, principal="p2", key="k1") == ["r2"]


@pytest.mark.parametrize("cursor", ["x", "!!!", "W10", "bnVsbA", "WyJhIiwxXQ", "é"])
async def test_a_foreign_cursor_is_refused(ledger: SqlLedger, cursor: str) -> None:
    with pytest.raises(BadCursor):
        await ledger.runs(cursor=cursor)
    with pytest.raises(BadCursor):
        await ledger.steps("r1", cursor=cursor)


async def test_a_cursor_that_no_database_can_compare_is_refused(ledger: SqlLedger) -> None:
    for at, run in ((1, "run_\x00"), (2**63, "run_1")):
        with pytest.raises(BadCursor):
            await ledger.runs(cursor=make_cursor(at, run))
        with pytest.raises(BadCursor):
            await ledger.approvals(T0, cursor=make_cursor(at, run))
        with pytest.raises(BadCursor):
            await ledger.steps("r1", cursor=make_cursor(1, at, run))


async def test_a_run_is_found_by_id_or_by_its_newest_name(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            _opened("r1", T0, name="nightly"),
            _opened("r2", T0 + 1, name="nightly"),
            _opened("r3", T0 + 2, name="nightly", principal="p2"),
            _opened("r4", T0 + 3, name="weekly", parent="r1"),
            _opened("r5", T0 + 4, parent="r1"),
        )
    )
    assert (await ledger.run("r1") or {})["id"] == "r1"
    assert (await ledger.run("r1") or {})["children"] == ["r4", "r5"]
    assert (await ledger.run("weekly") or {})["id"] == "r4"
    assert (await ledger.run("nightly", principal="p1") or {})["id"] == "r2"
    assert await ledger.run("r1", principal="p2") is None
    assert await ledger.run("absent") is None
    with pytest.raises(AmbiguousRun) as ambiguous:
        await ledger.run("nightly")
    assert set(ambiguous.value.ids) == {"r2", "r3"}


async def test_steps_come_in_order_with_refusals_between(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            attempt("a3", ordinal=3),
            attempt("a1", ordinal=1),
            refusal("d1", at=T0 + 2500),
            attempt("a2", ordinal=2),
            attempt("other", run="r2"),
        )
    )
    first, cursor = await ledger.steps("r1", limit=3)
    rest, end = await ledger.steps("r1", limit=3, cursor=cursor)
    assert [step["id"] for step in first + rest] == ["a1", "a2", "d1", "a3"]
    assert end is None
    assert first[0]["usage"]["cache_read"] == 5
    assert (first[0]["started_at"], first[0]["http_status"]) == (T0 + 1000, 200)


async def test_spend_sums_by_every_group(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            attempt("a1", cost=100, user="ann", model="mini"),
            attempt("a1-retry", cost=10, user="ann", model="mini"),
            attempt("a2", ordinal=2, cost=200, user="bob", model="large", team=None),
            attempt("a3", run="r2", cost=400, user="ann", model="large"),
            refusal("d1"),
        )
    )
    by_user = {row["group"]: row for row in await ledger.spend("user")}
    assert by_user["ann"]["cost"] == 510
    assert (by_user["ann"]["steps"], by_user["ann"]["attempts"]) == (2, 3)
    assert (by_user["ann"]["input_tokens"], by_user["ann"]["output_tokens"]) == (45, 24)
    assert (by_user["ann"]["cached_tokens"], by_user["ann"]["saved"]) == (15, 9)
    assert [row["group"] for row in await ledger.spend("model")] == ["large", "mini"]
    assert {row["group"]: row["cost"] for row in await ledger.spend("team")} == {"cx": 510, None: 200}
    for group in ("session", "run", "key", "provider", "surface"):
        assert sum(row["cost"] for row in await ledger.spend(group)) == 710
    with pytest.raises(ValueError, match="group_by"):
        await ledger.spend("cost); DROP TABLE gw_steps")


async def test_spend_is_cut_into_hours_and_days(ledger: SqlLedger) -> None:
    base = T0 - T0 % (24 * HOUR)
    moments = [0, HOUR - 1, HOUR, 24 * HOUR - 1, 24 * HOUR]
    await ledger.append(
        encode(
            *[
                attempt(f"a{n}", cost=10**n, started_at=base + at, ended_at=base + at)
                for n, at in enumerate(moments)
            ]
        )
    )
    hours = [(row["at"] - base, row["cost"]) for row in await ledger.spend("user", bucket="hour")]
    assert hours == [(0, 11), (HOUR, 100), (23 * HOUR, 1000), (24 * HOUR, 10_000)]
    days = [(row["at"] - base, row["cost"]) for row in await ledger.spend("user", bucket="day")]
    assert days == [(0, 1111), (24 * HOUR, 10_000)]
    part = await ledger.spend("user", since=base + HOUR, until=base + 24 * HOUR)
    assert [(row["at"], row["cost"]) for row in part] == [(None, 1100)]


@pytest.mark.parametrize("name", ["env", "a.b", 'quo"te', "$[0]", "ünï", "with space", "' OR 1=1"])
async def test_spend_by_tag_takes_any_tag_name(ledger: SqlLedger, name: str) -> None:
    await ledger.append(
        encode(
            attempt("a1", cost=1, tags={name: "x"}),
            attempt("a2", ordinal=2, cost=2, tags={name: "y", "zz": "x"}),
            attempt("a3", ordinal=3, cost=4, tags={}),
        )
    )
    found = {row["group"]: row["cost"] for row in await ledger.spend("tag", tag=name)}
    assert found == {"x": 1, "y": 2, None: 4}
    with pytest.raises(ValueError, match="tag"):
        await ledger.spend("tag")
