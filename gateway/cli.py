"""The `gateway` command: serve, check policies, and the operator's tools over the admin API.

Exit status: 0 when it worked, 1 when what was asked for is wrong or was refused, 2 when an option makes no
sense or no gateway answers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands import alerts, audit, backtest, check, doctor, keys, migrate, privacy, show, top, views
from gateway.commands import policy as policy_commands
from gateway.commands.client import ClientError, Unreachable, quoted
from gateway.commands.console import AsJson, Limit, Since
from gateway.commands.console import client as _client
from gateway.commands.console import print_json as _print_json
from gateway.commands.console import show as _show
from gateway.policy.messages import PolicyError
from gateway.settings import Settings, SettingsError, from_environment

app = typer.Typer(
    name="gateway",
    help="A guardrail gateway for agents: budgets, kill switch and metering on the LLM wire.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
breakers = typer.Typer(help="Circuit breakers.", invoke_without_command=True)
loops = typer.Typer(help="Loop detection.", no_args_is_help=True)
imports = typer.Typer(help="Policies made from the configuration of other gateways.", no_args_is_help=True)
app.add_typer(backtest.app)
app.add_typer(check.app)
app.add_typer(doctor.app)
app.add_typer(migrate.app)
app.add_typer(show.app)
app.add_typer(top.app)
app.add_typer(policy_commands.app)
app.add_typer(breakers, name="breakers")
app.add_typer(loops, name="loops")
app.add_typer(imports, name="import")
app.add_typer(keys.keys, name="keys")
app.add_typer(keys.tokens, name="tokens")
app.add_typer(keys.sessions, name="sessions")
app.add_typer(audit.app, name="audit")
app.add_typer(alerts.app, name="alerts")
app.add_typer(privacy.app, name="privacy")


class ScreenedFrom(StrEnum):
    """Where a text comes from."""

    USER = "user"
    TOOL = "tool"
    OUTPUT = "output"


def main(argv: list[str] | None = None) -> None:
    """Run one command and leave with its exit status."""
    try:
        app(argv)
    except Unreachable as error:
        _fail(str(error), 2)
    except ClientError as error:
        _fail(str(error), 1)
    except SettingsError as error:
        _fail(str(error), 2)
    except PolicyError as error:
        _fail(str(error), 1)


def _fail(message: str, status: int) -> None:
    print(views.plain(message, keep_lines=True), file=sys.stderr)
    raise SystemExit(status)


# -- serving -----------------------------------------------------------------------------------------


@app.command()
def serve(
    policy: Annotated[
        Path | None, typer.Option(envvar="GATEWAY_POLICY", help="Policy file or folder.")
    ] = None,
    host: Annotated[str | None, typer.Option(envvar="GATEWAY_HOST", help="Address; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(envvar="GATEWAY_PORT", help="8080; 0 takes a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option(envvar="GATEWAY_WORKERS", help="Processes; more than one needs --store.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_STORE_URL",
            help="embedded, redis://HOST:PORT/DB or rediss://…",
        ),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_LEDGER_URL",
            help="sqlite:///PATH or postgresql://…; SQLite in the data directory.",
        ),
    ] = None,
    admin_listen: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_ADMIN_LISTEN", help="HOST:PORT of the admin plane, or 'same'."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="GATEWAY_DATA_DIR", help="Where state is kept; .gateway")
    ] = None,
) -> None:
    """Serve the gateway."""
    # Worker processes read their settings from the environment.
    for name, value in (
        ("POLICY", policy),
        ("HOST", host),
        ("PORT", port),
        ("WORKERS", workers),
        ("STORE_URL", store),
        ("LEDGER_URL", ledger),
        ("ADMIN_LISTEN", admin_listen),
        ("DATA_DIR", data_dir),
    ):
        if value is not None:
            os.environ[f"GATEWAY_{name}"] = str(value)
    settings = from_environment()

    from gateway.app import ensure_open_is_local
    from gateway.policy.loading import load
    from gateway.serving import serve as run

    loaded = load(settings.policy, settings.environment)
    ensure_open_is_local(loaded, settings)

    def listening(url: str) -> None:
        print(banner(settings, url, needs_key=loaded.auth.mode != "open"), flush=True)

    raise typer.Exit(run(settings, listening))


def banner(settings: Settings, url: str, *, needs_key: bool) -> str:
    """What a person wants to know once the gateway listens."""
    lines = [
        f"gateway listens on {url}",
        f"  OpenAI base URL   {url}/v1",
        f"  policy            {settings.policy}",
    ]
    admin = url if settings.shares_admin else None
    if settings.admin_address is not None:
        host, port = settings.admin_address
        admin = f"http://{host}:{port}"
    if admin is not None:
        lines += [f"  dashboard         {admin}/dashboard", f"  admin API         {admin}/admin/v1"]
    else:
        lines.append("  admin API         off beyond loopback: choose where with --admin-listen HOST:PORT")
    token = (
        "as given in GATEWAY_ADMIN_TOKEN"
        if settings.admin_token
        else f"in {settings.data_dir / 'admin.token'}"
    )
    lines.append(f"  admin token       {token}")
    if settings.offers_simulation:
        auth = ' -H "authorization: Bearer $GATEWAY_KEY"' if needs_key else ""
        body = '{"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}'
        lines += [
            "No provider key is set, so the simulated models (sim/*) are offered. Try:",
            f"  curl {url}/v1/chat/completions{auth} -H 'content-type: application/json' -d '{body}'",
        ]
    return "\n".join(lines)


@app.command("test")
def run_tests(
    policy: Annotated[Path, typer.Argument(help="Policy file or folder.")],
    tests: Annotated[
        Path | None, typer.Option(help="A file of tests, or a folder of them; those beside the policy.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a policy's own tests (*.test.yaml) before a simulated provider; exit status 1 when one fails."""
    from gateway.replay.policy_tests import run

    outcomes = run(policy, dict(os.environ), tests)
    failed = sum(not outcome["ok"] for outcome in outcomes)
    if as_json:
        _print_json({"passed": len(outcomes) - failed, "failed": failed, "tests": outcomes})
    else:
        print(views.tests_told(outcomes))
    raise typer.Exit(int(failed > 0))


