"""Erasing people and removing what is old: names go everywhere, sums stay, whatever breaks in between."""

from __future__ import annotations

import asyncio
import base64
import urllib.parse
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.drain import Drain
from gateway.policy.sections.operations import Retention
from gateway.retention import CLAIM, Pace, Privacy, export, terms_of
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.embedded import EmbeddedStore
from gateway.stores.ledger import SqlLedger
from gateway.stores.ledger_approvals import ApprovalRecord
from gateway.stores.ledger_credentials import KeyRecord
from gateway.stores.ledger_privacy import Subject
from gateway.stores.ledger_retention import DAY_MS, ClaimLost, Holder, Tally
from gateway.stores.ledger_scrub import REMOVED

from .conftest import Opener
from .events import T0, attempt, encode, meta, refusal, status

NOW = T0 + 1000 * DAY_MS
SUMS = ("cost", "input_tokens", "output_tokens", "cached_tokens", "saved", "attempts")


class Killed(BaseException):
    """The process ends here."""


class Worker:
    """What forgets in one process, with an empty store and a clock that stands still."""

    def __init__(self, ledger: SqlLedger, name: str = "w1", retention: Any = None) -> None:
        self.now = NOW
        self.forgot = 0
        self.store = EmbeddedStore(clock=lambda: self.now)
        self.ledger = ledger
        self.policy = Retention.model_validate(retention or {})
        self.privacy = Privacy(
            ledger=ledger,
            store=self.store,
            drain=Drain(self.store, ledger),
            clock=lambda: self.now,
            worker=name,
            retention=lambda: self.policy,
            forget=self._forget,
            session_keys=lambda principal, session: [f"{principal}/{session}"],
            save_store=self.store.save,
            grace_s=0,
        )

    async def _forget(self) -> None:
        self.forgot += 1

    async def erase(self, kind: Any, value: str, **options: Any) -> str:
        options = {"reason": f"asked for by {value}", "by": "admin", "stop": False, **options}
        erasure = await self.privacy.begin(Subject(kind, value), **options)
        await self.privacy.look()
        return erasure.id


@pytest.fixture
def worker(ledger: SqlLedger) -> Worker:
    return Worker(ledger)


def of(user: str, **changes: Any) -> dict[str, Any]:
    """Labels of a person, for an event and for its meta alike."""
    labels = {"user": user, **changes}
    inside = {k: v for k, v in labels.items()}
    outside = {
        k: v
        for k, v in labels.items()
        if k in ("user", "session", "key", "team", "end_user", "tags", "principal")
    }
    return {**outside, "meta": meta(**inside)}


async def sums(ledger: SqlLedger, group: str) -> list[tuple[Any, ...]]:
    rows = await ledger.spend(group, bucket="day")
    return sorted(((r["at"], r["group"], *(r[name] for name in SUMS)) for r in rows), key=repr)


