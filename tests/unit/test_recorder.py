"""The flight recorder: what it keeps, for how long, and what it loses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.auth import Secrets
from gateway.domain import Answer, ToolCall
from gateway.policy.sections.callers import EVERYTHING
from gateway.policy.sections.operations import Recording as Rule
from gateway.replay.recorder import (
    DAY_MS,
    MAX_CHAIN,
    MAX_CONTENT_BYTES,
    MAX_KNOWN_BYTES,
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    Content,
    Recorder,
    Seal,
    Unreadable,
    shared,
)
from gateway.stores.ledger_database import LedgerUnavailable
from gateway.stores.ledger_recordings import Recording, Recordings

CURRENT = Secrets.parse("a-secret-of-this-gateway-1")
ROTATED = Secrets.parse("a-secret-of-this-gateway-2,a-secret-of-this-gateway-1")
OTHER = Secrets.parse("a-secret-of-another-gateway")


class Memory:
    """In the place of the ledger."""

    def __init__(self) -> None:
        self.records: list[Recording] = []
        self.is_away = False

    async def add_recordings(self, records: Sequence[Recording]) -> None:
        if self.is_away:
            raise LedgerUnavailable("away")
        self.records += records


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def lost() -> list[int]:
    return []


@pytest.fixture
def recorder(memory: Memory, lost: list[int]) -> Recorder:
    return Recorder(cast(Recordings, memory), CURRENT, lambda: 0, lost.append)


def ask(
    recorder: Recorder, body: bytes, n: int = 0, *, run: str = "run_1", at: int | None = None, rule: Any = ...
) -> Any:
    """A request with its number, as the pipeline tells of it; its facts."""
    facts = SimpleNamespace(decision_id=f"dec_{run}_{n}", recorded_until=0)
    job = SimpleNamespace(
        generation=SimpleNamespace(
            policy=SimpleNamespace(recording=Rule(content=True) if rule is ... else rule)
        ),
        turn=SimpleNamespace(
            began_at=n if at is None else at, run=SimpleNamespace(run_id=run), scopes=SimpleNamespace()
        ),
        call=SimpleNamespace(body=body),
        facts=facts,
    )
    recorder.asked(cast(Any, job))
    return facts


def answer(
    recorder: Recorder, facts: Any, given: Answer | None, *, attempt: str = "att_1", inspect: Any = None
) -> None:
    turn = SimpleNamespace(began_at=0, run=SimpleNamespace(run_id="run_1"))
    told = SimpleNamespace(facts=facts, given=given, inspect=inspect, turn=turn, attempt_id=attempt)
    recorder.answered(cast(Any, told))


def content(memory: Memory, secrets: Secrets = CURRENT) -> Content:
    return Content.of(secrets, memory.records)


# -- what is kept --------------------------------------------------------------------------------------


def test_a_conversation_that_grows_is_kept_once(recorder: Recorder, memory: Memory) -> None:
    turns = [os.urandom(4000) for _ in range(30)]
    bodies = [b'{"messages":[' + b"".join(turns[: n + 1]) + b'],"tools":[]}' for n in range(30)]
    for n, body in enumerate(bodies):
        ask(recorder, body, n)
    asyncio.run(recorder.flush())
    kept = content(memory)
    assert [kept.request(f"dec_run_1_{n}") for n in range(30)] == bodies
    # One turn for each step, and not the sum of all that came before.
    assert sum(len(record.content) for record in memory.records) < 30 * 4100
    assert b"".join(turns[:1]) not in memory.records[0].content


def test_requests_are_read_in_any_order(recorder: Recorder, memory: Memory) -> None:
    bodies = [b"x" * 300 + bytes([n]) * n + b"y" * 300 for n in range(40)]
    for n, body in enumerate(bodies):
        ask(recorder, body, n)
    asyncio.run(recorder.flush())
    for n in (39, 0, 20, 19, 39, 5):
        assert content(memory).request(f"dec_run_1_{n}") == bodies[n]
    kept = content(memory)
    assert [kept.request(f"dec_run_1_{n}") for n in reversed(range(40))] == list(reversed(bodies))


def test_a_chain_has_a_bound_and_one_expiry(recorder: Recorder, memory: Memory) -> None:
    for n in range(3 * MAX_CHAIN):
        ask(recorder, b"x" * 1000 + bytes([n]), n)
    asyncio.run(recorder.flush())
    whole = [record for record in memory.records if record.base is None]
    assert len(whole) == 3
    by_id = {record.id: record for record in memory.records}
    for record in memory.records:
        assert record.expires_at <= record.at + 30 * DAY_MS
        if record.base is not None:
            assert record.expires_at == by_id[record.base].expires_at


def test_a_request_is_kept_whole_when_a_day_has_passed(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"x" * 1000, 0, at=0)
    ask(recorder, b"x" * 1000 + b"a", 1, at=DAY_MS - 1)
    ask(recorder, b"x" * 1000 + b"b", 2, at=DAY_MS)
    asyncio.run(recorder.flush())
    assert [record.base for record in memory.records] == [None, "dec_run_1_0", None]


def test_requests_with_little_in_common_are_kept_whole(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b'{"a": 1}', 0)
    ask(recorder, b'{"a": 2}', 1)
    ask(recorder, os.urandom(500), 2)
    asyncio.run(recorder.flush())
    assert [record.base for record in memory.records] == [None] * 3


def test_answers_are_kept_as_they_were_given(recorder: Recorder, memory: Memory) -> None:
    given = Answer(
        texts=("Zürich \U0001f600", ""),
        reasoning="because",
        calls=(ToolCall("call_1", "search", '{"q": "\\u0000"}'),),
        finish_reason="tool_calls",
        response_id="resp_1",
        model="gpt-4o",
    )
    answer(recorder, ask(recorder, b"{}"), given)
    asyncio.run(recorder.flush())
    assert content(memory).answer("att_1") == given
    assert content(memory).answer("att_2") is None
    assert content(memory).answer("dec_run_1_0") is None
    assert content(memory).request("att_1") is None


def test_what_a_judge_is_asked_is_not_kept(recorder: Recorder, memory: Memory) -> None:
    facts = ask(recorder, b"{}")
    answer(recorder, facts, Answer(), inspect=lambda _reply: [])
    answer(recorder, facts, None)
    asyncio.run(recorder.flush())
    assert [record.kind for record in memory.records] == ["request"]


@pytest.mark.parametrize("rule", [None, Rule(), Rule(content=False)])
def test_nothing_is_kept_without_being_asked_for(
    rule: Rule | None, recorder: Recorder, memory: Memory
) -> None:
    facts = ask(recorder, b"{}", rule=rule)
    answer(recorder, facts, Answer(texts=("secret",)))
    asyncio.run(recorder.flush())
    assert (memory.records, facts.recorded_until) == ([], 0)


def test_it_is_kept_for_as_long_as_the_policy_says(recorder: Recorder, memory: Memory) -> None:
    facts = ask(recorder, b"{}", at=1000, rule=Rule(content=True, retention_days=2, match=EVERYTHING))
    answer(recorder, facts, Answer())
    asyncio.run(recorder.flush())
    assert {record.expires_at for record in memory.records} == {1000 + 2 * DAY_MS}


def test_a_shorter_retention_starts_a_chain_of_its_own(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"x" * 1000, 0, rule=Rule(content=True, retention_days=30))
    ask(recorder, b"x" * 1000, 1, rule=Rule(content=True, retention_days=1))
    asyncio.run(recorder.flush())
    assert memory.records[1].base is None
    assert memory.records[1].expires_at == 1 + DAY_MS


# -- keys ------------------------------------------------------------------------------------------------


def test_a_rotated_secret_still_opens_what_is_kept(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"content")
    asyncio.run(recorder.flush())
    assert content(memory, ROTATED).request("dec_run_1_0") == b"content"


def test_another_secret_opens_nothing(recorder: Recorder, memory: Memory) -> None:
    answer(recorder, ask(recorder, b"content"), Answer())
    asyncio.run(recorder.flush())
    with pytest.raises(Unreadable):
        content(memory, OTHER).request("dec_run_1_0")
    with pytest.raises(Unreadable):
        content(memory, OTHER).answer("att_1")


@pytest.mark.parametrize(
    "change", [{"id": "dec_other"}, {"run": "run_other"}, {"prefix": 3}, {"suffix": 3}, {"base": "dec_other"}]
)
def test_a_record_cannot_be_put_elsewhere(change: dict[str, Any], recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"content")
    asyncio.run(recorder.flush())
    (record,) = memory.records
    moved = replace(record, **change)
    memory.records = [moved]
    with pytest.raises(Unreadable):
        content(memory).request(moved.id)


def test_a_request_is_no_answer(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"content")
    asyncio.run(recorder.flush())
    memory.records = [replace(memory.records[0], kind="answer")]
    with pytest.raises(Unreadable):
        content(memory).answer("dec_run_1_0")


@pytest.mark.parametrize("closed", [b"", b"\x01", b"\x02" + bytes(60), bytes(200), b"\x01" + bytes(12)])
def test_what_is_no_record_is_unreadable(closed: bytes) -> None:
    with pytest.raises(Unreadable):
        Seal(CURRENT).open(closed, b"about")


def test_a_chain_with_a_hole_is_unreadable(recorder: Recorder, memory: Memory) -> None:
    for n in range(3):
        ask(recorder, b"x" * 1000 + bytes([n]), n)
    asyncio.run(recorder.flush())
    del memory.records[1]
    kept = content(memory)
    with pytest.raises(Unreadable, match="gone"):
        kept.request("dec_run_1_2")
    assert kept.request("dec_run_1_0") == b"x" * 1000 + b"\x00"


def test_records_that_go_on_from_each_other_are_unreadable(recorder: Recorder, memory: Memory) -> None:
    ask(recorder, b"content")
    asyncio.run(recorder.flush())
    (record,) = memory.records
    memory.records = [replace(record, id="a", base="b"), replace(record, id="b", base="a")]
    with pytest.raises(Unreadable):
        content(memory).request("a")


# -- bounds ----------------------------------------------------------------------------------------------


def test_the_oldest_is_dropped_when_there_is_too_much(
    recorder: Recorder, memory: Memory, lost: list[int]
) -> None:
    for n in range(MAX_QUEUED + 5):
        ask(recorder, b"{}", n, run=f"run_{n}")
    assert sum(lost) == 5
    asyncio.run(recorder.flush())
    assert len(memory.records) == MAX_QUEUED
    assert memory.records[0].run == "run_5"


def test_what_is_queued_has_a_bound_in_bytes(recorder: Recorder, memory: Memory, lost: list[int]) -> None:
    body = bytes(MAX_CONTENT_BYTES)
    for n in range(MAX_QUEUED_BYTES // MAX_CONTENT_BYTES + 2):
        ask(recorder, body, n, run=f"run_{n}")
    assert sum(lost) == 2
    ask(recorder, bytes(MAX_CONTENT_BYTES + 1), 99)
    assert sum(lost) == 3


def test_what_is_known_of_runs_has_a_bound(recorder: Recorder, memory: Memory) -> None:
    body = bytes(MAX_CONTENT_BYTES)
    for n in range(MAX_KNOWN_BYTES // MAX_CONTENT_BYTES + 2):
        ask(recorder, body, n, run=f"run_{n}")
        asyncio.run(recorder.flush())
    assert recorder._known_size <= MAX_KNOWN_BYTES
    assert len(recorder._known) == MAX_KNOWN_BYTES // MAX_CONTENT_BYTES


def test_an_outage_of_the_ledger_loses_nothing_in_time(
    recorder: Recorder, memory: Memory, lost: list[int]
) -> None:
    async def scene() -> None:
        memory.is_away = True
        for n in range(3):
            ask(recorder, b"x" * 1000 + bytes([n]), n)
        with pytest.raises(LedgerUnavailable):
            await recorder.flush()
        ask(recorder, b"x" * 1000 + bytes([3]), 3)
        memory.is_away = False
        await recorder.flush()

    asyncio.run(scene())
    assert [content(memory).request(f"dec_run_1_{n}") for n in range(4)] == [
        b"x" * 1000 + bytes([n]) for n in range(4)
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (b"", b"", (0, 0)),
        (b"abc", b"abc", (3, 0)),
        (b"abc", b"abcd", (3, 0)),
        (b"abXcd", b"abYYcd", (2, 2)),
        (b"aaa", b"aaaaa", (3, 0)),
        (b"xa", b"ya", (0, 1)),
        (b"abcabc", b"abc", (3, 0)),
    ],
)
def test_what_two_texts_share(one: bytes, other: bytes, expected: tuple[int, int]) -> None:
    assert shared(one, other) == expected
