"""The process itself: clients that are slow or hostile, work that takes the processor, a policy that changes, a
disk that fills."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import random
import resource
import socket
import sqlite3
import threading
import time
import urllib.error
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import brotli
import psutil
import pytest
import zstandard

from gateway.commands.audit import check_export
from gateway.testing import ProviderServer, Reply
from gateway.web.admin_views import audit_record
from tests.chaos.rig import (
    IN,
    LENGTH_S,
    OUT,
    SLACK_S,
    TEAM_BUDGET,
    Callers,
    Json,
    Stop,
    balance,
    callers,
    keep_busy,
    memory_and_files,
    mixed,
    nano,
    percentile,
    policy_for,
    request,
    serving_workers,
    site,
    tree,
    truth,
    workers_of,
)
from tests.support.gateway import ALICE, ProcessGateway, wait_until
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


async def beat(many: Callers, stop: Stop, every_s: float = 0.02) -> list[float]:
    """Small calls, one after another: seconds each took. Fails when one is not served."""
    took = []
    while not stop:
        answer = await many.ask(CHAT, request(CHAT, "quick", "beat"))
        assert answer.status == 200, (answer.status, answer.raw)
        took.append(answer.took_s)
        await asyncio.sleep(every_s)
    return took


async def measure(many: Callers, seconds: float) -> list[float]:
    """`beat` for so long."""
    stop = Stop()
    beats = asyncio.create_task(beat(many, stop))
    await asyncio.sleep(seconds)
    stop.set = True
    return await beats


def ms(values: Sequence[float], share: float) -> str:
    """A percentile in milliseconds."""
    return f"{1000 * percentile(values, share):.0f} ms"


# -- slow clients ---------------------------------------------------------------------------------------

TRICKLERS = 1000
READERS = 60


def test_slow_clients_hold_up_nobody(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """1,000 sockets send a head or a body one byte at a time, and 60 callers of streams of three megabytes read
    almost nothing, until they go on: others are served as before, and what is not read is not kept."""
    provider.script("quick", Reply("quick"))
    provider.script("flood", Reply("word " * 400_000, chunks=1000))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n"

    async def trickle(port: int, number: int, stop: Stop) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = iter((head + "X-Slow: " + "a" * 900).encode())
        if number % 2:
            writer.write((head + "Content-Length: 1000\r\n\r\n").encode())
            sent = iter(b"{" * 900)
        with contextlib.suppress(OSError):
            while not stop:
                writer.write(bytes([next(sent)]))
                await asyncio.sleep(1)
        writer.transport.abort()

    async def crawl(port: int, stop: Stop) -> bytes:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        body = json.dumps(request(CHAT, "flood", "go", stream=True, max_tokens=500_000)).encode()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not stop:
            assert await reader.read(1024)
            await asyncio.sleep(1)
        end = b""
        while b"[DONE]" not in end:
            piece = await reader.read(65536)
            assert piece, end
            end = end[-100:] + piece
        writer.close()
        return end

    async def run(gateway: ProcessGateway, processes: Sequence[psutil.Process]) -> dict[str, Any]:
        async with callers(gateway.url) as many:
            before = await measure(many, 4)
            base, _ = memory_and_files(processes)
            stop = Stop()
            tricklers = [asyncio.create_task(trickle(gateway.port, n, stop)) for n in range(TRICKLERS)]
            readers = [asyncio.create_task(crawl(gateway.port, stop)) for _ in range(READERS)]
            await asyncio.sleep(3)
            during = await measure(many, LENGTH_S / 2)
            top, _ = memory_and_files(processes)
            stop.set = True
            await asyncio.gather(*tricklers)
            await asyncio.gather(*readers)
        return {"before": before, "during": during, "memory": top - base}

    with site(tmp_path, policy_for(provider, TEAM_BUDGET), None, workers="1") as alone:
        found = asyncio.run(run(alone.gateway, tree(alone.gateway)))
        wait_until(
            lambda: alone.gateway.post(request(CHAT, "quick", "still there?"))[0] == 200, what="service"
        )
        books = balance(alone.gateway, provider)
    before, during = found["before"], found["during"]
    assert percentile(during, 0.99) < 2 * percentile(before, 0.99) + SLACK_S / 4
    assert found["memory"] < 100 << 20, f"{found['memory'] >> 20} MiB"
    figures |= {
        "sockets that trickle": TRICKLERS,
        "streams that crawl": READERS,
        "others' p99 before / meanwhile": f"{ms(before, 0.99)} / {ms(during, 0.99)}",
        "memory above": f"{found['memory'] / (1 << 20):.0f} MiB",
        **books.figures(),
    }


# -- bombs ----------------------------------------------------------------------------------------------

CAP = 2_000_000


def bombs() -> Iterator[tuple[str, bytes, dict[str, Any], int]]:
    """(name, body, headers, expected status)."""
    zeros = bytes(200_000_000)
    layers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
        "br": lambda data: brotli.compress(data, quality=4),
    }
    for name, pack in layers.items():
        once = pack(zeros)
        yield f"{name} of 200 MB", once, {"content_encoding": name}, 413
        yield f"{name} twice", pack(once), {"content_encoding": f"{name}, {name}"}, 413
        nested = once
        for _ in range(4):
            nested = pack(nested)
        yield f"{name} five times", nested, {"content_encoding": ", ".join([name] * 5)}, 415
        yield f"{name} cut off", once[: len(once) // 2], {"content_encoding": name}, 413
        yield f"no {name}", b"\x00\x01nothing of the kind" * 10, {"content_encoding": name}, 400
    yield "zstd that declares 1 TB", declared(1 << 40), {"content_encoding": "zstd"}, 413
    yield "too large", b"x" * (CAP + 1), {}, 413
    yield "depth of a million", b"[" * 1_000_000, {}, 400
    yield "objects within objects", b'{"a":' * 200_000 + b"1" + b"}" * 200_000, {}, 400
    yield "a hundred thousand keys", b"{" + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}", {}, 400
    yield (
        "a number of a million digits",
        b'{"model":"sim/quick","max_tokens":' + b"9" * 1_000_000 + b"}",
        {},
        400,
    )
    yield "not a number", b'{"model":"sim/quick","messages":[],"temperature":NaN}', {}, 400
    yield (
        "half a surrogate",
        b'{"model":"sim/quick","messages":[{"role":"user","content":"\\ud800"}]}',
        {},
        400,
    )
    yield "UTF-16", '{"model":"sim/quick"}'.encode("utf-16"), {}, 400
    yield "bytes that are no text", b'{"model":"\xff\xfe"}', {}, 400
    yield "nothing", b"", {}, 400


def declared(size: int) -> bytes:
    """A zstd frame whose head promises so many bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