@app.command()
def schema() -> None:
    """JSON Schema of the policy file, for editors."""
    from gateway.policy.schema import json_schema

    _print_json(json_schema())


@imports.command("litellm")
def import_litellm(
    file: Annotated[Path, typer.Argument(help="The proxy's config.yaml; - for standard input.")],
    out: Annotated[Path | None, typer.Option(help="File to write; the terminal otherwise.")] = None,
) -> None:
    """Make a policy from a LiteLLM configuration; what it cannot say is told on standard error."""
    from gateway.commands.import_litellm import ImportFailed, NotReadable, convert
    from gateway.policy.document import MAX_BYTES

    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
        made = convert(raw.decode("utf-8-sig"), "standard input" if str(file) == "-" else file.name)
    except OSError as error:
        _fail(f"{file}: {error.strerror}", 2)
    except UnicodeDecodeError:
        _fail(f"{file}: not UTF-8 text", 2)
    except NotReadable as error:
        _fail(str(error), 2)
    except ImportFailed as error:
        _fail(
            f"This is a mistake of the gateway, not of {file}: the policy it made is not valid.\n{error}", 1
        )
    if out is None:
        print(made.text, end="")
    else:
        try:
            with out.open("x", encoding="utf-8") as policy:
                policy.write(made.text)
        except FileExistsError:
            _fail(f"{out}: is there already, and is not overwritten", 2)
        except OSError as error:
            _fail(f"{out}: {error.strerror}", 2)
    for title, notes in (("set", made.to_set), ("differs", made.changed), ("not carried", made.left)):
        for note in notes:
            print(f"{title}: {views.plain(note)}", file=sys.stderr)


@loops.command("evaluate")
def loops_evaluate(
    paths: Annotated[list[Path], typer.Argument(help="Folders or files of labelled traces.")],
    as_json: AsJson = False,
) -> None:
    """Precision and recall of the loop rules on labelled traces; exit status 1 below the aim."""
    from gateway.commands.loop_corpus import CorpusError, evaluate

    try:
        status = evaluate(paths, as_json)
    except CorpusError as error:
        _fail(str(error), 1)
    raise typer.Exit(status)


