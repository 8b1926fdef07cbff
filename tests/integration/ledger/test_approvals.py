"""Approvals of tool calls in the database: one request for one call, one decision, one use."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.stores.ledger import BadCursor, SqlLedger
from gateway.stores.ledger_approvals import MAX_ARGUMENTS, ApprovalRecord, ApprovalState

from .conftest import Opener
from .events import T0

HOUR = 3_600_000
ASKED = ApprovalRecord(
    id="apr_1",
    created_at=T0,
    expires_at=T0 + HOUR,
    principal="key_1",
    key="support-bot",
    user="support",
    team=None,
    session="ses_1",
    run="run_1",
    tool="send_email",
    arguments='{"to":"a@example.com"}',
    truncated=False,
    digest="d" * 64,
    policy="v1",
    cost=1_234_567_890,
)


async def test_a_request_is_kept_and_read_back(ledger: SqlLedger, open_ledger: Opener) -> None:
    assert await ledger.request_approval(ASKED) == ASKED
    assert await ledger.approval("apr_1") == ASKED
    assert await ledger.approval("apr_2") is None
    again = open_ledger()
    await again.start()
    assert await again.approval("apr_1") == ASKED
    await again.close()


async def test_the_same_call_has_one_request_while_it_stands(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    later = replace(ASKED, id="apr_2", created_at=T0 + 5, expires_at=T0 + HOUR + 5, run="run_2", cost=7)
    assert await ledger.request_approval(later) == ASKED
    others = [
        replace(later, id="apr_3", principal="key_2"),
        replace(later, id="apr_4", session="ses_2"),
        replace(later, id="apr_5", tool="send_letter"),
        replace(later, id="apr_6", digest="e" * 64),
        replace(later, id="apr_7", policy="v2"),
    ]
    assert [await ledger.request_approval(other) for other in others] == others


async def test_a_call_is_asked_anew_once_its_request_is_used_up(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    again = replace(ASKED, id="apr_2", created_at=T0 + 9, expires_at=T0 + 2 * HOUR)
    found = await ledger.decide_approval("apr_1", "approved", by="ann", at=T0 + 1, reason="fine")
    assert found is not None
    assert await ledger.request_approval(again) == found[0]
    assert await ledger.use_approvals(["apr_1"], T0 + 2)
    assert await ledger.request_approval(again) == again


async def test_a_denial_stands_until_it_expires(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    found = await ledger.decide_approval("apr_1", "denied", by="ann", at=T0 + 1, reason="no")
    assert found is not None
    before = replace(ASKED, id="apr_2", created_at=T0 + HOUR - 1, expires_at=T0 + 2 * HOUR)
    assert await ledger.request_approval(before) == found[0]
    assert not await ledger.use_approvals(["apr_1"], T0 + 2)
    after = replace(before, created_at=T0 + HOUR)
    assert await ledger.request_approval(after) == after


async def test_the_first_decision_counts(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    decided = replace(ASKED, state="denied", decided_by="ann", decided_at=T0 + 1, reason="no")
    assert await ledger.decide_approval("apr_1", "denied", by="ann", at=T0 + 1, reason="no") == (
        decided,
        True,
    )
    second = await ledger.decide_approval("apr_1", "approved", by="bob", at=T0 + 2, reason="yes")
    assert second == (decided, False)
    assert await ledger.decide_approval("apr_9", "approved", by="bob", at=T0, reason="yes") is None


async def test_nobody_decides_or_uses_what_has_expired(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    found = await ledger.decide_approval("apr_1", "approved", by="ann", at=T0 + HOUR, reason="late")
    assert found == (replace(ASKED, state="expired"), False)
    assert await ledger.decide_approval("apr_1", "approved", by="ann", at=T0 + HOUR - 1, reason="ok")
    assert not await ledger.use_approvals(["apr_1"], T0 + HOUR)
    assert await ledger.use_approvals(["apr_1"], T0 + HOUR - 1)


async def test_an_approval_passes_once(ledger: SqlLedger) -> None:
    await ledger.request_approval(ASKED)
    assert not await ledger.use_approvals(["apr_1"], T0)
    await ledger.decide_approval("apr_1", "approved", by="ann", at=T0, reason="ok")
    used = await asyncio.gather(*(ledger.use_approvals(["apr_1"], T0 + 1) for _ in range(20)))
    assert sorted(used) == [False] * 19 + [True]
    record = await ledger.approval("apr_1")
    assert record is not None
    assert (record.state, record.used_at) == ("approved", T0 + 1)


async def test_the_approvals_of_one_answer_are_used_together_or_not_at_all(ledger: SqlLedger) -> None:
    for number in (1, 2, 3):
        await ledger.request_approval(replace(ASKED, id=f"apr_{number}", digest=str(number)))
    for number in (1, 2):
        await ledger.decide_approval(f"apr_{number}", "approved", by="ann", at=T0, reason="ok")
    assert not await ledger.use_approvals(["apr_1", "apr_2", "apr_3"], T0 + 1)
    assert await ledger.use_approvals(["apr_1", "apr_2", "apr_2"], T0 + 1)
    assert not await ledger.use_approvals(["apr_1"], T0 + 2)


async def test_of_many_processes_one_asks_one_decides_and_one_uses(
    ledger: SqlLedger, ledger_url: str, tmp_path: Path
) -> None:
    script = """
