"""Redis at its worst, under load: stopped, killed, emptied, full, set back; slow, deaf, full of errors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.chaos.faults import ERRORS, NO_ANSWER, REFUSED, DeafProxy, FalseRedis, beside
from tests.chaos.rig import (
    LENGTH_S,
    SLACK_S,
    TEAM_BUDGET,
    Answer,
    Callers,
    Site,
    Stop,
    balance,
    callers,
    keep_busy,
    ledger,
    mixed,
    percentile,
    policy_for,
    request,
    serving_workers,
    site,
    workers_of,
)
from tests.support.gateway import ALICE, BOB, ProcessGateway, wait_until
from tests.support.redis_server import FaultProxy, RedisServer
from tests.support.wire import CHAT, WIRES

pytestmark = [pytest.mark.chaos, pytest.mark.redis, pytest.mark.timeout(300)]

TIMEOUT_S = 0.25
"""How long a call waits for Redis (docs/failure.md)."""
BOB_HAS = 0.02
AWAY = {"503 budget_store_unavailable", "200 budget_store_unavailable"}
"""What callers are told while Redis is away; streams that were begun end with it."""
BUDGETS = f"""
budgets:
  - {{name: team, per: team, limit_usd: 1000}}
  - {{name: bobs, per: team, limit_usd: {BOB_HAS}, match: {{team: [blue]}}}}
"""


# -- one thing after another that goes wrong ------------------------------------------------------------


def stalled(redis: RedisServer, dice: random.Random) -> None:
    """It stands still for a while; connections stay open."""
    redis.stall()
    time.sleep(dice.uniform(0.5, 3))
    redis.resume()


def killed(redis: RedisServer, dice: random.Random) -> None:
    """It is killed with all it held, and comes back empty."""
    redis.kill()
    time.sleep(dice.uniform(0, 2))
    redis.start()


def flushed(redis: RedisServer, _: random.Random) -> None:
    """Somebody empties it."""
    redis.client().flushall()


def set_back(redis: RedisServer, dice: random.Random) -> None:
    """It is killed, and comes back as it was some seconds ago."""
    redis.client().save()
    time.sleep(dice.uniform(1, 3))
    redis.kill()
    redis.start()


def filled(redis: RedisServer, dice: random.Random) -> None:
    """It has no room for a while."""
    client = redis.client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 20_000)
    time.sleep(dice.uniform(1, 3))
    client.config_set("maxmemory", 0)


FAULTS: dict[str, Callable[[RedisServer, random.Random], None]] = {
    "stalled": stalled,
    "killed": killed,
    "flushed": flushed,
    "set back": set_back,
    "filled": filled,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_becomes_of_redis(
    fault: str,
    provider: ProviderServer,
    redis: RedisServer,
    tmp_path: Path,
    seed: int,
    figures: dict[str, Any],
) -> None:
    """Mixed traffic on two workers while it happens again and again: each caller is answered in time, a budget
    that is used up stays so, and at the end the counters are the sums of the ledger, and the ledger holds the
    provider's journal."""
    dice = random.Random(seed)
    provider.script("talk", Reply("some words " * 8, chunks=8, chunk_delay_s=0.02))
    provider.script("quick", Reply("quick"))
    stop = Stop()
    bobs: list[Answer] = []
    refused_s: list[float] = []
    recovered_s: list[float] = []
    with site(tmp_path, policy_for(provider, BUDGETS), redis) as two:
        serving_workers(two.gateway, 2)
        use_up(two)

        async def load() -> None:
            async with callers(two.url) as many:

                async def work(number: int, dice: random.Random, _: Stop) -> None:
                    if number == 0:
                        bobs.append(await many.ask(CHAT, request(CHAT, "quick", f"{dice.random()}"), key=BOB))
                        await asyncio.sleep(0.05)
                        return
                    wire, body = mixed(dice, ["talk", "quick"], f"{number} asks {dice.random()}")
                    answer = await many.ask(wire, body)
                    if answer.status == 503:
                        refused_s.append(answer.took_s)
                        await asyncio.sleep(0.2)

                await keep_busy(12, work, seed, stop)
                figures["calls"] = sum(many.outcomes.values())
                figures["put off"] = sum(many.outcomes[kind] for kind in AWAY)
                expected = {"200", "400 team_budget_exceeded", *AWAY}
                figures["unexpected"] = {kind: n for kind, n in many.outcomes.items() if kind not in expected}

        thread = threading.Thread(target=lambda: asyncio.run(load()), daemon=True)
        thread.start()
        until = time.monotonic() + 0.8 * LENGTH_S
        times = 0
        while time.monotonic() < until:
            time.sleep(dice.uniform(0.5, 1.5))
            FAULTS[fault](redis, dice)
            began = time.monotonic()
            serves_again(two.gateway)
            recovered_s.append(time.monotonic() - began)
            times += 1
        stop.set = True
        thread.join(60)
        assert not thread.is_alive()
        books = balance(two.gateway, provider)
    assert not figures.pop("unexpected"), figures
    assert {a.status for a in bobs} <= {400, 503}, "a budget that is used up admitted somebody"
    assert max(recovered_s) < 5 + SLACK_S
    assert percentile(refused_s or [0.0], 0.99) < TIMEOUT_S + 1 + SLACK_S
    figures |= {
        "times": times,
        "refused within": f"p99 {percentile(refused_s or [0.0], 0.99):.2f} s",
        "serves again after": f"{max(recovered_s):.1f} s at most",
        **books.figures(),
    }


