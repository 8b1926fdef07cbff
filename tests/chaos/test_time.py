"""Time: where windows begin in every zone, and what hosts do whose clocks are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.rules.windows import windows_at
from gateway.testing import ProviderServer, Reply
from tests.chaos.rig import (
    LENGTH_S,
    Stop,
    balance,
    callers,
    keep_busy,
    ledger,
    nano,
    policy_for,
    request,
)
from tests.support.gateway import ADMIN_TOKEN, SECRET_KEY, ProcessGateway, wait_ready, wait_until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.wire import WIRES

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

PERIODS = ("1h", "1d", "1w", "1mo")
HALF_HOURS = ("Australia/Lord_Howe", "Australia/LHI")


def test_windows_of_every_zone(seed: int, figures: dict[str, Any]) -> None:
    """Random instants from 2024 to 2060 in every zone there is: a window holds its instant and begins where the
    local clock says; the next begins where it ends; every change of the clocks is in one of them."""
    dice = random.Random(seed)
    zones = sorted(zoneinfo.available_timezones() - {"localtime"})
    until = time.monotonic() + LENGTH_S
    instants = changes = 0
    first = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    last = int(datetime(2060, 1, 1, tzinfo=UTC).timestamp())
    while time.monotonic() < until:
        for zone in (zoneinfo.ZoneInfo(name) for name in zones):
            now = dice.randrange(first * 1000, last * 1000)
            if dice.random() < 0.5:
                now = near_a_change(zone, now, dice) or now
                changes += 1
            for period in PERIODS:
                # Where clocks change by half an hour, hours begin anew in the middle of one.
                if period == "1h" and zone.key in HALF_HOURS:
                    continue
                ensure_sound(period, zone, now)
            instants += 1
    figures |= {"zones": len(zones), "instants": instants, "of these at a change of the clocks": changes}


def near_a_change(zone: zoneinfo.ZoneInfo, now: int, dice: random.Random) -> int | None:
    """An instant within two hours of a change of the zone's offset in the year after `now`."""
    start = datetime.fromtimestamp(now / 1000, UTC)
    for day in range(0, 366, 7):
        one, other = (start + timedelta(days=day)), (start + timedelta(days=day + 7))
        if one.astimezone(zone).utcoffset() != other.astimezone(zone).utcoffset():
            while other - one > timedelta(minutes=1):
                middle = one + (other - one) / 2
                same = one.astimezone(zone).utcoffset() == middle.astimezone(zone).utcoffset()
                one, other = (middle, other) if same else (one, middle)
            return int(other.timestamp() * 1000) + dice.randrange(-7_200_000, 7_200_000)
    return None


def ensure_sound(period: str, zone: zoneinfo.ZoneInfo, now: int) -> None:
    """What holds of every window."""
    this, following = windows_at(period, zone, now)
    begins = int(this.id) * 1000
    what = (period, zone.key, now, this, following)
    assert begins <= now < this.ends_at <= following.ends_at, what
    assert int(following.id) * 1000 // 1000 == this.ends_at // 1000, what
    # The same window from its first to its last moment, and the next one from then on.
    for moment in (begins, this.ends_at - 1):
        assert windows_at(period, zone, moment)[0] == this, what
    assert windows_at(period, zone, this.ends_at)[0] == following, what
    local = datetime.fromtimestamp(begins / 1000, UTC).astimezone(zone)
    before = datetime.fromtimestamp(begins / 1000 - 1, UTC).astimezone(zone)
    if period != "1h":
        assert before.date() < local.date() or skips_midnight(before, local), what
    if period == "1w":
        assert local.weekday() == 0 or before.weekday() > local.weekday(), what
    if period == "1mo":
        assert before.month != local.month, what


def skips_midnight(before: datetime, after: datetime) -> bool:
    """The day begins a second time, as the clock goes back over midnight."""
    return before.utcoffset() != after.utcoffset()


def next_hour_to_end() -> tuple[str, float]:
    """A zone whose hour ends next, and in how many seconds: there are hours that begin at a quarter or half past
    the hour of UTC. Waits where the next end is too near for a test, or so far that no clock is that wrong."""
    while True:
        now = time.time()
        ends = {
            zone: windows_at("1h", zoneinfo.ZoneInfo(zone), int(now * 1000))[0].ends_at / 1000 - now
            for zone in ("UTC", "Asia/Kathmandu", "Asia/Kolkata")
        }
        zone, seconds = min(ends.items(), key=lambda end: end[1])
        if 45 < seconds < 1700:
            return zone, seconds
        time.sleep(1)