@app.command()
def screen(
    path: Annotated[Path, typer.Argument(help="A text file; - for standard input.")],
    channel: Annotated[ScreenedFrom, typer.Option(help="Where the text comes from.")] = ScreenedFrom.TOOL,
    policy: Annotated[
        Path | None, typer.Option(envvar="GATEWAY_POLICY", help="Policy file or folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the detectors find in a text; exit status 1 when they find something."""
    from gateway.policy.loading import load
    from gateway.policy.sections.screening import Screening
    from gateway.screening.classifier import ClassifierFailed
    from gateway.screening.report import screened

    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        _fail(f"{path}: {error.strerror}", 2)
    rules = load(policy, os.environ).screening if policy is not None else Screening()
    try:
        found = screened(raw.decode("utf-8", "replace"), channel.value, rules)
    except ClassifierFailed as error:
        _fail(f"the classifier does not work: {error}", 2)
    if as_json:
        _print_json(found)
    else:
        print(views.screened(found))
    raise typer.Exit(int(found["verdict"] != "allow"))


# -- reading -----------------------------------------------------------------------------------------


@app.command()
def runs(
    status: Annotated[str | None, typer.Option(help="running, completed, killed, …")] = None,
    user: str | None = None,
    session: str | None = None,
    key: str | None = None,
    model: str | None = None,
    since: Since = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Runs, newest first."""
    page = _client().get(
        "/runs", status=status, user=user, session=session, key=key, model=model, since=since, limit=limit
    )
    _show(page, as_json, lambda: views.runs_table(page["data"]))


@app.command()
def spend(
    by: Annotated[
        str, typer.Option(help="user session run key team model provider surface, or tag:NAME")
    ] = "user",
    bucket: Annotated[str | None, typer.Option(help="hour or day")] = None,
    since: Since = None,
    until: Since = None,
    as_json: AsJson = False,
) -> None:
    """What was spent."""
    page = _client().get("/spend", group_by=by, bucket=bucket, since=since, until=until)
    _show(page, as_json, lambda: views.spend_table(page["data"], by))


@app.command()
def budgets(
    per: Annotated[
        str | None, typer.Option(help="run session user key team model global, or tag:NAME")
    ] = None,
    of: Annotated[str | None, typer.Option("--id", help="Whose budget.")] = None,
    as_json: AsJson = False,
) -> None:
    """How budgets stand."""
    page = _client().get("/budgets", per=per, id=of)
    _show(page, as_json, lambda: views.budgets_table(page["data"]))


# -- acting ------------------------------------------------------------------------------------------


@app.command()
def kill(
    scope: Annotated[str, typer.Argument(help="run session user key team model tool global")],
    target: Annotated[str | None, typer.Argument(metavar="ID", help="Not needed for global.")] = None,
    reason: Annotated[str, typer.Option(help="Told to the agent.")] = ...,  # type: ignore[assignment]  # required
    ttl_s: Annotated[
        float | None, typer.Option("--ttl-s", help="Ends by itself after so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run, session, user, key, team, model, tool, or everything."""
    body = {"scope": scope, "id": target, "reason": reason, "ttl_s": ttl_s}
    done = _client().post("/kills", {name: value for name, value in body.items() if value is not None})
    _show(done, as_json, lambda: views.killed(done))


@app.command()
def revive(
    scope: Annotated[str, typer.Argument(help="run session user key team model tool global")],
    target: Annotated[str | None, typer.Argument(metavar="ID", help="Not needed for global.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let what was killed go on."""
    done = _client().delete(f"/kills/{quoted(scope)}/{quoted(target or 'all')}")
    _show(done, as_json, lambda: f"{done['scope']} {views.plain(done['id'])} may go on.")


@app.command()
def kills(
    past: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False, as_json: AsJson = False
) -> None:
    """Kills in force."""
    page = _client().get("/kills", all="true" if past else None)
    _show(page, as_json, lambda: views.kills_table(page["data"]))


@app.command()
def topup(
    budget: str,
    target: Annotated[str, typer.Argument(metavar="ID")],
    amount_usd: str,
    reason: Annotated[str, typer.Option(help="For the record.")] = ...,  # type: ignore[assignment]  # required
    as_json: AsJson = False,
) -> None:
    """Add money to one budget of one run, session, user and so on."""
    body = {"id": target, "amount_usd": amount_usd, "reason": reason}
    done = _client().post(f"/budgets/{quoted(budget)}/topups", body)
    _show(done, as_json, lambda: views.topped_up(done))


@app.command()
def approvals(
    approval: Annotated[str | None, typer.Argument(metavar="[ID]", help="One, whole.")] = None,
    state: Annotated[str, typer.Option(help="pending, approved, denied, expired, or all")] = "pending",
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Tool calls that wait for a decision, newest first; or one of them with all its arguments."""
    if approval is not None:
        found = _client().get(f"/approvals/{quoted(approval)}")
        _show(found, as_json, lambda: views.approval_whole(found, datetime.now(UTC)))
        return
    page = _client().get("/approvals", state=None if state == "all" else state, limit=limit)
    _show(page, as_json, lambda: views.approvals_table(page["data"], datetime.now(UTC)))


@app.command()
def approve(
    approval: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="For the record.")] = ...,  # type: ignore[assignment]  # required
    as_json: AsJson = False,
) -> None:
    """Let a held tool call pass, once."""
    _decide(approval, "approve", reason, as_json)


@app.command()
def deny(
    approval: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Told to the agent.")] = ...,  # type: ignore[assignment]  # required
    as_json: AsJson = False,
) -> None:
    """Refuse a held tool call."""
    _decide(approval, "deny", reason, as_json)


def _decide(approval: str, decision: str, reason: str, as_json: bool) -> None:
    done = _client().post(f"/approvals/{quoted(approval)}", {"decision": decision, "reason": reason})
    _show(done, as_json, lambda: views.decided(done))


@breakers.callback()
def list_breakers(context: typer.Context, as_json: AsJson = False) -> None:
    """Circuit breakers, those that are open first."""
    if context.invoked_subcommand is None:
        page = _client().get("/breakers")
        _show(page, as_json, lambda: views.breakers_table(page["data"]))


@breakers.command("reset")
def reset_breaker(breaker: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Close a breaker by hand."""
    done = _client().post(f"/breakers/{quoted(breaker)}/reset", {})
    _show(done, as_json, lambda: f"Breaker {views.plain(done['id'])} is closed.")


if importlib.util.find_spec("gateway.commands.demo") is not None:

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def demo(context: typer.Context) -> None:
        """Watch a runaway agent being stopped."""
        module: Any = importlib.import_module("gateway.commands.demo")
        raise typer.Exit(module.main(context.args))
