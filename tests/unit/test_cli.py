"""What the command prints, letter by letter, and what it can do without a gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.commands import views as cli_views
from gateway.settings import from_environment
from gateway.stores.audit_chain import GENESIS, AuditEntry, AuditRecord, seal
from gateway.web.admin_views import audit_record, audit_view, nano, read_moment, stamp

RUN: dict[str, Any] = {
    "id": "run_1",
    "name": "nightly",
    "session": "ses_1",
    "key": "support-bot",
    "user": "alice",
    "team": None,
    "source": "header",
    "status": "stopped_budget",
    "status_reason": "run_budget_exceeded",
    "started_at": "2026-01-31T12:00:00.000Z",
    "last_step_at": "2026-01-31T12:00:09.000Z",
    "steps": 2,
    "tool_calls": 3,
    "tools": {"search": {"calls": 2, "errors": 1}, "fetch": {"calls": 1, "errors": 0}},
    "input_tokens": 12_345,
    "output_tokens": 678,
    "cost_usd": "0.012500000",
    "reserved_usd": "0.000000000",
    "policy": "abc123",
    "continues": None,
    "parent": None,
}


def test_runs_stand_in_columns() -> None:
    other = {
        **RUN,
        "id": "run_22",
        "name": None,
        "status": "running",
        "steps": 10,
        "cost_usd": "12.000000001",
    }
    assert cli_views.runs_table([RUN, other]) == (
        """\
RUN     NAME     STATUS          USER   STARTED (UTC)        STEPS  TOOLS  TOKENS           COST
run_1   nightly  stopped_budget  alice  2026-01-31 12:00:00      2      3  13,023        $0.0125
run_22  -        running         alice  2026-01-31 12:00:00     10      3  13,023  $12.000000001"""
    )
    assert cli_views.runs_table([]) == "No runs."


def test_spend_has_a_total() -> None:
    row = {
        "group": "alice", "at": None, "steps": 3, "input_tokens": 1000, "output_tokens": 20,
        "cached_tokens": 5, "cost_usd": "0.100000000",
    }  # fmt: skip
    rows = [row, {**row, "group": None, "cost_usd": "0.000000001"}]
    assert cli_views.spend_table(rows, "user") == (
        """\
USER   STEPS     IN  OUT  CACHED          COST
alice      3  1,000   20       5       $0.1000
-          3  1,000   20       5  $0.000000001
total                             $0.100000001"""
    )
    assert cli_views.spend_table([], "user") == "Nothing was spent."
    by_hour = cli_views.spend_table([{**row, "at": "2026-01-31T12:00:00.000Z"}], "user")
    assert by_hour.splitlines()[1].startswith("2026-01-31 12:00:00  alice")


def test_a_kill_says_who_obeyed_and_when() -> None:
    kill = {
        "scope": "run", "id": "run_1", "streams": 1, "at": "2026-01-31T12:00:00.000Z", "recorded": True,
        "workers": [{"worker": "host-1", "obeyed_at": "2026-01-31T12:00:00.012Z", "streams": 1}],
    }  # fmt: skip
    assert cli_views.killed(kill) == "Killed run run_1: 1 stream cut.\n  host-1 obeyed after 12 ms, 1 stream"
    late = cli_views.killed({**kill, "workers": [], "recorded": False})
    assert "No worker has answered yet" in late
    assert "not on record" in late


APPROVAL: dict[str, Any] = {
    "id": "apr_1", "state": "pending", "tool": "send_email", "arguments": '{"to":"a@example.com"}',
    "truncated": False, "run": "run_1", "session": "ses_1", "key": "bot", "user": "alice", "team": None,
    "cost_usd": "0.012500000", "policy": "abc", "created_at": "2026-01-31T12:00:00.000Z",
    "expires_at": "2026-01-31T13:00:00.000Z", "decided_by": None, "decided_at": None, "reason": None,
    "used_at": None,
}  # fmt: skip
LATER = datetime(2026, 1, 31, 12, 2, 30, tzinfo=UTC)


def test_held_calls_stand_in_columns() -> None:
    decided = {
        **APPROVAL,
        "id": "apr_22",
        "state": "approved",
        "decided_by": "token:ann",
        "reason": "ok",
        "used_at": "2026-01-31T12:01:00.000Z",
        "arguments": "x" * 61,
    }
    cut = {**APPROVAL, "id": "apr_3", "arguments": "{}", "truncated": True, "state": "expired"}
    assert cli_views.approvals_table([APPROVAL, decided, cut], LATER) == (
        f"""\