async def everything(ledger: SqlLedger, ledger_url: str, tmp_path: Path) -> str:
    """All that the database holds, as one text; of SQLite every byte of its files."""
    if ledger_url.startswith("sqlite"):
        raw = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*") if path.is_file())
        return raw.decode("utf-8", "replace")
    with psycopg.connect(ledger_url) as conn:
        tables = [r[0] for r in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        return "\n".join(
            str(row) for table in tables for row in conn.execute(f"SELECT * FROM {table}".encode()).fetchall()
        )


def spellings(name: str) -> list[str]:
    raw = name.encode()
    shifted = [base64.b64encode(b"x" * n + raw).decode()[4 * (n > 0) : -4] for n in range(3)]
    return [name, urllib.parse.quote(name, safe=""), *(part for part in shifted if len(part) > 8)]


def assert_gone(text: str, *names: str) -> None:
    for name in names:
        for spelled in spellings(name):
            assert spelled not in text, f"{name!r} is still there as {spelled!r}"


async def test_an_erased_user_is_nowhere_in_the_database(
    worker: Worker, ledger: SqlLedger, ledger_url: str, tmp_path: Path
) -> None:
    who = of(
        "sent-user-7f3a", session="sent-session-7f3a", name="sent-run-7f3a", agent="sent-agent-7f3a",
        end_user="sent-enduser-7f3a", tags={"sent-tag-7f3a": "sent-value-7f3a"},
    )  # fmt: skip
    await ledger.append(
        encode(
            attempt("a1", "run_0001aaaa", cost=250, **who, decisions=[{"rule": "x", "why": "sent-why-7f3a"}]),
            attempt("a2", "run_0001aaaa", 2, cost=50, **who, findings=[{"detector": "pii", "text": "sent-text-7f3a"}],
                    tool_calls=[{"id": "c1", "name": "search", "digest": "sent-digest-7f3a"}]),
            refusal("d1", "run_0001aaaa", meta=who["meta"], told="sent-told-7f3a"),
            refusal("d2", None, meta=who["meta"]),
            status("run_0001aaaa", "killed", T0 + 9000, "sent-user-7f3a was too loud"),
            attempt("b1", "run_0002bbbb", cost=7, **of("other")),
        )
    )  # fmt: skip
    await ledger.append([("x-1", b'{"t": "attempt", "user": "sent-user-7f3a", broken')])
    await ledger.request_approval(
        ApprovalRecord("ap1", T0, T0 + 1, "p1", "support-bot", "sent-user-7f3a", "cx", "sent-session-7f3a", "run_0001aaaa",
                       "send", '{"to": "sent-argument-7f3a"}', False, "dd", "v1", 5)
    )  # fmt: skip
    await ledger.add_kill(
        name="user:sent-user-7f3a",
        scope="user",
        target="sent-user-7f3a",
        reason="of sent-user-7f3a",
        by="op",
        at=T0,
    )
    await ledger.revive("user:sent-user-7f3a", by="op", at=T0 + 5)
    await ledger.add_topup(
        budget="b", target="sent-session-7f3a", amount=5, reason="for sent-user-7f3a.", by="op", at=T0
    )
    await ledger.audit_append(
        [
            AuditEntry("op", "kill", {"scope": "user", "id": "sent-user-7f3a", "reason": "it is sent-user-7f3a!"}, T0),
            AuditEntry("op", "kill", {"scope": "run", "id": "run_0002bbbb", "reason": "unrelated"}, T0),
            AuditEntry("op", "show", {"run": "run_0001aaaa", "tags": {"sent-tag-7f3a": "sent-value-7f3a"}}, T0),
        ]
    )  # fmt: skip
    before = {group: await sums(ledger, group) for group in ("team", "model", "provider", "surface", "key")}
    assert "sent-user-7f3a" in await everything(ledger, ledger_url, tmp_path)

    erasure_id = await worker.erase("user", "sent-user-7f3a")

    done = await ledger.erasure(erasure_id)
    assert done is not None
    assert (done.state, done.secret, done.subject) == ("done", "", done.pseudonym)
    assert (done.counts["runs"], done.counts["steps"], done.counts["refusals"]) == (1, 2, 2)
    names = (
        "user",
        "session",
        "run",
        "agent",
        "enduser",
        "tag",
        "value",
        "why",
        "text",
        "digest",
        "told",
        "argument",
    )
    assert_gone(await everything(ledger, ledger_url, tmp_path), *(f"sent-{name}-7f3a" for name in names))
    assert await ledger.verify() == []
    assert {group: await sums(ledger, group) for group in before} == before
    assert (await ledger.audit_verify()).ok
    run = await ledger.run("run_0001aaaa")
    assert run is not None
    assert (run["user"], run["cost"], run["steps"], run["refusals"]) == (done.pseudonym, 300, 2, 1)
    assert run["tools"] == {"search": {"calls": 1, "errors": 0}}
    assert worker.forgot == 1
    audit = await ledger.audit_list(limit=50)
    assert next(r for r in audit if r.details.get("id") == "run_0002bbbb").details["reason"] == "unrelated"
    assert [r.action for r in audit][-2:] == ["privacy.redacted", "privacy.erased"]


async def test_what_comes_after_an_erasure_is_kept_and_what_comes_late_is_not(
    worker: Worker, ledger: SqlLedger
) -> None:
    await ledger.append(encode(attempt("a1", "r1", **of("ann"))))
    await worker.erase("user", "ann")

    later = {"started_at": NOW + 10, "ended_at": NOW + 20}
    await ledger.append(
        encode(
            attempt("a2", "r1", 2, **of("ann", session="late-session")),
            attempt(
                "a3", "r3", cost=5, **of("ann", session="late-session", tags={"a": "b"}, name="late-name")
            ),
            refusal("d1", "r1", meta=meta(user="ann")),
            status("r4", "completed", T0 + 5, "because of ann", meta=meta(user="ann", started_at=T0)),
            attempt(
                "a5", "r5", cost=9, **{**of("ann"), **later, "meta": meta(user="ann", started_at=NOW + 10)}
            ),
        )
    )

    rows, _ = await ledger.runs(limit=10)
    assert [r["id"] for r in rows if r["user"] == "ann"] == ["r5"]
    late = {r["id"]: r for r in rows}
    (done,) = (await ledger.erasures())[0]
    assert {late[r]["user"] for r in ("r1", "r3", "r4")} == {done.pseudonym}
    assert (late["r3"]["session"], late["r3"]["name"], late["r3"]["tags"]) == (REMOVED, None, {})
    assert late["r1"]["attempts"] == 2
    steps, _ = await ledger.steps("r1")
    assert {s["session"] for s in steps} == {late["r1"]["session"]}
    assert await ledger.verify() == []


@pytest.mark.parametrize(
    ("kind", "value", "gone"),
    [
        ("user", "ann", {"r1", "r2"}),
        ("session", "s-ann", {"r1"}),
        ("end_user", "eve", {"r3", "r4"}),
        ("end_user", "bot/eve", {"r3"}),
        ("key", "bot", {"r3"}),
        ("team", "blue", {"r3", "r4"}),
    ],
)
async def test_whose_runs_are_meant(
    worker: Worker, ledger: SqlLedger, kind: str, value: str, gone: set[str]
) -> None:
    await ledger.append(
        encode(
            attempt("a1", "r1", **of("ann", session="s-ann")),
            attempt("a2", "r2", **of("ann", session="s-2")),
            attempt("a3", "r3", **of("bot/eve", end_user="eve", key="bot", principal="key:bot", team="blue")),
            attempt("a4", "r4", **of("web/eve", end_user="eve", key="web", principal="key:web", team="blue")),
            attempt("a5", "r5", **of("bob", session="s-5")),
        )
    )
    await worker.erase(kind, value)

    rows, _ = await ledger.runs(limit=10)
    assert {r["id"] for r in rows if str(r["user"]).startswith("erased-")} == gone
    for row in rows:
        if row["id"] in gone:
            assert row["key"].startswith("erased-") == (kind in ("key", "team"))
            assert row["team"].startswith("erased-") == (kind == "team")
    assert await ledger.verify() == []


async def test_a_step_of_the_person_in_the_run_of_another_is_erased_alone(
    worker: Worker, ledger: SqlLedger
) -> None:
    await ledger.append(
        encode(attempt("a1", "r1", **of("ann")), attempt("a2", "r1", 2, cost=40, **of("bob")))
    )
    await worker.erase("user", "bob")

    run = await ledger.run("r1")
    assert run is not None
    assert run["user"] == "ann"
    users = {s["id"]: s["user"] for s in (await ledger.steps("r1"))[0]}
    assert users["a1"] == "ann"
    assert users["a2"].startswith("erased-")
    assert await ledger.verify() == []


async def test_a_provisional_attempt_of_an_erased_person_is_still_replaced(
    worker: Worker, ledger: SqlLedger
) -> None:
    await ledger.append(
        encode(
            attempt("a1", "r1", cost=400, provisional=True, **of("ann")), attempt("a2", "r1", 2, **of("ann"))
        )
    )
    await worker.erase("user", "ann")
    await ledger.append(encode(attempt("a1", "r1", cost=130, **of("ann"))))

    run = await ledger.run("r1")
    assert run is not None
    assert (run["cost"], run["attempts"]) == (230, 2)
    assert run["user"].startswith("erased-")
    assert (await ledger.used_counters(T0))["run:r1"] == (230, 0)
    assert await ledger.verify() == []


async def test_erasing_twice_and_two_at_once_is_the_same_as_once(open_ledger: Opener) -> None:
    first, second = open_ledger(), open_ledger()
    await first.start()
    await second.start()
    try:
        await first.append(
            encode(*(attempt(f"a{i}", f"r{i}", **of("ann", session=f"s{i}")) for i in range(40)))
        )
        one, two = Worker(first, "w1"), Worker(second, "w2")
        began = [
            await w.privacy.begin(Subject("user", "ann"), reason="r", by="op", stop=False)
            for w in (one, two, one)
        ]
        for _ in range(20):
            results = await asyncio.gather(one.privacy.look(), two.privacy.look(), return_exceptions=True)
            assert all(r is None or isinstance(r, ClaimLost) for r in results), results
            if not await first.open_erasures():
                break
        jobs, _ = await first.erasures()
        assert {job.id for job in jobs} == {job.id for job in began}
        assert {job.state for job in jobs} == {"done"}
        assert sum(job.counts.get("runs", 0) for job in jobs) == 40
        assert await first.verify() == []
        assert (await first.audit_verify()).ok
    finally:
        await first.close()
        await second.close()


async def test_every_other_worker_is_asked_to_forget_once(ledger: SqlLedger) -> None:
    one, two = Worker(ledger, "w1"), Worker(ledger, "w2")
    await two.privacy.look()
    await ledger.append(encode(attempt("a1", "r1", **of("ann"))))
    await one.erase("user", "ann")
    await two.privacy.look()
    await two.privacy.look()
    assert (one.forgot, two.forgot) == (1, 1)


async def test_late_events_are_expected_for_a_while_and_no_longer(worker: Worker, ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1", "r1", **of("ann"))))
    erasure_id = await worker.erase("user", "ann")
    worker.now += 36 * DAY_MS
    await worker.privacy.look()
    done = await ledger.erasure(erasure_id)
    assert done is not None
    assert done.digest == ""


@pytest.mark.parametrize("broken_after", range(1, 26, 3))
async def test_an_erasure_goes_on_where_it_was_broken_off(
    ledger: SqlLedger, broken_after: int, ledger_url: str, tmp_path: Path
) -> None:
    await ledger.append(
        encode(
            *(
                attempt(
                    f"a{i}-{n}",
                    f"run_{i:08d}",
                    n,
                    **of("sent-user-9", session=f"sent-session-{i}-9", name=f"sent-name-{i}-9"),
                )
                for i in range(5)
                for n in range(1, 8)
            )
        )
    )
    for i in range(5):
        await ledger.audit_append(
            [AuditEntry("op", "look", {"session": f"sent-session-{i}-9", "name": f"sent-name-{i}-9"}, T0)]
        )
    before = await sums(ledger, "team")
    broken = Worker(ledger)
    broken.privacy.pace = Pace(size=5)
    left = broken_after
    write = ledger._write

    async def breaks(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return await write(*args, **options)

    erasure = await broken.privacy.begin(Subject("user", "sent-user-9"), reason="r", by="op", stop=False)
    ledger._write = breaks  # type: ignore[method-assign]
    try:
        await broken.privacy.look()
    except Killed:
        pass
    finally:
        ledger._write = write  # type: ignore[method-assign]

    other = Worker(ledger, "w2")
    other.now += 60_000
    await other.privacy.look()

    done = await ledger.erasure(erasure.id)
    assert done is not None
    assert done.state == "done"
    text = await everything(ledger, ledger_url, tmp_path)
    assert_gone(
        text, "sent-user-9", *(f"sent-{what}-{i}-9" for i in range(5) for what in ("session", "name"))
    )
    assert await ledger.verify() == []
    assert (await ledger.audit_verify()).ok
    assert await sums(ledger, "team") == before


async def test_records_in_force_stay_and_are_told(worker: Worker, ledger: SqlLedger) -> None:
    await ledger.append(encode(attempt("a1", "r1", **of("ann"))))
    await ledger.add_kill(name="user:ann", scope="user", target="ann", reason="abuse", by="op", at=T0)
    for name in ("old", "new"):
        await ledger.add_key(KeyRecord(name, f"key-{name}", f"d-{name}", T0, "op", user="ann", team="cx"))
    await ledger.revoke_key("old", T0)
    erasure_id = await worker.erase("user", "ann")

    done = await ledger.erasure(erasure_id)
    assert done is not None
    assert (done.counts["kept_kills"], done.counts["kept_keys"], done.counts["keys"]) == (1, 1, 1)
    keys = {key.id: key for key in await ledger.keys(include_revoked=True)}
    assert (keys["new"].name, keys["new"].user) == ("key-new", "ann")
    assert (keys["old"].user, keys["old"].team) == (done.pseudonym, "cx")
    assert [kill.target for kill in await ledger.active_kills(NOW)] == ["ann"]


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["erase", "keep"])
async def test_whoever_appends_meanwhile_hardly_waits(open_ledger: Opener, deed: str) -> None:
    ledger = open_ledger()
    await ledger.start()
    told = [
        aged(
            f"a{i}",
            f"run_{i // 10:06d}",
            500,
            ordinal=i % 10 + 1,
            labels={"user": "ann" if i % 50 < 10 else "bob"},
        )
        for i in range(2000)
    ]
    for start in range(0, len(told), 500):
        await ledger.append(encode(*told[start : start + 500]))
    worker = Worker(ledger, retention={"steps_days": 400} if deed == "keep" else {})
    delays: list[float] = []
    clock = asyncio.get_running_loop().time

    async def traffic() -> None:
        number = 0
        while True:
            await asyncio.sleep(0.02)
            began = clock()
            number += 1
            await ledger.append(encode(aged(f"n{number}", f"new_{number}", 0.1)))
            delays.append(clock() - began)

    task = asyncio.create_task(traffic())
    if deed == "erase":
        await worker.erase("user", "ann")
    else:
        await worker.privacy.look()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert len(delays) > 5
    assert sorted(delays)[len(delays) // 2] < 0.25
    assert worker.privacy.pace.busiest_s < 0.5, "one transaction does too much"
    assert await ledger.verify() == []
    await ledger.close()


# -- retention -------------------------------------------------------------------------------------------


def old(days: float) -> int:
    return int(NOW - days * DAY_MS)


def aged(attempt_id: str, run: str, days: float, *, ordinal: int = 1, **changes: Any) -> dict[str, Any]:
    at = old(days)
    labels = {"user": "ann", "team": "cx", **changes.pop("labels", {})}
    return attempt(
        attempt_id, run, ordinal, started_at=at, ended_at=at + 500,
        **{**of(labels["user"], **{k: v for k, v in labels.items() if k != "user"}), **changes},
    )  # fmt: skip


async def test_old_steps_go_and_their_sums_stay(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            aged(
                "a1",
                "r1",
                500,
                cost=100,
                meta=meta(started_at=old(500), user="ann"),
                tool_calls=[{"id": "c", "name": "t"}],
            ),
            aged("a1b", "r1", 499.9, cost=30, model="other"),
            aged("a2", "r1", 499, ordinal=2, cost=50, labels={"user": "bob"}),
            aged("a3", "r3", 10, cost=7, meta=meta(started_at=old(10), user="ann")),
            refusal("d1", "r1", at=old(499)),
            refusal("d2", None, at=old(499)),
        )
    )
    before = {g: await sums(ledger, g) for g in ("user", "team", "key", "model", "provider", "surface")}
    stepped = {(r["group"]): r["steps"] for r in await ledger.spend("team")}
    worker = Worker(ledger, retention={"steps_days": 400})
    await worker.privacy.look()

    assert {g: await sums(ledger, g) for g in before} == before
    assert {r["group"]: r["steps"] for r in await ledger.spend("team")} == stepped
    assert await ledger.verify() == []
    assert (await ledger.steps("r1"))[0] == []
    run = await ledger.run("r1")
    assert run is not None
    assert (run["cost"], run["attempts"], run["steps"], run["refusals"]) == (180, 3, 2, 1)
    assert len((await ledger.steps("r3"))[0]) == 1
    record = next(r for r in await ledger.audit_list() if r.action == "retention.removed")
    assert record.details["rows"] == {"steps": 3, "refusals": 2}
    assert len(record.details["digest"]) == 64
    assert (record.details["oldest"], record.details["newest"]) == (old(500), old(499))
    total = sum(r["cost"] for r in await ledger.spend("session"))
    assert total == 187
    assert await ledger.runs_drift() == 0

    # A repetition of what was removed changes nothing, and a real figure that comes after all is kept out too.
    await ledger.append(encode(aged("a1", "r1", 500, cost=100), refusal("d1", "r1", at=old(499))))
    assert {g: await sums(ledger, g) for g in before} == before
    assert await ledger.has_attempt("a1")
    assert await ledger.verify() == []
    # A new attempt of the run is added to what was folded, and rebuilt from there.
    await ledger.append(encode(aged("a9", "r1", 1, ordinal=3, cost=1000, provisional=True)))
    await ledger.append(encode(aged("a9", "r1", 1, ordinal=3, cost=20)))
    run = await ledger.run("r1")
    assert run is not None
    assert (run["cost"], run["attempts"]) == (200, 4)
    assert await ledger.verify() == []


async def test_each_tenant_has_its_own_time(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            *(
                aged(f"{team}{days}", f"{team}{days}", days, labels={"team": team, "key": key}, meta=meta(team=team, key=key, started_at=old(days)))
                for team, key in (("cx", "bot"), ("dev", "ci"), (None, "lone"))
                for days in (20, 50, 500)
            )
        )
    )  # fmt: skip
    rules = [
        {"name": "cx", "match": {"team": "cx"}, "steps_days": 30},
        {"name": "dev", "match": {"key": "ci"}, "steps_days": "forever"},
    ]
    await Worker(ledger, retention={"steps_days": 100, "rules": rules}).privacy.look()

    kept = {r["id"] for r in (await ledger.runs(limit=20))[0] if (await ledger.steps(r["id"]))[0]}
    assert kept == {"cx20", "dev20", "dev50", "dev500", "None20", "None50"}
    assert await ledger.verify() == []


async def test_old_runs_go_with_everything_of_theirs(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            aged("a1", "r1", 500, cost=100, meta=meta(started_at=old(500))),
            refusal("d1", "r1", at=old(499)),
            aged("a3", "r3", 10, meta=meta(started_at=old(10))),
        )
    )
    before = await sums(ledger, "team")
    await Worker(ledger, retention={"runs_days": 365}).privacy.look()

    assert [r["id"] for r in (await ledger.runs())[0]] == ["r3"]
    assert await sums(ledger, "team") == before
    assert await ledger.verify() == []


