"""`gateway show`: one run told as a story."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, Any

import typer

from gateway.commands.client import AdminClient, ClientError, quoted
from gateway.commands.console import AsJson, client
from gateway.commands.console import show as print_answer
from gateway.commands.run_story import WIDTH, story

app = typer.Typer()

SUCCESSORS = 100
"""Runs of the same session that are looked through for those that continue this one."""


@app.command()
def show(run: Annotated[str, typer.Argument(help="A run's id or name.")], as_json: AsJson = False) -> None:
    """One run, told from its beginning to how it ended: steps, decisions, costs, refusals."""
    admin = client()
    found = admin.get(f"/runs/{quoted(run)}")
    steps = list(admin.pages(f"/runs/{quoted(found['id'])}/steps", limit=500))
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    print_answer(
        {"run": found, "steps": steps},
        as_json,
        lambda: story(found, steps, successors=_successors(admin, found), width=width),
    )


def _successors(admin: AdminClient, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs that go on where this one ended, oldest first."""
    if not run["session"]:
        return []
    try:
        page = admin.get("/runs", session=run["session"], since=run["started_at"], limit=SUCCESSORS)
    except ClientError:
        return []
    return [each for each in reversed(page["data"]) if each["continues"] == run["id"]]
