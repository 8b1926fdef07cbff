"""`gateway doctor` from the inside: what this worker sees of its store, ledger, policy, guards and exposure.

Looking changes nothing that lasts: the kill is that of a run that is nobody's and ends by itself, the budget
refuses a step that never was. Each check has its time, and one that breaks says so and keeps no other back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastapi import APIRouter

from gateway.admission import Admission, Charge, Denied, Kill, Lookup, RunLimits
from gateway.doctor import (
    Finding,
    fail,
    of_lag,
    of_prices,
    of_redis,
    of_skew,
    of_token,
    ok,
    skip,
    warn,
    without_redis,
)
from gateway.doctor_setup import (
    auth_of,
    disk_of,
    exposure_of,
    files_of,
    hosts_of,
    limits_of,
    of_policy,
    one_line,
    provider_keys,
    receivers_of,
    secret_of,
    zones_of,
)
from gateway.domain import Item, Json, Role, RunSource, Text, ToolCall, usd
from gateway.errors import StoreUnavailable
from gateway.policy.sections.operations import Alert
from gateway.policy.sections.providers import Provider
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.kills import DRILL_REASON, drill_name
from gateway.rules.loops import LoopRules, detect
from gateway.rules.trace import EMPTY, merged
from gateway.screening.self_test import broken
from gateway.steps.screens import looks_of
from gateway.stores.ledger import LedgerError, LedgerUnavailable
from gateway.upstreams.dialects import DIALECTS
from gateway.upstreams.transport import Timeouts, TransportError, UnsendableError, UpstreamRequest
from gateway.web.admin_gate import AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import stamp

if TYPE_CHECKING:
    from gateway.app import Worker

log = logging.getLogger("gateway.doctor")

CHECK_S = 8.0
"""How long one check may take; a ledger of many gigabytes is not read through here."""
WRITE_S = 5.0
MOST_RECORDS = 200_000
"""Records of the audit log that are looked through: a second or two."""
OBEY_S = 1.0
"""Each worker obeys a kill within a second."""
REACH_S = 8.0
DELIVER_S = 12.0
_POLL_S = 0.02

router = APIRouter(route_class=AdminRoute, tags=["doctor"])

Check = Callable[["Context"], Awaitable[Iterable[Finding]]]


@router.get("/doctor")
@needs("operator")
async def doctor(ctx: Ctx, providers: bool = False, alerts: bool = False) -> Json:
    """What this worker finds about the gateway: `{worker, workers, policy, at, data}`, each of `data` with
    `id status seen todo docs`; `status` is `ok warn fail skip`. With `providers` each provider is asked for
    its models, with `alerts` each receiver is sent an event that says it is a test."""
    worker = ctx.worker
    checks: list[tuple[Sequence[str], Check, float]] = [
        (("ledger.writable", "ledger.hosts", "ledger.disk", "security.files"), _writable, CHECK_S),
        (("ledger.lag",), _lag, CHECK_S),
        (("ledger.rejected",), _rejected, CHECK_S),
        (("ledger.sums",), _sums, CHECK_S),
        (("audit.chain",), _audit, CHECK_S),
        (
            ("policy.healthy", "policy.warnings", "policy.limits", "providers.keys", "prices.unknown"),
            _policy,
            CHECK_S,
        ),
        (("prices.age",), _prices, CHECK_S),
        (("guards.budget",), _budget, CHECK_S),
        (("guards.kill",), _kill, CHECK_S),
        (("guards.loops",), _loops, CHECK_S),
        (("guards.screening",), _screening, CHECK_S),
        (("guards.bypassed",), _bypassed, CHECK_S),
        (("alerts.receivers",), _receivers, CHECK_S),
        (("clock.zones",), _zones, CHECK_S),
        (
            ("security.auth", "security.admin", "security.tls", "security.token", "security.secret"),
            _security,
            CHECK_S,
        ),
    ]
    if providers:
        checks.append((("providers.reachable",), _reachable, REACH_S + 2))
    if alerts:
        checks.append((("alerts.delivery",), _delivered, DELIVER_S + 2))
    # By itself, for the others would be measured too.
    groups = [await _guarded(ctx, ("store.answers",), _store, CHECK_S)]
    groups += await asyncio.gather(*(_guarded(ctx, ids, check, limit) for ids, check, limit in checks))
    found = [finding for group in groups for finding in group]
    await _note(ctx, found, {"providers": providers, "alerts": alerts})
    return {
        "worker": worker.id,
        "workers": worker.settings.workers,
        "policy": worker.pipeline.generation.version,
        "at": stamp(ctx.now()),
        "data": [finding.view() for finding in found],
    }


async def _note(ctx: Context, found: Sequence[Finding], asked: Json) -> None:
    """Put the visit on record, unless the ledger is what is ill: whoever asks need not wait for it."""
    if any(each.id == "ledger.writable" and each.status == "fail" for each in found):
        return
    try:
        await ctx.audit("doctor.run", asked)
    except LedgerUnavailable as error:
        log.warning("the doctor's visit is not on record: %s", error)


@router.get("/doctor/worker")
@needs("viewer")
async def one_worker(ctx: Ctx) -> Json:
    """Which worker answers, under which policy, and by how many milliseconds its clock is ahead of the
    store's (`null` for the embedded store): asked again and again it shows whether all workers agree."""
    return {
        "worker": ctx.worker.id,
        "policy": ctx.worker.pipeline.generation.version,
        "at": stamp(ctx.now()),
        "ahead_ms": await _ahead(ctx.worker),
    }


