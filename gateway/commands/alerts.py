"""`gateway alerts`: where alerts go, what became of them, and whether one arrives."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import quoted
from gateway.commands.console import AsJson, Limit, client, show

app = typer.Typer(help="Alerts: where they go and what became of them.", invoke_without_command=True)


class State(StrEnum):
    """How a delivery stands."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    DROPPED = "dropped"


@app.callback()
def receivers(context: typer.Context, as_json: AsJson = False) -> None:
    """The policy's alerts, and what waits for each."""
    if context.invoked_subcommand is not None:
        return
    page = client().get("/alerts/receivers")
    show(page, as_json, lambda: _receivers_table(page["data"]))


@app.command("list")
def deliveries(
    state: Annotated[State | None, typer.Option(help="How they stand.")] = None,
    alert: Annotated[str | None, typer.Option(help="Of this alert alone.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Deliveries, newest first."""
    page = client().get("/alerts", state=state.value if state else None, alert=alert, limit=limit)
    show(page, as_json, lambda: _deliveries_table(page["data"]))


@app.command("test")
def send_test(name: str, as_json: AsJson = False) -> None:
    """Send a test event and say what became of it; exit status 1 when it did not arrive."""
    delivery = client().post(f"/alerts/{quoted(name)}/test", {})
    show(delivery, as_json, lambda: _told(delivery))
    raise typer.Exit(0 if delivery["state"] == "sent" else 1)


def _told(delivery: dict[str, Any]) -> str:
    name, event = views.plain(delivery["alert"]), delivery["id"]
    if delivery["state"] == "sent":
        return f"{name}: {event} has arrived."
    if delivery["error"] is None:
        return f"{name}: {event} is on its way, and nothing has come of it yet."
    again = "; it is tried again" if delivery["state"] == "pending" else ""
    return f"{name}: {event} has not arrived ({views.plain(delivery['error'])}){again}."


def _receivers_table(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["name"],
            row["format"],
            row["mode"],
            row["waiting"],
            views.moment(row["oldest_at"]),
            ", ".join(row["on"]),
        )
        for row in rows
    ]
    head = ("NAME", "FORMAT", "MODE", ">WAITING", "SINCE", "ON")
    return views.table(head, cells, empty="The policy has no alerts.")


def _deliveries_table(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["id"],
            views.moment(row["created_at"]),
            row["alert"],
            row["event"],
            row["state"],
            row["attempts"],
            row["error"],
        )
        for row in rows
    ]
    head = ("ID", "AT", "ALERT", "EVENT", "STATE", ">ATTEMPTS", "LAST ERROR")
    return views.table(head, cells, empty="No deliveries.")
