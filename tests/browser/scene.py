"""A gateway with a working day behind it, for the browser to look at.

The ledger is filled before the gateway starts, with the budget counters that those runs moved, so that the
embedded store begins with them; what operators did and what waits for them is made over the admin API and the
worker's own parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from gateway.admission import BreakerRule
from gateway.rules.breakers import breaker_key
from gateway.rules.budgets import GLOBAL_ID, counter_key
from gateway.rules.windows import windows_at
from gateway.stores.ledger import SqlLedger
from gateway.stores.ledger_approvals import ApprovalRecord
from gateway.testing import running_provider
from tests.browser import seed as seeding
from tests.browser.seed import MINUTE, MODELS, PEOPLE, Seed
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway

VENDOR = Path(__file__).parents[2] / "gateway" / "web" / "static" / "vendor"
BUDGETS = (
    ("run", "run", None, 4_000_000_000),
    ("user-day", "user", "1d", 60_000_000_000),
    ("team-day", "team", "1d", 90_000_000_000),
    ("everyone-hour", "global", "1h", 20_000_000_000),
)
POLICY = """
budgets:
  - {name: run, per: run, limit_usd: 4, warn_at: 0.75, on_exceed: wrap_up}
  - {name: user-day, per: user, window: 1d, limit_usd: 60, warn_at: 0.8}
  - {name: team-day, per: team, window: 1d, limit_usd: 90, warn_at: 0.8}
  - {name: everyone-hour, per: global, window: 1h, limit_usd: 20, mode: shadow}
runs: {max_steps: 60, max_wall_clock_s: 3600, max_tool_calls: 120, on_exceed: wrap_up}
loops: {mode: shadow, same_call: 3, cycle: 3, no_progress: 3, on_detect: wrap_up}
tools:
  defaults: {max_calls_per_run: 40}
  send_email: {side_effects: external, requires_approval: true, max_calls_per_run: 1}
screening:
  injection: {mode: enforce, tool: {action: neutralise}, user: {action: flag}}
  pii: {mode: enforce, entities: [EMAIL_ADDRESS, PHONE_NUMBER, CREDIT_CARD], action: pseudonymise}
  secrets: {mode: shadow, action: block}