ID      TOOL        ARGUMENTS                                                     RUN    RUN COST  AGE  STATE
apr_1   send_email  {{"to":"a@example.com"}}                                        run_1   $0.0125   2m  expires in 57m
apr_22  send_email  {"x" * 59}…  run_1   $0.0125   2m  approved by token:ann, used
apr_3   send_email  {{}}…                                                           run_1   $0.0125   2m  expired"""
    )
    assert cli_views.approvals_table([], LATER) == "No tool call waits for a decision."


def test_a_held_call_is_told_whole() -> None:
    row = {**APPROVAL, "state": "denied", "decided_by": "admin", "reason": "no", "truncated": True}
    assert cli_views.approval_whole(row, LATER) == (
        """\
send_email, denied by admin
  run run_1, $0.0125 so far; session ses_1, key bot, user alice
  asked 2026-01-31 12:00:00 UTC under policy abc
  {"to":"a@example.com"}
  The arguments are longer than this; the decision is about all of them.
  denied: no"""
    )
    assert cli_views.decided(row) == "send_email of run run_1 is denied."
    assert cli_views.decided({**APPROVAL, "state": "approved"}) == (
        "send_email of run run_1 may pass once, until 2026-01-31 13:00:00 UTC."
    )


def test_breakers_stand_in_columns() -> None:
    row = {
        "id": "tool:team/cx:search", "kind": "tool", "name": "search", "scope": "team/cx", "state": "open",
        "ok": 1, "failed": 9, "opened_at": "2026-01-31T12:00:00.000Z", "until": "2026-01-31T12:00:30.000Z",
    }  # fmt: skip
    assert cli_views.breakers_table([row]) == (
        """\
ID                   KIND  NAME    SCOPE    STATE  OK  FAILED  OPENED (UTC)         PROBED FROM (UTC)
tool:team/cx:search  tool  search  team/cx  open    1       9  2026-01-31 12:00:00  2026-01-31 12:00:30"""
    )
    assert cli_views.breakers_table([]) == "No breakers."


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3660, "1h 01m"), (86_400 * 2 + 7200, "2d 02h")],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert cli_views.duration(timedelta(seconds=seconds)) == shown


def test_nothing_of_a_callers_text_reaches_the_terminal_as_a_command() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e[red]x\r\n"
    held = {**APPROVAL, "tool": evil, "arguments": evil, "run": evil}
    whole = cli_views.approval_whole({**held, "state": "denied", "reason": evil, "user": evil}, LATER)
    assert all(c.isprintable() or c == "\n" for c in whole)
    for table in (
        cli_views.approvals_table([held], LATER),
        cli_views.runs_table([{**RUN, "name": evil, "user": evil}]),
        cli_views.kills_table(
            [
                {
                    "scope": "user",
                    "id": evil,
                    "at": stamp(0),
                    "active": True,
                    "streams": 0,
                    "workers": [],
                    "by": evil,
                    "reason": evil,
                }
            ]
        ),
    ):
        assert all(c.isprintable() or c == "\n" for c in table)
        assert len(table.splitlines()) == 2


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0.000000000", "$0.0000"),
        ("1.500000000", "$1.5000"),
        ("0.000000001", "$0.000000001"),
        ("-2", "$-2.0000"),
    ],
)
def test_money_loses_nothing(amount: str, shown: str) -> None:
    assert cli_views.dollars(amount) == shown


# -- the audit log offline ---------------------------------------------------------------------------


def chain(count: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    head = GENESIS
    for number in range(1, count + 1):
        entry = AuditEntry(
            "admin", "kill.set", {"id": f"run_{number}", "share": 0.1}, 1_700_000_000_007 + number
        )
        records.append(seal(entry, number, head))
        head = records[-1].hash
    return records


def exported(records: list[AuditRecord]) -> list[str]:
    end = {"records": len(records), "head": records[-1].hash}
    return [json.dumps({**audit_view(record), "chain": end}) for record in records]


def test_a_record_survives_being_shown() -> None:
    for record in chain(3):
        assert audit_record(json.loads(json.dumps(audit_view(record)))) == record


def changed(lines: list[str], index: int, **fields: Any) -> list[str]:
    return [*lines[:index], json.dumps({**json.loads(lines[index]), **fields}), *lines[index + 1 :]]


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "changed": lambda lines: changed(lines, 2, actor="somebody"),
    "changed details": lambda lines: changed(lines, 2, details={"id": "run_9", "share": 0.1}),
    "changed time": lambda lines: changed(lines, 2, at="2026-01-01T00:00:00.000Z"),
    "time written otherwise": lambda lines: changed(lines, 0, at="2023-11-14T23:13:20.008+01:00"),
    "removed": lambda lines: lines[:2] + lines[3:],
    "first removed": lambda lines: lines[1:],
    "last removed": lambda lines: lines[:-1],
    "moved": lambda lines: [lines[1], lines[0], *lines[2:]],
    "doubled": lambda lines: [*lines, lines[-1]],
    "no record": lambda lines: [*lines[:2], "{}", *lines[2:]],
    "not JSON": lambda lines: [*lines, "x"],
    "empty": lambda _lines: [],
    "cut in a line": lambda lines: [*lines[:-1], lines[-1][:50]],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_every_tampering_with_an_export_is_found(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.jsonl"
    lines = exported(chain(5))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(SystemExit) as left:
        cli.main(["audit", "verify", str(file)])
    assert left.value.code == 0
    assert "5 records, unbroken" in capsys.readouterr().out
    file.write_text("\n".join(TAMPERED[how](lines)))
    with pytest.raises(SystemExit) as left:
        cli.main(["audit", "verify", str(file)])
    assert left.value.code == 1


# -- policies ----------------------------------------------------------------------------------------


def test_check_tells_every_mistake_and_leaves_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nbudgets:\n  - {name: b, per: rum, limit_usd: ten}\n")
    with pytest.raises(SystemExit) as left:
        cli.main(["check", str(policy)])
    assert left.value.code == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("policy.yaml:3: budgets[0].per: got ")
    assert second.startswith("policy.yaml:3: budgets[0].limit_usd: got ")
    with pytest.raises(SystemExit):
        cli.main(["check", str(policy), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert [m["path"] for m in answer["mistakes"]] == ["budgets[0].per", "budgets[0].limit_usd"]

    policy.write_text("version: 1\nbudgets:\n  - {name: b, per: run, limit_usd: 10}\n")
    with pytest.raises(SystemExit) as left:
        cli.main(["check", str(policy)])
    assert left.value.code == 0
    assert ": valid, version " in capsys.readouterr().out


def test_check_warns_of_rules_that_can_never_fire_and_fails_when_told_to_be_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nbudgets:\n  - {name: run, per: run, limit_usd: 10}\n"
        "  - {name: session, per: session, limit_usd: 2}\nruns: {children: own}\n"
    )
    for arguments, status in (([], 0), (["--strict"], 1), (["--json"], 0), (["--strict", "--json"], 1)):
        with pytest.raises(SystemExit) as left:
            cli.main(["check", str(policy), *arguments])
        assert left.value.code == status
        out = capsys.readouterr().out
        warning = (
            'policy.yaml:3: budgets[0].limit_usd: is never reached: budget "session" (policy.yaml:4) counts the '
            "same calls and ends at $2"
        )
        if "--json" in arguments:
            assert json.loads(out)["warnings"] == [warning]
            assert json.loads(out)["valid"] is True
        else:
            first, last = out.splitlines()
            assert first == f"warning: {warning}"
            assert last.endswith(", 1 warning")
    policy.write_text("version: 1\nbudgets:\n  - {name: run, per: run, limit_usd: 10}\n")
    with pytest.raises(SystemExit) as left:
        cli.main(["check", str(policy), "--strict"])
    assert left.value.code == 0


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["schema"])
    assert left.value.code == 0
    assert "budgets" in json.loads(capsys.readouterr().out)["properties"]


def test_the_banner_says_where_everything_is(tmp_path: Path) -> None:
    settings = from_environment({}, policy=tmp_path / "p.yaml", data_dir=tmp_path)
    assert cli.banner(settings, "http://127.0.0.1:8080", needs_key=False) == (
        f"""\