async def test_old_names_go(ledger: SqlLedger, ledger_url: str, tmp_path: Path) -> None:
    labels = {"user": "sent-user-3", "session": "sent-session-3", "tags": {"sent-tag-3": "x"}}
    await ledger.append(
        encode(
            aged(
                "a1", "r1", 120, labels=labels, meta=meta(name="sent-name-3", started_at=old(120), **labels)
            ),
            aged(
                "a0", "r0", 500, labels=labels, meta=meta(name="sent-name-3", started_at=old(500), **labels)
            ),
            aged("a3", "r3", 10, meta=meta(user="ann", started_at=old(10))),
        )
    )
    before = await sums(ledger, "team")
    await Worker(ledger, retention={"steps_days": 400}).privacy.look()
    assert "sent-user-3" in {row[1] for row in await sums(ledger, "user")}
    later = Worker(ledger, retention={"steps_days": 400, "labels_days": 90})
    later.now += 2 * 3_600_000
    await later.privacy.look()

    assert_gone(
        await everything(ledger, ledger_url, tmp_path),
        "sent-user-3",
        "sent-session-3",
        "sent-tag-3",
        "sent-name-3",
    )
    assert {row[1] for row in await sums(ledger, "user")} == {REMOVED, "ann"}
    assert await sums(ledger, "team") == before
    assert await ledger.verify() == []


