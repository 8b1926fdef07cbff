"""What the long scenarios have in common: a gateway of several processes before a simulated provider, callers
without number, and the books held against each other at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from gateway.testing import Attempt, ProviderServer
from tests.support.gateway import ALICE, BOB, ProcessGateway, process_gateway, wait_until
from tests.support.redis_server import RedisServer
from tests.support.wire import WIRES, Wire

IN, OUT = 2_500, 10_000
"""Nano-dollars per token of every model here."""
LENGTH_S = float(os.environ.get("CHAOS_S", "20"))
"""How long a scenario keeps the load up."""
SLACK_S = 4.0
"""What two busy cores may add to every bound in seconds."""
TEAM_BUDGET = "budgets: [{name: team, per: team, limit_usd: 1000}]\n"
"""Never reached: it gives each team a counter that can be held against the ledger."""
_PRICE = "{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}"

Json = dict[str, Any]


def policy_for(provider: ProviderServer, extra: str = "", *, of_provider: str = "") -> str:
    """Every script of the provider as `sim/*` by OpenAI's APIs and as `claude/*` by Anthropic's; alice in team
    red, bob in team blue; no retries unless `extra` brings a `routing`, no breaker unless `of_provider` does."""
    more = ("" if "breaker:" in of_provider else ", breaker: null") + (of_provider and f", {of_provider}")
    routing = "" if "routing:" in extra else "routing: {retries: null}\n"
    return f"""
version: 1
providers:
  openai: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000{more}}}
  claude: {{dialect: anthropic, base_url: "{provider.origin}", api_key: sk-upstream-secret-000000000000{more}}}
