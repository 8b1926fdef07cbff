"""`gateway doctor`: the launch checklist, looked at. Inside a running gateway through its admin API, and from
outside; without a gateway that answers, what settings, policy, files and Redis say of themselves."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import AdminClient, ClientError, Unreachable
from gateway.commands.console import AsJson, client, print_json
from gateway.doctor import (
    IDS,
    Finding,
    anchor,
    complete,
    fail,
    of_prices,
    of_redis,
    of_skew,
    of_token,
    ok,
    skip,
    warn,
    without_redis,
)
from gateway.metering.prices import PriceBook
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.settings import Settings, SettingsError, from_environment

app = typer.Typer()

ASKED = 40
"""Requests at most until every worker has answered one."""
HTTP_S = 5.0
SKEW_S, TOO_SKEWED_S = 2.0, 30.0
_DOWN = "no gateway answers"


@app.command()
def doctor(
    providers: Annotated[
        bool, typer.Option("--providers", help="Ask each provider for its models, under its own key.")
    ] = False,
    alerts: Annotated[bool, typer.Option("--alerts", help="Send a test to each receiver of alerts.")] = False,
    as_json: AsJson = False,
) -> None:
    """The launch checklist, looked at: store, ledger, clocks, policy, prices, guards, alerts, exposure. Exit
    status 1 when something fails; docs/launch-checklist.md explains each line."""
    found = _look(providers, alerts)
    reached = any(each.id == "gateway.reachable" and each.status == "ok" for each in found)
    findings = complete(found, "the gateway does not say" if reached else _DOWN)
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "data": [finding.view() for finding in findings]})
    else:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
        print(told(findings, width))
    raise typer.Exit(int(failed))


def _look(providers: bool, alerts: bool) -> list[Finding]:
    """What was found: by the gateway where it answers, else by what it would start with."""
    try:
        admin = client()
        return [ok("gateway.settings", "as the gateway runs"), *_of_running(admin, providers, alerts)]
    except SettingsError as error:
        seen, todo = str(error), "Set GATEWAY_ADMIN_TOKEN, or run this where the gateway's data directory is."
        reached = fail("gateway.reachable", seen, todo)
    except Unreachable as error:
        todo = "Start it with gateway serve, or set GATEWAY_URL to where its admin API listens."
        reached = fail("gateway.reachable", str(error).partition(". Start")[0], todo)
    except ClientError as error:
        todo = "Use a token with the role operator of the gateway that GATEWAY_URL names."
        reached = fail("gateway.reachable", str(error), todo)
    return [reached, *_of_stopped()]


# -- a gateway that answers ----------------------------------------------------------------------------


def _of_running(admin: AdminClient, providers: bool, alerts: bool) -> list[Finding]:
    """Raises `ClientError`."""
    asked = {"providers": "true" if providers else None, "alerts": "true" if alerts else None}
    answer = admin.get("/doctor", **asked)
    found = list(_read(answer["data"]))
    found.append(ok("gateway.reachable", f"{admin.url}, worker {answer['worker']}"))
    found += _ready(admin)
    found += _workers(admin, int(answer["workers"]))
    if not providers:
        found.append(skip("providers.reachable", "say --providers"))
    if not alerts:
        found.append(skip("alerts.delivery", "say --alerts"))
    return found


def _read(rows: Iterable[dict[str, Any]]) -> Iterable[Finding]:
    """Findings as a gateway tells them; one of another version may know others."""
    for row in rows:
        if row["id"] in IDS:
            yield Finding(row["id"], row["status"], row["seen"], row["todo"])


def _ready(admin: AdminClient) -> Iterable[Finding]:
    status, _ = _get(admin, "/readyz")
    if status == 200:
        yield ok("gateway.ready", "/readyz says so")
    else:
        yield fail(
            "gateway.ready", f"/readyz answers {status or 'nothing'}", "See what it says, and the log."
        )
    status, text = _get(admin, "/metrics")
    if status == 200 and b"gateway_requests_total" in text:
        yield ok("gateway.metrics", "/metrics answers")
    else:
        todo = "See that Prometheus has a token and reaches the admin plane's listener."
        yield warn("gateway.metrics", f"/metrics answers {status or 'nothing'}", todo)


def _get(admin: AdminClient, path: str) -> tuple[int, bytes]:
    """Status and body of a path outside of the API; (0, b"") without an answer."""
    request = urllib.request.Request(  # noqa: S310 - the client has checked that it is http
        admin.url.rstrip("/") + path, headers={"authorization": f"Bearer {admin.token}"}
    )
    try:
        with admin.opener().open(request, timeout=HTTP_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except OSError:
        return 0, b""


def _workers(admin: AdminClient, expected: int) -> Iterable[Finding]:
    """Ask until every worker has answered: which policy each has, and its time."""
    policies: dict[str, str] = {}
    ahead: dict[str, int] = {}
    late_s: float | None = None
    for _ in range(ASKED if expected > 1 else 1):
        before = time.time()
        row = admin.get("/doctor/worker")
        here = (before + time.time()) / 2
        policies[row["worker"]] = row["policy"]
        if row["ahead_ms"] is not None:
            ahead[row["worker"]] = row["ahead_ms"]
        late_s = datetime.fromisoformat(row["at"]).timestamp() - here
        if len(policies) >= expected:
            break
    versions = sorted(set(policies.values()))
    seen = f"{', '.join(versions)} in {views.several(len(policies), 'worker')}"
    if len(versions) > 1:
        todo = "Nothing while a version is being rolled out; else see the logs of those that lag behind."
        yield warn("policy.workers", seen, todo)
    elif len(policies) < expected:
        todo = "Ask again; a worker that never answers is stuck or cut off."
        yield warn("policy.workers", f"{seen}, of {expected}", todo)
    else:
        yield ok("policy.workers", seen)
    if ahead:
        yield of_skew(ahead)
    if late_s is not None:
        yield _skew(late_s)


def _skew(late_s: float) -> Finding:
    seen = f"{late_s:+.1f} s"
    todo = "Run NTP on both: times in reports are the gateway's."
    if abs(late_s) >= TOO_SKEWED_S:
        return fail("clock.host", seen, todo)
    return warn("clock.host", seen, todo) if abs(late_s) >= SKEW_S else ok("clock.host", "the same")


# -- a gateway that does not ---------------------------------------------------------------------------


def _of_stopped() -> list[Finding]:
    """What a gateway that is started here and now would find."""
    from gateway import doctor_setup as setup

    try:
        settings = from_environment()
    except SettingsError as error:
        problem = setup.without_credentials(str(error))
        return [fail("gateway.settings", problem, "Mend the environment of the gateway.")]

    found = [ok("gateway.settings", "valid in this shell")]
    policy, told_of = _policy(settings)
    found += told_of
    found += (
        setup.files_of(settings)
        if settings.data_dir.exists()
        else [skip("security.files", f"{settings.data_dir} is not there yet")]
    )
    try:
        found.append(setup.disk_of(settings))
    except OSError:
        found.append(skip("ledger.disk", f"{settings.data_dir} is not there yet"))
    found += [setup.hosts_of(settings), setup.secret_of(settings), setup.zones_of(policy)]
    found.append(of_token(settings.admin_token or "", given=settings.admin_token is not None))
    if policy is not None:
        found += setup.exposure_of(settings, policy)
    found += _store(settings)
    table = PriceBook().table
    found.append(of_prices(table.version, table.newest_entry, datetime.now(UTC).date()))
    return found


def _policy(settings: Settings) -> tuple[Policy | None, list[Finding]]:
    from gateway import doctor_setup as setup
    from gateway.policy.loading import load

    try:
        policy = load(settings.policy, settings.environment)
    except PolicyError as error:
        more = f" (and {len(error.mistakes) - 1} more)" if len(error.mistakes) > 1 else ""
        todo = f"Mend it; gateway check {settings.policy} shows every mistake."
        return None, [fail("policy.healthy", setup.one_line(str(error.mistakes[0])) + more, todo)]
    return policy, [
        ok("policy.healthy", f"{settings.policy} is valid, version {policy.version}"),
        *setup.of_policy(policy, version=policy.version),
        *setup.limits_of(policy),
        *setup.provider_keys(policy, simulated=settings.offers_simulation),
        *setup.receivers_of(policy),
        setup.auth_of(policy, 0),
    ]


def _store(settings: Settings) -> list[Finding]:
    if settings.embedded:
        return [ok("store.kind", "embedded, one process"), *without_redis()]
    from gateway.stores.redis_facts import redis_facts

    facts = asyncio.run(redis_facts(settings.store_url))
    found = [ok("store.kind", f"Redis, {settings.workers} workers"), *of_redis(facts)]
    if "ahead_ms" in facts:
        found.append(of_skew({"this machine": facts["ahead_ms"]}))
    return found


# -- how it is told ------------------------------------------------------------------------------------

_MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}


def told(findings: Sequence[Finding], width: int) -> str:
    """A line for each item that was looked at, what to do about it below, what was not, and a summary."""
    widest = max(len(finding.id) for finding in findings)
    margin = 6 + widest + 2
    lines: list[str] = []
    for finding in findings:
        if finding.status not in _MARKS:
            continue
        head = f"{_MARKS[finding.status]:<6}{finding.id:<{widest}}  "
        lines += _wrapped(head, finding.seen, margin, width)
        if finding.todo:
            todo = f"{finding.todo} (docs/launch-checklist.md#{anchor(finding.id)})"
            lines += _wrapped(" " * margin + "> ", todo, margin + 2, width)
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status == "skip":
            reasons.setdefault(finding.seen, []).append(finding.id)
    lines.append("")
    for reason, ids in reasons.items():
        lines += _wrapped("", f"Not looked at ({reason}): {', '.join(ids)}", 2, width)
    by_hand = [finding.id for finding in findings if finding.status == "manual"]
    if by_hand:
        lines += _wrapped("", f"For people to look at: {', '.join(by_hand)}", 2, width)
    count = {status: sum(finding.status == status for finding in findings) for status in _MARKS}
    summary = f"{count['ok']} ok, {views.several(count['warn'], 'warning')}, {count['fail']} FAILED"
    return "\n".join([*lines, "", summary])


def _wrapped(head: str, text: str, margin: int, width: int) -> list[str]:
    """`head` and `text` on as many lines as it takes, the later ones indented."""
    room = max(20, width - margin)
    first, *more = textwrap.wrap(views.plain(text), room, break_on_hyphens=False) or [""]
    return [(head + first).rstrip(), *(" " * margin + line for line in more)]