async def test_a_pass_that_was_broken_off_is_told(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(*(aged(f"a{i}", f"r{i}", 500, meta=meta(started_at=old(500))) for i in range(6)))
    )
    worker = Worker(ledger, retention={"steps_days": 400})
    (term,) = terms_of(worker.policy, NOW)
    who = Holder(CLAIM, "gone", NOW, NOW + 5)
    assert await ledger.claim(who) == "{}"
    await ledger.remove_steps(term, ["r0", "r1"], 100, who, Tally("ret_1", NOW))
    assert await ledger.claim(Holder(CLAIM, "w1", NOW, NOW + 9)) is None

    worker.now += 60_000
    await worker.privacy.look()

    told = [r.details["rows"] for r in await ledger.audit_list() if r.action == "retention.removed"]
    assert told == [{"steps": 2}, {"steps": 4}]
    with pytest.raises(ClaimLost):
        await ledger.remove_steps(term, ["r2"], 100, who, Tally("ret_1", NOW))


# -- handing out -----------------------------------------------------------------------------------------


async def test_an_export_holds_what_is_known_of_a_person_and_nothing_of_others(ledger: SqlLedger) -> None:
    await ledger.append(
        encode(
            *(attempt(f"a{i}", f"r{i}", **of("ann", session="s-ann")) for i in range(120)),
            attempt("b1", "r200", **of("bob", session="s-bob")),
            attempt("b2", "r200", 2, **of("ann")),
        )
    )
    await ledger.add_topup(budget="b", target="s-ann", amount=5, reason="x", by="op", at=T0)
    lines = [
        orjson.loads(line)
        async for line in export(
            ledger, Subject("user", "ann"), lambda _kind, row: {str(k): v for k, v in row.items()}
        )
    ]

    kinds = [line["record"] for line in lines]
    assert {k: kinds.count(k) for k in set(kinds)} == {"run": 120, "step": 121, "topup": 1, "end": 1}
    assert lines[-1]["counts"] == {"run": 120, "step": 121, "topup": 1}
    assert "bob" not in {line.get("user") for line in lines}