def test_bombs_cost_little(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Compressed bombs, deep and odd JSON, several at once, again and again: refused under the cap, in time, with
    others served and the worker's memory bounded."""
    provider.script("quick", Reply("quick"))
    table = list(bombs())
    answers: dict[str, set[int]] = {}
    slowest = [0.0]
    peak = [0]
    sent = [0]

    async def run(gateway: ProcessGateway, processes: Sequence[psutil.Process]) -> list[float]:
        async with callers(gateway.url) as many:
            await measure(many, 1)
            base, _ = memory_and_files(processes)
            until = time.monotonic() + LENGTH_S
            stop = Stop()
            beats = asyncio.create_task(beat(many, stop))

            async def look() -> None:
                while not stop:
                    peak[0] = max(peak[0], memory_and_files(processes)[0] - base)
                    await asyncio.sleep(0.02)

            looking = asyncio.create_task(look())

            async def work(number: int, dice: random.Random, _: Stop) -> None:
                name, body, headers, expected = dice.choice(table)
                answer = await many.ask(CHAT, body, **headers)
                answers.setdefault(name, set()).add(answer.status)
                assert answer.status in (expected, 400, 413), (name, answer.status, answer.raw[:200])
                slowest[0] = max(slowest[0], answer.took_s)
                sent[0] += 1
                stop.set = time.monotonic() > until

            await keep_busy(3, work, seed, stop)
            await looking
            return await beats

    server = f"server: {{max_body_bytes: {CAP}, max_decompressed_bytes: {CAP}}}\n"
    with site(tmp_path, policy_for(provider, TEAM_BUDGET + server), None, workers="1") as alone:
        beats = asyncio.run(run(alone.gateway, tree(alone.gateway)))
        balance(alone.gateway, provider)
    assert peak[0] < 120 << 20, f"{peak[0] >> 20} MiB"
    assert slowest[0] < 2 + SLACK_S
    figures |= {
        "kinds": len(table),
        "sent": sent[0],
        "slowest refusal": f"{slowest[0]:.2f} s",
        "others' p99": ms(beats, 0.99),
        "most memory above idle": f"{peak[0] / (1 << 20):.0f} MiB",
    }


# -- the processor --------------------------------------------------------------------------------------


def test_long_texts_do_not_hold_up_the_loop(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """Texts of 1 MB, new each time, are screened for injection, personal data and secrets, ten a second, on a
    worker with one screening process; small calls and `/healthz` go on meanwhile."""
    provider.script("quick", Reply("quick"))
    screens = (
        "screening: {injection: {mode: enforce}, pii: {mode: enforce, entities: [EMAIL_ADDRESS, CREDIT_CARD]},"
        " secrets: {mode: enforce}}\n"
    )
    dice = random.Random(seed)
    words = ["order", "invoice", "Berlin", "shipping", "2024-05-01", "customer", "please", "table", "4711"]
    text = " ".join(dice.choice(words) for _ in range(150_000))[:1_000_000]
    kinds: dict[str, int] = {}

    async def health(url: str, many: Callers, stop: Stop) -> list[float]:
        took = []
        while not stop:
            began = time.monotonic()
            async with many._session.get(f"{url}/healthz") as answer:
                assert answer.status == 200
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        return took

    async def run(url: str) -> tuple[list[float], list[float], list[float]]:
        async with callers(url) as many:
            before = await measure(many, 3)
            stop = Stop()
            beats = asyncio.create_task(beat(many, stop))
            pulses = asyncio.create_task(health(url, many, stop))
            until = time.monotonic() + LENGTH_S
            large: set[asyncio.Task[None]] = set()

            async def one(number: int) -> None:
                body = request(CHAT, "quick", f"{number} {dice.random()} {text}")
                answer = await many.ask(CHAT, body)
                kind = f"{answer.status} {answer.code or ''}".strip()
                kinds[kind] = kinds.get(kind, 0) + 1

            for number in itertools.count():
                if time.monotonic() > until:
                    break
                if len(large) < 20:
                    task = asyncio.create_task(one(number))
                    large.add(task)
                    task.add_done_callback(large.discard)
                await asyncio.sleep(0.1)
            stop.set = True
            await asyncio.gather(*large)
            return before, await beats, await pulses

    policy = policy_for(provider, TEAM_BUDGET + screens)
    with site(tmp_path, policy, None, workers="1", screening_processes="1") as alone:
        before, during, pulses = asyncio.run(run(alone.url))
        books = balance(alone.gateway, provider)
    assert set(kinds) <= {"200", "503 guardrail_unavailable", "400 prompt_injection_blocked"}, kinds
    assert percentile(pulses, 0.99) < 0.1 + SLACK_S / 4
    figures |= {
        "texts of 1 MB": ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items())),
        "small calls p50/p99 before": f"{ms(before, 0.5)} / {ms(before, 0.99)}",
        "meanwhile": f"{ms(during, 0.5)} / {ms(during, 0.99)}",
        "/healthz p50/p99": f"{ms(pulses, 0.5)} / {ms(pulses, 0.99)}",
        **books.figures(),
    }


