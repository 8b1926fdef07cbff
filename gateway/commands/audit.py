"""`gateway audit`: read, export and check the audit log, on the gateway or away from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import ClientError
from gateway.commands.console import AsJson, Limit, Since, client, print_json, show
from gateway.stores.audit_chain import ChainCheck

app = typer.Typer(help="The audit log.", no_args_is_help=True)

_SLOW_S = 600.0
"""A long log takes its time to be checked."""


@app.command("list")
def list_records(
    action: Annotated[
        str | None, typer.Option(help="An action; key.* for all that begin so, !step.* for all others.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who did it.")] = None,
    run: Annotated[str | None, typer.Option(help="The id of a run.")] = None,
    since: Since = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """The newest records."""
    page = client().get("/audit", action=action, actor=actor, run=run, since=since, limit=limit)
    show(page, as_json, lambda: _table(page["data"]))


@app.command("export")
def export(
    output: Annotated[Path | None, typer.Option(help="File to write; the terminal otherwise.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Even when the log does not hold.")] = False,
) -> None:
    """Write the audit log as JSON lines.

    Each line is one record and says in `chain` how many there are and what the last one's hash is, so that a
    line missing at the end is noticed too.
    """
    api = client()
    api.timeout_s = _SLOW_S
    chain = api.get("/audit/verify", steps="false")
    if not chain["ok"] and not anyway:
        raise ClientError(
            f"The gateway's own audit log does not hold: {chain['reason']}. To see what is left of it, add "
            "--anyway."
        )
    end = {"records": chain["records"], "head": chain["head"]}
    if not chain["ok"]:
        end = api.get("/audit/head")

    def lines() -> Iterator[str]:
        for record in api.pages("/audit", order="asc", limit=1000):
            if record["seq"] > end["records"]:
                return
            yield json.dumps({**record, "chain": end}, ensure_ascii=False) + "\n"

    if output is None:
        sys.stdout.writelines(lines())
        return
    try:
        with output.open("w", encoding="utf-8") as file:
            file.writelines(lines())
    except OSError as error:
        raise ClientError(f"{output}: {error.strerror}") from None
    print(f"{output}: {end['records']} records, head {end['head']}")


@app.command("head")
def head(as_json: AsJson = False) -> None:
    """Number and hash of the last record, to be noted elsewhere and given to `verify --head`."""
    end = client().get("/audit/head")
    show(end, as_json, lambda: f"{end['records']}:{end['head']}")


@app.command("verify")
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export; else the gateway checks itself.")] = None,
    head: Annotated[
        str | None, typer.Option(help="NUMBER:HASH as `head` printed it, or the last hash alone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an exported audit log without the gateway, or let the gateway check its own, with the figures of
    all steps; exit status 1 when it does not hold."""
    found = _checked_by_gateway(head) if file is None else check_export(file, head)
    name = "audit log" if file is None else file
    if as_json:
        answer = {"ok": found.problem is None, "records": found.records, "head": found.head}
        print_json({**answer, "reason": found.problem})
    elif found.problem is None:
        steps = "" if found.steps is None else f", {views.several(found.steps, 'step')} as written"
        print(f"{name}: {found.records} records, unbroken, head {found.head}{steps}")
    else:
        print(f"{name}: {views.plain(found.problem)}")
    raise typer.Exit(0 if found.problem is None else 1)


@app.command("accept")
def accept(
    reason: Annotated[str, typer.Option(help="Why; it is put on record.")], as_json: AsJson = False
) -> None:
    """Take steps that no record answers for as they are, such as those of an older version of the gateway
    that was at work beside this one."""
    record = client().post("/audit/accept", {"reason": reason})
    show(
        record,
        as_json,
        lambda: f"Record {record['seq']} answers for {views.several(record['details']['steps'], 'step')}.",
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong, if anything, how many records hold, and the hash of the last of them."""

    problem: str | None
    records: int
    head: str
    steps: int | None = None


def check_export(file: Path, head: str | None) -> Checked:
    """Check an export line by line; nothing of it is kept in memory. Raises `ClientError`."""
    from gateway.web.admin_views import audit_record

    number, wanted = _anchor(head)
    check, end, problem = ChainCheck(), None, None
    ends_differ = False
    met: str | None = None
    try:
        with file.open(encoding="utf-8") as lines:
            for line_number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    told = (row["chain"]["records"], row["chain"]["head"])
                    record = audit_record(row)
                except (ValueError, KeyError, TypeError, RecursionError):
                    problem = f"line {line_number} is no record of an audit log"
                    break
                end = end or told
                ends_differ = ends_differ or told != end
                if not check.add(record):
                    break
                if record.seq == number:
                    met = record.hash
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"{file}: {error}") from None
    found = check.result()
    if not found.ok:
        problem = found.reason
    elif problem is None:
        if not found.records:
            problem = "there are no records"
        elif ends_differ or end != (found.records, found.head):
            problem = "records are missing at the end"
        else:
            problem = _unlike(number, wanted, met, found.records, found.head)
    return Checked(problem, found.records, found.head)


def _checked_by_gateway(head: str | None) -> Checked:
    number, wanted = _anchor(head)
    api = client()
    api.timeout_s = _SLOW_S
    answer = api.get("/audit/verify")
    problem = None if answer["ok"] else str(answer["reason"])
    if problem is None:
        met = None
        if number is not None and number <= answer["records"]:
            page = api.get("/audit", order="asc", cursor=str(number - 1), limit=1)
            met = page["data"][0]["hash"] if page["data"] else None
        problem = _unlike(number, wanted, met, answer["records"], answer["head"])
    return Checked(problem, answer["records"], answer["head"], answer["steps"])


def _anchor(head: str | None) -> tuple[int | None, str | None]:
    """(number, hash) of a record, as noted elsewhere; without a number it is the last one's."""
    if head is None or ":" not in head:
        return None, head
    number, _, digest = head.partition(":")
    if not number.isdecimal() or not 0 < int(number) < 10**15:
        raise ClientError(f"--head: got {head!r}, expected NUMBER:HASH or HASH")
    return int(number), digest


def _unlike(number: int | None, wanted: str | None, met: str | None, records: int, last: str) -> str | None:
    """What does not fit what was noted elsewhere."""
    if wanted is None:
        return None
    if number is None:
        return None if wanted == last else f"the last hash is {last}, expected {wanted}"
    if met is None:
        return f"there are {records} records, expected at least {number}"
    return None if met == wanted else f"record {number} has the hash {met}, expected {wanted}"


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        (row["seq"], views.moment(row["at"]), row["actor"], row["action"], _short(row["details"]))
        for row in rows
    ]
    return views.table((">SEQ", "AT", "ACTOR", "ACTION", "DETAILS"), cells, empty="No records.")


def _short(details: dict[str, Any]) -> str:
    shown = (
        f"{name} {value if isinstance(value, str | int | float) else json.dumps(value)}"
        for name, value in details.items()
        if value is not None
    )
    text = ", ".join(shown)
    return text if len(text) <= 100 else text[:99] + "…"
