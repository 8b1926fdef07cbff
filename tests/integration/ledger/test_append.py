"""Events go in; every attempt counts once, whatever is repeated, replaced or out of order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from gateway.stores import ledger_events, ledger_fold
from gateway.stores.ledger import SqlLedger

from .conftest import Opener
from .events import T0, attempt, encode, meta, refusal, status


def _execute(conn: Connection, sql: str) -> None:
    conn.execute(text(sql))


async def _run(ledger: SqlLedger, run: str = "r1") -> dict[str, Any]:
    found = await ledger.run(run)
    assert found is not None
    return found


async def test_an_attempt_makes_its_run_and_charges_its_counters(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1", cost=250)))

    run = await _run(ledger)
    assert (run["cost"], run["steps"], run["attempts"], run["saved"]) == (250, 1, 1, 3)
    assert (run["input_tokens"], run["output_tokens"], run["cached_tokens"]) == (15, 8, 5)
    assert (run["user"], run["session"], run["agent"], run["tags"]) == (
        "support",
        "s1",
        "triage",
        {"env": "prod"},
    )
    assert (run["started_at"], run["last_step_at"], run["status"]) == (T0, T0 + 1500, "running")
    assert run["model_mix"] == {"gpt-4o-mini": {"attempts": 1, "cost": 250}}
    assert await ledger.used_counters(T0) == {"run:r1": (250, 0), "global:h1": (250, T0 + 3_600_000)}


async def test_the_same_attempt_again_changes_nothing(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1"), attempt("a1"), attempt("a1", cost=999)))
    await ledger.append(encode(attempt("a1")))

    assert (await _run(ledger))["cost"] == 100
    assert (await ledger.used_counters(T0))["run:r1"] == (100, 0)


@pytest.mark.parametrize("together", [True, False])
async def test_the_real_figure_replaces_a_provisional_one_by_the_difference(
    ledger: SqlLedger, together: bool
) -> None:
    guess = attempt("a1", cost=400, provisional=True, run_status="abandoned", tool_calls=[])
    real = attempt("a1", cost=130, tool_calls=[{"id": "c1", "name": "search", "digest": "x"}])
    other = attempt("a2", ordinal=2, cost=7)
    batches = [[guess, other, real]] if together else [[guess, other], [real], [real], [guess]]
    for batch in batches:
        await ledger.append(encode(*batch))

    run = await _run(ledger)
    assert (run["cost"], run["attempts"], run["tool_calls"]) == (137, 2, 1)
    assert run["tools"] == {"search": {"calls": 1, "errors": 0}}
    assert (await ledger.used_counters(T0))["global:h1"][0] == 137
    steps, _ = await ledger.steps("r1")
    assert [(step["id"], step["cost"], step["provisional"]) for step in steps] == [
        ("a1", 130, False),
        ("a2", 7, False),
    ]
    assert await ledger.verify() == []


async def test_a_provisional_figure_never_replaces_the_real_one(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1", cost=130)))
    await ledger.append(encode(attempt("a1", cost=400, provisional=True)))
    assert (await _run(ledger))["cost"] == 130


async def test_an_older_status_never_overwrites_a_newer_one(ledger: SqlLedger) -> None:
    events = [
        status("r1", "running", T0, meta=meta(name="nightly")),
        status("r1", "stopped_loop", T0 + 2000, "same call 3 times"),
        attempt("a1", run_status="running", ended_at=T0 + 1500),
        attempt("a2", ordinal=2, run_status="stopped_loop", ended_at=T0 + 2500),
    ]
    for seed in range(6):
        run = f"r{seed}"
        shuffled = [
            {**event, "run": run, **({"id": f"{run}-{event['id']}"} if "id" in event else {})}
            for event in events
        ]
        random.Random(seed).shuffle(shuffled)
        for event in shuffled:
            await ledger.append(encode(event))
        found = await _run(ledger, run)
        assert (found["status"], found["status_reason"]) == ("stopped_loop", "same call 3 times")
        assert found["name"] == "nightly"


async def test_a_stopped_run_that_goes_on_shows_no_old_reason(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            status("r1", "stopped_budget", T0, "budget 'run'", meta=meta()),
            attempt("a1", run_status="running"),
        )
    )
    run = await _run(ledger)
    assert (run["status"], run["status_reason"]) == ("running", None)


async def test_an_event_that_cannot_be_read_never_blocks_the_others(ledger: SqlLedger) -> None:
    bad = [
        b"not json",
        b"[1]",
        b'{"t":"attempt","id":"x"}',
        b"\xff\xfe\x00",
        b'{"t":"nothing"}',
        orjson.dumps(attempt("neg", cost=-5)),
        orjson.dumps(attempt("huge", cost=10**17)),
        orjson.dumps({**attempt("nan"), "cost": 1.5}),
        orjson.dumps(status("r1", "sleeping", T0)),
    ]
    mixed = [("b", raw) for raw in bad]
    mixed[4:4] = encode(attempt("a1"))
    await ledger.append(mixed)
    await ledger.append(mixed)

    assert (await _run(ledger))["cost"] == 100
    rejected = await ledger.rejected()
    assert len(rejected) == len(bad)
    assert any("cost" in row["error"] for row in rejected)


async def test_an_event_that_the_database_refuses_never_blocks_the_others(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ledger_events.parse

    def lenient(raw: bytes) -> ledger_events.Event | ledger_events.Note:
        event = real(raw)
        if isinstance(event, ledger_events.Attempt) and event.id == "odd":
            event.row = (*event.row[:4], 2**70, *event.row[5:])
        return event

    monkeypatch.setattr("gateway.stores.ledger.parse", lenient)
    await ledger.append(encode(attempt("a1"), attempt("odd", ordinal=2), attempt("a2", ordinal=3)))

    assert (await _run(ledger))["cost"] == 200
    assert [row["entry"] for row in await ledger.rejected()] == ["2-0"]
    assert await ledger.verify() == []


async def test_hostile_labels_cost_no_record_of_money(ledger: SqlLedger) -> None:
    events = [
        attempt("nul", user="a\x00b", tags={"t\x00": "v\x00"}, cost=1),
        attempt("long", model="m" * 100_000, user="u" * 5000, cost=2, charges=[["run:" + "x" * 9000, 0]]),
        attempt("types", user=17, model={"a": [1]}, tags=["no"], usage="none", tool_calls="x", cost=4),
        attempt("lines", user="a\r\nb\x1b[2J'; DROP TABLE gw_steps; --", cost=8, meta="odd"),
        attempt("tools", tool_calls=[{}, None, {"id": 5}], tool_results=[None, {"ok": False}], cost=16),
    ]
    await ledger.append(encode(*events))

    assert await ledger.rejected() == []
    assert (await _run(ledger))["cost"] == 31
    assert sum(row["cost"] for row in await ledger.spend("user")) == 31
    assert await ledger.verify() == []


async def test_long_labels_that_differ_at_the_end_stay_apart(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a", user="u" * 999 + "a"), attempt("b", user="u" * 999 + "b")))
    assert len(await ledger.spend("user")) == 2


async def test_unknown_fields_are_kept(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1", shiny={"new": 1}, meta=meta(colour="red"))))
    steps, _ = await ledger.steps("r1")
    assert steps[0]["shiny"] == {"new": 1}
    assert steps[0]["ttft_ms"] == 120.5
    assert (await _run(ledger))["colour"] == "red"


async def test_refusals_are_all_counted_and_the_newest_kept(ledger: SqlLedger) -> None:
    events = [refusal(f"d{number:03}", at=T0 + number) for number in range(450)]
    for start in range(0, 450, 90):
        await ledger.append(encode(*events[start : start + 90]))
    for start in range(0, 450, 90):
        await ledger.append(encode(*events[start : start + 90]))

    run = await _run(ledger)
    assert (run["refusals"], run["cost"], run["steps"]) == (450, 0, 0)
    steps, _ = await ledger.steps("r1", limit=1000)
    assert [step["id"] for step in steps] == [f"d{number:03}" for number in range(250, 450)]
    assert steps[0]["kind"] == "refusal"
    assert steps[0]["verdict"] == "refuse"
    assert (steps[0]["code"], steps[0]["limit"]) == ("run_budget_exceeded", 500)
    assert await ledger.verify() == []


async def test_refusals_outside_of_a_run_are_kept_within_bounds(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_fold, "LOOSE_REFUSALS_KEPT", 5)
    await ledger.append(encode(*[refusal(f"d{number}", run=None, at=T0 + number) for number in range(9)]))
    rows = await ledger._report(lambda conn: conn.execute(text("SELECT id FROM gw_steps")).scalars().all())
    assert sorted(rows) == ["d4", "d5", "d6", "d7", "d8"]
    assert (await ledger.runs())[0] == []
    assert await ledger.verify() == []


async def test_a_failed_result_counts_against_the_call_it_answers(ledger: SqlLedger) -> None:
    """Ids repeat within a run at some providers, and results are repeated in later requests."""
    events = [
        attempt("a1", ordinal=1, tool_calls=[{"id": "c0", "name": "search", "digest": "x"}]),
        attempt(
            "a2",
            ordinal=2,
            tool_results=[{"call_id": "c0", "ok": False}],
            tool_calls=[{"id": "c0", "name": "fetch", "digest": "y"}],
        ),
        attempt("a3", ordinal=3, tool_results=[{"call_id": "c0", "ok": False}]),
        attempt("a4", ordinal=4, tool_results=[{"call_id": "c0", "ok": False}]),
        attempt("a5", ordinal=5, tool_results=[{"call_id": "never-seen", "ok": False}]),
    ]
    for event in reversed(events):
        await ledger.append(encode(event))
    run = await _run(ledger)
    assert run["tools"] == {"search": {"calls": 1, "errors": 1}, "fetch": {"calls": 1, "errors": 1}}
    assert run["tool_calls"] == 2


async def test_counters_leave_when_their_window_has_passed(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1")))
    assert set(await ledger.used_counters(T0 + 3_600_000)) == {"run:r1"}
    assert set(await ledger.used_counters(T0, idle_since=T0 + 9_000_000)) == {"global:h1"}
    assert await ledger.forget_counters(T0 + 4_000_000) == 1
    assert set(await ledger.used_counters(T0)) == {"run:r1"}
    assert await ledger.verify() == []


async def test_verify_finds_what_does_not_follow_from_the_attempts(ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1"), attempt("a2", run="r2")))
    for statement in (
        "UPDATE gw_counters SET used = used + 1 WHERE counter = 'run:r1'",
        "UPDATE gw_runs SET cost = 0 WHERE id = 'r2'",
        "INSERT INTO gw_counters VALUES ('ghost', 5, 0, 0)",
    ):
        await ledger._write(partial(_execute, sql=statement))
    found = {(d.table, d.id, d.field): (d.stored, d.folded) for d in await ledger.verify()}
    assert found == {
        ("counters", "run:r1", "used"): (101, 100),
        ("counters", "ghost", "used"): (5, 0),
        ("runs", "r2", "cost"): (0, 100),
    }


async def test_writers_in_parallel_count_everything_once(open_ledger: Opener) -> None:
    """Every event is appended by each of three writers at once, in different orders."""
    ledgers = [open_ledger() for _ in range(3)]
    for ledger in ledgers:
        await ledger.start()
    events = [attempt(f"a{n}", run=f"r{n % 7}", ordinal=n // 7, cost=n) for n in range(200)]
    events += [{**event, "provisional": True, "cost": 1} for event in events[::3]]

    async def write(ledger: SqlLedger, seed: int) -> None:
        mine = events[:]
        random.Random(seed).shuffle(mine)
        for start in range(0, len(mine), 20):
            await ledger.append(encode(*mine[start : start + 20]))

    await asyncio.gather(*(write(ledger, seed) for seed, ledger in enumerate(ledgers)))
    assert (await ledgers[0].used_counters(T0))["global:h1"][0] == sum(range(200))
    assert await ledgers[0].verify() == []
    for ledger in ledgers:
        await ledger.close()


_calls = st.lists(
    st.builds(
        lambda call, name: {"id": call, "name": name, "digest": "d"},
        st.sampled_from(["c0", "c1", "c2"]),
        st.sampled_from(["search", "fetch"]),
    ),
    max_size=2,
)
_results = st.lists(
    st.builds(
        lambda call, ok: {"call_id": call, "ok": ok}, st.sampled_from(["c0", "c1", "c2"]), st.booleans()
    ),
    max_size=2,
)
_charges = st.lists(
    st.sampled_from([("run:a", 0), ("user:u:d1", T0 + 10), ("global:h1", T0 + 99), ("team:t", 0)]),
    unique=True,
    max_size=4,
)


@st.composite
def _histories(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Batches of events in which attempts are repeated, reordered and first known provisionally."""
    deliveries: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 8))):
        final = attempt(
            f"a{number}",
            run=draw(st.sampled_from(["r1", "r2"])),
            ordinal=draw(st.integers(0, 4)),
            cost=draw(st.integers(0, 10**15)),
            model=draw(st.sampled_from(["m1", "m2"])),
            tool_calls=draw(_calls),
            tool_results=draw(_results),
            charges=[list(charge) for charge in draw(_charges)],
        )
        guess = {**final, "provisional": True, "cost": draw(st.integers(0, 10**15)), "tool_calls": []}
        guess["charges"] = [list(charge) for charge in draw(_charges)]
        if draw(st.booleans()):
            deliveries += [guess] * draw(st.integers(1, 2))
        if draw(st.booleans()) or guess not in deliveries:
            deliveries += [final] * draw(st.integers(1, 3))
    deliveries += [refusal(f"d{number}", at=T0 + number) for number in range(draw(st.integers(0, 3)))]
    deliveries = draw(st.permutations(deliveries))
    cuts = sorted(draw(st.lists(st.integers(0, len(deliveries)), max_size=4)))
    return [deliveries[a:b] for a, b in zip([0, *cuts], [*cuts, len(deliveries)], strict=True)]


