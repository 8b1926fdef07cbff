"""What an operator has to know of a Redis: its settings, its health, and whether the gateway may use it.

Looks on a connection of its own, by the same URL as the store. The few keys that it writes carry the
gateway's hash tag, live for seconds and are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from gateway.errors import StoreUnavailable
from gateway.stores.redis_calls import Keys
from gateway.stores.redis_url import Address, StoreUrl, parse_store_url
from gateway.stores.redis_where import Cluster, Sentinels

Facts = dict[str, Any]

PINGS = 5
TIMEOUT_S = 2.0
MAX_NODES = 32


async def redis_facts(url: str, *, namespace: str = "gw", timeout_s: float = TIMEOUT_S) -> Facts:
    """`address version role eviction evicted appendonly save write_failures used_memory maxmemory
    total_memory denied latency_ms ahead_ms seeded waiting hits misses nodes`, or `error`, a sentence without
    credentials.

    `nodes` are the other servers of Sentinels or a Cluster: `address eviction`, or `address error`.
    `ahead_ms` is by how much this machine's clock is ahead of the server's. Raises nothing.
    """
    try:
        store = parse_store_url(url)
    except ValueError as error:
        return {"error": f"GATEWAY_STORE_URL: {error}"}
    keys = Keys(namespace)
    try:
        async with asyncio.timeout(5 * timeout_s):
            address, others = await _whereabouts(store, keys, timeout_s)
            async with _client(store, address, timeout_s) as client:
                facts = {"address": str(address), **await _look(client, keys)}
            facts["nodes"] = await asyncio.gather(
                *(_node(store, other, timeout_s) for other in others[:MAX_NODES])
            )
            return facts
    except StoreUnavailable as error:
        return {"error": f"Redis at {store} is not found ({_reason(error)})"}
    except (RedisError, OSError, TimeoutError) as error:
        return {"error": f"Redis at {store} does not answer ({_reason(error)})"}


async def _whereabouts(store: StoreUrl, keys: Keys, timeout_s: float) -> tuple[Address, list[Address]]:
    """The server that is used, and the others. Raises: `StoreUnavailable` when it is not found."""
    if store.kind == "sentinel":
        sentinels = Sentinels(store, timeout_s=timeout_s, connect_timeout_s=timeout_s)
        sentinels.start()
        try:
            found = (await sentinels.find())[0]
            others = await sentinels.replicas()
        finally:
            await sentinels.close()
    else:
        cluster = Cluster(store.servers, keys.epoch, timeout_s=timeout_s)
        if store.kind == "server" and not await _is_clustered(store, timeout_s):
            return store.login, []
        found = (await cluster.find())[0]
        others = cluster.nodes()
    return found, [other for other in others if other.place != found.place]


async def _is_clustered(store: StoreUrl, timeout_s: float) -> bool:
    async with _client(store, store.login, timeout_s) as client:
        try:
            info: dict[str, Any] = await client.info()
        except (NoPermissionError, ResponseError):
            return False
        return bool(info.get("cluster_enabled"))


@contextlib.asynccontextmanager
async def _client(store: StoreUrl, address: Address, timeout_s: float) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(
        store.plain(address),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        decode_responses=True,
        # Or it would be tried ten times, with pauses, before the doctor may say that nobody answers.
        retry=Retry(NoBackoff(), 0),
    )
    try:
        yield client
    finally:
        with contextlib.suppress(RedisError, OSError):
            await client.aclose()


async def _node(store: StoreUrl, address: Address, timeout_s: float) -> Facts:
    try:
        async with asyncio.timeout(timeout_s), _client(store, address, timeout_s) as client:
            info: dict[str, Any] = await client.info()
            policy = info.get("maxmemory_policy") or await _config(client, "maxmemory-policy")
    except (RedisError, OSError, TimeoutError) as error:
        return {"address": str(address), "error": _reason(error)}
    return {"address": str(address), "eviction": policy or "noeviction"}


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:160]


async def _look(client: Redis, keys: Keys) -> Facts:
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await cast("Awaitable[Any]", client.ping())
        times.append((time.perf_counter() - began) * 1000)
    info: dict[str, Any] = await _info(client)
    save = await _config(client, "save")
    policy = info.get("maxmemory_policy") or await _config(client, "maxmemory-policy") or "noeviction"
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
        if info.get(name, "ok") != "ok"
    ]
    seeded, waiting = await _ours(client, keys)
    return {
        "version": str(info.get("redis_version", "unknown")),
        "role": info.get("role", "master"),
        "eviction": policy,
        "evicted": info.get("evicted_keys", 0),
        "appendonly": bool(info.get("aof_enabled")),
        "save": save,
        "write_failures": failed,
        "used_memory": info.get("used_memory", 0),
        "maxmemory": info.get("maxmemory", 0),
        "total_memory": info.get("total_system_memory", 0),
        "hits": info.get("keyspace_hits", 0),
        "misses": info.get("keyspace_misses", 0),
        "latency_ms": statistics.median(times),
        "ahead_ms": await _ahead(client),
        "seeded": seeded,
        "waiting": waiting,
        "denied": await _denied(client, keys),
    }


async def _info(client: Redis) -> dict[str, Any]:
    """What INFO says; nothing where the user may not ask, which is told with what else it may not."""
    try:
        found: dict[str, Any] = await client.info()
    except (NoPermissionError, ResponseError):
        return {}
    return found


async def _config(client: Redis, name: str) -> str | None:
    """A setting; None where it is not told, as with many managed servers."""
    try:
        found = await client.config_get(name)
    except (NoPermissionError, ResponseError):
        return None
    return found.get(name)


async def _ours(client: Redis, keys: Keys) -> tuple[bool | None, int]:
    """Whether a gateway's counters are there, and how many events wait for the ledger."""
    try:
        return bool(await client.exists(keys.epoch)), int(await client.xlen(keys.events))
    except (NoPermissionError, ResponseError):
        return None, 0