models:
  "sim/*": {{provider: openai, price: {_PRICE}}}
  "claude/*": {{provider: claude, upstream_model: "sim/*", price: {_PRICE}}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
  - {{name: bob, key: {BOB}, user: bob, team: blue}}
{routing}{extra}"""


# -- callers ------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a caller got: status 0 where the connection broke or nobody listened."""

    status: int
    raw: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0
    left: bool = False
    """The caller left on purpose."""
    broken: str = ""
    """How the connection ended, where not as it should."""
    wire: Wire | None = None

    @property
    def code(self) -> str | None:
        """The error's code, in a body or at the end of a stream."""
        if self.wire is None or not self.raw:
            return None
        try:
            return self.wire.read(self.raw).error
        except (ValueError, KeyError, IndexError, TypeError):
            return None


def request(
    wire: Wire, script: str, text: str, *, stream: bool = False, max_tokens: int = 200, **more: Any
) -> Json:
    """A first request on a surface for a script of the provider."""
    model = f"claude/{script}" if wire.name == "messages" else f"sim/{script}"
    limit = "max_output_tokens" if wire.name == "responses" else "max_tokens"
    return wire.request(model, text, **{"stream": stream, limit: max_tokens, **more})


class Callers:
    """Calls to a gateway over as many connections as needed; counts what came of them."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session
        self.outcomes: Counter[str] = Counter()
        """By status, and code where there is one."""
        self.slowest_s: dict[int, float] = {}
        """By status."""

    async def ask(
        self,
        wire: Wire,
        body: Json | bytes,
        *,
        key: str = ALICE,
        leave_after: int | None = None,
        timeout_s: float = 60.0,
        path: str = "",
        **headers: str,
    ) -> Answer:
        """One call. `leave_after`: break the connection after so many pieces of a stream. Never raises for
        what a gateway in trouble does to its callers."""
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in {**wire.headers, **headers}.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = Answer(0, wire=wire)
        began = time.monotonic()
        try:
            async with self._session.post(
                self.url + (path or wire.path),
                data=data,
                headers=sent,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                answer.status = response.status
                answer.headers = {name.lower(): value for name, value in response.headers.items()}
                pieces = 0
                async for piece in response.content.iter_any():
                    answer.raw += piece
                    pieces += piece.count(b"\n\n")
                    if leave_after is not None and pieces >= leave_after:
                        answer.left = True
                        response.close()
                        break
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            answer.broken = type(error).__name__
        answer.took_s = time.monotonic() - began
        self.slowest_s[answer.status] = max(self.slowest_s.get(answer.status, 0.0), answer.took_s)
        self.outcomes[self._outcome(answer)] += 1
        return answer

    @staticmethod
    def _outcome(answer: Answer) -> str:
        if answer.left:
            return "left"
        if answer.broken:
            return f"broken {answer.broken}"
        code = answer.code if answer.status != 200 or b"error" in answer.raw[-2000:] else None
        return f"{answer.status} {code}" if code else str(answer.status)


@contextlib.asynccontextmanager
async def callers(url: str) -> AsyncIterator[Callers]:
    """Callers of a gateway, each call over a connection of its own where it has to be."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Callers(url, session)


class Stop:
    """Tells loops of callers when it is enough."""

    def __init__(self) -> None:
        self.set = False

    def __bool__(self) -> bool:
        return self.set


async def keep_busy(
    count: int, work: Callable[[int, random.Random, Stop], Awaitable[None]], seed: int, stop: Stop
) -> None:
    """So many callers at once, each again and again until told to stop, each with random numbers of its own."""

    async def go_on(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        while not stop:
            await work(number, dice, stop)

    await asyncio.gather(*(go_on(number) for number in range(count)))


def mixed(dice: random.Random, scripts: Sequence[str], text: str) -> tuple[Wire, Json]:
    """A request on any conversational surface, streaming or not."""
    wire = WIRES[dice.choice(list(WIRES))]
    return wire, request(wire, dice.choice(scripts), text, stream=dice.random() < 0.6)


# -- books --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An attempt in the ledger."""

    id: str
    cost: int
    provisional: bool
    team: str | None
    source: str
    outcome: str
    reserved: int


def ledger(data_dir: Path) -> dict[str, Row]:
    """Every attempt, read from the database itself and not through the gateway."""
    with contextlib.closing(sqlite3.connect(f"file:{data_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        db.execute("PRAGMA busy_timeout = 5000")
        rows = db.execute("SELECT id, cost, provisional, team, extra FROM gw_steps WHERE kind = 'attempt'")
        found: dict[str, Row] = {}
        for id_, cost, provisional, team, extra in rows:
            more = json.loads(extra)
            assert id_ not in found
            found[id_] = Row(
                id_,
                cost,
                bool(provisional),
                team,
                str(more.get("cost_source")),
                str(more.get("outcome")),
                int(more.get("reserved") or 0),
            )
        return found


def truth(attempt: Attempt) -> int:
    """What the provider bills for an attempt."""
    return attempt.served.input_uncached * IN + attempt.served.output_total * OUT


def nano(text: str) -> int:
    """A decimal of US dollars in nano-dollars."""
    whole, _, part = text.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0"))


def counters(gateway: ProcessGateway, name: str = "team") -> dict[str, tuple[int, int]]:
    """(used, reserved) of each team, as the store has it; of the budget of that name."""
    found = {}
    for team in ("red", "blue"):
        for row in gateway.admin("GET", f"/budgets?per=team&id={team}")["data"]:
            if row["name"] == name:
                found[team] = (nano(row["used_usd"]), nano(row["reserved_usd"]))
    return found


@dataclass(frozen=True)
class Books:
    """Ledger and journal, held against each other."""

    served: int
    """Attempts in the provider's journal."""
    exact: int
    """Of those, how many cost to the nano-dollar what the provider bills."""
    above: int
    """And how many cost more: counted conservatively, since their end was not seen."""
    ghosts: int
    """Attempts in the ledger that never reached the provider."""
    journal_usd: float
    ledger_usd: float

    def figures(self) -> Json:
        """As they stand in the table."""
        return {
            "attempts": self.served,
            "billed exactly": self.exact,
            "billed above": self.above,
            "ledger / journal": f"${self.ledger_usd:.4f} / ${self.journal_usd:.4f}",
        }


def balance(
    gateway: ProcessGateway,
    providers: ProviderServer | Sequence[ProviderServer],
    *,
    within_s: float = 60.0,
    budget: str | None = "team",
) -> Books:
    """Wait until all is settled, and hold the books against each other.

    Every attempt that a provider has served is in the ledger once, for no less than was served, and for
    exactly that where the provider's usage was seen; nothing is reserved any more, and the counters of the
    store are the sums of the ledger. Fails where that does not come true.
    """
    if isinstance(providers, ProviderServer):
        providers = [providers]
    for provider in providers:
        provider.wait_idle_blocking(timeout_s=60)
    served = {str(a.guardrail_attempt_id): a for provider in providers for a in provider.journal}
    assert len(served) == sum(len(p.journal) for p in providers), "an attempt id was used twice"

    def settled() -> bool:
        time.sleep(0.2)  # what is asked below is much work for a gateway that still settles
        rows = ledger(gateway.data_dir)
        if not set(served) <= set(rows):
            return False
        if budget is None:
            return True
        sums: Counter[str] = Counter()
        for row in rows.values():
            sums[str(row.team)] += row.cost
        try:
            known = counters(gateway, budget)
        except OSError:
            return False
        return all(known.get(team) == (total, 0) for team, total in sums.items())

    try:
        wait_until(settled, within_s, "balance")
    except TimeoutError:
        raise AssertionError(_difference(gateway, served, budget)) from None
    rows = ledger(gateway.data_dir)
    exact = above = 0
    for id_, attempt in served.items():
        row, bill = rows[id_], truth(attempt)
        assert row.cost >= bill, f"{row} is below what was served: {bill}, {attempt}"
        if row.source == "provider":
            assert row.cost == bill, f"{row}: the provider's own usage says {bill}, {attempt}"
        exact += row.cost == bill
        above += row.cost > bill
    ghosts = [row for id_, row in rows.items() if id_ not in served]
    return Books(
        len(served),
        exact,
        above,
        len(ghosts),
        sum(truth(a) for a in served.values()) / 1e9,
        sum(row.cost for row in rows.values()) / 1e9,
    )


def _difference(gateway: ProcessGateway, served: dict[str, Attempt], budget: str | None) -> str:
    """What does not agree, in one sentence each."""
    rows = ledger(gateway.data_dir)
    sums: Counter[str] = Counter()
    for row in rows.values():
        sums[str(row.team)] += row.cost
    missing = sorted(set(served) - set(rows))
    said = [f"{len(served)} attempts served, {len(rows)} in the ledger, {len(missing)} of the served missing"]
    said += [f"missing: {served[id_]}" for id_ in missing[:3]]
    said.append(f"sums of the ledger: {dict(sums)}")
    if budget is not None:
        try:
            said.append(f"counters (used, reserved): {counters(gateway, budget)}")
        except OSError as error:
            said.append(f"counters: {error}")
    said.append("log: " + gateway.log_path.read_text()[-3000:])
    return "; ".join(said)


# -- gateways -----------------------------------------------------------------------------------------


class Site:
    """A gateway of several workers on a Redis of its own, that can be started, killed and started again on
    the same data and the same port."""

    def __init__(self, directory: Path, policy: str, redis: RedisServer | None, **options: str) -> None:
        self.directory = directory
        self.policy = policy
        self.redis = redis
        self.options: dict[str, Any] = {"workers": "2", "lease_s": "3", "drain_s": "2", **options}
        if redis is not None:
            self.options.setdefault("store_url", redis.url)
        self.starts = 0
        self._stack = ExitStack()
        self._gateway: ProcessGateway | None = None
        self._port: int | None = None

    @property
    def gateway(self) -> ProcessGateway:
        """The one that runs."""
        assert self._gateway is not None
        return self._gateway

    @property
    def url(self) -> str:
        return self.gateway.url

    def start(self) -> ProcessGateway:
        """Start it, on the port and the data of the last time."""
        self.starts += 1
        self._gateway = self._stack.enter_context(
            process_gateway(
                self.policy,
                self.directory / f"start{self.starts}",
                port=self._port,
                data_dir=self.directory / "data",
                **self.options,
            )
        )
        self._port = self._gateway.port
        return self._gateway

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        self.gateway.kill()
        self.gateway.wait()
        self._stack.close()

    def stop(self, within_s: float = 30.0) -> float:
        """SIGTERM; seconds until it had ended. Its exit code has to be 0."""
        asked = time.monotonic()
        assert self.gateway.process is not None
        self.gateway.process.send_signal(signal.SIGTERM)
        assert self.gateway.wait(within_s) == 0
        took = time.monotonic() - asked
        self._stack.close()
        return took

    def workers(self) -> list[psutil.Process]:
        """Its worker processes, screening processes aside."""
        return workers_of(self.gateway)

    def close(self) -> None:
        """End whatever runs."""
        self._stack.close()


def workers_of(gateway: ProcessGateway) -> list[psutil.Process]:
    """The workers of a gateway that has more than one."""
    assert gateway.process is not None
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(gateway.process.pid).children():
            with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if any("spawn_main" in part for part in child.cmdline()):
                    found.append(child)
    return found


@contextlib.contextmanager
def site(directory: Path, policy: str, redis: RedisServer | None, **options: str) -> Iterator[Site]:
    """A started `Site` that ends with the block."""
    made = Site(directory, policy, redis, **options)
    try:
        made.start()
        yield made
    finally:
        made.close()


def serving_workers(gateway: ProcessGateway, count: int) -> None:
    """Wait until so many workers have said that they serve."""
    wait_until(lambda: gateway.log_path.read_text().count(" serves policy ") >= count, 60, "workers")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def memory_and_files(processes: Sequence[psutil.Process]) -> tuple[int, int]:
    """(resident bytes, open file descriptors) of processes together."""
    return sum(p.memory_info().rss for p in processes), sum(p.num_fds() for p in processes)


def tree(gateway: ProcessGateway) -> list[psutil.Process]:
    """The gateway's process and all below it."""
    assert gateway.process is not None
    head = psutil.Process(gateway.process.pid)
    return [head, *head.children(recursive=True)]