async def _guarded(ctx: Context, ids: Sequence[str], check: Check, limit_s: float) -> list[Finding]:
    """What a check found; that it could not when it broke or took too long."""
    try:
        async with asyncio.timeout(limit_s):
            return list(await check(ctx))
    except TimeoutError:
        return [skip(item_id, f"not done within {limit_s:.0f} s") for item_id in ids]
    except (StoreUnavailable, LedgerUnavailable, LedgerError) as error:
        what = "store" if isinstance(error, StoreUnavailable) else "ledger"
        return [skip(item_id, f"the {what} does not answer") for item_id in ids]
    except Exception as error:
        log.warning("a check of the doctor broke", exc_info=True)
        return [skip(item_id, f"the check broke: {type(error).__name__}") for item_id in ids]


# -- store ---------------------------------------------------------------------------------------------


async def _store(ctx: Context) -> list[Finding]:
    worker = ctx.worker
    settings = worker.settings
    if settings.embedded:
        began = time.perf_counter()
        await worker.store.ping()
        took = (time.perf_counter() - began) * 1000
        return [
            ok("store.kind", "embedded, one process"),
            ok("store.answers", f"in this process, {took:.1f} ms"),
            *without_redis(),
        ]
    from gateway.stores.redis_facts import redis_facts

    facts = await redis_facts(settings.store_url)
    found = [ok("store.kind", f"Redis, {settings.workers} workers here"), *of_redis(facts)]
    if "ahead_ms" in facts:
        found.append(of_skew({worker.id: facts["ahead_ms"]}))
    try:
        await worker.store.ping()
    except StoreUnavailable:
        found.append(
            fail("store.answers", "it answers, but not to this worker", "Look at the gateway's log.")
        )
    return found


async def _ahead(worker: Worker) -> int | None:
    if worker.settings.embedded:
        return None
    from gateway.stores.redis_facts import ahead_ms

    return await ahead_ms(worker.settings.store_url)


# -- ledger --------------------------------------------------------------------------------------------