gateway listens on http://127.0.0.1:8080
  OpenAI base URL   http://127.0.0.1:8080/v1
  policy            {tmp_path}/p.yaml
  dashboard         http://127.0.0.1:8080/dashboard
  admin API         http://127.0.0.1:8080/admin/v1
  admin token       in {tmp_path}/admin.token
No provider key is set, so the simulated models (sim/*) are offered. Try:
  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' """
        """-d '{"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}'"""
    )
    given = {"OPENAI_API_KEY": "sk-x", "GATEWAY_ADMIN_TOKEN": "secret-token-of-mine"}
    far = cli.banner(from_environment(given, host="0.0.0.0"), "http://0.0.0.0:8080", needs_key=True)
    assert "off beyond loopback" in far
    assert "secret-token-of-mine" not in far
    assert "curl" not in far


# -- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("24h", "2026-01-30T12:00:00.000Z"),
        ("7d", "2026-01-24T12:00:00.000Z"),
        ("2026-01-31", "2026-01-31T00:00:00.000Z"),
        ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000Z"),
        ("2026-01-31T12:00:00 02:00", "2026-01-31T10:00:00.000Z"),
    ],
)
def test_moments_are_read(text: str, shown: str) -> None:
    assert stamp(read_moment(text, datetime(2026, 1, 31, 12, tzinfo=UTC))) == shown


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-1h", "999999w", "2026-13-01", "12:00"])
def test_other_texts_are_no_moments(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        read_moment(text, datetime(2026, 1, 31, tzinfo=UTC))


def test_dollars_become_nano_dollars_exactly() -> None:
    assert nano(Decimal("0.000000001")) == 1
    assert nano(Decimal("999999.999999999")) == 999_999_999_999_999
    assert nano(Decimal("-1.1")) == -1_100_000_000