# -- the policy -----------------------------------------------------------------------------------------


def broken_files(good: str) -> dict[str, str]:
    """What an editor, a script or an operator in haste may leave behind."""
    return {
        "not YAML": good + "\nruns: {",
        "an unknown key": good + "\nrunz: {max_steps: 3}\n",
        "a pattern that is not linear": good
        + "\nscreening: {pii: {mode: enforce, custom: {X: {pattern: '(a+)+$(?=b)'}}}}\n",
        "an unset variable": good.replace(ALICE, "${NOT_SET_ANYWHERE}"),
        "no price": good.replace(
            ", price: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}", ", price: {}"
        ),
        "nothing": "",
        "half of it": good[: len(good) // 2],
        "a limit that is none": good + "\nrates: [{name: r, per: team, requests_per_minute: many}]\n",
    }


@pytest.mark.redis
def test_broken_policies_change_nothing(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """The policy is written over with broken files and good ones under load on two workers: no call fails, each
    is governed by one good version, and the mistake is told while it is there."""
    provider.script("quick", Reply("quick"))
    provider.script("talk", Reply("some words " * 6, chunks=6, chunk_delay_s=0.05))
    good = policy_for(provider, TEAM_BUDGET)
    versions: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    with site(tmp_path, good, redis) as two:
        serving_workers(two.gateway, 2)
        path = two.gateway.policy_path
        stop = Stop()

        async def load() -> None:
            async with callers(two.url) as many:

                async def work(number: int, dice: random.Random, _: Stop) -> None:
                    wire, body = mixed(dice, ["quick", "talk"], f"{number} {dice.random()}")
                    answer = await many.ask(wire, body)
                    version = answer.headers.get("x-guardrail-policy", "none")
                    versions[version] = versions.get(version, 0) + 1

                await keep_busy(12, work, seed, stop)
                outcomes.update(many.outcomes)

        thread = threading.Thread(target=lambda: asyncio.run(load()), daemon=True)
        thread.start()
        until = time.monotonic() + LENGTH_S
        told: dict[str, str | None] = {}
        good_ones = {wait_until(lambda: everywhere(two.gateway, healthy), 30, "health")}
        changes = 0
        files = itertools.cycle(broken_files(good).items())
        while time.monotonic() < until or len(told) < len(broken_files(good)):
            name, text = next(files)
            write_slowly(path, text)
            told[name] = wait_until(lambda: everywhere(two.gateway, mistake), 30, f"the mistake of {name}")
            changes += 1
            write_slowly(path, good + f"runs: {{max_steps: {1000 + changes}}}\n")
            in_force = wait_until(lambda: everywhere(two.gateway, healthy), 30, f"health after {name}")
            assert in_force not in good_ones
            good_ones.add(in_force)
        stop.set = True
        thread.join(60)
        books = balance(two.gateway, provider)
        _, _, raw = two.gateway.request("GET", "/metrics", key=two.gateway.admin_token)
        assert len(workers_of(two.gateway)) == 2
    assert set(outcomes) == {"200"}, outcomes
    assert set(versions) <= good_ones
    assert len(set(told.values())) == len(told)
    failures = [
        line for line in raw.decode().splitlines() if line.startswith("gateway_policy_reload_failures_total")
    ]
    assert failures
    assert float(failures[0].split()[-1]) >= changes
    figures |= {
        "broken files": f"{changes} of {len(told)} kinds",
        "good versions in force": len(versions),
        "calls": sum(outcomes.values()),
        "failed": 0,
        **books.figures(),
    }


def write_slowly(path: Path, text: str) -> None:
    """As some editors do: the file is empty for a moment, and then half there."""
    with path.open("w") as file:
        half = len(text) // 2
        file.write(text[:half])
        file.flush()
        time.sleep(0.02)
        file.write(text[half:])


def healthy(said: Json) -> str | None:
    """The version in force, where the files hold nothing else."""
    return str(said["version"]) if said["healthy"] else None


def mistake(said: Json) -> str | None:
    """What is wrong with the files."""
    return None if said["healthy"] else str(said["error"])


def everywhere(gateway: ProcessGateway, what: Callable[[Json], str | None]) -> str | None:
    """What every worker says of its policy, where they agree: a worker is met by chance, so many are asked. The
    status stays 200."""
    answers = set()
    for _ in range(12):
        status, _, raw = gateway.request("GET", "/readyz", key=None)
        assert status == 200, raw
        answers.add(what(json.loads(raw)["policy"]))
    return answers.pop() if len(answers) == 1 else None


# -- the disk -------------------------------------------------------------------------------------------


def test_a_full_disk_and_a_forger(
    provider: ProviderServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """The ledger's disk fills up under load, again and again: the policy says that calls are then refused, and
    afterwards no record is missing. Then each of many changes of the exported log is noticed."""
    provider.script("quick", Reply("quick"))
    hostile = "line one\r\nline two\x1b[31m \u2028 {}"
    extra = TEAM_BUDGET + "audit: {on_failure: refuse, grace_s: 1}\n"
    dice = random.Random(seed)
    with site(tmp_path, policy_for(provider, extra), None, workers="1") as alone:
        gateway = alone.gateway
        refused = served = 0
        fills = 0
        until = time.monotonic() + LENGTH_S / 2
        assert gateway.process is not None
        while time.monotonic() < until or fills < 2:
            for number in range(10):
                assert gateway.post(request(CHAT, "quick", f"{hostile} {number}"))[0] == 200
                served += 1
            processes = tree(gateway)
            limited(processes, 40_000)
            fills += 1
            deadline = time.monotonic() + 20
            codes = set()
            while time.monotonic() < deadline and 503 not in codes:
                status, _, raw = gateway.post(request(CHAT, "quick", f"{hostile} while full"))
                codes.add(status)
                assert status in (200, 503), raw
                served += status == 200
                refused += status == 503
                time.sleep(0.05)
            assert 503 in codes, "a ledger that cannot be written went unnoticed"
            limited(processes, resource.RLIM_INFINITY)
            wait_until(lambda: gateway.post(request(CHAT, "quick", "room again"))[0] == 200, 20, "service")
            served += 1
        reason = "one line \u2028 and \u0085 what some take for another"
        gateway.admin("POST", "/kills", {"scope": "user", "id": "nobody", "reason": reason})
        for number in range(60):
            gateway.admin("POST", "/kills", {"scope": "run", "id": f"run-{number}", "reason": reason})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            gateway.admin("POST", "/kills", {"scope": "user", "id": "nobody", "reason": hostile})
        books = balance(gateway, provider)
        assert wait_until(lambda: gateway.admin("GET", "/audit/verify"), what="a check")["ok"]
        rows = export(gateway)
    assert served <= books.served
    assert any(row["details"].get("reason") == reason for row in rows)
    noticed = forge(rows, tmp_path, dice, 200)
    assert noticed == 200
    figures |= {
        "times the disk was full": fills,
        "refused meanwhile": refused,
        "records": len(rows),
        "forgeries noticed": f"{noticed} of 200",
        **books.figures(),
    }


def limited(processes: Sequence[psutil.Process], size: int) -> None:
    """Let processes write no byte of a file beyond this place, as on a disk that is full; infinity ends it."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def export(gateway: ProcessGateway) -> list[Json]:
    """The audit log, as `gateway audit export` writes it."""
    found: list[Json] = []
    cursor = ""
    chain = gateway.admin("GET", "/audit/head")
    while True:
        page = gateway.admin("GET", f"/audit?order=asc&limit=1000{cursor}")
        found += [row for row in page["data"] if row["seq"] <= chain["records"]]
        if page["next_cursor"] is None or found[-1]["seq"] == chain["records"]:
            return [{**row, "chain": chain} for row in found]
        cursor = f"&cursor={page['next_cursor']}"


def forge(rows: list[Json], directory: Path, dice: random.Random, count: int) -> int:
    """Change copies of an exported log, each in one place; how many of the changes were noticed."""
    path = directory / "export.jsonl"

    def holds(lines: list[str]) -> bool:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return check_export(path, None).problem is None

    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert all(audit_record(row).seq for row in rows)
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert holds(lines)
    noticed = 0
    for _ in range(count):
        kind = dice.choice(["remove", "swap", "double", "edit", "tail"])
        place = dice.randrange(len(lines) - 1)
        forged = list(lines)
        if kind == "remove":
            del forged[place]
        elif kind == "swap":
            forged[place], forged[place + 1] = forged[place + 1], forged[place]
        elif kind == "double":
            forged.insert(place, forged[place])
        elif kind == "tail":
            del forged[place + 1 :]
        else:
            row = json.loads(forged[place])
            name = dice.choice(["actor", "action", "details", "at"])
            row[name] = {
                "actor": row["actor"] + "x",
                "action": "x",
                "details": {**row["details"], "more": 1},
                "at": "2020-01-01T00:00:00.000Z",
            }[name]
            forged[place] = json.dumps(row)
        noticed += not holds(forged)
    return noticed


# -- long runs ------------------------------------------------------------------------------------------


def soak(
    provider: ProviderServer, directory: Path, redis: RedisServer, seed: int, requests: int
) -> dict[str, Any]:
    """Mixed requests, a third of which are left, fail or are refused: memory and open files of the worker do not
    grow with their number, and the books agree. On Redis, for the embedded store keeps runs in memory until they
    are forgotten."""
    provider.script("quick", Reply("quick"))
    provider.script("talk", Reply("some words " * 4, chunks=4, chunk_delay_s=0.005))
    provider.script("fail", Reply(status=500, error={"message": "down"}))
    provider.script("cut", Reply("never whole, never whole", cut_at_byte=300))
    done = [0]
    samples: list[tuple[int, int, int]] = []

    async def run(gateway: ProcessGateway, processes: Sequence[psutil.Process]) -> Callers:
        async with callers(gateway.url) as many:
            stop = Stop()

            async def work(number: int, dice: random.Random, stop: Stop) -> None:
                done[0] += 1
                stop.set = done[0] >= requests
                kind = dice.random()
                text = f"{number} {dice.random()}"
                wire, body = mixed(dice, ["quick", "talk", "quick"], text)
                if kind < 0.1:
                    await many.ask(wire, {**body, "stream": True}, leave_after=1)
                elif kind < 0.15:
                    wire, body = mixed(dice, ["fail", "cut"], text)
                    await many.ask(wire, body)
                elif kind < 0.2:
                    await many.ask(wire, b'{"model": "nope"' if dice.random() < 0.5 else b"[]")
                elif kind < 0.25:
                    await many.ask(wire, body, key="gk-wrong-0123456789")
                elif kind < 0.3:
                    await many.ask(wire, {**body, "model": "unknown-model"})
                else:
                    await many.ask(wire, body)

            async def look() -> None:
                while not stop:
                    memory, files = memory_and_files(processes)
                    samples.append((done[0], memory, files))
                    await asyncio.sleep(max(0.2, requests / 200_000))

            looking = asyncio.create_task(look())
            await keep_busy(24, work, seed, stop)
            await looking
            return many

    with site(directory, policy_for(provider, TEAM_BUDGET), redis, workers="1") as alone:
        processes = tree(alone.gateway)
        began = time.monotonic()
        many = asyncio.run(run(alone.gateway, processes))
        took = time.monotonic() - began
        red = wait_for_sums(alone.gateway, provider)
        memory, files = memory_and_files(processes)
    warm = [s for s in samples if s[0] > requests * 0.3]
    per_10k = slope([s[0] for s in warm], [s[1] for s in warm]) * 10_000 / (1 << 20)
    files_per_10k = slope([s[0] for s in warm], [s[2] for s in warm]) * 10_000
    return {
        "requests": done[0],
        "a second": round(done[0] / took),
        "left, failed or refused": f"{100 * (1 - many.outcomes['200'] / max(1, sum(many.outcomes.values()))):.0f} %",
        "memory at the end": f"{memory / (1 << 20):.0f} MiB",
        "memory per 10,000": f"{per_10k:+.2f} MiB",
        "files per 10,000": f"{files_per_10k:+.1f}",
        "open files at the end": files,
        "ledger / journal": f"${red / 1e9:.4f} / ${served_in_all(provider) / 1e9:.4f}",
    }


def served_in_all(provider: ProviderServer) -> int:
    """What the provider bills for all it has served, dropped entries included."""
    totals = provider.journal.totals
    return totals.prompt_tokens * IN + totals.completion_tokens * OUT


def wait_for_sums(gateway: ProcessGateway, provider: ProviderServer) -> int:
    """What the ledger comes to when all is settled; never less than what was served. Sums alone, for a journal
    of 200,000 attempts is longer than what the provider keeps."""
    provider.wait_idle_blocking(timeout_s=60)

    def settled() -> int | None:
        with contextlib.closing(
            sqlite3.connect(f"file:{gateway.data_dir / 'ledger.db'}?mode=ro", uri=True)
        ) as db:
            count, total = db.execute(
                "SELECT count(*), sum(cost) FROM gw_steps WHERE kind = 'attempt'"
            ).fetchone()
        try:
            (row,) = gateway.admin("GET", "/budgets?per=team&id=red")["data"]
        except (ValueError, urllib.error.URLError):
            return None
        agrees = (nano(row["used_usd"]), nano(row["reserved_usd"])) == (total, 0)
        return total if agrees and count >= provider.journal.totals.attempts else None

    total: int = wait_until(settled, 120, "balance")  # type: ignore[assignment]
    assert total >= served_in_all(provider)
    if len(provider.journal) == provider.journal.totals.attempts:
        balance(gateway, provider)
        assert served_in_all(provider) == sum(truth(a) for a in provider.journal)
    return total


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line of least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


@pytest.mark.redis
def test_thousands_of_mixed_requests(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    """`make soak` is the same with 200,000."""
    figures |= soak(provider, tmp_path, redis, seed, 6_000)
    assert abs(float(str(figures["files per 10,000"]))) < 40