async def _writable(ctx: Context) -> list[Finding]:
    worker = ctx.worker
    settings = worker.settings
    found = [*files_of(settings), hosts_of(settings), await asyncio.to_thread(disk_of, settings)]
    began = time.perf_counter()
    try:
        # A transaction that writes, and has nothing to write.
        async with asyncio.timeout(WRITE_S):
            await worker.ledger.forget_counters(0)
    except (LedgerUnavailable, LedgerError, TimeoutError) as error:
        todo = "See what keeps the database from being written; what is spent waits in the store meanwhile."
        seen = one_line(str(error)) or f"nothing was written within {WRITE_S:.0f} s"
        found.append(fail("ledger.writable", seen, todo))
    else:
        took = (time.perf_counter() - began) * 1000
        found.append(ok("ledger.writable", f"{took:.0f} ms for a transaction"))
    return found


async def _lag(ctx: Context) -> list[Finding]:
    return [of_lag(ctx.worker.drain.lag_s)]


async def _rejected(ctx: Context) -> list[Finding]:
    rejected = await ctx.worker.ledger.rejected(100)
    if not rejected:
        return [ok("ledger.rejected", "none")]
    newest = rejected[0]
    seen = f"{'100 or more' if len(rejected) >= 100 else len(rejected)}, the newest {stamp(newest['at'])}: "
    todo = "Report them: each is a step whose cost is not in the ledger (table gw_rejected)."
    return [warn("ledger.rejected", seen + one_line(str(newest["error"])), todo)]


async def _sums(ctx: Context) -> list[Finding]:
    await ctx.flush()
    drift = await ctx.worker.ledger.runs_drift()
    if drift:
        todo = "Somebody changed the database, or the gateway is at fault: keep a copy, then look at the log."
        return [fail("ledger.sums", f"runs and their steps differ by ${usd(drift)}", todo)]
    return [ok("ledger.sums", "each run costs what its steps cost")]


async def _audit(ctx: Context) -> list[Finding]:
    newest = await ctx.worker.ledger.audit_list(limit=1, newest_first=True)
    if newest and newest[0].seq > MOST_RECORDS:
        # It would keep every report waiting.
        return [skip("audit.chain", f"{newest[0].seq:,} records are many: export and verify them elsewhere")]
    check = await ctx.worker.ledger.audit_verify()
    if check.ok:
        return [ok("audit.chain", f"{check.records:,} records, unbroken")]
    todo = "Keep the database as it is, and compare it with your last export (gateway audit verify)."
    return [fail("audit.chain", one_line(str(check.reason)), todo)]


# -- policy --------------------------------------------------------------------------------------------


async def _policy(ctx: Context) -> list[Finding]:
    worker = ctx.worker
    generation, status = worker.pipeline.generation, worker.source.status()
    policy = generation.policy
    found = [*of_policy(policy, version=generation.version), *limits_of(policy)]
    if not status.healthy:
        problem = one_line(str(status.last_error).partition("\n")[0])
        todo = "Mend the file; gateway check shows every mistake. The last good version is in force."
        found.append(fail("policy.healthy", f"the file is refused: {problem}", todo))
    elif worker.source.policy.version != generation.version:
        seen = f"{generation.version} is in force, the file holds {worker.source.policy.version}"
        todo = "Nothing, if it was sent or rolled back on purpose; else see gateway policy versions."
        found.append(warn("policy.healthy", seen, todo))
    else:
        found.append(ok("policy.healthy", f"version {generation.version}, as in the file"))
    found += provider_keys(policy, simulated=worker.simulation is not None)
    found += _unpriced(ctx, await _metrics(ctx))
    return found


async def _prices(ctx: Context) -> list[Finding]:
    table = ctx.worker.pipeline.generation.router.prices.table
    return [
        of_prices(table.version, table.newest_entry, datetime.fromtimestamp(ctx.now() / 1000, UTC).date())
    ]


def _unpriced(ctx: Context, text: str) -> list[Finding]:
    unknown = ctx.worker.pipeline.generation.router.warm(ctx.now())
    refused = total_of(text, "gateway_unpriced_total")
    todo = "State a price for it in the policy (models.NAME.price); its steps are refused with unknown_price."
    if unknown:
        return [warn("prices.unknown", one_line(str(unknown[0])), todo)]
    if refused:
        return [warn("prices.unknown", f"{refused:,.0f} steps were refused for want of a price", todo)]
    return [ok("prices.unknown", "every model that the policy names")]


