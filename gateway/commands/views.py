"""What the command line prints, from what the admin API answers. Pure: values in, text out.

Names, reasons and models come from callers, so nothing of theirs reaches the terminal but printable
characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]


def plain(text: Any, *, keep_lines: bool = False) -> str:
    """Text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() or (keep_lines and c == "\n") else "\ufffd" for c in str(text))


def dollars(amount: str) -> str:
    """`$0.0125` for `0.012500000`: at least four places, nothing rounded."""
    whole, _, places = f"{Decimal(amount):f}".partition(".")
    return f"${whole}.{places.rstrip('0').ljust(4, '0')}"


def count(number: int) -> str:
    """`12,345`."""
    return f"{number:,}"


def several(number: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def moment(stamp: str | None) -> str:
    """`2026-01-31 12:00:00`, in UTC."""
    return "-" if stamp is None else stamp[:19].replace("T", " ")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> str:
    """Columns under their heads; a head that begins with `>` is aligned to the right."""
    if not rows:
        return empty
    names = [name.removeprefix(">") for name in head]
    cells = [[("-" if cell is None else plain(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (names, *cells)) for i in range(len(names))]
    lines = []
    for line in (names, *cells):
        padded = [
            cell.rjust(width) if name.startswith(">") else cell.ljust(width)
            for cell, width, name in zip(line, widths, head, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def runs_table(runs: Sequence[Row]) -> str:
    """One line for each run."""
    rows = [
        (
            run["id"],
            run["name"],
            run["status"],
            run["user"],
            moment(run["started_at"]),
            run["steps"],
            run["tool_calls"],
            count(run["input_tokens"] + run["output_tokens"]),
            dollars(run["cost_usd"]),
        )
        for run in runs
    ]
    head = ("RUN", "NAME", "STATUS", "USER", "STARTED (UTC)", ">STEPS", ">TOOLS", ">TOKENS", ">COST")
    return table(head, rows, empty="No runs.")


def spend_table(rows: Sequence[Row], by: str) -> str:
    """Sums, dearest first, and their total."""
    buckets = any(row["at"] for row in rows)
    cells: list[list[Any]] = [
        [
            *([moment(row["at"])] if buckets else []),
            row["group"],
            row["steps"],
            count(row["input_tokens"]),
            count(row["output_tokens"]),
            count(row["cached_tokens"]),
            dollars(row["cost_usd"]),
        ]
        for row in rows
    ]
    if len(rows) > 1:
        total = sum((Decimal(row["cost_usd"]) for row in rows), Decimal())
        # A step belongs to one group, unless its attempts do not: a sum of steps might count it twice.
        cells.append([*([""] if buckets else []), "total", "", "", "", "", dollars(str(total))])
    head = [*(["FROM (UTC)"] if buckets else []), by.upper(), ">STEPS", ">IN", ">OUT", ">CACHED", ">COST"]
    return table(head, cells, empty="Nothing was spent.")


def budgets_table(rows: Sequence[Row]) -> str:
    """One line for each budget of each scope."""
    cells = [
        (
            row["name"],
            row["per"],
            row["id"],
            dollars(row["limit_usd"]),
            dollars(row["used_usd"]),
            dollars(row["reserved_usd"]),
            dollars(row["remaining_usd"]),
            moment(row["resets_at"]),
            row["mode"],
        )
        for row in rows
    ]
    head = ("BUDGET", "PER", "ID", ">LIMIT", ">USED", ">RESERVED", ">REMAINING", "RESETS (UTC)", "MODE")
    return table(head, cells, empty="No budgets.")


def kills_table(rows: Sequence[Row]) -> str:
    """One line for each kill."""
    cells = [
        (
            row["scope"],
            row["id"],
            moment(row["at"]),
            "in force" if row["active"] else "ended",
            row["streams"],
            len(row["workers"]),
            row["by"],
            row["reason"],
        )
        for row in rows
    ]
    head = ("SCOPE", "ID", "SINCE (UTC)", "STATE", ">STREAMS", ">WORKERS", "BY", "REASON")
    return table(head, cells, empty="Nothing is killed.")


def killed(kill: Row) -> str:
    """What came of a kill."""
    at = datetime.fromisoformat(kill["at"])
    lines = [f"Killed {kill['scope']} {plain(kill['id'])}: {several(kill['streams'], 'stream')} cut."]
    for worker in kill["workers"]:
        took = (datetime.fromisoformat(worker["obeyed_at"]) - at).total_seconds() * 1000
        cut = several(worker["streams"], "stream")
        lines.append(f"  {plain(worker['worker'])} obeyed after {max(0, took):.0f} ms, {cut}")
    if not kill["workers"]:
        lines.append("  No worker has answered yet; each obeys within a second.")
    if not kill["recorded"]:
        lines.append("  The ledger could not be reached: the kill is in force and not on record.")
    return "\n".join(lines)


def topped_up(topup: Row) -> str:
    """What a top-up did."""
    until = f" until {moment(topup['expires_at'])} UTC" if topup["expires_at"] else ""
    whose = f"Budget {plain(topup['budget'])} of {plain(topup['id'])}"
    return f"{whose}: {dollars(topup['amount_usd'])} added{until}."


_SHOWN_ARGUMENTS = 60


def screened(found: Row) -> str:
    """What the detectors found in a text."""
    lines = [f"verdict    {found['verdict']}"]
    injection = found["injection"]
    lines.append(
        f"injection  {'flagged' if injection['flagged'] else 'quiet'}, score {injection['score']:.3f}"
    )
    spans = [
        (name, span["type"], f"{span['start']}-{span['end']}", f"{span['score']:.2f}")
        for name, spans in (
            ("injection", injection["findings"]),
            ("pii", found["pii"]["spans"]),
            ("secrets", found["secrets"]["spans"]),
        )
        for span in spans
    ]
    shown = table(("DETECTOR", "TYPE", "CHARACTERS", ">SCORE"), spans, empty="Nothing was found.")
    return "\n".join([*lines, shown])


def approvals_table(rows: Sequence[Row], now: datetime) -> str:
    """One line for each tool call that needed a decision."""
    cells = [
        (
            row["id"],
            row["tool"],
            _shortened(row["arguments"], row["truncated"]),
            row["run"],
            dollars(row["cost_usd"]),
            duration(now - datetime.fromisoformat(row["created_at"])),
            _approval_standing(row, now),
        )
        for row in rows
    ]
    head = ("ID", "TOOL", "ARGUMENTS", "RUN", ">RUN COST", ">AGE", "STATE")
    return table(head, cells, empty="No tool call waits for a decision.")


def approval_whole(row: Row, now: datetime) -> str:
    """One tool call with everything that an operator decides by."""
    who = [f"{word} {plain(row[word])}" for word in ("session", "key", "user", "team") if row[word]]
    lines = [
        f"{plain(row['tool'])}, {_approval_standing(row, now)}",
        f"  run {plain(row['run'])}, {dollars(row['cost_usd'])} so far; {', '.join(who)}",
        f"  asked {moment(row['created_at'])} UTC under policy {plain(row['policy'])}",
        f"  {plain(row['arguments'])}",
    ]
    if row["truncated"]:
        lines.append("  The arguments are longer than this; the decision is about all of them.")
    if row["reason"]:
        lines.append(f"  {row['state']}: {plain(row['reason'])}")
    return "\n".join(lines)


def _shortened(text: str, truncated: bool) -> str:
    cut = len(text) > _SHOWN_ARGUMENTS
    return text[: _SHOWN_ARGUMENTS - 1] + "…" if cut else text + ("…" if truncated else "")


def _approval_standing(row: Row, now: datetime) -> str:
    if row["state"] == "pending":
        return f"expires in {duration(datetime.fromisoformat(row['expires_at']) - now)}"
    by = f" by {row['decided_by']}" if row["decided_by"] else ""
    return f"{row['state']}{by}{', used' if row['used_at'] else ''}"


def duration(length: timedelta) -> str:
    """`45s`, `12m`, `3h 05m`, `2d 04h`; nothing is below zero."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m"
    if seconds < 86_400:
        return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d {seconds % 86_400 // 3600:02d}h"


def decided(approval: Row) -> str:
    """What a decision means."""
    call = f"{plain(approval['tool'])} of run {plain(approval['run'])}"
    if approval["state"] == "denied":
        return f"{call} is denied."
    return f"{call} may pass once, until {moment(approval['expires_at'])} UTC."


def breakers_table(rows: Sequence[Row]) -> str:
    """One line for each breaker."""
    cells = [
        (
            row["id"],
            row["kind"],
            row["name"],
            row["scope"],
            row["state"],
            row["ok"],
            row["failed"],
            moment(row["opened_at"]),
            moment(row["until"]),
        )
        for row in rows
    ]
    head = ("ID", "KIND", "NAME", "SCOPE", "STATE", ">OK", ">FAILED", "OPENED (UTC)", "PROBED FROM (UTC)")
    return table(head, cells, empty="No breakers.")


def tests_told(outcomes: Sequence[Row]) -> str:
    """The outcome of each test of a policy, with what failed, and a summary."""
    lines = []
    for outcome in outcomes:
        name = plain(outcome["name"])
        lines.append(f"{'ok' if outcome['ok'] else 'FAILED':<7}{outcome['file']}:{outcome['line']}: {name}")
        for failure in outcome["failures"]:
            place = f"{outcome['file']}:{failure['line']}"
            lines.append(f"       {place}: {failure['path']}: {plain(failure['problem'])}")
    failed = sum(not outcome["ok"] for outcome in outcomes)
    passed = len(outcomes) - failed
    return "\n".join([*lines, "", f"{passed} passed" + (f", {failed} FAILED" if failed else "")])
