"""`gateway policy`: the versions of the policy, trying another one, going back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import quoted
from gateway.commands.console import AsJson, Limit, client, show
from gateway.policy.loading import text_to_send

app = typer.Typer()
policy = typer.Typer(help="Versions of the policy: try one, put it in force, go back.", no_args_is_help=True)
app.add_typer(policy, name="policy")

Version = Annotated[str, typer.Argument(metavar="VERSION")]
Note = Annotated[str | None, typer.Option(help="Why; kept with the version.")]


@policy.command("show")
def show_policy(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None, as_json: AsJson = False
) -> None:
    """The policy in force, or a version, as YAML with secrets hidden."""
    found = client().get("/policy" if version is None else f"/policy/versions/{quoted(version)}")
    show(found, as_json, lambda: views.plain(found["text"], keep_lines=True).rstrip())


@policy.command()
def versions(limit: Limit = 20, as_json: AsJson = False) -> None:
    """Versions, newest first."""
    page = client().get("/policy/versions", limit=limit)
    show(page, as_json, lambda: _versions(page["data"]))


@policy.command()
def diff(
    version: Version,
    against: Annotated[str | None, typer.Option(help="Instead of the version in force.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a version changes."""
    found = client().get(f"/policy/versions/{quoted(version)}/diff", against=against)
    show(found, as_json, lambda: views.plain(found["diff"], keep_lines=True).rstrip() or "no difference")


@policy.command()
def stage(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="File or folder.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of new runs; 0 only keeps it.")] = 1.0,
    note: Note = None,
    watch: Annotated[
        bool, typer.Option(help="Roll it back by itself when its runs fare worse than others.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Put a policy in force for a share of new runs. Providers, keys and the URLs of alerts stay the
    gateway's own, whatever the file says of them."""
    body = {"policy": text_to_send(file), "share": share, "note": note, "watch": watch}
    made = client().post("/policy", {name: value for name, value in body.items() if value is not None})
    show(made, as_json, lambda: _staged(made))


@policy.command()
def rollout(as_json: AsJson = False) -> None:
    """What governs, what is being tried, and how the runs of both fare."""
    found = client().get("/policy/rollout")
    show(found, as_json, lambda: _rollout(found))


@policy.command()
def rollback(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept with what is rolled back.")] = None,
    as_json: AsJson = False,
) -> None:
    """End what is being tried, else go back to the version before, or to VERSION."""
    given = {"version": version, "reason": reason}
    done = client().post("/policy/rollback", {name: value for name, value in given.items() if value})
    show(done, as_json, lambda: f"{done['version']} governs; rolled back: {', '.join(done['rolled_back'])}")


def _staged(made: Mapping[str, Any]) -> str:
    lines = [f"warning: {views.plain(warning)}" for warning in made["warnings"]]
    if not made["active"]:
        return "\n".join([*lines, f"{made['version']} is kept; put it in force with --share"])
    return "\n".join([*lines, f"{made['version']} governs {_percent(made['share'])} of new runs"])


def _versions(rows: list[dict[str, Any]]) -> str:
    return views.table(
        ("version", "governs", "author", "at", "note"),
        [
            (
                row["version"],
                _percent(row["share"]) if row["active"] else ("rolled back" if row["rolled_back"] else ""),
                row["author"],
                views.moment(row["at"]),
                row["rolled_back"] or row["note"],
            )
            for row in rows
        ],
        empty="no versions",
    )


def _rollout(found: Mapping[str, Any]) -> str:
    lines = [f"{found['active']} governs"]
    if found["problem"]:
        lines.append(f"problem: {views.plain(found['problem'])}")
    candidate, baseline = found["candidate"], found["baseline"]
    if candidate is None:
        return "\n".join([*lines, "nothing is being tried"])
    share = _percent(candidate["share"])
    lines.append(f"{candidate['version']} is tried with {share} since {views.moment(candidate['since'])}")
    if candidate["worse"]:
        lines.append(f"worse: {candidate['worse']}")
    rows = [
        (row["version"], row["runs"], row["refused"], row["failed"], views.dollars(row["cost_usd"]))
        for row in (candidate, baseline)
    ]
    return "\n".join(
        [*lines, "", views.table(("version", ">runs", ">refused", ">failed", ">cost"), rows, empty="")]
    )


def _percent(share: float) -> str:
    return f"{share * 100:g} %"