async def _metrics(ctx: Context) -> str:
    """What `/metrics` shows, for all workers of this host."""
    return (await ctx.worker.exposition.render()).decode()


def total_of(text: str, name: str) -> float:
    """The sum of a metric over its labels, in Prometheus's text form."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith((name + " ", name + "{"))
    )


# -- guards --------------------------------------------------------------------------------------------


async def _budget(ctx: Context) -> list[Finding]:
    """A step of a run that is nobody's, which costs more than its budget: it has to be refused."""
    store, name = ctx.worker.store, f"doctor_{secrets.token_hex(8)}"
    view = await store.resolve(_lookup(name))
    charge = Charge("doctor", "global", f"doctor:{name}", 1, True, (), 0, 1000)
    answer = await store.admit(
        Admission(
            attempt_id=name, run_id=view.run_id, retry_ordinal=0, retry_key=name, kill_names=(),
            limits=RunLimits(enforced=True), charges=(charge,), rates=(), fixed_nano=1_000_000,
            output_rate=0.0, want_tokens=1, reserve_tokens=1, floor_tokens=1, halve=False, input_tokens=1,
            choices=1, lease_ms=1000, event=b"", orphan=b"", idle_ttl_ms=1000,
        )
    )  # fmt: skip
    if isinstance(answer, Denied) and answer.code == "global_budget_exceeded":
        return [
            ok("guards.budget", "a step over its budget is refused; that settled ones agree see ledger.sums")
        ]
    if isinstance(answer, Denied) and answer.rule == "kill":
        return [skip("guards.budget", "everything is killed")]
    code = answer.code if isinstance(answer, Denied) else "admitted"
    todo = "Stop serving: the store does not keep budgets. Report it with the store's version."
    return [fail("guards.budget", f"a step over its budget was answered {code}", todo)]


def _lookup(name: str) -> Lookup:
    return Lookup(
        new_run_id=name, session=name, session_given=True, name=None, name_key=None,
        named_source=RunSource.NEW, own_run_id=None, principal="doctor", retry_key=name, retry_declared=False,
        evidence=(), speaks_text=False, idle_ttl_ms=1000, text_gap_ms=0,
    )  # fmt: skip


async def _kill(ctx: Context) -> list[Finding]:
    """Kill a run that is nobody's, see every worker obey, and let it go on."""
    worker = ctx.worker
    name = drill_name(secrets.token_hex(8))
    began, at = time.monotonic(), ctx.now()
    await worker.store.set_kill(Kill(name, DRILL_REASON), 30.0)
    try:
        seen = await worker.store.kills([name])
        acks: dict[str, tuple[int, int]] = {}
        while time.monotonic() - began < OBEY_S and len(acks) < worker.settings.workers:
            await asyncio.sleep(_POLL_S)
            acks = await worker.store.kill_acknowledgements(name)
        # Workers of other hosts, which this one does not count.
        await asyncio.sleep(0 if worker.settings.embedded else 0.1)
        acks = await worker.store.kill_acknowledgements(name)
    finally:
        cleared = await worker.store.clear_kill(name)
    left = await worker.store.kills([name])
    todo = "See the gateway's log and Redis's: kills still hold at admission, but open streams may go on."
    if name not in seen or not cleared or name in left:
        return [fail("guards.kill", "the flag was not kept, or could not be taken back", todo)]
    if len(acks) < worker.settings.workers:
        seen_of = f"{len(acks)} of {worker.settings.workers} workers obeyed within a second"
        return [fail("guards.kill", seen_of, todo)]
    slowest = max((max(0, when - at) for when, _ in acks.values()), default=0)
    names = ", ".join(sorted(acks)[:4]) + (" …" if len(acks) > 4 else "")
    return [ok("guards.kill", f"{len(acks)} obeyed within {slowest} ms and let go again: {names}")]


LOOPS_TRIED = 40