def _expected(batches: list[list[dict[str, Any]]]) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """What must be known afterwards, told as plainly as possible."""
    kept: dict[str, dict[str, Any]] = {}
    for event in (event for batch in batches for event in batch):
        if event["t"] == "attempt":
            before = kept.get(event["id"])
            if before is None or (before["provisional"] and not event["provisional"]):
                kept[event["id"]] = event
    counters: dict[str, int] = defaultdict(int)
    runs: dict[str, dict[str, Any]] = {}
    for event in kept.values():
        for counter, _ in event["charges"]:
            counters[counter] += event["cost"]
        run = runs.setdefault(
            event["run"], {"cost": 0, "steps": 0, "attempts": 0, "tool_calls": 0, "mix": {}}
        )
        run["cost"] += event["cost"]
        run["steps"] = max(run["steps"], event["ordinal"])
        run["attempts"] += 1
        run["tool_calls"] += len(event["tool_calls"])
        share = run["mix"].setdefault(event["model"], {"attempts": 0, "cost": 0})
        share["attempts"] += 1
        share["cost"] += event["cost"]
    return {counter: used for counter, used in counters.items() if used}, runs


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=_histories())
def test_figures_are_the_fold_of_the_attempts(
    ledger_url: str, tmp_path: Path, batches: list[list[dict[str, Any]]]
) -> None:
    counters, runs = _expected(batches)

    async def check() -> None:
        ledger = SqlLedger(ledger_url, data_dir=tmp_path)
        await ledger.start()
        try:
            for table in ("steps", "runs", "counters", "tool_calls", "tool_failures"):
                await ledger._write(partial(_execute, sql=f"DELETE FROM gw_{table}"))
            for batch in batches:
                await ledger.append(encode(*batch))
            assert await ledger.verify() == []
            used = {k: used for k, (used, _) in (await ledger.used_counters(0)).items() if used}
            assert used == counters
            for run_id, expected in runs.items():
                run = await _run(ledger, run_id)
                assert {name: run[name] for name in ("cost", "steps", "attempts", "tool_calls")} == {
                    name: expected[name] for name in ("cost", "steps", "attempts", "tool_calls")
                }
                assert run["model_mix"] == expected["mix"]
                assert sum(tool["calls"] for tool in run["tools"].values()) == run["tool_calls"]
            assert await ledger.rejected() == []
        finally:
            await ledger.close()

    asyncio.run(check())