import asyncio, json, sys
from dataclasses import replace
from pathlib import Path
from gateway.stores.ledger import SqlLedger
from tests.integration.ledger.test_approvals import ASKED, T0

async def main(name, url, folder):
    ledger = SqlLedger(url, data_dir=Path(folder))
    await ledger.start()
    out = []
    for number in range(8):
        asked = replace(ASKED, id=f"apr_{name}_{number}", digest=str(number))
        record = await ledger.request_approval(asked)
        _, decided = await ledger.decide_approval(record.id, "approved", by=name, at=T0 + 1, reason=name)
        used = await ledger.use_approvals([record.id], T0 + 2)
        out.append([record.id, decided, used])
    await ledger.close()
    print(json.dumps(out))

asyncio.run(main(*sys.argv[1:]))
"""
    names = ["a", "b", "c"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, name, ledger_url, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        for name in names
    ]
    results = []
    for process in processes:
        out, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        results.append(json.loads(out))
    records, _ = await ledger.approvals(T0 + 3, limit=500)
    assert len({record.id for record in records}) == len(records)
    for record in records:
        whose = [row for result in results for row in result if row[0] == record.id]
        assert sum(decided for _, decided, _ in whose) == 1
        assert sum(used for _, _, used in whose) == 1
        assert record.used_at == T0 + 2
    # While one stands unused, nobody opens a second one.
    assert len(records) <= 8 * len(names)
    assert (await ledger.audit_verify()).ok


async def test_listings_tell_how_each_stands(ledger: SqlLedger) -> None:
    for number in range(6):
        await ledger.request_approval(
            replace(ASKED, id=f"apr_{number}", digest=str(number), created_at=T0 + number)
        )
    await ledger.request_approval(
        replace(ASKED, id="apr_short", digest="short", created_at=T0, expires_at=T0 + 10)
    )
    await ledger.request_approval(
        replace(ASKED, id="apr_idle", digest="idle", created_at=T0, expires_at=T0 + 10)
    )
    await ledger.decide_approval("apr_1", "approved", by="ann", at=T0 + 6, reason="ok")
    await ledger.decide_approval("apr_2", "denied", by="ann", at=T0 + 6, reason="no")
    await ledger.decide_approval("apr_idle", "approved", by="ann", at=T0 + 6, reason="ok")
    await ledger.decide_approval("apr_3", "approved", by="ann", at=T0 + 6, reason="ok")
    await ledger.use_approvals(["apr_3"], T0 + 7)

    async def listed(state: ApprovalState | None, now: int = T0 + 20) -> list[tuple[str, str]]:
        records, cursor = await ledger.approvals(now, state=state)
        assert cursor is None
        return [(record.id, record.state) for record in records]

    assert await listed("pending") == [("apr_5", "pending"), ("apr_4", "pending"), ("apr_0", "pending")]
    assert await listed("approved") == [("apr_3", "approved"), ("apr_1", "approved")]
    assert await listed("denied") == [("apr_2", "denied")]
    assert await listed("expired") == [("apr_short", "expired"), ("apr_idle", "expired")]
    assert len(await listed(None)) == 8
    late = T0 + HOUR
    assert await listed("pending", late) == []
    assert await listed("approved", late) == [("apr_3", "approved")]
    states = [state for _, state in await listed(None, late)]
    assert sorted(states) == ["approved", "denied", *["expired"] * 6]


async def test_listings_are_paged(ledger: SqlLedger) -> None:
    for number in range(7):
        await ledger.request_approval(
            replace(ASKED, id=f"apr_{number}", digest=str(number), created_at=T0 + number // 3)
        )
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = await ledger.approvals(T0 + 9, limit=3, cursor=cursor)
        seen += [record.id for record in page]
        if cursor is None:
            break
    assert seen == ["apr_6", "apr_5", "apr_4", "apr_3", "apr_2", "apr_1", "apr_0"]
    with pytest.raises(BadCursor):
        await ledger.approvals(T0, cursor="nonsense")


async def test_decided_ones_are_found_among_many(ledger: SqlLedger) -> None:
    for number in range(4):
        await ledger.request_approval(replace(ASKED, id=f"apr_{number}", digest=str(number)))
    await ledger.decide_approval("apr_1", "denied", by="ann", at=T0, reason="no")
    await ledger.decide_approval("apr_3", "approved", by="ann", at=T0, reason="ok")
    found = await ledger.decided_approvals(["apr_0", "apr_1", "apr_2", "apr_9"])
    assert [(record.id, record.state) for record in found] == [("apr_1", "denied")]
    assert await ledger.decided_approvals([]) == []


async def test_whatever_a_model_wrote_is_kept(ledger: SqlLedger) -> None:
    long = '{"body":"' + "ü" * MAX_ARGUMENTS + '"}'
    asked = replace(ASKED, arguments=long, tool="t\ud800\x00", session="s" * 5000, user="u\x00")
    kept = await ledger.request_approval(asked)
    assert kept == await ledger.approval("apr_1")
    assert kept.truncated
    assert kept.arguments == '{"body":"' + "ü" * ((MAX_ARGUMENTS - 9) // 2)
    assert await ledger.request_approval(replace(asked, id="apr_2")) == kept
    odd = await ledger.request_approval(
        replace(ASKED, id="apr_3", digest="odd", arguments="\ud800\x00x" + "\u202e")
    )
    assert odd.arguments == "?\ufffdx\u202e"
    assert not odd.truncated


async def test_the_audit_log_tells_who_asked_and_who_decided_and_nothing_of_the_content(
    ledger: SqlLedger,
) -> None:
    await ledger.request_approval(ASKED)
    await ledger.request_approval(replace(ASKED, id="apr_2"))
    await ledger.decide_approval("apr_1", "approved", by="token:ann", at=T0 + 1, reason="known customer")
    await ledger.decide_approval("apr_1", "denied", by="token:bob", at=T0 + 2, reason="no")
    records = await ledger.audit_list()
    assert [(r.actor, r.action) for r in records] == [
        ("key:support-bot", "approval.request"),
        ("token:ann", "approval.approve"),
    ]
    assert records[0].details == {
        "approval": "apr_1",
        "tool": "send_email",
        "digest": "d" * 64,
        "session": "ses_1",
        "run": "run_1",
        "user": "support",
        "policy": "v1",
    }
    assert records[1].details == {**records[0].details, "reason": "known customer"}
    assert "example.com" not in str(records)
    assert (await ledger.audit_verify()).ok