def use_up(two: Site) -> None:
    """Spend all that bob has."""
    for _ in range(200):
        if two.gateway.post(request(CHAT, "talk", "spend it"), key=BOB)[0] != 200:
            return
    raise AssertionError("bob's budget does not end")


def serves_again(gateway: ProcessGateway) -> None:
    """Wait until a call is served."""
    body = request(CHAT, "quick", "are you there?")
    wait_until(lambda: gateway.post(body)[0] == 200, 30, "service")


# -- callers who leave while Redis is slow --------------------------------------------------------------


TENANTS = 500


def test_no_tenant_ever_sees_anothers_words(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """500 tenants behind one key over a slow network to Redis, each with a word and an address of its own; every
    third call is broken off at a random moment."""
    provider.script("say", lambda ask: Reply(f"You said: {ask.last_user_text}", chunks=6, chunk_delay_s=0.01))
    provider.script("fail", Reply("never", status=500, error={"message": "down"}))
    screens = "screening: {pii: {mode: enforce, entities: [EMAIL_ADDRESS], action: pseudonymise}}\n"
    extra = TEAM_BUDGET + screens
    policy = policy_for(provider, extra).replace("{mode: keys}", "{mode: keys, user_from: header}")
    wrong: list[str] = []
    own = [0]

    async def load(url: str) -> Callers:
        async with callers(url) as many:
            until = time.monotonic() + LENGTH_S
            stop = Stop()

            async def work(number: int, dice: random.Random, stop: Stop) -> None:
                tenant = dice.randrange(TENANTS)
                word, address = f"canary{tenant:04d}x", f"someone{tenant:04d}@example.org"
                text = f"My word is {word} and I am {address}. {dice.random()}"
                wire = WIRES[dice.choice(list(WIRES))]
                script = "fail" if dice.random() < 0.05 else "say"
                body = request(wire, script, text, stream=dice.random() < 0.5)
                call = many.ask(wire, body, x_guardrail_user_id=f"tenant-{tenant}")
                if dice.random() < 0.33:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(call, dice.uniform(0.01, 0.3))
                else:
                    answer = await call
                    said = wire.read(answer.raw).text if answer.status == 200 else ""
                    if answer.status == 200 and word in said and address in said:
                        own[0] += 1
                    others = set(re.findall(rb"canary\d{4}x|someone\d{4}@", answer.raw))
                    if others - {word.encode(), f"someone{tenant:04d}@".encode()}:
                        wrong.append(f"tenant {tenant} got {others}")
                stop.set = time.monotonic() > until

            await keep_busy(48, work, seed, stop)
            return many

    with beside(FaultProxy(redis.port, delay_s=0.02)) as proxy:
        with site(tmp_path, policy, redis, store_url=proxy.url) as two:
            serving_workers(two.gateway, 2)
            many = asyncio.run(load(two.url))
            wait_until(lambda: in_flight(two.gateway) == 0, 30, "end of every call")
            connections = proxy.connections
            books = balance(two.gateway, provider)
        # One for commands and one for kills each, with what starting takes.
        assert connections <= 2 * (2 + 2)
    assert wrong == []
    assert own[0] > 20
    leaked = [a for a in provider.journal if re.search(rb"someone\d{4}@example\.org", a.body)]
    assert leaked == [], "an address went upstream as it was"
    figures |= {
        "calls": sum(many.outcomes.values()) + 0,
        "answered with their own words": own[0],
        "with another's": len(wrong),
        "connections to Redis at the end": connections,
        **books.figures(),
    }


def in_flight(gateway: ProcessGateway) -> float:
    """Requests that some worker is busy with."""
    _, _, raw = gateway.request("GET", "/metrics", key=gateway.admin_token)
    found = re.findall(rb"^gateway_in_flight_requests(?:\{[^}]*\})? ([\d.e+]+)$", raw, re.MULTILINE)
    assert found
    return sum(float(value) for value in found)


# -- kills ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deaf", [False, True], ids=["pushed", "push lost"])
def test_a_kill_is_obeyed_by_every_worker(
    deaf: bool, provider: ProviderServer, redis: RedisServer, tmp_path: Path, figures: dict[str, Any]
) -> None:
    """Four workers, 80 streams of two teams; one team is killed and revived, again and again. With `push lost`
    nothing that Redis publishes arrives."""
    provider.script("quick", Reply("quick"))
    provider.script("slow", Reply("word " * 6000, chunks=6000, chunk_delay_s=0.02, ignore_limits=True))
    obeyed: list[float] = []
    aborted: list[float] = []
    refused = 0

    async def rounds(four: Site) -> None:
        nonlocal refused
        until = time.monotonic() + LENGTH_S
        async with callers(four.url) as many:
            while time.monotonic() < until:
                begun = len(provider.journal)

                async def one(number: int, key: str = ALICE) -> tuple[Answer, float]:
                    wire = WIRES[list(WIRES)[number % 3]]
                    body = request(wire, "slow", f"of {key} {number}", stream=True, max_tokens=4000)
                    return await many.ask(wire, body, key=key), time.monotonic()

                reds = [asyncio.create_task(one(n)) for n in range(60)]
                blues = [asyncio.create_task(one(n, BOB)) for n in range(20)]
                async with asyncio.timeout(30):
                    while provider.journal.active < 80:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
                began, wall = time.monotonic(), time.time() * 1000
                await asyncio.to_thread(
                    four.gateway.admin, "POST", "/kills", {"scope": "team", "id": "red", "reason": "enough"}
                )
                for answer, ended in await asyncio.gather(*reds):
                    assert answer.code == "team_killed", (answer.status, answer.raw[-500:])
                    obeyed.append(ended - began)
                for n in range(12):
                    answer = await many.ask(CHAT, request(CHAT, "quick", f"again {n}"))
                    assert (answer.status, answer.code) == (400, "team_killed")
                    refused += 1
                assert not any(task.done() for task in blues), "the other team's streams ended too"
                for task in blues:
                    task.cancel()
                await asyncio.gather(*blues, return_exceptions=True)
                await asyncio.to_thread(provider.wait_idle_blocking, timeout_s=20)
                aborted.extend(
                    a.client_left_at - wall
                    for a in list(provider.journal)[begun:]
                    if a.client_left_at is not None and ALICE.encode() in a.body
                )
                await asyncio.to_thread(four.gateway.admin, "DELETE", "/kills/team/red")
                await until_revived(many)

    proxy = DeafProxy(redis.port)
    proxy.deaf = deaf
    with (
        beside(proxy),
        site(tmp_path, policy_for(provider, TEAM_BUDGET), redis, workers="4", store_url=proxy.url) as four,
    ):
        serving_workers(four.gateway, 4)
        asyncio.run(rounds(four))
        books = balance(four.gateway, provider)
    assert (proxy.lost > 0) == deaf
    bound = 2.0 if deaf else 1.0
    assert max(obeyed) < bound + SLACK_S
    assert len(aborted) == len(obeyed)
    figures |= {
        "streams killed": len(obeyed),
        "ended after": f"p50 {1000 * percentile(obeyed, 0.5):.0f} ms, at most {1000 * max(obeyed):.0f} ms",
        "upstream stopped after": f"at most {max(aborted):.0f} ms",
        "refused afterwards": refused,
        **books.figures(),
    }
    if deaf:
        figures["messages lost"] = proxy.lost


async def until_revived(many: Callers) -> None:
    """Wait until every worker serves the team again."""
    in_a_row = 0
    async with asyncio.timeout(20):
        while in_a_row < 12:
            answer = await many.ask(CHAT, request(CHAT, "quick", "revived?"))
            in_a_row = in_a_row + 1 if answer.status == 200 else 0


# -- every error by every rule --------------------------------------------------------------------------


def test_every_error_of_redis_by_every_rule(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, figures: dict[str, Any]
) -> None:
    """Each answer that Redis can give instead of what was asked for, before budgets, rates and kills, plain and
    streaming: a refusal in time, nothing sent upstream, and service again when Redis is well."""
    provider.script("quick", Reply("quick"))
    rules = {
        "a budget": TEAM_BUDGET,
        "a shadow budget": "budgets: [{name: team, per: team, limit_usd: 1000, mode: shadow}]\n",
        "a rate": TEAM_BUDGET + "rates: [{name: calls, per: team, requests_per_minute: 100000}]\n",
    }
    said = {**ERRORS, "no answer": NO_ANSWER, "connection refused": REFUSED}
    verdicts: set[tuple[int, str | None]] = set()
    slowest = back = 0.0
    for number, extra in enumerate(rules.values()):
        with beside(FalseRedis(redis.port)) as false:
            redis.client().flushall()
            provider.journal.clear()
            with site(
                tmp_path / str(number), policy_for(provider, extra), redis, workers="1", store_url=false.url
            ) as one:
                one.gateway.admin("POST", "/kills", {"scope": "team", "id": "blue", "reason": "test"})
                assert one.gateway.post(request(CHAT, "quick", "hello"))[0] == 200
                for name, answer in said.items():
                    arrived = provider.journal.received
                    false.says = answer
                    for stream in (False, True):
                        began = time.monotonic()
                        status, headers, raw = one.gateway.post(request(CHAT, "quick", name, stream=stream))
                        slowest = max(slowest, time.monotonic() - began)
                        verdicts.add((status, CHAT.read(raw).error))
                        assert status == 503, (name, raw)
                        assert headers["retry-after"]
                        status, _, raw = one.gateway.post(request(CHAT, "quick", name), key=BOB)
                        assert status in (400, 503), "a known kill was forgotten"
                    assert provider.journal.received == arrived, f"{name}: something was sent"
                    assert one.gateway.request("GET", "/healthz")[0] == 200
                    assert one.gateway.request("GET", "/readyz")[0] == 503
                    false.says = None
                    began = time.monotonic()
                    serves_again(one.gateway)
                    back = max(back, time.monotonic() - began)
                    assert one.gateway.post(request(CHAT, "quick", name), key=BOB)[0] == 400
                balance(one.gateway, provider, budget=None if "shadow" in extra else "team")
    assert verdicts == {(503, "budget_store_unavailable")}
    assert slowest < TIMEOUT_S + 1 + SLACK_S
    assert back < 5 + SLACK_S
    figures |= {
        "errors x rules": f"{len(said)} x {len(rules)}",
        "refused": "all, 503 budget_store_unavailable",
        "slowest refusal": f"{slowest:.2f} s",
        "serves again after": f"{back:.1f} s at most",
    }


# -- everybody at once ----------------------------------------------------------------------------------


CROWD = 2000


def test_a_crowd_after_a_restart(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """2,000 callers wait, each asking again as it is told, while Redis is dead; it comes back empty."""
    provider.script("quick", Reply("quick"))
    with site(tmp_path, policy_for(provider, TEAM_BUDGET), redis, workers="4") as four:
        serving_workers(four.gateway, 4)
        for n in range(20):
            assert four.gateway.post(request(CHAT, "quick", f"before {n}"))[0] == 200
        wait_until(lambda: len(ledger(four.gateway.data_dir)) == 20, what="the ledger")
        redis.kill()
        served_at: list[float] = []
        tries = [0]

        async def wait_and_ask(many: Callers, number: int) -> None:
            dice = random.Random(f"{seed}/{number}")
            await asyncio.sleep(dice.uniform(0, 2))
            while True:
                tries[0] += 1
                answer = await many.ask(CHAT, request(CHAT, "quick", f"caller {number}"), timeout_s=60)
                if answer.status == 200:
                    served_at.append(time.monotonic())
                    return
                assert answer.status in (0, 503), (answer.status, answer.raw)
                await asyncio.sleep(float(answer.headers.get("retry-after", "1")) * dice.uniform(0.75, 1.25))

        async def crowd() -> float:
            async with callers(four.url) as many:
                tasks = [asyncio.create_task(wait_and_ask(many, n)) for n in range(CROWD)]
                await asyncio.sleep(4)
                await asyncio.to_thread(redis.start)
                back = time.monotonic()
                async with asyncio.timeout(120):
                    await asyncio.gather(*tasks)
                return back

        back = asyncio.run(crowd())
        books = balance(four.gateway, provider)
        assert len(workers_of(four.gateway)) == 4
    waits = [at - back for at in served_at]
    assert len(waits) == CROWD
    figures |= {
        "callers": CROWD,
        "calls until all were served": tries[0],
        "served after Redis was back": f"p50 {percentile(waits, 0.5):.1f} s, p99 {percentile(waits, 0.99):.1f} s",
        **books.figures(),
    }