"""
LIVE = (
    # name, who, model, steps, seconds ago
    ("invoice-backfill", 7, 0, 47, 2),
    ("nightly-research", 4, 2, 22, 5),
    ("pr-1842-review", 2, 2, 14, 9),
    ("ticket-98121", 0, 1, 6, 12),
    ("ticket-98127", 0, 0, 4, 20),
    ("outreach-q3", 6, 0, 9, 31),
    ("refund-5512", 1, 3, 3, 44),
)
RUNAWAY = "run_live00000000"


def libraries_are_there() -> bool:
    """Whether `make assets` was able to fetch what the dashboard needs."""
    return (VENDOR / ".complete").exists()


def policy(upstream: str) -> str:
    """The policy in force: `POLICY`, with every model that the runs used."""
    prices = "{input_usd_per_mtok: 3, cached_input_usd_per_mtok: 0.3, output_usd_per_mtok: 15}"
    claude = f'  "claude-*": {{provider: upstream, price: {prices}}}\nauth: {{mode: keys}}'
    return base_policy(upstream, POLICY).replace("auth: {mode: keys}", claude, 1)


def charges(event: dict[str, Any]) -> list[list[Any]]:
    """The counters that an attempt moves under `POLICY`."""
    found: list[list[Any]] = []
    for name, per, window, _ in BUDGETS:
        scope = {"run": event["run"], "user": event["user"], "team": event["team"], "global": GLOBAL_ID}[per]
        key = counter_key(name, per, "", scope)
        if window is None:
            found.append([key, 0])
        else:
            this, _after = windows_at(window, _utc(), event["started_at"])
            found.append([f"{key}:{this.id}", this.ends_at])
    return found


def _utc() -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo("UTC")


def live_events(now: int) -> Iterator[dict[str, Any]]:
    """Runs that are at it: the last step of each ended seconds ago."""
    rng = random.Random(11)
    for number, (name, who, model, steps, ago_s) in enumerate(LIVE):
        run = f"run_live{number:08x}"
        made = list(
            seeding.run_events(
                rng, run, 0, steps=steps, who=PEOPLE[who], model=MODELS[model], status=("running", None),
                pace=0.4, name=name,
            )
        )  # fmt: skip
        shift = now - ago_s * 1000 - made[-1]["ended_at"]
        for event in made:
            for field in ("started_at", "ended_at"):
                event[field] += shift
            event["meta"] = {**event["meta"], "started_at": shift}
            if number:
                event["cost"] //= 4
            yield event


async def prepare(folder: Path, now: int, runs: int, days: float) -> None:
    """Fill the ledger of a gateway that has not been started."""
    ledger = SqlLedger(None, data_dir=folder)
    await ledger.start()
    made = [*seeding.events(Seed(now, runs=runs, days=days)), *live_events(now)]
    for event in made:
        if event["t"] == "attempt":
            event["charges"] = charges(event)
    for start in range(0, len(made), 2000):
        await ledger.append(
            [(f"{start}-{i}", orjson.dumps(e)) for i, e in enumerate(made[start : start + 2000])]
        )
    for number, (tool, arguments) in enumerate(
        (
            ("send_email", {"to": "mara@example.com", "subject": "Your refund", "body": "We have refunded $42.10."}),
            ("send_email", {"to": "all-customers@example.com", "subject": "Maintenance tonight", "body": "…"}),
            ("send_email", {"to": "li@example.com", "subject": "Order 4711 has left", "body": "It arrives on Friday."}),
            ("send_email", {"to": "press@example.com", "subject": "A statement", "body": "We regret …"}),
        )
    ):  # fmt: skip
        key, user, team, _ = PEOPLE[number]
        at = now - (number + 1) * 40_000
        await ledger.request_approval(
            ApprovalRecord(
                id=f"apr_{number:012x}", created_at=at, expires_at=now + 14 * MINUTE, principal=f"k-{key}",
                key=key, user=user, team=team, session=f"session-{number}", run=f"run_live{number + 3:08x}", tool=tool,
                arguments=orjson.dumps(arguments).decode(), truncated=False, digest=f"{number:064x}", policy="b3f1c09a",
                cost=18_400_000 * (number + 1),
            )
        )  # fmt: skip
    await ledger.close()


def act(gateway: ThreadedGateway) -> None:
    """What operators did on this day."""
    gateway.admin("POST", "/runs/run_live00000006/kill", {"reason": "refunds are handled by hand this week"})
    gateway.admin(
        "POST", "/budgets/user-day/topups", {"id": "noor", "amount_usd": "15", "reason": "quarter-end report"}
    )
    text = gateway.admin("GET", "/policy")["text"]
    gateway.admin(
        "POST", "/policy",
        {"policy": text.replace("max_steps: 60", "max_steps: 40"), "note": "No honest run needed more than 31 steps", "share": 0.1},
    )  # fmt: skip
    found = gateway.admin("GET", "/findings?limit=30&detector=pii")["data"]
    gateway.admin(
        "POST", "/findings/feedback",
        {"run": found[1]["run"], "step": found[1]["step"], "detector": "pii", "reason": "our order numbers look like telephone numbers"},
    )  # fmt: skip
    store = gateway.worker.store
    rule = BreakerRule(error_rate=0.5, min_calls=5, window_ms=60_000, open_ms=3_600_000, probes=1)
    key = breaker_key("tool", "team/insights", "query_warehouse")
    gateway.run(lambda: store.report(key, rule, source="scene", ok=2, failed=9))
    for approval, decision in (("apr_000000000002", "approve"), ("apr_000000000003", "deny")):
        gateway.admin(
            "POST", f"/approvals/{approval}", {"decision": decision, "reason": "checked with the customer"}
        )


@contextlib.contextmanager
def scene(folder: Path, *, runs: int = 700, days: float = 7, acted: bool = True) -> Iterator[ThreadedGateway]:
    """The gateway, in a thread of this process."""
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    now = int(time.time() * 1000)
    # Playwright has a loop of its own in this thread.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(prepare(data, now, runs, days))).result()
    with (
        running_provider() as provider,
        threaded_gateway(policy(provider.base_url), folder, data_dir=data) as gateway,
    ):
        if acted:
            act(gateway)
        yield gateway