async def _loops(ctx: Context) -> list[Finding]:
    generation = ctx.worker.pipeline.generation
    loops = generation.policy.loops
    todo = "Write a loops section; begin with mode shadow and look at what it finds."
    if loops is None or loops.mode == "off":
        return [warn("guards.loops", "loop detection is off", todo)]
    found = await asyncio.to_thread(_first_loop, generation.loop_rules)
    if found is None:
        todo = "Lower the thresholds: an agent makes dozens of equal calls before anything happens."
        return [
            warn("guards.loops", f"{LOOPS_TRIED} equal failing calls are no loop by its thresholds", todo)
        ]
    rule, calls = found
    if loops.mode == "shadow":
        todo = "Look at what it found (gateway show RUN), then say mode: enforce."
        return [warn("guards.loops", f"found by {rule} after {calls} equal calls, and only recorded", todo)]
    return [ok("guards.loops", f"found by {rule} after {calls} equal calls")]


def _first_loop(rules: LoopRules) -> tuple[str, int] | None:
    """The rule that finds an agent which makes the same failing call again and again, and after how many."""
    prints = Fingerprints()
    items = [Item(Role.USER, (Text("Find the printer.", ()),))]
    for number in range(1, LOOPS_TRIED + 1):
        call = ToolCall(f"call_{number}", "doctor_search", '{"q": "printer"}')
        items.append(Item(Role.ASSISTANT, calls=(call,)))
        items.append(Item(Role.TOOL, (Text("error: nothing was found", ()),), call_id=call.id, failed=True))
        found = detect(merged(EMPTY, items, number + 1, 200 * number, prints), rules)
        if found:
            return found[0].rule, number
    return None


async def _screening(ctx: Context) -> list[Finding]:
    screening = ctx.worker.pipeline.generation.policy.screening
    names = ("injection", "pii", "secrets", "links", "leak", "moderation")
    on = [n for n in names if (rule := getattr(screening, n)) is not None and rule.mode != "off"]
    if not on:
        todo = "Switch on what your data needs: screening.secrets and screening.injection cost little."
        return [warn("guards.screening", "nothing is screened", todo)]
    looks = await asyncio.to_thread(looks_of, screening)
    if failing := await asyncio.to_thread(broken, looks):
        todo = "See the gateway's log; requests that need these are refused or let pass as on_failure says."
        return [fail("guards.screening", f"canaries not found by {', '.join(failing)}", todo)]
    asked = [n for n in on if n in ("moderation",)]
    if screening.injection is not None and screening.injection.judge is not None and "injection" in on:
        asked.append("the judge")
    unasked = f"; not asked: {', '.join(asked)}" if asked else ""
    shadow = [n for n in on if getattr(screening, n).mode == "shadow"]
    seen = f"{', '.join(on)}{unasked}"
    if len(shadow) == len(on):
        todo = "Look at what they find (gateway show RUN), then say mode: enforce."
        return [warn("guards.screening", f"{seen}, all in shadow", todo)]
    return [ok("guards.screening", seen)]


async def _bypassed(ctx: Context) -> list[Finding]:
    passed = total_of(await _metrics(ctx), "gateway_bypassed_total")
    if passed:
        todo = "See which check in gateway_bypassed_total; on_failure: refuse would have refused these steps."
        return [warn("guards.bypassed", f"{passed:,.0f} times since the start", todo)]
    return [ok("guards.bypassed", "never since the start")]


# -- alerts and providers ------------------------------------------------------------------------------


async def _receivers(ctx: Context) -> list[Finding]:
    return receivers_of(ctx.worker.pipeline.generation.policy)


async def _delivered(ctx: Context) -> list[Finding]:
    alerts = [alert for alert in ctx.worker.pipeline.generation.policy.alerts if alert.mode == "enforce"]
    if not alerts:
        return [skip("alerts.delivery", "there is no receiver")]
    outcomes = await asyncio.gather(*(_deliver(ctx, alert) for alert in alerts))
    bad = [f"{alert.name}: {why}" for alert, why in zip(alerts, outcomes, strict=True) if why]
    if bad:
        todo = "Mend the address or the receiver; what waits is delivered when it answers."
        return [fail("alerts.delivery", one_line("; ".join(bad)), todo)]
    return [ok("alerts.delivery", f"a test arrived at {', '.join(alert.name for alert in alerts[:6])}")]