# -- random histories ------------------------------------------------------------------------------------

LABELS = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["ann", "bob", "bot/eve", "web/eve", "bot"]),
        "end_user": st.sampled_from([None, "eve"]),
        "session": st.sampled_from(["s1", "s2", "s3"]),
        "key": st.sampled_from(["bot", "web"]),
        "team": st.sampled_from([None, "cx", "dev"]),
        "name": st.sampled_from([None, "job"]),
        "tags": st.sampled_from([{}, {"env": "prod"}, {"who": "ann"}]),
    }
)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 25),
        st.integers(0, 8),
        st.integers(1, 3),
        st.integers(0, 1000),
        st.integers(0, 40),
        st.booleans(),
        LABELS,
    ),
    max_size=25,
)
DEEDS = st.lists(
    st.one_of(
        st.tuples(
            st.just("erase"),
            st.sampled_from(
                [("user", "ann"), ("user", "bot/eve"), ("end_user", "eve"), ("session", "s2"), ("key", "bot"), ("team", "cx")]
            ),
        ),
        st.tuples(
            st.just("keep"),
            st.fixed_dictionaries(
                {},
                optional={
                    "steps_days": st.integers(1, 30),
                    "runs_days": st.integers(1, 40),
                    "labels_days": st.integers(1, 30),
                    "rules": st.just([{"name": "cx", "match": {"team": "cx"}, "steps_days": 5, "labels_days": "forever"}]),
                },
            ),
        ),
        st.tuples(st.just("append"), EVENTS),
    ),
    max_size=6,
)  # fmt: skip


