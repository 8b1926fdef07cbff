"""What an operator has to know of a Redis: its settings, its health, and whether the gateway may use it.

Looks on a connection of its own, by the same URL as the store. The few keys that it writes carry the
gateway's hash tag, live for seconds and are removed.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from gateway.stores.redis import Keys
from gateway.stores.redis_wire import parse_address

Facts = dict[str, Any]

PINGS = 5
TIMEOUT_S = 2.0


async def redis_facts(url: str, *, namespace: str = "gw", timeout_s: float = TIMEOUT_S) -> Facts:
    """`address version role eviction evicted appendonly save write_failures used_memory maxmemory
    total_memory denied latency_ms ahead_ms seeded waiting hits misses`, or `error`, a sentence without
    credentials.

    `ahead_ms` is by how much this machine's clock is ahead of the server's. Raises nothing.
    """
    try:
        address = parse_address(url)
    except ValueError:
        return {"error": "GATEWAY_STORE_URL is no URL of a Redis"}
    client: Redis = Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, decode_responses=True
    )
    try:
        async with asyncio.timeout(5 * timeout_s):
            return {"address": str(address), **await _look(client, Keys(namespace))}
    except (RedisError, OSError, TimeoutError) as error:
        return {"error": f"Redis at {address} does not answer ({_reason(error)})"}
    finally:
        try:
            await client.aclose()
        except (RedisError, OSError):
            pass


def _reason(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:160]


async def _look(client: Redis, keys: Keys) -> Facts:
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await cast("Awaitable[Any]", client.ping())
        times.append((time.perf_counter() - began) * 1000)
    info: dict[str, Any] = await client.info()
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
    attempts: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("SET", ("SET", name, "1", "PX", "10000", "NX")),
        ("HSET", ("HSET", name + ":h", "a", "1")),
        ("PEXPIRE", ("PEXPIRE", name + ":h", "10000")),
        ("INCRBY", ("INCRBY", name + ":n", "1")),
        ("ZADD", ("ZADD", name + ":z", "1", "a")),
        ("XADD", ("XADD", name + ":x", "*", "e", "1")),
        ("XRANGE", ("XRANGE", name + ":x", "-", "+")),
        ("SCRIPT LOAD", ("SCRIPT", "LOAD", "return 1")),
        ("EVAL", ("EVAL", "return redis.call('GET', KEYS[1])", "1", name)),
        ("PUBLISH", ("PUBLISH", f"{keys.tag}doctor", "1")),
        ("GET kill:…", ("GET", "kill:doctor")),
        ("DEL kill:…", ("DEL", f"kill:doctor-{secrets.token_hex(6)}")),
        ("DEL", ("DEL", name, name + ":h", name + ":n", name + ":z", name + ":x")),
    )
    denied = []
    for what, command in attempts:
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


async def ahead_ms(url: str, *, timeout_s: float = TIMEOUT_S) -> int | None:
    """By how many milliseconds this machine's clock is ahead of the server's; None without an answer."""
    client: Redis = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await cast("Awaitable[Any]", client.ping())
            return await _ahead(client)
    except (RedisError, OSError, TimeoutError):
        return None
    finally:
        try:
            await client.aclose()
        except (RedisError, OSError):
            pass


async def _ahead(client: Redis) -> int:
    before = time.time()
    seconds, micros = await client.time()
    return round(((before + time.time()) / 2 - (seconds + micros / 1_000_000)) * 1000)