async def _deliver(ctx: Context, alert: Alert) -> str:
    """Send a test; why it did not arrive, or nothing."""
    worker = ctx.worker
    event = await worker.alerts.test(alert, ctx.caller.name)
    until = time.monotonic() + DELIVER_S
    while time.monotonic() < until:
        rows, _ = await worker.ledger.alert_deliveries(event=event, alert=alert.name)
        if rows and rows[0].state == "sent":
            return ""
        if rows and rows[0].error:
            return str(rows[0].error)
        await asyncio.sleep(0.1)
    return f"no answer within {DELIVER_S:.0f} s"


async def _reachable(ctx: Context) -> list[Finding]:
    """Ask every provider for its models, under the gateway's own key."""
    providers = ctx.worker.pipeline.generation.policy.providers
    if not providers:
        return [skip("providers.reachable", "there is no provider")]
    outcomes = await asyncio.gather(*(_ask(ctx, name, each) for name, each in providers.items()))
    bad = [f"{name}: {said}" for name, (good, said) in zip(providers, outcomes, strict=True) if not good]
    fine = [f"{name} {said}" for name, (good, said) in zip(providers, outcomes, strict=True) if good]
    if bad:
        todo = "See whether the address and the key are right, and whether the network lets the gateway out."
        return [fail("providers.reachable", one_line("; ".join([*bad, *fine])), todo)]
    return [ok("providers.reachable", ", ".join(fine))]


async def _ask(ctx: Context, name: str, provider: Provider) -> tuple[bool, str]:
    dialect = DIALECTS[provider.dialect]
    key = provider.api_key.get_secret_value() if provider.api_key is not None else None
    headers = [
        (b"accept", b"application/json"),
        (b"user-agent", b"guardrail-gateway"),
        *dialect.credentials(key),
        *dialect.defaults({}),
    ]
    request = UpstreamRequest(
        "GET", models_url(provider), headers, b"", Timeouts(3.0, REACH_S, REACH_S, REACH_S)
    )
    began = time.perf_counter()
    try:
        reply = await ctx.worker.transport.send(request)
    except TransportError as error:
        return False, f"{error.phase}: {error.kind}"
    except UnsendableError:
        return False, "its URL cannot be sent to"
    took = f"{(time.perf_counter() - began) * 1000:.0f} ms"
    status = reply.status
    reply.abort()
    if status in (401, 402, 403):
        return False, f"refuses the key (HTTP {status})"
    # Some have no list of models; that they say so shows that they are there and take the key.
    if status < 300 or status in (404, 405, 501):
        return True, took
    return False, f"HTTP {status}"


def models_url(provider: Provider) -> str:
    """Where a provider lists its models."""
    base = provider.base_url.rstrip("/")
    if provider.dialect == "anthropic":
        return f"{base.removesuffix('/v1')}/v1/models"
    if provider.dialect == "azure_openai":
        root = base.removesuffix("/openai/v1").removesuffix("/openai")
        return f"{root}/openai/models?api-version={provider.api_version or '2024-10-21'}"
    return f"{base}/models"


# -- exposure ------------------------------------------------------------------------------------------


async def _security(ctx: Context) -> list[Finding]:
    worker = ctx.worker
    settings, policy = worker.settings, worker.pipeline.generation.policy
    stored = len(worker.control.keys)
    return [
        auth_of(policy, stored),
        *exposure_of(settings, policy),
        of_token(settings.admin_token or "", given=settings.admin_token is not None),
        secret_of(settings),
    ]


async def _zones(ctx: Context) -> list[Finding]:
    return [zones_of(ctx.worker.pipeline.generation.policy)]