@contextlib.contextmanager
def skewed(
    policy: str, directory: Path, redis: RedisServer, data: Path, skew_s: float, then_s: float
) -> Iterator[ProcessGateway]:
    """A gateway on a host whose clock is wrong, and goes wrong in another way at SIGUSR1."""
    directory.mkdir(parents=True)
    path, log = directory / "policy.yaml", directory / "gateway.log"
    path.write_text(policy)
    port = free_port()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OPENAI_API_KEY": "not-used",
        "GATEWAY_POLICY": str(path),
        "GATEWAY_PORT": str(port),
        "GATEWAY_DATA_DIR": str(data),
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "GATEWAY_SECRET_KEY": SECRET_KEY,
        "GATEWAY_STORE_URL": redis.url,
        "GATEWAY_LEASE_S": "3",
        "SKEW_S": str(skew_s),
        "SKEW_THEN_S": str(then_s),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.skewed"], env=environment, stdout=out, stderr=out
        )
    gateway = ProcessGateway(port, data, path, process=process, log_path=log)
    try:
        wait_ready(gateway)
        yield gateway
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(25)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.mark.redis
def test_hosts_whose_clocks_are_wrong_share_one_window(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Three hosts on one Redis: one whose clock is right, one that is beyond the end of the hour, one that is
    late; then these two change places. They spend one hour's budget, once."""
    zone, to_its_end = next_hour_to_end()
    ahead, behind = to_its_end + 60, -25 * 60.0
    provider.script("talk", Reply("some words " * 10, chunks=5, chunk_delay_s=0.01))
    limit_usd = 0.1
    policy = policy_for(
        provider,
        "budgets:\n"
        "  - {name: team, per: team, limit_usd: 1000}\n"
        f"  - {{name: hour, per: global, window: 1h, timezone: {zone}, limit_usd: {limit_usd}}}\n"
        "rates: [{name: calls, per: team, requests_per_minute: 100000}]\n",
    )
    data = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(skewed(policy, tmp_path / name, redis, data, skew, then))
            for name, skew, then in (("right", 0, 0), ("ahead", ahead, behind), ("behind", behind, ahead))
        ]

        async def load() -> dict[str, int]:
            stop = Stop()
            counts: dict[str, int] = {}
            refused_in_a_row = [0]
            began = time.monotonic()
            stepped = [False]
            async with callers("") as many:

                async def work(number: int, dice: random.Random, stop: Stop) -> None:
                    host = hosts[number % 3]
                    wire = WIRES[dice.choice(list(WIRES))]
                    body = request(wire, "talk", f"{number} {dice.random()}", stream=dice.random() < 0.5)
                    answer = await many.ask(wire, body, path=host.url + wire.path)
                    kind = f"{answer.status} {answer.code or ''}".strip()
                    counts[kind] = counts.get(kind, 0) + 1
                    refused_in_a_row[0] = refused_in_a_row[0] + 1 if answer.status == 400 else 0
                    if not stepped[0] and sum(counts.values()) > 60:
                        stepped[0] = True
                        for each in hosts:
                            assert each.process is not None
                            each.process.send_signal(signal.SIGUSR1)
                    enough = refused_in_a_row[0] > 90 and stepped[0]
                    stop.set = enough or time.monotonic() - began > 120

                await keep_busy(12, work, seed, stop)
            return counts

        counts = asyncio.run(load())
        books = balance(hosts[0], provider)
        client = redis.client()
        windows = {key for key in client.scan_iter("{gw}:counter:*") if b"hour" in key or b"1h" in key}
        lasting = {key for key in client.scan_iter("{gw}:*") if client.ttl(key) == -1}
        spent = sum(row.cost for row in ledger(data).values())
        hour = [row for row in hosts[0].admin("GET", "/budgets?per=global")["data"] if row["name"] == "hour"]
        wait_until(lambda: client.zcard("{gw}:leases") == 0, 20, "end of the leases")
    assert set(counts) <= {"200", "400 global_budget_exceeded", "200 global_budget_exceeded"}, counts
    assert counts.get("400 global_budget_exceeded", 0) > 60, counts
    assert spent <= limit_usd * 1e9
    assert [nano(row["used_usd"]) for row in hour] == [spent]
    assert len(lasting) <= 4 + 1, lasting
    figures |= {
        "clocks": f"right, {ahead / 60:+.0f} min, {behind / 60:+.0f} min; then exchanged",
        "calls": sum(counts.values()),
        "spent of the hour's limit": f"{100 * spent / (limit_usd * 1e9):.1f} %",
        "windows charged": len(windows),
        **books.figures(),
    }
