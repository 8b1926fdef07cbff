"""How the store finds its server and is let in: sentinels that lie or are dead, TLS, a user with few rights,
settings of every node. Real failovers are in `test_redis_failover`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import hiredis
import pytest

from gateway.admission import Admitted, BreakerRule, CounterState, Ending, Kill, Quota, Rate
from gateway.doctor import of_redis
from gateway.errors import StoreUnavailable
from gateway.journal import Journal
from gateway.steps.settling import Settler
from gateway.stores.embedded_breakers import BREAKER_MEMORY
from gateway.stores.redis import RedisStore
from gateway.stores.redis_facts import ahead_ms, attempts, redis_facts
from gateway.stores.redis_where import POLL_S
from gateway.stores.redis_wire import pack
from tests.integration.stores.conftest import acl_rules, let_in
from tests.support import store_values as make
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


class Books:
    """A ledger in which 900 of `spent` is used; whose attempts it has is up to the test."""

    def __init__(self, *attempts: str) -> None:
        self.attempts = set(attempts)
        self.spent = 900
        self.reads = 0

    async def used(self, now: int) -> dict[str, tuple[int, int]]:
        self.reads += 1
        return {"spent": (self.spent, 0)}

    async def has(self, attempt_id: str) -> bool:
        return attempt_id in self.attempts


@contextlib.asynccontextmanager
async def opened(url: str, books: Books | None = None, **options: object) -> AsyncIterator[RedisStore]:
    books = books or Books()
    store = RedisStore(
        url,
        worker_id=str(options.pop("worker", "w1")),
        used_counters=books.used,
        in_ledger=books.has,
        timeout_s=float(str(options.pop("timeout_s", 0.5))),
        drained=options.pop("drained", lambda _attempt: None),  # type: ignore[arg-type]  # a callable
    )
    assert not options
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def spends(store: RedisStore, name: str, cost: int = 100) -> Admitted:
    """A first step of a run of this name."""
    await store.resolve(make.lookup(name, retry_key=name))
    answer = await store.admit(
        make.admission(f"at-{name}", name, make.charge("spent", 10**9), cost=cost, retry_key=name)
    )
    assert isinstance(answer, Admitted)
    return answer


async def eventually(holds: Callable[[], object], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


async def in_the_end_spends(store: RedisStore, within_s: float = 15.0) -> str:
    """Try again until a step is admitted; its run."""
    async with asyncio.timeout(within_s):
        for n in range(10_000):
            with contextlib.suppress(StoreUnavailable):
                await spends(store, f"again-{n}")
                return f"again-{n}"
            await asyncio.sleep(0.02)
    raise AssertionError


# -- sentinels ------------------------------------------------------------------------------------------


class ScriptedSentinel:
    """Answers as one, with what the test makes it say."""

    def __init__(self, port: int, epoch: int, *, password: str = "") -> None:
        self.names = port
        self.epoch = epoch
        self.password = password
        self.refusal = b""
        self.silent = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        let_in = not self.password
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                if self.silent:
                    continue
                if command[0].upper() == b"AUTH":
                    let_in = command[-1] == self.password.encode()
                    writer.write(b"+OK\r\n" if let_in else b"-WRONGPASS wrong\r\n")
                else:
                    writer.write(self._answer(command) if let_in else b"-NOAUTH Authentication required.\r\n")

    def _answer(self, command: list[bytes]) -> bytes:
        if self.refusal:
            return self.refusal
        if command[-1] != b"mymaster":
            return (
                b"*-1\r\n"
                if command[1] == b"GET-MASTER-ADDR-BY-NAME"
                else b"-ERR No such master with that name\r\n"
            )
        if command[1] == b"GET-MASTER-ADDR-BY-NAME":
            return pack("127.0.0.1", self.names)
        if command[1] == b"MASTER":
            return pack("name", "mymaster", "config-epoch", self.epoch)
        return b"*0\r\n"


def by(*sentinels: ScriptedSentinel | int, scheme: str = "redis+sentinel", more: str = "") -> str:
    ports = [each if isinstance(each, int) else each.port for each in sentinels]
    return f"{scheme}://{','.join(f'127.0.0.1:{port}' for port in ports)}/mymaster/0{more}"


@pytest.fixture(scope="module")
def second() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def servers(empty_redis: RedisServer, second: RedisServer) -> tuple[RedisServer, RedisServer]:
    """Two masters that know nothing of each other, empty."""
    second.client().replicaof("NO", "ONE")
    second.flushall()
    return empty_redis, second


def is_used(server: RedisServer) -> bool:
    """By a gateway, whose connection has a name."""
    return any(client["name"] == "gateway" for client in server.client().client_list())


async def test_dead_and_silent_sentinels_do_not_matter_while_one_answers(
    servers: tuple[RedisServer, RedisServer],
) -> None:
    async with ScriptedSentinel(servers[0].port, 1) as living, ScriptedSentinel(1, 1) as silent:
        silent.silent = True
        async with opened(by(free_port(), silent, living)) as store:
            await spends(store, "run-1")
            assert is_used(servers[0])
            assert servers[0].client().exists("{gw}:run:run-1")
            # What is known stays good when the last one is gone.
            living.die()
            await spends(store, "run-2")


async def test_a_sentinel_that_is_behind_is_outvoted_by_the_newest_epoch(
    servers: tuple[RedisServer, RedisServer],
) -> None:
    stale, new = servers
    async with (
        ScriptedSentinel(stale.port, 4) as one,
        ScriptedSentinel(stale.port, 4) as two,
        ScriptedSentinel(new.port, 5) as three,
        opened(by(one, two, three)) as store,
    ):
        await spends(store, "run-1")
        assert is_used(new)
        assert not is_used(stale)


async def test_whoever_is_named_has_to_be_a_master(servers: tuple[RedisServer, RedisServer]) -> None:
    _, new = servers
    with RedisServer("--replicaof", "127.0.0.1", str(new.port)) as replica:
        for named in (replica.port, free_port()):
            async with (
                ScriptedSentinel(named, 9) as liar,
                ScriptedSentinel(new.port, 5) as honest,
                opened(by(liar, honest)) as store,
            ):
                await spends(store, f"run-{named}")
                assert is_used(new)
                assert not is_used(replica)
        async with ScriptedSentinel(replica.port, 9) as liar:
            store = RedisStore(by(liar), worker_id="w1", connect_timeout_s=0.3)
            with pytest.raises(StoreUnavailable, match="READONLY: this Redis is a replica"):
                await store.start()
            await store.close()


async def test_a_master_that_was_replaced_while_it_lives_on_is_left_within_seconds(
    servers: tuple[RedisServer, RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    old, new = servers
    heard: list[Kill] = []
    async with ScriptedSentinel(old.port, 1) as one, ScriptedSentinel(old.port, 1) as two:  # noqa: SIM117
        async with opened(by(one, two)) as store:
            await store.on_kill(heard.append)
            await spends(store, "run-1")
            one.names, one.epoch = new.port, 2
            await eventually(lambda: is_used(new) and not is_used(old))
            assert await in_the_end_spends(store)
            # What only one of them still says does not send us back.
            await asyncio.sleep(1.5 * POLL_S)
            assert caplog.text.count("name 127.0.0.1:") == 1
            await eventually(lambda: new.client().pubsub_numsub("{gw}:kills")[0][1] == 1)
            assert old.client().pubsub_numsub("{gw}:kills")[0][1] == 0
            new.client().publish("{gw}:kills", '{"name":"x","reason":"y","from":"w2"}')
            await eventually(lambda: heard == [Kill("x", "y")])


async def test_what_sentinels_say_instead_is_told(servers: tuple[RedisServer, RedisServer]) -> None:
    async def refusal(url: str) -> str:
        store = RedisStore(url, worker_id="w1", connect_timeout_s=0.4)
        with pytest.raises(StoreUnavailable) as caught:
            await store.start()
        await store.close()
        return caught.value.message

    port = servers[0].port
    async with (
        ScriptedSentinel(port, 1) as plain,
        ScriptedSentinel(port, 1, password="s3cret") as locked,
        ScriptedSentinel(port, 1) as closed,
    ):
        closed.refusal = b"-NOPERM this user has no permissions to run the 'sentinel' command\r\n"
        expected = {
            by(plain).replace("mymaster", "other"): "knows no such master",
            by(locked): "says NOAUTH",
            by(locked, more="?sentinel_password=wr0ng"): "does not answer (WRONGPASS",
            by(closed): "says NOPERM",
        }
        said = await asyncio.gather(*map(refusal, expected))
        for told, meant in zip(said, expected.values(), strict=True):
            assert meant in told
            assert "wr0ng" not in told
        async with opened(by(locked, more="?sentinel_password=s3cret")) as store:
            await spends(store, "run-1")


# -- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def tls_options(authority: Authority, port: int, *more: str) -> tuple[str, ...]:
    pair = authority.issue(f"server-{port}", "127.0.0.1", "localhost")
    return (
        "--tls-port", str(port), "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key),
        "--tls-ca-cert-file", str(authority.certificate), *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[int]:
    """The TLS port of a server that wants no certificate of its callers."""
    port = free_port()
    options = tls_options(authority, port, "--tls-auth-clients", "no")
    with started(RedisServer(*options, "--bind", "127.0.0.1", "127.0.0.2")):
        yield port


@contextlib.contextmanager
def started(server: RedisServer) -> Iterator[None]:
    """A server that speaks TLS; programs that were built without it cannot be tried."""
    try:
        with server:
            yield
    except ConnectionRefusedError:
        if "REDIS_SERVER_PROGRAM" not in os.environ:
            raise
        pytest.skip("this server program speaks no TLS")


async def refused_because(url: str) -> str:
    store = RedisStore(url, worker_id="w1", timeout_s=1.0)
    with pytest.raises(StoreUnavailable) as caught:
        await store.start()
    await store.close()
    facts = await redis_facts(url)
    assert "error" in facts
    return caught.value.message


async def test_tls_is_verified_and_what_is_wrong_is_told(
    authority: Authority, encrypted: int, tmp_path: Path, empty_redis: RedisServer
) -> None:
    url = f"rediss://127.0.0.1:{encrypted}"
    trusted = f"{url}?ssl_ca_certs={authority.certificate}"
    async with opened(trusted) as store:
        await spends(store, "run-1")
    assert (await redis_facts(trusted))["role"] == "master"
    async with opened(f"{url}?ssl_cert_reqs=none") as store:
        await store.ping()

    by_another_name = f"rediss://127.0.0.2:{encrypted}?ssl_ca_certs={authority.certificate}"
    async with opened(f"{by_another_name}&ssl_check_hostname=false") as store:
        await store.ping()
    stranger = Authority(tmp_path, "another authority")
    expected = {
        url: "its certificate is not trusted",
        f"{url}?ssl_ca_certs={stranger.certificate}": "give its CA with ssl_ca_certs=FILE",
        by_another_name: "ssl_check_hostname=false",
        f"rediss://127.0.0.1:{empty_redis.port}": "redis:// instead of rediss://",
        f"redis://127.0.0.1:{encrypted}": "one that wants TLS does so: rediss://",
    }
    for said, told in zip(
        await asyncio.gather(*map(refused_because, expected)), expected.values(), strict=True
    ):
        assert told in said


async def test_a_server_that_wants_certificates_gets_ours(authority: Authority, tmp_path: Path) -> None:
    port = free_port()
    with started(RedisServer(*tls_options(authority, port, "--tls-auth-clients", "yes"))):
        url = f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}"
        ours = authority.issue("client")
        async with opened(f"{url}&ssl_certfile={ours.certificate}&ssl_keyfile={ours.key}") as store:
            await spends(store, "run-1")
        theirs = Authority(tmp_path, "another authority").issue("client")
        without, wrong = await asyncio.gather(
            refused_because(url),
            refused_because(f"{url}&ssl_certfile={theirs.certificate}&ssl_keyfile={theirs.key}"),
        )
        assert "it wants a certificate of ours: give ssl_certfile" in without
        assert "does not accept our certificate" in wrong


# -- a user with the fewest rights ----------------------------------------------------------------------


async def everything(store: RedisStore, server: RedisServer) -> None:
    """Calls that between them give every command that the store has, as a gateway would in its life."""
    admin = server.client()
    heard: list[Kill] = []
    await store.on_kill(heard.append)
    await store.ping()
    await store.resolve(make.lookup("run-1", name="nightly"))
    rate = Rate(
        "r", "user", "rate", enforced=True, requests_per_minute=9, tokens_per_minute=9_999, max_concurrency=9
    )
    charge = make.charge("spent", 10**9)
    admission = make.admission("a-1", "run-1", charge, rates=(rate,), kill_names=("run-1",), input_tokens=5)
    assert isinstance(await store.admit(admission), Admitted)
    await store.renew(["a-1"])
    await store.extend("a-1", 5)
    await store.settle(make.settlement("a-1", "run-1", 7, links=("link",), tokens=3))
    landing = Ending("run_budget_exceeded", "r", "run", 1, 1)
    await store.admit(replace(make.admission("a-2", "run-1"), landing=landing))
    await store._script("void", ["a-2"])
    await store.reap()
    await store.note(b"{}")
    await store.link("run-1", ["k"], 60_000)
    await store.stop_run("run-1", "killed", "enough")
    await store.confirm_events([event_id for event_id, _ in await store.take_events(10)])
    await store.set_kill(Kill("user:ann", "enough"), 60)
    await store.acknowledge_kill("user:ann", "w1", 1)
    assert await store.kill_acknowledgements("user:ann")
    assert await store.kills(["user:ann"])
    assert await store.clear_kill("user:ann")
    await store.remember({"o": b"x"}, 60_000)
    assert await store.recall(["o"])
    await store.forget_held({"run-9"}, set())
    await store.forget(["o"])
    await store.forget_runs(["run-1"])
    await store.forget_baseline("agent")
    await store.forget_acknowledgements(["user:ann"])
    await store.take([Quota("q", "run", "abc", 1, 1, enforced=True, window_ms=60_000, ttl_ms=1_000)])
    rule = BreakerRule(0.5, 1, 60_000, 1_000, 1)
    admin.zadd("{gw}:breakers", {f"b{n}": 9e12 for n in range(BREAKER_MEMORY)})
    await store.report("tool", rule, source="s", ok=0, failed=1)
    admin.delete("{gw}:breakers")
    await store.breakers()
    await store.probe("tool", rule)
    await store.reset_breaker("tool")
    await store.observe("agent", {"steps": 1.0}, 0.9)
    await store.baseline("agent")
    await store.counters(["spent"])
    await store.live_run("run-1")
    # Scripts that the server has forgotten, a database that lost its counters, a kill by another worker.
    admin.script_flush()
    await store.kills(["user:ann"])
    admin.delete("{gw}:epoch")
    await store.resolve(make.lookup("run-3", retry_key="x"))
    await eventually(lambda: admin.pubsub_numsub("{gw}:kills")[0][1] == 1, 2)
    heard.clear()
    admin.publish("{gw}:kills", '{"name":"x","reason":"y","from":"w2"}')
    await eventually(lambda: heard == [Kill("x", "y")], 2)


async def fails(server: RedisServer, url: str) -> str:
    """What goes wrong when everything is done by this URL; nothing when all is well."""
    server.flushall()
    server.client().script_flush()
    store = RedisStore(url, worker_id="w1", timeout_s=1.0, connect_timeout_s=0.5)
    try:
        await store.start()
        if store.warnings:
            return store.warnings[0]
        await everything(store, server)
    except (StoreUnavailable, TimeoutError) as error:
        return str(error) or type(error).__name__
    finally:
        await store.close()
    return ""


def test_the_documented_user_is_given_each_command_by_name() -> None:
    rules = acl_rules()
    commands = [rule for rule in rules if rule.startswith("+")]
    assert commands == sorted(commands)
    assert "-@all" in rules
    assert not [rule for rule in rules if "@" in rule and rule != "-@all"]
    tried = {
        (command[0] if command[0] != "SCRIPT" else "script|load").lower() for _, command in attempts("n")
    }
    assert {f"+{command}" for command in tried} | {"+ping", "+subscribe"} == set(commands)


async def test_the_documented_user_can_do_everything(empty_redis: RedisServer) -> None:
    assert await fails(empty_redis, let_in(empty_redis)) == ""
    facts = await redis_facts(let_in(empty_redis))
    assert facts["denied"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [rule for rule in acl_rules() if rule.startswith("+")] + ["resetchannels", "~{gw}:*", "~kill:*"]
)
async def test_every_right_of_the_documented_user_is_needed(
    rule: str, empty_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    if rule.startswith("+"):
        url = let_in(empty_redis, f"-{rule[1:]}")
    else:
        kept = {"~{gw}:*": "~kill:*", "~kill:*": "~{gw}:*"}.get(rule)
        url = let_in(empty_redis, rule if kept is None else "resetkeys", *([kept] if kept else []))
    said = await fails(empty_redis, url)
    assert said
    # The log or the doctor names what is missing.
    named = {"resetchannels": "subscribe", "~{gw}:*": "NOPERM", "~kill:*": "kill:"}.get(
        rule, rule[1:].split("|")[0]
    )
    denied = (await redis_facts(url)).get("denied", [])
    told = f"{said} {caplog.text} {denied}".lower()
    assert named.lower() in told


# -- settings of every node -----------------------------------------------------------------------------


async def test_a_replica_that_would_evict_is_warned_about(servers: tuple[RedisServer, RedisServer]) -> None:
    master, replica = servers

    class Knowing(ScriptedSentinel):
        def _answer(self, command: list[bytes]) -> bytes:
            if command[1] == b"REPLICAS":
                row = pack("name", "r", "ip", "127.0.0.1", "port", replica.port)
                return b"*1\r\n" + row
            return super()._answer(command)

    replica.client().replicaof("127.0.0.1", str(master.port))
    replica.client().config_set("maxmemory-policy", "volatile-ttl")
    try:
        async with Knowing(master.port, 1) as one, opened(by(one)) as store:
            await eventually(lambda: store.warnings)
            assert len(store.warnings) == 1
            assert "volatile-ttl" in store.warnings[0]
            assert store.warnings[0].endswith(f"(on 127.0.0.1:{replica.port}/0)")
            facts = await redis_facts(by(one))
            assert facts["nodes"] == [{"address": f"127.0.0.1:{replica.port}/0", "eviction": "volatile-ttl"}]
            (eviction,) = [finding for finding in of_redis(facts) if finding.id == "store.eviction"]
            assert (eviction.status, str(replica.port) in eviction.seen) == ("fail", True)
            assert abs(await ahead_ms(by(one)) or 0) < 60_000
    finally:
        replica.client().config_set("maxmemory-policy", "noeviction")


# -- settlements that Redis had taken and lost ----------------------------------------------------------


async def test_a_settlement_is_drained_once_its_event_was_written_to_the_ledger(
    empty_redis: RedisServer,
) -> None:
    drained: list[str] = []
    async with (
        opened(empty_redis.url, drained=drained.append) as store,
        opened(empty_redis.url, worker="w2") as other,
    ):
        for n in range(4):
            await spends(store, f"run-{n}")
            await store.settle(make.settlement(f"at-run-{n}", f"run-{n}", 5, retry_key=f"run-{n}"))
        assert drained == []
        settled = {
            event: event_id for event_id, event in await store.take_events(100) if b'"t":"attempt"' in event
        }
        assert drained == []
        first, *_ = settled.values()
        await store.confirm_events([first])
        assert drained == ["at-run-0"]
        # Another worker writes the rest, and this one finds them gone.
        await other.confirm_events([event_id for event_id, _ in await other.take_events(100)])
        assert await store.take_events(100) == []
        assert drained == [f"at-run-{n}" for n in range(4)]
        again = await store.settle(make.settlement("at-run-0", "run-0", 5, retry_key="run-0"))
        assert (again.known, again.applied) == (True, False)
        await store.take_events(100)
        assert drained[4:] == ["at-run-0"]


@pytest.mark.parametrize("lost", ["everything", "the settlements"])
async def test_settlements_that_redis_took_and_lost_are_made_again_once(
    empty_redis: RedisServer, lost: str
) -> None:
    """Acknowledged, and then gone with a server that had not saved or replicated them."""
    client = empty_redis.client()
    books = Books("at-run-1")
    async with (
        opened(empty_redis.url, books) as store,
        opened(empty_redis.url, books, worker="w2") as other,
    ):
        held = [await spends(store, f"run-{n}") for n in range(3)]
        assert (await store.counters(["spent"]))["spent"] == CounterState(900, 300)
        before = {key: client.dump(key) for key in client.keys("*")}
        for n, answer in enumerate(held):
            settlement = make.settlement(
                f"at-run-{n}", f"run-{n}", 10, holds=answer.holds, retry_key=f"run-{n}"
            )
            assert (await store.settle(settlement)).applied
        # The ledger has that of run-1 alone. Another worker fills the counters before this one notices.
        books.spent += 10
        client.flushall()
        if lost == "the settlements":
            for key, value in before.items():
                if key != b"{gw}:epoch":
                    client.restore(key, 0, value or b"")
        await in_the_end_spends(other)
        await store.take_events(100)
        await eventually(
            lambda: not store._recovery.doubtful and store._recovery.epoch == other._recovery.epoch
        )
        # 900 and the three settlements, and what the other worker holds now; no reservation is left of them.
        assert (await store.counters(["spent"]))["spent"] == CounterState(930, 100)
        for n in range(3):
            again = await store.settle(make.settlement(f"at-run-{n}", f"run-{n}", 10, retry_key=f"run-{n}"))
            assert not again.applied
        events = [event for _, event in await store.take_events(100)]
        assert [make.settlement(f"at-run-{n}", f"run-{n}", 10).event in events for n in range(3)] == [
            True,
            False,
            True,
        ]


async def test_a_worker_that_wrote_elsewhere_until_now_has_the_counters_filled_again(
    servers: tuple[RedisServer, RedisServer],
) -> None:
    """Two masters at once, each with gateways: what the loser took is in the ledger, and has to be in the counters."""
    old, new = servers
    books = Books()
    async with ScriptedSentinel(old.port, 1) as here, ScriptedSentinel(new.port, 2) as there:  # noqa: SIM117
        async with opened(by(here), books) as cut_off, opened(by(there), books, worker="w2") as other:
            await spends(other, "run-1")
            await spends(cut_off, "run-2")
            books.spent = 950
            reads = books.reads
            here.names, here.epoch = new.port, 2
            await eventually(lambda: is_used(new) and not is_used(old))
            await in_the_end_spends(cut_off)
            assert books.reads == reads + 1
            assert (await other.counters(["spent"]))["spent"] == CounterState(950, 300)
            assert await in_the_end_spends(other)
            assert books.reads == reads + 1


async def test_an_open_reservation_is_made_again_as_it_was(empty_redis: RedisServer) -> None:
    async with opened(empty_redis.url) as store, opened(empty_redis.url, worker="w2") as other:
        await store.resolve(make.lookup("run-1"))
        charge = make.charge("spent", 1_400)
        assert isinstance(await store.admit(make.admission("a-1", "run-1", charge, cost=100)), Admitted)
        ended = await store.admit(make.admission("ended", "run-1", charge, cost=100))
        assert isinstance(ended, Admitted)
        assert (await store.settle(make.settlement("ended", "run-1", 60, holds=ended.holds))).applied
        assert await store.extend("a-1", 150)
        empty_redis.flushall()
        # Found by the drain's look, before the other worker may admit anything.
        opening = asyncio.create_task(in_the_end_spends(other))
        await store.take_events(10)
        await opening
        await eventually(lambda: not store._recovery.doubtful and not store._recovery.unreserved)
        # The ledger's 900, the lost settlement, what is open here and there.
        assert (await other.counters(["spent"]))["spent"] == CounterState(960, 250 + 100)
        assert not await store.extend("a-1", 91)
        assert await store.extend("a-1", 90)
        assert (await store.settle(make.settlement("a-1", "run-1", 300))).applied
        assert (await other.counters(["spent"]))["spent"] == CounterState(1_260, 100)


async def test_the_journal_keeps_a_settlement_until_it_is_in_the_ledger(
    empty_redis: RedisServer, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, "w1")
    journal.start()

    def is_empty() -> bool:
        return journal.is_empty

    books = Books()
    async with opened(empty_redis.url, books, drained=journal.confirmed) as store:
        settler = Settler(store, journal, books.has, store_may_forget=True)
        held = await spends(store, "run-1")
        settlement = make.settlement("at-run-1", "run-1", 5, holds=held.holds, retry_key="run-1")
        for _ in range(2):
            assert await settler.settle(settlement) is not None
            assert not is_empty()
        await store.confirm_events([event_id for event_id, _ in await store.take_events(10)])
        await store.take_events(10)
        assert is_empty()
        # What neither knows is charged; what the ledger alone has is on record for good.
        for name in ("of the ledger", "of nobody"):
            books.attempts = {"of the ledger"}
            assert await settler.settle(make.settlement(name, "run-1", 5, holds=held.holds)) is not None
        assert not is_empty()
        await store.confirm_events([event_id for event_id, _ in await store.take_events(10)])
        assert is_empty()
        assert (await store.counters(["spent"]))["spent"].used == 910
    journal.close()