async def _denied(client: Redis, keys: Keys) -> list[str]:
    """What the gateway does and this user may not."""
    name = f"{keys.tag}doctor:{secrets.token_hex(6)}"
    denied = []
    for what, command in attempts(name):
        try:
            await client.execute_command(*command)  # type: ignore[no-untyped-call]  # as below
        except NoPermissionError:
            denied.append(what)
        except ResponseError as error:
            # Scripts are told so: the call inside failed.
            if "NOPERM" in str(error) or "ACL" in str(error):
                denied.append(what)
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(keys.kill_channel)
        await pubsub.get_message(timeout=0.5)
    except (NoPermissionError, ResponseError):
        denied.append("SUBSCRIBE")
    finally:
        try:
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        except (RedisError, OSError):
            pass
    return denied


def attempts(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every command that the store gives, by itself or in a script, on keys that begin with `name`, and how
    the doctor calls it. The keys are gone at the end."""
    text, hashed, number, ranked, stream = name, f"{name}:h", f"{name}:n", f"{name}:z", f"{name}:x"
    channel = name.partition("doctor:")[0] + "doctor"
    commands: list[tuple[str, ...]] = [
        ("INFO",),
        ("SET", text, "1", "PX", "10000", "NX"),
        ("GET", text),
        ("MGET", text),
        ("GETRANGE", text, "0", "1"),
        ("EXISTS", text),
        ("PTTL", text),
        ("INCR", number),
        ("INCRBY", number, "1"),
        ("PEXPIRE", number, "10000"),
        ("HSET", hashed, "a", "1"),
        ("PEXPIRE", hashed, "10000"),
        ("HSETNX", hashed, "a", "1"),
        ("HINCRBY", hashed, "a", "1"),
        ("HGET", hashed, "a"),
        ("HMGET", hashed, "a"),
        ("HGETALL", hashed),
        ("HDEL", hashed, "b"),
        ("ZADD", ranked, "1", "a"),
        ("PEXPIRE", ranked, "10000"),
        ("ZCARD", ranked),
        ("ZRANGE", ranked, "0", "-1"),
        ("ZRANGEBYSCORE", ranked, "0", "1"),
        ("ZREMRANGEBYSCORE", ranked, "5", "6"),
        ("ZREM", ranked, "b"),
        ("ZPOPMIN", ranked),
        ("XADD", stream, "*", "e", "1"),
        ("PEXPIRE", stream, "10000"),
        ("XRANGE", stream, "-", "+"),
        ("XDEL", stream, "1-1"),
        ("TIME",),
        ("SCAN", "0", "COUNT", "1"),
        ("SCRIPT", "LOAD", "return 1"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", text),
        ("EVALSHA", "0" * 40, "1", text),
        ("PUBLISH", channel, "1"),
        ("GET", "kill:doctor"),
        ("DEL", f"kill:{name.rpartition(':')[2]}"),
        ("DEL", text, hashed, number, ranked, stream),
    ]
    return [(_called(command), command) for command in commands]


def _called(command: tuple[str, ...]) -> str:
    if command[0] == "SCRIPT":
        return "SCRIPT LOAD"
    return f"{command[0]} kill:…" if command[1:] and command[1].startswith("kill:") else command[0]


async def ahead_ms(url: str, *, timeout_s: float = TIMEOUT_S) -> int | None:
    """By how many milliseconds this machine's clock is ahead of the server's; None without an answer."""
    try:
        store = parse_store_url(url)
        async with asyncio.timeout(2 * timeout_s):
            address, _ = await _whereabouts(store, Keys("gw"), timeout_s)
            async with _client(store, address, timeout_s) as client:
                await cast("Awaitable[Any]", client.ping())
                return await _ahead(client)
    except (RedisError, OSError, TimeoutError, StoreUnavailable, ValueError):
        return None


async def _ahead(client: Redis) -> int:
    before = time.time()
    seconds, micros = await client.time()
    return round(((before + time.time()) / 2 - (seconds + micros / 1_000_000)) * 1000)
