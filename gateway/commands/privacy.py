"""`gateway privacy`: erase what is known of a person, follow it, hand it out."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from gateway.commands import views
from gateway.commands.client import ClientError, quoted
from gateway.commands.console import AsJson, client, show

app = typer.Typer(help="Personal data: erase it, hand it out.", no_args_is_help=True)

POLL_S = 0.5

User = Annotated[str | None, typer.Option(help="A user, `key/name` for an end user of a key.")]
EndUser = Annotated[str | None, typer.Option(help="An end user under every key, or `key/name`.")]
Session = Annotated[str | None, typer.Option(help="A session.")]
Key = Annotated[str | None, typer.Option(help="A gateway key by its name.")]
Team = Annotated[str | None, typer.Option(help="A whole team.")]


@app.command()
def erase(
    reason: Annotated[str, typer.Option(help="Why; it stays on record, without the name.")],
    user: User = None,
    end_user: EndUser = None,
    session: Session = None,
    key: Key = None,
    team: Team = None,
    stop: Annotated[bool, typer.Option(help="End calls in flight.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase what is known of a person until now."""
    subject = _one(user=user, end_user=end_user, session=session, key=key, team=team)
    api = client()
    erasure = api.post("/privacy/erasures", {**subject, "reason": reason, "stop": stop})
    while wait and erasure["state"] != "done":
        time.sleep(POLL_S)
        erasure = api.get(f"/privacy/erasures/{quoted(erasure['id'])}")
    show(erasure, as_json, lambda: _told(erasure))


@app.command()
def status(
    erasure: Annotated[str | None, typer.Argument(help="One erasure by its id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """How far erasures are."""
    if erasure is not None:
        found = client().get(f"/privacy/erasures/{quoted(erasure)}")
        show(found, as_json, lambda: _told(found))
        return
    page = client().get("/privacy/erasures", limit=limit)
    show(page, as_json, lambda: _table(page["data"]))


@app.command()
def export(
    output: Annotated[Path, typer.Option(help="File to write; `-` is standard output.")],
    user: User = None,
    end_user: EndUser = None,
    session: Session = None,
    key: Key = None,
    team: Team = None,
) -> None:
    """What is known of a person, as JSON lines."""
    subject = _one(user=user, end_user=end_user, session=session, key=key, team=team)
    with ExitStack() as stack:
        file: BinaryIO = sys.stdout.buffer if str(output) == "-" else stack.enter_context(_private(output))
        last, lines = b"", 0
        for line in client().lines("/privacy/export", **subject):
            file.write(line)
            last, lines = line, lines + 1
    if not last.startswith(b'{"record":"end"'):
        raise ClientError("The export was broken off: its last line is missing. Ask again.")
    if str(output) != "-":
        print(f"{views.several(lines - 1, 'record')} written to {output}")


def _private(path: Path) -> BinaryIO:
    """A new file that its owner alone may read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return path.open("wb")


def _one(**subject: str | None) -> dict[str, str]:
    given = {kind: value for kind, value in subject.items() if value is not None}
    if len(given) != 1:
        words = ", ".join(f"--{kind.replace('_', '-')}" for kind in subject)
        raise typer.BadParameter(f"say exactly one of {words}")
    return given


def _told(erasure: dict[str, Any]) -> str:
    lines = [
        f"{erasure['id']}  {erasure['state']}"
        + (f" ({erasure['phase']})" if erasure["state"] != "done" else ""),
        f"  a {erasure['kind'].replace('_', ' ')}, now {erasure['subject']}",
        f"  {erasure['reason']}",
    ]
    if erasure["waits_for"]:
        lines.append(f"  waits for calls in flight: {', '.join(erasure['waits_for'])}")
    lines += [f"  {count:>8,} {what.replace('_', ' ')}" for what, count in erasure["rows"].items() if count]
    return views.plain("\n".join(lines), keep_lines=True)


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("ERASURE", "STATE", "OF", "NOW", "BEGUN (UTC)", "DONE (UTC)", "BY")
    cells = [
        (
            row["id"],
            row["state"],
            row["kind"],
            row["subject"],
            views.moment(row["created_at"]),
            views.moment(row["finished_at"]),
            row["by"],
        )
        for row in rows
    ]
    return views.table(head, cells, empty="No erasures.")