def history(events: list[Any]) -> list[dict[str, Any]]:
    found = []
    for number, run, ordinal, cost, days, provisional, labels in events:
        at = old(days)
        # An attempt is one thing: its figures follow from its number, however often it is told.
        fixed = (number * 37 + 11) % 500
        found.append(
            attempt(
                f"a{number}-{run}", f"r{run}", ordinal if number % 2 else 1 + number % 3,
                cost=cost if provisional else fixed, provisional=provisional, model=f"m{number % 2 + 1}", started_at=at,
                ended_at=at + 100, charges=[[f"run:r{run}", NOW + DAY_MS], ["global", NOW + 40 * DAY_MS]],
                **of(labels["user"], **{k: v for k, v in labels.items() if k != "user"}, started_at=at),
            )
        )  # fmt: skip
        if provisional:
            found.append(refusal(f"d{number}", f"r{run}", at=at, meta=meta(**labels, started_at=at)))
    return found


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(first=EVENTS, deeds=DEEDS)
def test_sums_stay_exact_whatever_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], deeds: list[Any]
) -> None:
    async def check() -> None:
        ledger = SqlLedger(None, data_dir=tmp_path_factory.mktemp("ledger"))
        await ledger.start()
        try:
            worker = Worker(ledger)
            await ledger.append(encode(*history(first)))
            groups = ("model", "provider", "surface", "team")
            before = {group: await sums(ledger, group) for group in groups}
            for deed, value in deeds:
                worker.now += 2 * 3_600_000
                if deed == "append":
                    await ledger.append(encode(*history(value)))
                    before = {group: await sums(ledger, group) for group in groups}
                elif deed == "erase":
                    before.pop("team", None) if value[0] == "team" else None
                    worker.privacy.pace = Pace(size=10)
                    await worker.erase(*value)
                    found, _ = await ledger.runs(limit=100)
                    if value[0] in ("user", "session", "key", "team"):
                        assert value[1] not in {run[value[0]] for run in found}
                else:
                    worker.policy = Retention.model_validate(value)
                    await worker.privacy.look()
                    worker.policy = Retention()
                assert {group: await sums(ledger, group) for group in before} == before, (deed, value)
                assert await ledger.verify() == [], (deed, value)
                assert await ledger.runs_drift() == 0
                checked = await ledger.audit_verify()
                assert checked.ok, (deed, value, checked.reason)
        finally:
            await ledger.close()

    asyncio.run(check())
